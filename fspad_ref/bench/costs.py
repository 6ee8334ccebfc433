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

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from scipy.optimize import isotonic_regression
from torch import Tensor, nn

from fspad_ref.bench.record import provenance
from fspad_ref.draft import Draft, DraftOutput
from fspad_ref.errors import CheckpointError, ConfigError, InputError
from fspad_ref.files import load_json, save_json
from fspad_ref.generate import Chooser
from fspad_ref.sampling import SamplingConfig
from fspad_ref.target import Target
from fspad_ref.tree import TreeConfig, ancestors, expand, rerank
from fspad_ref.verify import verify


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



# ---- timings ----
#
# The terms of the cost model (costs.py), timed one by one.
#
# Every term is a job without arguments: a forward of so many rows behind a filled cache, a head, the growing of a tree
# by a draft whose forwards cost nothing, and the rest of a round. All jobs take turns, so that a machine that slows
# down slows all of them alike. What is in caches, trees and logits is made up: dense arithmetic takes its time whatever
# the numbers are.

TREE_SIZES = (1, 8, 16, 24, 32, 48, 60, 96, 128, 240)
DRAFT_ROWS = (1, 2, 4, 6, 8, 10, 16)
WARM_UP = 2  # first calls pay for memory and kernels that later ones reuse
PLAIN_STEPS = 32  # noise is made for 32 positions at once: a burst of 32 steps makes it once
AFTER_ROUNDS, STRIDE = 7, 4  # and so does a burst of 7 rounds, 4 tokens apart, that look 7 tokens ahead
LEVEL_DEPTH = 4


@dataclass(frozen=True)
class Terms:
    """Which terms to time, and where.

    prompt: tokens of the prefills. prefix: tokens in both caches during a round. sampling: how tokens are drawn.
    tree_sizes, draft_rows: where to measure; for other sizes, see Curve. Both should begin with 1.
    """

    prompt: int = 64
    prefix: int = 128
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    tree_sizes: Sequence[int] = TREE_SIZES
    draft_rows: Sequence[int] = DRAFT_ROWS


def measure_costs(
    target: Target,
    draft: Draft,
    terms: Terms | None = None,
    *,
    repetitions: int = 20,
    now: Callable[[], float] = time.perf_counter,
) -> Costs:
    """Time every term by itself: medians over repetitions, all jobs in turn in each."""
    return measure_together(target, {"": (draft, terms or Terms())}, repetitions, now)[""]


@torch.no_grad()
def measure_together(
    target: Target,
    wanted: Mapping[Any, tuple[Draft, Terms]],
    repetitions: int = 20,
    now: Callable[[], float] = time.perf_counter,
) -> dict[Any, Costs]:
    """The costs of several drafts, texts or laws, by name. All their jobs take turns, so that they can be compared."""
    jobs = {(name, *key): job for name, (draft, terms) in wanted.items()
            for key, job in _jobs(target, draft, terms).items()}  # fmt: skip
    seconds: dict[tuple, list[float]] = {key: [] for key in jobs}
    for repetition in range(WARM_UP + repetitions):
        for key, (job, times) in jobs.items():
            target.synchronize()
            began = now()
            job()
            target.synchronize()
            if repetition >= WARM_UP:
                seconds[key].append((now() - began) / times)
    machine = {**provenance(target), "device": str(target.device)}
    return {
        name: _costs({(term, size): float(np.median(runs)) for (of, term, size), runs in seconds.items() if of == name},
                     prompt=terms.prompt, prefix=terms.prefix, temperature=terms.sampling.temperature, machine=machine)
        for name, (_, terms) in wanted.items()
    }  # fmt: skip


def _costs(median: Mapping[tuple[str, int], float], **about: Any) -> Costs:
    names = {name for name, _ in median}
    curves = {name: {size: value for (of, size), value in median.items() if of == name} for name in names}
    single = ("plain", "plain_rest", "prefill", "draft_prefill")
    return Costs(
        **{name: curves[name][1] for name in single},
        **{name: Curve.fit(points) for name, points in curves.items() if name not in single},
        **about,
    )


Job = tuple[Callable[[], Any], int]  # what to time, and how many of what is wanted it does


def _jobs(target: Target, draft: Draft, terms: Terms) -> dict[tuple[str, int], Job]:
    """Everything to be timed, by name and size."""
    prefix, sampling = terms.prefix, terms.sampling
    nodes, rows = sorted(terms.tree_sizes), sorted(terms.draft_rows)
    heads = sorted({*nodes, *rows})
    return {
        **{("plain", 1): (_forward(target, prefix, 1, plain=True), 1)},
        **{("plain_rest", 1): (_plain_rest(target, prefix, sampling), PLAIN_STEPS)},
        **{("prefill", 1): (_prefill(target, terms.prompt), 1)},
        **{("draft_prefill", 1): (_draft_forward(draft, 0, terms.prompt), 1)},
        **{("target", n): (_forward(target, prefix, n, plain=False), 1) for n in nodes},
        **{("draft", r): (_draft_forward(draft, prefix, r), 1) for r in rows},
        **{("head", r): (_head(target, r), 1) for r in heads},
        **{("level", k): (_levels(draft, prefix, k), LEVEL_DEPTH + 1) for k in rows if k <= target.vocab_size},
        **{("after", n): (_after(target, draft, prefix, n, sampling), AFTER_ROUNDS) for n in nodes},
    }


def _binary_tree(nodes: int, device) -> tuple[Tensor, Tensor]:
    """Depth and ancestors of a tree of so many nodes, two children each."""
    parent = torch.tensor([max(0, (node - 1) // 2) for node in range(nodes)], device=device)
    depth = torch.tensor([(node + 1).bit_length() - 1 for node in range(nodes)], device=device)
    return depth, ancestors(parent, int(depth.max()))


def _forward(target: Target, prefix: int, nodes: int, plain: bool) -> Callable[[], Any]:
    """A forward behind a filled cache: a plain step with its head, or the nodes of a tree without."""
    cache = target.new_cache(prefix + nodes)
    tokens = torch.arange(nodes, device=target.device) % target.vocab_size
    depth, visible = _binary_tree(nodes, target.device)

    def job():
        cache.truncate(prefix)
        if plain:
            return target.lm_head(target.features(tokens[None], cache=cache)[:, -1])
        return target.tree_features(tokens, depth, visible, cache)

    return job


def _prefill(target: Target, prompt: int) -> Callable[[], Any]:
    cache = target.new_cache(prompt)
    tokens = torch.arange(prompt, device=target.device)[None] % target.vocab_size

    def job():
        cache.truncate(0)
        return target.lm_head(target.features(tokens, cache=cache)[:, -1])

    return job


def _draft_forward(draft: Draft, held: int, rows: int) -> Callable[[], Any]:
    """So many frontier nodes behind `held` entries; with none held, the draft's prefill."""
    device, vocab = draft.target.device, draft.config.vocab_size
    cache = draft.new_cache(held + rows)
    feature = torch.zeros(1, rows, draft.config.hidden_size, dtype=draft.target.dtype, device=device)
    tokens = torch.arange(rows, device=device)[None] % vocab
    mask = torch.ones(1, 1, rows, held + rows, dtype=torch.bool, device=device) if held else None
    positions = torch.full((1, rows), held, device=device) if held else None

    def job():
        cache.truncate(held)
        return draft(feature, tokens, mask, positions=positions, cache=cache)

    return job


def _head(target: Target, rows: int) -> Callable[[], Any]:
    feature = torch.zeros(rows, target.config.hidden_size, dtype=target.dtype, device=target.device)
    return lambda: target.lm_head(feature)


class _FreeDraft(Draft):
    """A draft whose forwards cost nothing: a clock around `expand` then sees the tree's own work alone."""

    def __init__(self, draft: Draft, rows: int):
        nn.Module.__init__(self)
        generator = torch.Generator().manual_seed(0)
        like = {"dtype": draft.target.dtype, "device": draft.target.device}
        feature = torch.zeros(1, rows, draft.config.hidden_size, **like)
        self.output = DraftOutput(feature, feature)
        self.logits = torch.randn(rows, draft.config.vocab_size, generator=generator).to(**like)

    @property
    def lm_head(self) -> Callable[[Tensor], Tensor]:
        return lambda feature: self.logits if feature.dim() == 2 else self.logits[0]

    def forward(self, *args, **kwargs) -> DraftOutput:
        return self.output


def _levels(draft: Draft, prefix: int, k: int, config: TreeConfig | None = None) -> Callable[[], Any]:
    """An expansion of LEVEL_DEPTH + 1 levels, forwards and heads for nothing."""
    free, cache = _FreeDraft(draft, k), draft.new_cache(prefix)
    cache.truncate(prefix)
    config, feature = config or TreeConfig(k, LEVEL_DEPTH, 1), free.output.logit_feature[0, 0]
    return lambda: expand(free, feature, feature, config, cache)


def _after(target: Target, draft: Draft, prefix: int, nodes: int, sampling: SamplingConfig) -> Callable[[], Any]:
    """AFTER_ROUNDS times what a round does after the draft's forwards, but for the target's.

    These are the lines of a round in generate.speculative_generate, after reranking: all but the target's forward and
    head, made of the same functions.
    """
    config = TreeConfig(min(10, target.vocab_size), 5, nodes)
    scored = _levels(draft, prefix, config.top_k, config)()
    cache = target.new_cache(prefix + nodes)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(nodes, target.vocab_size, generator=generator).to(target.device, target.dtype)
    texts = [torch.zeros(1, prefix + STRIDE * i, dtype=torch.long, device=target.device) for i in range(AFTER_ROUNDS)]

    def job():
        chooser = Chooser(sampling, target)  # with no noise yet
        for text in texts:
            tree = rerank(text[0, -1], *scored, config)
            drawn = chooser.every_node(logits, tree, text, config.levels)
            path, new, tokens = verify(tree, drawn, config.levels).read()
            cache.truncate(prefix + nodes)
            cache.keep(prefix, path)
            torch.cat((text, new[None]), dim=1)

    return job


def _plain_rest(target: Target, prefix: int, sampling: SamplingConfig) -> Callable[[], Any]:
    """PLAIN_STEPS times what generate.autoregressive_generate does besides its forwards."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, target.vocab_size, generator=generator).to(target.device, target.dtype)
    texts = [torch.zeros(1, prefix + i, dtype=torch.long, device=target.device) for i in range(PLAIN_STEPS)]

    def job():
        chooser = Chooser(sampling, target)  # with no noise yet
        for text in texts:
            chooser.extend(text, logits)

    return job


