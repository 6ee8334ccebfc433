"""The target's law at a node, and what temperature and top-p make of it.

The walk goes on from a node if the token drawn there is one of its children, which happens with probability

    expected acceptance = sum over the children c of p(c)

so temperature decides how many guesses are right, before any draft has changed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fspad_ref.bench.bench import PLAIN
from fspad_ref.errors import CheckpointError
from fspad_ref.files import load_json
from fspad_ref.sampling import SamplingConfig, at_least_float32, choose, process_logits
from fspad_ref.target import Target

if TYPE_CHECKING:
    from fspad_ref.viz.explorer.records import Round
    from fspad_ref.viz.explorer.runs import Settings, Workbench

TEMPERATURES = tuple(step / 20 for step in range(41))  # 0 .. 2


def law(logits: Tensor, sampling: SamplingConfig) -> Tensor:
    """p, (rows, V) -> (rows, V): what the draws of `generate` follow; greedy decoding's law is all on one token."""
    logits = at_least_float32(logits)
    scores = process_logits(logits, sampling)
    if sampling.greedy:
        return torch.nn.functional.one_hot(choose(scores, None).clamp(min=0), logits.shape[-1]).double()
    return scores.softmax(dim=-1)


@dataclass(frozen=True)
class NodeLaw:
    """The most probable tokens after a node and all of its guesses, most probable first.

    token, word, p, q a token each; q is None for what the draft did not guess there. at_one: p at temperature 1 without
    cuts. rest: what all other tokens have together. sampling: what p was computed with.
    """

    token: tuple[int, ...]
    word: tuple[str, ...]
    p: tuple[float, ...]
    at_one: tuple[float, ...]
    q: tuple[float | None, ...]
    rest: float
    sampling: SamplingConfig

    @property
    def expected(self) -> float:
        """Sum of p over the guesses."""
        return sum(p for p, q in zip(self.p, self.q, strict=True) if q is not None)

    @property
    def guesses(self) -> int:
        return sum(q is not None for q in self.q)


@torch.no_grad()
def node_law(
    target: Target,
    one: "Round",
    node: int,
    sampling: SamplingConfig,
    words: Callable[[int], str] = str,
    most: int = 12,
) -> NodeLaw:
    """The law at `node` of a recorded round, under any sampling: the features are kept, so no pass is needed."""
    logits = target.lm_head(one.features[node : node + 1])  # (1, D) -> (1, V)
    p, at_one = law(logits, sampling)[0], law(logits, SamplingConfig(temperature=1.0))[0]  # (V,)
    token = one.tree.token.tolist()
    q = {token[child]: one.q[child] for child in one.children(node)}
    # by temperature 1, so that the order does not change while the temperature does
    shown = dict.fromkeys([*at_one.topk(min(most, len(at_one))).indices.tolist(), *q])
    shown = sorted(shown, key=lambda w: -float(at_one[w]))
    columns = [tuple(float(part[w]) for w in shown) for part in (p, at_one)]
    rest = max(0.0, 1.0 - sum(columns[0]))
    return NodeLaw(tuple(shown), tuple(map(words, shown)), *columns, tuple(q.get(w) for w in shown), rest, sampling)


@torch.no_grad()
def acceptance_curve(
    target: Target, one: "Round", node: int, top_p: float = 1.0, temperatures: Sequence[float] = TEMPERATURES
) -> tuple[float, ...]:
    """Expected acceptance at `node`, one number a temperature."""
    logits = target.lm_head(one.features[node : node + 1])  # (1, V)
    guesses = one.tree.token[one.children(node)]
    return tuple(float(law(logits, SamplingConfig(t, top_p=top_p))[0, guesses].sum()) for t in temperatures)


def tau_curve(
    bench: "Workbench",
    settings: "Settings",
    temperatures: Sequence[float] = (0.0, 0.5, 1.0, 1.5),
    stopped: Callable[[], bool] = lambda: False,
    progress: Callable[[str], object] = lambda text: None,
) -> dict[float, float]:
    """tau of one prompt at each temperature, decoded here and now; everything else as in `settings`."""
    taus = {}
    for temperature in temperatures:
        sampling = replace(settings.sampling, temperature=temperature)
        here = f"T={temperature:g}, "
        run = bench.run(replace(settings, sampling=sampling), stopped, lambda text, here=here: progress(here + text))
        taus[temperature] = run.tau
    return taus


def recorded_taus(path: str | Path) -> Mapping[str, dict[float, float]]:
    """Mean tau over the tasks by draft and temperature, from a results file of `python -m fspad_ref bench`; plain
    decoding, which always has 1, is left out.

    Raises CheckpointError for a file of another kind.
    """
    found: dict[str, dict[float, float]] = {}
    try:
        for row in load_json(path)["summary"]:
            if row["task"] == "mean" and row["method"] != PLAIN:
                found.setdefault(row["method"], {})[float(row["temperature"])] = float(row["tau"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"expected the results of a benchmark in {path}, found something else ({error}). Measure them again with "
            "python -m fspad_ref bench."
        ) from error
    return found
