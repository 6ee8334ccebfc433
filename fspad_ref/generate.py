"""Decoding: the plain loop and the speculative loop.

A round of speculative decoding, between two target forwards:

    grow      the draft grows a tree from the newly accepted (feature, next token) pairs
    score     one target forward gives every node its feature, hence its logits
    draw      one token a node, position-keyed
    verify    walk the tree along the drawn tokens
    keep      the accepted path stays in the target's cache, the rest is forgotten

Both loops draw token number i of the text with the same noise, so for one seed they emit the same tokens.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fspad_ref.cache import KVCache
from fspad_ref.draft import Draft
from fspad_ref.errors import InputError, TargetMismatch
from fspad_ref.sampling import GumbelNoise, SamplingConfig, at_least_float32, choose, process_logits
from fspad_ref.target import Target
from fspad_ref.tree import DraftTree, TreeConfig, grow_tree
from fspad_ref.verify import verify

OnRound = Callable[[list[int], int], None]


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
        """Average acceptance length: tokens a target forward, accepted plus the one the target adds.

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

    def every_node(
        self, logits: Float[Tensor, "nodes vocab"], tree: DraftTree, text: Int[Tensor, "1 seq"], levels: int
    ) -> Int[Tensor, "nodes"]:
        """y_v for every node; `text` ends with the root. Nodes of one depth share one row of noise."""
        logits = at_least_float32(logits)
        if self.processors:
            logits = self._process_nodes(logits, tree, text)
        rows = None if self.noise is None else self.noise.rows(text.shape[1], levels + 1)[tree.depth]
        return choose(process_logits(logits, self.config), rows)

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
    target: Target,
    input_ids: Int[Tensor, "..."] | list[int],
    *,
    max_new_tokens: int = 128,
    eos_token_id: int | list[int] | None = None,
    sampling: SamplingConfig | None = None,
    processors: Iterable[Callable] = (),
    stop: Callable[[list[int]], bool] | None = None,
    on_round: OnRound | None = None,
) -> Generation:
    """Plain decoding, one token a forward: the reference for the text, and the baseline for the clock.

    Arguments, errors and result as in `speculative_generate`; `.accepted` holds a 0 a round, so tau is 1.
    """
    text = prepare_prompt(target, input_ids, max_new_tokens, extra=0)
    result, stop = Generation(), Stop(max_new_tokens, eos_token_id, stop, on_round)
    if max_new_tokens == 0:
        return result
    choose_from = Chooser(sampling or SamplingConfig(), target, processors)
    cache = target.new_cache(text.shape[1] + max_new_tokens)
    features = target.features(text, cache=cache)  # (1, T, D)
    while True:
        token = choose_from.next(target.lm_head(features[:, -1]), text)
        if result.tokens:
            result.accepted.append(0)
        if stop.take(result, [int(token)]):
            return result
        text = torch.cat((text, token[None]), dim=1)
        features = target.features(token[None], cache=cache)  # (1, 1, D)


@torch.no_grad()
def speculative_generate(
    target: Target,
    draft: Draft,
    input_ids: Int[Tensor, "..."] | list[int],
    *,
    max_new_tokens: int = 128,
    eos_token_id: int | list[int] | None = None,
    sampling: SamplingConfig | None = None,
    tree: TreeConfig | None = None,
    processors: Iterable[Callable] = (),
    stop: Callable[[list[int]], bool] | None = None,
    on_round: OnRound | None = None,
) -> Generation:
    """Lossless speculative decoding with a draft tree (FSPAD, section 3; EAGLE-2, section 4).

    Args:
        target, draft: the draft must have been made for this target.
        input_ids: the prompt, (1, T) or a list of T ids.
        max_new_tokens: honoured exactly, also within a round.
        eos_token_id: one id or several; the text ends with the first of them. None: never.
        sampling: greedy by default.
        tree: size of the draft tree.
        processors: `transformers` logits processors, applied to every node with that node's own text.
        stop: called with the new tokens so far, after each of them; True ends the text there (stop strings, say).
        on_round: called with (new tokens, how many of them were drafted) after the prefill and after every round.

    Raises InputError for prompts and lengths that do not fit, and for logits that are NaN or all -inf.
    """
    tree = tree or TreeConfig()
    if draft.target is not target:
        raise TargetMismatch(
            "expected the target that the draft was loaded for, found another Target object. "
            "Load the draft with Draft.from_pretrained(folder, target) for this target."
        )
    text = prepare_prompt(target, input_ids, max_new_tokens, extra=tree.levels)
    result, stop = Generation(), Stop(max_new_tokens, eos_token_id, stop, on_round)
    if max_new_tokens == 0:
        return result
    choose_from = Chooser(sampling or SamplingConfig(), target, processors)
    longest = text.shape[1] + max_new_tokens
    cache = target.new_cache(longest + tree.total_tokens)
    draft_cache = draft.new_cache(longest + tree.depth * tree.top_k)

    features = target.features(text, cache=cache)  # (1, T, D)
    token = choose_from.next(target.lm_head(features[:, -1]), text)  # (1,)
    done = stop.take(result, [int(token)])
    text = torch.cat((text, token[None]), dim=1)  # (1, T + 1)
    pending = text  # the tokens whose pairs the draft has not seen: one more than `features`
    while not done:
        features, tokens, accepted = speculate(
            target, draft, features, pending, text, tree, choose_from, cache, draft_cache
        )
        done = stop.take(result, tokens, accepted)
        new = torch.tensor([tokens], device=text.device)
        pending = torch.cat((text[:, -1:], new), dim=1)
        text = torch.cat((text, new), dim=1)
    return result


def speculate(
    target: Target,
    draft: Draft,
    features: Float[Tensor, "1 new hidden"],
    pending: Int[Tensor, "1 new_plus_1"],
    text: Int[Tensor, "1 seq"],
    tree_config: TreeConfig,
    choose_from: Chooser,
    cache: KVCache,
    draft_cache: KVCache,
) -> tuple[Tensor, list[int], int]:
    """One round: (features of the tokens now verified, the tokens emitted, how many of those were drafted).

    `text` ends with a token that the target has not seen yet: the root of the tree.
    """
    tree = grow_tree(draft, features, pending, tree_config, draft_cache)  # N nodes
    return check_tree(target, tree, tree_config.levels, text, choose_from, cache)


def check_tree(
    target: Target, tree: DraftTree, levels: int, text: Int[Tensor, "1 seq"], choose_from: Chooser, cache: KVCache
) -> tuple[Tensor, list[int], int]:
    """The target's half of a round, whoever grew the tree; result as of `speculate`."""
    prefix = cache.length
    node_features = target.tree_features(tree.token, tree.depth, tree.ancestors, cache)  # (N, D)
    drawn = choose_from.every_node(target.lm_head(node_features), tree, text, levels)  # (N,)
    verdict = verify(tree, drawn, levels)
    accepted, *tokens = torch.cat((verdict.accepted[None], verdict.tokens)).tolist()  # the round's one copy to the host
    path = verdict.path[: accepted + 1]
    cache.keep(prefix, path)
    return node_features[None, path], tokens[: accepted + 1], accepted


class Stop:
    """Decides where the text ends, within a round too, so that stopping is plain truncation."""

    def __init__(
        self,
        max_new_tokens: int,
        eos_token_id: int | list[int] | None,
        stop: Callable[[list[int]], bool] | None,
        on_round: OnRound | None,
    ):
        self.max_new_tokens, self.stop, self.on_round = max_new_tokens, stop, on_round
        ids = [] if eos_token_id is None else torch.as_tensor(eos_token_id).flatten().tolist()
        self.eos = set(ids)

    def take(self, result: Generation, tokens: list[int], accepted: int | None = None) -> bool:
        """Append a round's tokens up to the end of the text, count the drafted ones that stay; True if it ended.

        The prefill's token comes with accepted=None, as it is no round; plain decoding counts its rounds itself.
        """
        room = self.max_new_tokens - len(result.tokens)
        ends = [n for n in range(1, min(room, len(tokens)) + 1) if self._ends(result.tokens, tokens[:n])]
        kept = tokens[: ends[0]] if ends else tokens[:room]
        if -1 in kept:
            raise InputError(
                "expected at least one possible next token, found logits that are NaN or all -inf after "
                "the processors. Check the weights and the logits processors."
            )
        result.tokens += kept
        if accepted is not None:
            result.accepted.append(min(accepted, len(kept)))
        if self.on_round:
            self.on_round(kept, min(accepted or 0, len(kept)))
        return bool(ends) or len(result.tokens) == self.max_new_tokens

    def _ends(self, before: list[int], new: list[int]) -> bool:
        return new[-1] in self.eos or (self.stop is not None and self.stop(before + new))


def prepare_prompt(
    target: Target, input_ids: Tensor | list[int], max_new_tokens: int, extra: int
) -> Int[Tensor, "1 seq"]:
    """The prompt as (1, T) on the target's device. Raises InputError if it, or what should follow, does not fit.

    extra: positions beyond the text that a draft tree may reach.
    """
    ids = torch.as_tensor(input_ids, dtype=torch.long, device=target.device)
    ids = ids[None] if ids.dim() == 1 else ids
    if ids.dim() != 2 or ids.shape[0] != 1:
        raise InputError(
            f"expected one prompt, (1, T) or a list of ids, found shape {tuple(ids.shape)}. Decode one at a time."
        )
    target.check_ids(ids)
    if not isinstance(max_new_tokens, int) or max_new_tokens < 0:
        raise InputError(
            f"expected max_new_tokens to be a whole number >= 0, found {max_new_tokens!r}. Set it to 0 or more."
        )
    fits = target.max_positions - ids.shape[1] - extra
    if max_new_tokens > fits:
        advice = f"Set max_new_tokens to at most {fits}." if fits > 0 else "Shorten the prompt, or use a smaller tree."
        raise InputError(
            f"expected prompt + max_new_tokens + tree levels within the target's {target.max_positions} positions, "
            f"found {ids.shape[1]} + {max_new_tokens} + {extra}. {advice}"
        )
    return ids
