"""Decoding: the plain loop and the speculative loop.

A round of speculative decoding, between two target forwards:

    grow      the draft grows a tree from the newly accepted (feature, next token) pairs
    score     one target forward gives every node its feature, hence its logits
    draw      one token per node, position-keyed
    verify    walk the tree along the drawn tokens
    keep      the accepted path stays in the target's cache, the rest is forgotten

These are lines of the loop in `speculative_generate`. Baselines that grow other trees take the draft's place in it, as
a `Grower`; bench/static.py has the same loop in shapes that never change. Both loops here draw token number i of the
text with the same noise, so for one seed they emit the same tokens.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fspad_ref.draft import Draft
from fspad_ref.errors import ConfigError, InputError, TargetMismatch, require
from fspad_ref.sampling import GumbelNoise, SamplingConfig, at_least_float32, choose, process_logits
from fspad_ref.target import Target
from fspad_ref.tree import DraftTree, DynamicTree, Grower, TreeConfig
from fspad_ref.verify import verify

OnRound = Callable[[list[int], int], None]  # (new tokens, how many of them were drafted)


@dataclass
class Generation:
    """What a decoding call returns.

    tokens: the new token ids, the prompt not among them, EOS included if it came.
    accepted: per round, the drafted tokens that stayed in the text; the bonus token is not counted.
    """

    tokens: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)

    @property
    def tau(self) -> float:
        """Average acceptance length: tokens per target forward, the accepted ones and the one that the target adds.

        The prefill and its token are no round. Plain decoding has tau = 1 by this count; without rounds it is NaN.
        """
        return (len(self.tokens) - 1) / len(self.accepted) if self.accepted else math.nan


class Chooser:
    """Draws tokens from logits: the processors, then temperature and cuts, then position-keyed noise."""

    def __init__(self, config: SamplingConfig, target: Target, processors: Iterable[Callable] = ()):
        self.config, self.processors = config, list(processors)
        self.noise = None if config.greedy else GumbelNoise(config.seed, target.vocab_size, target.device)

    def next(self, logits: Float[Tensor, "1 vocab"], text: Int[Tensor, "1 seq"]) -> Int[Tensor, "1"]:
        """The token after `text`, from the logits at its end."""
        logits = at_least_float32(logits)
        for processor in self.processors:
            logits = processor(text, logits)
        noise = None if self.noise is None else self.noise.rows(text.shape[1], 1)
        return choose(process_logits(logits, self.config), noise)

    def extend(self, text: Int[Tensor, "1 seq"], logits: Float[Tensor, "1 vocab"]) -> tuple[Tensor, int]:
        """The text with its next token, and that token as a number: one copy to the host."""
        token = self.next(logits, text)
        return torch.cat((text, token[None]), dim=1), int(token)

    def every_node(
        self, logits: Float[Tensor, "nodes vocab"], tree: DraftTree, text: Int[Tensor, "1 seq"], levels: int
    ) -> Int[Tensor, "nodes"]:
        """y_v for every node; `text` ends with the root. Nodes of one depth share one row of noise."""
        logits = at_least_float32(logits)
        if self.processors:
            logits = self._process_nodes(logits, tree, text)
        rows = None if self.noise is None else self.noise.rows(text.shape[1], levels + 1)[tree.depth]
        return choose(process_logits(logits, self.config), rows)

    def ahead(self, text: Int[Tensor, "1 seq"], grower: Grower) -> tuple[Float[Tensor, "levels vocab"], ...]:
        """T times the noise that will draw after the nodes of depth 0, 1, ..., if there is any and the grower looks."""
        if self.noise is None or not grower.looks_at_noise:
            return ()
        return (self.config.temperature * self.noise.rows(text.shape[1], grower.levels),)

    def _process_nodes(self, logits, tree: DraftTree, text) -> Tensor:
        """Give every node's logits to the processors with that node's own text; nodes of one depth go together."""
        logits = logits.clone()
        order = torch.arange(len(tree), device=logits.device)
        for depth in range(int(tree.depth.max()) + 1):
            nodes = order[tree.depth == depth]
            # ancestors in level order are the path; column 0, the root, is in `text` already
            path = tree.ancestors[nodes].nonzero()[:, 1].view(len(nodes), depth + 1)[:, 1:]
            prefix = torch.cat((text.expand(len(nodes), -1), tree.token[path]), dim=1)
            scores = logits[nodes]
            for processor in self.processors:
                scores = processor(prefix, scores)
            logits[nodes] = scores
        return logits


@torch.no_grad()
def autoregressive_generate(
    target: Target, input_ids: Int[Tensor, "..."] | list[int], *, max_new_tokens: int = 128,
    eos_token_id: int | list[int] | None = None, sampling: SamplingConfig | None = None,
    processors: Iterable[Callable] = (), stop: Callable[[list[int]], bool] | None = None,
    on_round: OnRound | None = None,
) -> Generation:  # fmt: skip
    """Plain decoding, one token per forward: the reference for the text, and the baseline for the clock.

    Arguments, errors and result as in `speculative_generate`; `.accepted` holds a 0 per round, so tau is 1.
    """
    text = prepare_prompt(target, input_ids, max_new_tokens, extra=0)  # (1, T)
    result, ending = Generation(), Stop(max_new_tokens, eos_token_id, stop, on_round)
    if max_new_tokens == 0:
        return result
    chooser = Chooser(sampling or SamplingConfig(), target, processors)
    cache = target.new_cache(text.shape[1] + max_new_tokens)

    features = target.features(text, cache=cache)  # (1, T, D)
    text, token = chooser.extend(text, target.lm_head(features[:, -1]))
    done = ending.take(result, [token])
    while not done:
        features = target.features(text[:, -1:], cache=cache)  # (1, 1, D)
        text, token = chooser.extend(text, target.lm_head(features[:, -1]))
        done = ending.take(result, [token], accepted=0)
    return result


@torch.no_grad()
def speculative_generate(
    target: Target, draft: Draft | Grower, input_ids: Int[Tensor, "..."] | list[int], *,
    max_new_tokens: int = 128, eos_token_id: int | list[int] | None = None,
    sampling: SamplingConfig | None = None, tree: TreeConfig | None = None,
    processors: Iterable[Callable] = (), stop: Callable[[list[int]], bool] | None = None,
    on_round: OnRound | None = None,
) -> Generation:  # fmt: skip
    """Lossless speculative decoding with a draft tree (FSPAD; EAGLE-2, section 4).

    Args:
        target, draft: the draft must have been made for this target. It grows EAGLE-2's trees; a `Grower` of other
            trees may take its place.
        input_ids: the prompt, (1, T) or a list of T ids.
        max_new_tokens: kept to exactly, also within a round.
        eos_token_id: one id or several; the text ends with the first of them. None: never.
        sampling: greedy by default.
        tree: size of the draft tree; None with a Grower, which has its own.
        processors: `transformers` logits processors, applied to every node with that node's own text.
        stop: called with the new tokens so far, after each of them; True ends the text there (stop strings, say).
        on_round: called after the prefill and after every round.

    Raises InputError for prompts and lengths that do not fit, and for logits that are NaN or all -inf; TargetMismatch
    for a draft of another target.
    """
    grower = grower_for(target, draft, tree)
    text = prepare_prompt(target, input_ids, max_new_tokens, extra=grower.levels)  # (1, T)
    result, ending = Generation(), Stop(max_new_tokens, eos_token_id, stop, on_round)
    if max_new_tokens == 0:
        return result
    chooser = Chooser(sampling or SamplingConfig(), target, processors)
    longest = text.shape[1] + max_new_tokens
    cache, grow = target.new_cache(longest + grower.nodes), grower.start(longest)

    features = target.features(text, cache=cache)  # (1, T, D)
    text, token = chooser.extend(text, target.lm_head(features[:, -1]))  # (1, T + 1)
    done = ending.take(result, [token])
    while not done:
        prefix, pairs = cache.length, features.shape[1]  # the target has not seen the last token yet: the tree's root
        nodes = grow(features, text[:, -pairs - 1 :], *chooser.ahead(text, grower))  # grow: a DraftTree of N nodes
        features = target.tree_features(nodes.token, nodes.depth, nodes.ancestors, cache)  # score: (N, D)
        drawn = chooser.every_node(target.lm_head(features), nodes, text, grower.levels)  # draw: (N,)
        path, new, tokens = verify(nodes, drawn, grower.levels).read()  # verify: accepted + 1 of each
        cache.keep(prefix, path)  # keep
        features = features[None, path]  # (1, accepted + 1, D): of the root and the accepted tokens
        text = torch.cat((text, new[None]), dim=1)
        done = ending.take(result, tokens, accepted=len(tokens) - 1)
    return result


def grower_for(target: Target, draft: Draft | Grower, tree: TreeConfig | None) -> Grower:
    """What grows the trees. Raises TargetMismatch for another target, ConfigError for a size that would be ignored."""
    sized = tree is None or not isinstance(draft, Grower)
    require(sized, ConfigError, "no tree size beside a grower, which has its own", tree, "Leave tree at None.")
    same, expected = draft.target is target, "the target that the draft was loaded for"
    require(same, TargetMismatch, expected, "another Target object", "Load the draft for this target.")
    return draft if isinstance(draft, Grower) else DynamicTree(draft, tree or TreeConfig())


class Stop:
    """Decides where the text ends, within a round too, so that stopping is plain truncation."""

    def __init__(
        self, max_new_tokens: int, eos_token_id: int | list[int] | None,
        stop: Callable[[list[int]], bool] | None, on_round: OnRound | None,
    ):  # fmt: skip
        self.max_new_tokens, self.stop, self.on_round = max_new_tokens, stop, on_round
        self.eos = set() if eos_token_id is None else set(torch.as_tensor(eos_token_id).flatten().tolist())

    def take(self, result: Generation, tokens: list[int], accepted: int | None = None) -> bool:
        """Append a round's tokens up to the end of the text, count the drafted ones that stay; True at the end.

        The prefill's token comes with accepted=None, as it is no round; those of plain decoding with 0.
        """
        room = self.max_new_tokens - len(result.tokens)
        ends = [n for n in range(1, min(room, len(tokens)) + 1) if self._ends(result.tokens, tokens[:n])]
        kept = tokens[: ends[0]] if ends else tokens[:room]
        found = "logits that are NaN or all -inf after the processors"
        advice = "Check the weights and the logits processors."
        require(-1 not in kept, InputError, "at least one possible next token", found, advice)
        result.tokens += kept
        if accepted is not None:
            result.accepted.append(min(accepted, len(kept)))
        if self.on_round:
            self.on_round(kept, min(accepted or 0, len(kept)))
        return bool(ends) or len(result.tokens) == self.max_new_tokens

    def _ends(self, before: list[int], new: list[int]) -> bool:
        return new[-1] in self.eos or (self.stop is not None and self.stop(before + new))


def prepare_prompt(target: Target, input_ids: Any, max_new_tokens: int, extra: int) -> Int[Tensor, "1 seq"]:
    """The prompt as (1, T) on the target's device. Raises InputError if it, or what should follow, does not fit.

    extra: positions beyond the text that a draft tree may reach.
    """
    try:
        ids = torch.as_tensor(input_ids, device=target.device)
        found = f"{ids.dtype} of shape {tuple(ids.shape)}"
    except (TypeError, ValueError, RuntimeError):  # text, say
        ids, found = None, f"{type(input_ids).__name__} {input_ids!r:.40}"
    numbers = ids is not None and (ids.dtype in (torch.int64, torch.int32) or not ids.numel())
    advice = "Encode text with target.tokenizer, give the input_ids of what that returns, one prompt at a time."
    expected = "one prompt of token ids, (1, T) or a list of whole numbers"
    require(numbers and ids.shape[:-1] in ((), (1,)), InputError, expected, found, advice)
    ids = ids.reshape(1, -1).long()
    require(ids.numel(), InputError, "a prompt of at least one token", "an empty one", "Give the model some text.")
    low, high, V = int(ids.min()), int(ids.max()), target.vocab_size
    advice = "Encode the prompt with this target's own tokenizer."
    require(0 <= low <= high < V, InputError, f"token ids in [0, {V})", low if low < 0 else high, advice)
    whole = isinstance(max_new_tokens, int) and max_new_tokens >= 0
    require(whole, InputError, "max_new_tokens to be a whole number >= 0", repr(max_new_tokens), "Set it to 0 or more.")
    fits = target.max_positions - ids.shape[1] - extra
    advice = f"Set max_new_tokens to at most {fits}." if fits > 0 else "Shorten the prompt, or use a smaller tree."
    expected = f"prompt + max_new_tokens + tree levels within the target's {target.max_positions} positions"
    require(max_new_tokens <= fits, InputError, expected, f"{ids.shape[1]} + {max_new_tokens} + {extra}", advice)
    return ids
