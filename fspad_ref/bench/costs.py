"""The cost model of speculative decoding: what a round costs, and so how much faster than plain decoding it is.

    speedup = tau * t_plain / (t_draft + t_verify(N) + t_after(N))

    t_plain       one step of plain decoding: the target's forward pass over one token, its lm_head; choosing the token
    t_draft       the draft's forward pass over the newly accepted pairs, then `depth` times a level(k): a forward pass
                  over k rows, lm_head, the k best children of each, the next frontier
    t_verify(N)   the target's forward pass over the N nodes of a tree, and lm_head over all of them
    t_after(N)    reranking, drawing, verifying, the copy to the host, the cache

For a whole text the prefills are counted, too. Every term is timed as a job of its own, in turns, so that a machine
that slows down slows all of them alike. The numbers in caches and logits are made up: arithmetic takes the same time.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fspad_ref.draft import Draft
from fspad_ref.generate import Chooser
from fspad_ref.sampling import SamplingConfig
from fspad_ref.target import Target
from fspad_ref.tree import TreeConfig, ancestors, expand, rerank
from fspad_ref.verify import verify

WARM_UP = 2  # first calls pay for memory and kernels that later ones reuse
PAIRS = 3  # that a round accepts, about: the rows of the draft's first forward in the next one
K, DEPTH = 10, 5  # of the trees that are reranked; an expansion of that depth is timed, a level is its fifth part
STEPS = 32  # noise is made for 32 positions at once: so many steps of plain decoding need it once,
ROUNDS, STRIDE = 7, 4  # and so do these rounds, 4 tokens apart, that look 7 tokens ahead


@dataclass(frozen=True)
class Costs:
    """Seconds of every part of decoding on one machine, at one length of prefix.

    plain: forward and lm_head of one token. plain_rest: what plain decoding does besides. extension: the draft's
    forward over new pairs. level[k]: a level of the expansion. verify[N]: the target's forward and lm_head over a tree.
    after[N]: what follows the forwards of a round. prefill, draft_prefill: forwards over a prompt of `prompt`
    tokens. prefix: tokens in both caches. temperature: of the draws.
    """

    plain: float
    plain_rest: float
    extension: float
    level: dict[int, float]
    verify: dict[int, float]
    after: dict[int, float]
    prefill: float = 0.0
    draft_prefill: float = 0.0
    prompt: int = 0
    prefix: int = 0
    temperature: float = 0.0


def predict_speedup(costs: Costs, tree: TreeConfig, tau: float, tokens: float) -> float:
    """Speedup over plain decoding of a draft that reaches `tau` with this tree, on a text of so many new tokens."""
    t_draft = costs.extension + tree.depth * costs.level[tree.top_k]
    a_round = t_draft + costs.verify[tree.total_tokens] + costs.after[tree.total_tokens]
    rounds = (tokens - 1) / tau  # the first token comes with the prefill, in both loops
    # the draft's prefill takes the place of the first round's extension
    drafted = costs.prefill + costs.draft_prefill - costs.extension + rounds * a_round
    return (costs.prefill + (tokens - 1) * (costs.plain + costs.plain_rest)) / drafted


# ---- measuring ----


@torch.no_grad()
def measure_costs(
    target: Target, draft: Draft, *, prompt: int, prefix: int, sampling: SamplingConfig,
    total_tokens: Sequence[int], top_k: Sequence[int], repetitions: int = 20,
) -> Costs:  # fmt: skip
    """Medians over repetitions of every term, at these sizes of trees, with `prefix` tokens in both caches."""
    jobs = _jobs(target, draft, prompt, prefix, sampling, sorted(total_tokens), sorted(top_k))
    seconds: dict[tuple[str, int], list[float]] = {place: [] for place in jobs}
    for _ in range(WARM_UP + repetitions):
        for place, (job, times) in jobs.items():
            target.synchronize()
            began = time.perf_counter()
            job()
            target.synchronize()
            seconds[place].append((time.perf_counter() - began) / times)
    terms: dict[str, Any] = {"level": {}, "verify": {}, "after": {}}
    for (name, size), runs in seconds.items():
        median = float(np.median(runs[WARM_UP:]))
        terms[name] = terms[name] | {size: median} if size else median
    return Costs(**terms, prompt=prompt, prefix=prefix, temperature=sampling.temperature)


def _jobs(
    target: Target, draft: Draft, prompt: int, prefix: int, sampling: SamplingConfig, sizes: list[int], ks: list[int]
) -> dict[tuple[str, int], tuple[Callable[[], Any], int]]:
    """(term, size) -> (what to time, how often it does what is wanted); a term that has no size has 0."""
    device, vocab = target.device, target.vocab_size
    longest = max(prompt, prefix) + max(*sizes, *(DEPTH * k for k in ks), DEPTH * K)
    cache, of_draft = target.new_cache(longest), draft.new_cache(longest)
    ids = torch.arange(longest + STEPS, device=device)[None] % vocab  # (1, T)
    zeros = torch.zeros(1, max(prompt, PAIRS), draft.config.hidden_size, dtype=target.dtype, device=device)
    logits = torch.randn(max(sizes), vocab, generator=torch.Generator().manual_seed(0)).to(device, target.dtype)
    depth = (torch.arange(max(sizes), device=device) > 0).long()
    visible = ancestors(torch.zeros_like(depth), 1)  # a root and its children

    def step(held: int, new: int):
        cache.truncate(held)
        target.lm_head(target.features(ids[:, :new], cache=cache)[:, -1])

    def pairs(held: int, new: int):
        of_draft.truncate(held)
        draft(zeros[:, :new], ids[:, :new], cache=of_draft)

    def grow(config: TreeConfig):
        of_draft.truncate(prefix)
        return expand(draft, zeros[0, 0], zeros[0, 0], config, of_draft)

    def verifying(nodes: int):
        cache.truncate(prefix)
        target.lm_head(target.tree_features(ids[0, :nodes], depth[:nodes], visible[:nodes, :nodes], cache))

    def after(nodes: int) -> Callable[[], Any]:
        """The lines of a round in generate.speculative_generate behind the growing, but for the target's forward."""
        config = TreeConfig(min(K, vocab), DEPTH, nodes)
        scored = grow(config)

        def job():
            chooser = Chooser(sampling, target)  # with no noise yet
            for place in range(prefix, prefix + ROUNDS * STRIDE, STRIDE):
                text = ids[:, :place]
                tree = rerank(text[0, -1], *scored, config)
                drawn = chooser.every_node(logits[:nodes], tree, text, config.levels)
                path, new, _ = verify(tree, drawn, config.levels).read()
                cache.truncate(prefix + nodes)
                cache.keep(prefix, path)
                torch.cat((text, new[None]), dim=1)

        return job

    def choosing():
        chooser = Chooser(sampling, target)  # with no noise yet
        for place in range(prefix, prefix + STEPS):
            chooser.extend(ids[:, :place], logits[:1])

    return {
        ("plain", 0): (lambda: step(prefix, 1), 1),
        ("plain_rest", 0): (choosing, STEPS),
        ("prefill", 0): (lambda: step(0, prompt), 1),
        ("draft_prefill", 0): (lambda: pairs(0, prompt), 1),
        ("extension", 0): (lambda: pairs(prefix, PAIRS), 1),
        **{("level", k): (lambda k=k: grow(TreeConfig(k, DEPTH, 1)), DEPTH) for k in ks},
        **{("verify", n): (lambda n=n: verifying(n), 1) for n in sizes},
        **{("after", n): (after(n), ROUNDS) for n in sizes},
    }
