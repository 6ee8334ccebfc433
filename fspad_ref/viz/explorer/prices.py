"""The cost model with free numbers: what a round costs and brings, over depth and size of the tree.

The formula is `lab.costs.predict_speedup`'s; here its measured curves are straight lines that a reader can bend, and
tau comes from a model as well. Let the draft's best guess at depth d be right with probability

    a_d = first * decay^(d - 1),    its r-th best (r = 0, 1, ...) with a_d (1 - a_d)^r

given that all above it was. The best tree of N nodes holds the N - 1 most probable paths, and

    tau = 1 + sum over its nodes of the product of these along the path.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fspad_ref.bench.costs import Costs, Curve, predict_speedup
from fspad_ref.errors import ConfigError
from fspad_ref.tree import TreeConfig

DEPTHS, SIZES = (1, 2, 3, 4, 5, 6, 7, 8), (2, 4, 8, 12, 16, 24, 32, 48, 60, 80, 100, 120)
LARGEST = 240
MIDDLE = 60  # growth is told at this size, the one of the papers


@dataclass(frozen=True)
class Prices:
    """Milliseconds: target, a pass over one token; draft, a pass of the draft; overhead, the rest of a round.

    growth: a pass over 60 nodes, in passes over one; straight lines between and beyond.
    Raises ConfigError for what no machine has.
    """

    target: float = 10.0
    draft: float = 1.0
    growth: float = 1.5
    overhead: float = 0.5

    def __post_init__(self):
        if not (self.target > 0 and self.draft >= 0 and self.overhead >= 0 and self.growth >= 1):
            raise ConfigError(
                f"expected target > 0, draft >= 0, overhead >= 0 and growth >= 1, found {self}. Change them."
            )


@dataclass(frozen=True)
class Acceptance:
    """first: the chance that the draft's best guess is right directly below the root; decay: its factor a level."""

    first: float = 0.7
    decay: float = 0.95

    def __post_init__(self):
        if not (0 <= self.first <= 1 and 0 <= self.decay <= 1):
            raise ConfigError(f"expected first and decay in [0, 1], found {self}. Change them.")


@dataclass(frozen=True)
class Landscape:
    """tau and predicted speedup, (depths, sizes) each; NaN where a tree of that depth cannot hold so many nodes."""

    depths: tuple[int, ...]
    sizes: tuple[int, ...]
    tau: np.ndarray
    speedup: np.ndarray

    @property
    def best(self) -> tuple[int, int]:
        """Row and column of the largest speedup."""
        row, column = np.unravel_index(np.nanargmax(self.speedup), self.speedup.shape)
        return int(row), int(column)

    @property
    def pays(self) -> bool:
        """Whether any tree is faster than plain decoding."""
        return bool(np.nanmax(self.speedup) > 1)


def landscape(
    prices: Prices,
    acceptance: Acceptance,
    top_k: int = 10,
    depths: Sequence[int] = DEPTHS,
    sizes: Sequence[int] = SIZES,
) -> Landscape:
    """tau and speedup at every depth and size. Raises ConfigError where no size fits any depth."""
    costs = costs_of(prices)
    tau = np.full((len(depths), len(sizes)), np.nan)
    speedup = tau.copy()
    for row, depth in enumerate(depths):
        values = best_paths(acceptance, top_k, depth + 1, max(sizes) - 1)
        for column, nodes in enumerate(sizes):
            if nodes <= TreeConfig(top_k, depth, 1).capacity:
                tau[row, column] = 1 + values[: nodes - 1].sum()
                speedup[row, column] = predict_speedup(costs, TreeConfig(top_k, depth, nodes), tau[row, column])
    if np.isnan(speedup).all():
        raise ConfigError(f"expected a size that some tree of top_k={top_k} can hold, found {sizes}. Raise top_k.")
    return Landscape(tuple(depths), tuple(sizes), tau, speedup)


def best_paths(acceptance: Acceptance, top_k: int, levels: int, most: int) -> np.ndarray:
    """Probabilities of the `most` most probable paths of up to `levels` guesses, largest first.

    No path is more probable than its beginning, so of each level the `most` best are enough for the next.
    """
    level, found = np.ones(1), np.empty(0)
    for depth in range(1, levels + 1):
        chance = acceptance.first * acceptance.decay ** (depth - 1)
        ranks = chance * (1 - chance) ** np.arange(top_k)  # (k,)
        level = np.sort((level[:, None] * ranks).ravel())[::-1][:most]  # (paths, k) -> at most (most,)
        found = np.concatenate((found, level))
    return np.sort(found)[::-1][:most]


def costs_of(prices: Prices) -> Costs:
    """The cost model's terms, in seconds, as straight lines."""
    ms, rows = 1e-3, (1, LARGEST)
    slope = prices.target * (prices.growth - 1) / (MIDDLE - 1)
    none = Curve(rows, (0.0, 0.0))
    return Costs(
        prompt=0,
        prefix=0,
        temperature=0.0,
        plain=prices.target * ms,
        plain_rest=0.0,
        prefill=0.0,
        draft_prefill=0.0,
        target=Curve(rows, (prices.target * ms, (prices.target + slope * (LARGEST - 1)) * ms)),
        draft=Curve(rows, (prices.draft * ms,) * 2),
        head=none,
        level=none,
        after=Curve(rows, (prices.overhead * ms,) * 2),
        machine={"what": "numbers set by hand"},
    )


def prices_of(costs: Costs, tree: TreeConfig | None = None) -> Prices:
    """Measured costs as these few numbers, at the size of `tree` (by default that of the papers)."""
    tree, second = tree or TreeConfig(), 1e3
    return Prices(
        target=second * (costs.plain + costs.plain_rest),
        draft=second * (costs.draft(tree.top_k) + costs.head(tree.top_k)),
        growth=max(1.0, costs.verify(MIDDLE) / (costs.plain + costs.plain_rest)),
        overhead=second * costs.overhead(tree),
    )


IDEAL = {
    "a pass over 60 nodes costs as much as over one": Prices(growth=1.0),
    "a pass over 60 nodes costs as much as 60 passes": Prices(growth=60.0),
    "the draft is as slow as the target": Prices(draft=10.0),
}
