"""The terms of the cost model (costs.py), timed one by one.

Every term is a job without arguments: a forward of so many rows behind a filled cache, a head, the growing of a tree
by a draft whose forwards cost nothing, and the rest of a round. All jobs take turns, so that a machine that slows
down slows all of them alike. What is in caches, trees and logits is made up: dense arithmetic takes its time whatever
the numbers are.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fspad_ref.draft import Draft, DraftOutput
from fspad_ref.generate import Chooser
from fspad_ref.lab.costs import Costs, Curve
from fspad_ref.lab.provenance import provenance
from fspad_ref.sampling import SamplingConfig
from fspad_ref.target import Target
from fspad_ref.tree import TreeConfig, ancestors, expand, rerank
from fspad_ref.verify import verify

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
