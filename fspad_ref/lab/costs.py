"""The cost model of speculative decoding: what a round costs, and so how much faster than plain decoding it is.

    speedup = tau * t_plain / (t_draft + t_verify(N) + overhead)

    t_plain       one step of plain decoding: a target forward of one token, its lm_head; then choosing the token
    t_draft       forward(tau rows) + head(1 row) + depth * (forward(k rows) + head(k rows))
    t_verify(N)   a target forward over the N nodes of a tree, and lm_head over all of them
    overhead      levels * level(k) + after(N): growing the tree, without forwards; then rerank, drawing, acceptance,
                  the copy to the host, the cache, the loop

The *ideal* speedup has no overhead in either loop, so it is the forwards' alone. Both are of rounds in the middle of
a text; with a number of tokens given, the target's prefill and the draft's are counted too, as in a measured call.
timings.py measures the terms.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from scipy.optimize import isotonic_regression

from fspad_ref.checkpoint import load_json, save_json
from fspad_ref.errors import CheckpointError, ConfigError, InputError
from fspad_ref.tree import TreeConfig


@dataclass(frozen=True)
class Curve:
    """Seconds against a size, measured at some sizes, straight lines between them; never falling.

    Raises ConfigError for knots that do not ascend, InputError when asked beyond them: no extrapolation.
    """

    sizes: tuple[int, ...]
    seconds: tuple[float, ...]

    def __post_init__(self):
        if not self.sizes or len(self.sizes) != len(self.seconds) or (np.diff(self.sizes) <= 0).any():
            raise ConfigError(
                f"expected ascending sizes, each with its seconds, found {self.sizes} and {self.seconds}. "
                "Give every size once."
            )
        if (np.diff(self.seconds) < 0).any():
            raise ConfigError(f"expected seconds that never fall, found {self.seconds}. Make the curve with Curve.fit.")

    def __call__(self, size: float) -> float:
        if not self.sizes[0] <= size <= self.sizes[-1]:
            raise InputError(
                f"expected a size within the measured {self.sizes[0]} to {self.sizes[-1]}, found {size}. "
                "Measure the costs at more sizes."
            )
        return float(np.interp(size, self.sizes, self.seconds))

    @classmethod
    def fit(cls, measured: Mapping[int, float]) -> Self:
        """The never-falling curve nearest to the measured points, in least squares."""
        sizes = sorted(measured)
        seconds = isotonic_regression([measured[size] for size in sizes]).x
        return cls(tuple(sizes), tuple(float(value) for value in seconds))


@dataclass(frozen=True)
class Costs:
    """Seconds of every part of decoding on one machine, at one length of prefix.

    prompt: tokens of the prefills. prefix: tokens in both caches. temperature: of the draws. plain: forward and head
    of one token. plain_rest: what plain decoding does besides. prefill, draft_prefill: forwards over a prompt. target,
    draft, head: by rows. level: the expansion's own work a level, by k. after: all that follows the forwards of a
    round, by N. machine: provenance (device, threads, dtype, versions).
    """

    prompt: int
    prefix: int
    temperature: float
    plain: float
    plain_rest: float
    prefill: float
    draft_prefill: float
    target: Curve
    draft: Curve
    head: Curve
    level: Curve
    after: Curve
    machine: dict[str, Any]

    def verify(self, nodes: int) -> float:
        """t_verify(N): the target's forward over a tree and its lm_head."""
        return self.target(nodes) + self.head(nodes)

    def drafting(self, tree: TreeConfig, tau: float) -> float:
        """t_draft: the extension over the pairs of the last round, then a forward a level."""
        level = self.draft(tree.top_k) + self.head(tree.top_k)
        return self.draft(tau) + self.head(1) + tree.depth * level

    def overhead(self, tree: TreeConfig) -> float:
        """What a round does outside the two models' forwards."""
        return tree.levels * self.level(tree.top_k) + self.after(tree.total_tokens)

    def save(self, path: str | Path) -> None:
        save_json(path, asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote. Raises CheckpointError if it is something else."""
        return cls.from_json(load_json(path), path)

    @classmethod
    def from_json(cls, values: Any, source: str | Path) -> Self:
        """Costs from plain data; `source` is named in the error."""
        try:
            curves = {name: values[name] for name in ("target", "draft", "head", "level", "after")}
            curves = {name: Curve(tuple(one["sizes"]), tuple(one["seconds"])) for name, one in curves.items()}
            return cls(**{**values, **curves})
        except (KeyError, TypeError) as error:
            raise CheckpointError(
                f"expected costs as Costs.save writes them in {source}, found others ({error}). Measure them again."
            ) from error


def predict_speedup(costs: Costs, tree: TreeConfig, tau: float, tokens: float | None = None) -> float:
    """Speedup over plain decoding of a draft that reaches `tau` with this tree.

    tokens: length of a text, to count both prefills in; None: rounds alone.
    """
    return _speedup(costs, tree, tau, tokens, costs.plain + costs.plain_rest, costs.overhead(tree))


def ideal_speedup(costs: Costs, tree: TreeConfig, tau: float, tokens: float | None = None) -> float:
    """The same with neither loop doing anything but forwards."""
    return _speedup(costs, tree, tau, tokens, costs.plain, 0.0)


def _speedup(costs: Costs, tree: TreeConfig, tau: float, tokens: float | None, plain: float, overhead: float) -> float:
    """plain: seconds of a step of plain decoding; overhead: of a round, outside the forwards."""
    a_round = costs.drafting(tree, tau) + costs.verify(tree.total_tokens) + overhead
    if tokens is None:
        return tau * plain / a_round
    rounds = (tokens - 1) / tau  # the first token comes with the prefill, in both loops
    # the draft's prefill takes the place of the first round's extension
    drafted = costs.prefill + costs.draft_prefill - costs.draft(tau) + rounds * a_round
    return (costs.prefill + (tokens - 1) * plain) / drafted
