"""Decoding in static shapes: the rounds of generate.py with nothing in them that changes but the numbers.

    generate.speculative_generate             here
    the draft extends over a + 1 new pairs    over levels + 1 pairs, of which the first a + 1 are real
    caches as long as the text                caches of fixed size, whose length is on the device, and masks
    keep the accepted path                    keep levels + 1 rows, of which the first a + 1 count
    draws with noise made when needed         draws with noise of a block that the host fills between rounds
    one copy to the host, one to the device   one copy to the host

So a round is one CUDA graph on a GPU (graphs.py), and so is a step of plain decoding: the two stay comparable. Growing,
ranking and verifying are the very functions of the package; the text is that of plain decoding, as ever.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fspad_ref.cache import KVCache
from fspad_ref.draft import Draft, DraftOutput
from fspad_ref.errors import UnsupportedTarget
from fspad_ref.generate import Chooser, Generation, Stop, prepare_prompt
from fspad_ref.sampling import GumbelNoise, SamplingConfig, at_least_float32, choose, process_logits
from fspad_ref.target import Target
from fspad_ref.tree import DraftTree, TreeConfig, expand, rerank
from fspad_ref.verify import verify

# ---- graphs ----
#
# CUDA graphs: a row of kernels recorded once and started by one call, and the cache that makes decoding fit for it.
#
# A step of a large model is hundreds of kernels of some microseconds each; started one by one from Python they wait for
# Python. A recorded graph starts them all at once, but it is a recording: it replays the same kernels, on the same
# addresses, with the same shapes and the same numbers from the host. So whatever is captured must
#
#     1. have shapes that never change: a path of a tokens is padded to the longest there can be
#     2. read what changes from tensors that stay where they are, and write its results into such tensors, in place
#     3. take no number from the host that changes: no Python integer for the length of the text, above all
#     4. look at no number: no .item(), no branch on data, no copy between host and device
#     5. leave the host as it found it: Python does not run again when the graph is replayed
#
# `tree.expand`, `tree.rerank` and `verify` obey 1, 3 and 4 as they stand. What breaks 3 is the cache, which keeps its
# length in Python and hands out slices: `StaticCache` keeps it on the device and hands out all slots, and the attention
# mask says which of them count. On a CPU there is nothing to record: the same functions run as they are.

Result = TypeVar("Result")
WARM_UP = 3  # runs before a capture: libraries make their handles and workspaces in them
ALIGNED = 64  # slots: kernels for masked attention want a mask's rows at round addresses


def capture(run: Callable[[], Result], state: Sequence[Tensor], device: torch.device) -> Callable[[], Result]:
    """`run` as one CUDA graph; on any other device `run` itself.

    Args:
        run: keeps to the five requirements above. What it returns are tensors, overwritten by every later call.
        state: the tensors that `run` changes and reads again; warming up leaves them as they were. Slots of a cache
            beyond its length need not be among them.
        device: where `run` computes.

    Raises RuntimeError, from CUDA, for a `run` that looks at a number. The graph keeps its own memory as long as the
    function that is returned lives. (PyTorch: notes on CUDA graphs, "whole-network capture".)
    """
    if device.type != "cuda":
        return run
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()  # the default stream cannot be captured
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            kept = [tensor.clone() for tensor in state]
            for _ in range(WARM_UP):
                run()
                restore(state, kept)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):  # records, does not compute: nothing to restore
            result = run()

    def replay() -> Result:
        graph.replay()
        return result

    return replay


def restore(state: Sequence[Tensor], kept: Sequence[Tensor]) -> None:
    """Put the kept values back, in place."""
    for tensor, value in zip(state, kept, strict=True):
        tensor.copy_(value)


def aligned(slots: int) -> int:
    """The next multiple of ALIGNED."""
    return -(-slots // ALIGNED) * ALIGNED


class StaticCache(KVCache):
    """A KVCache whose length is a number on the device; takes over the storage of one that was filled as usual.

    held (): entries that stay. `length`, on the host, counts only what was written after them, the rows of one round,
    so it goes through the same values in every round. Attention sees all slots: give it `visible` as its mask.

    The host no longer knows the length, so nobody refuses a write beyond the capacity (on a GPU it ends in a device
    assertion): whoever makes the cache has to make it large enough.

    Raises UnsupportedTarget for a cache that is spread over several devices: a graph is recorded on one.
    """

    def __init__(self, filled: KVCache):
        if not hasattr(filled, "kv"):
            raise UnsupportedTarget(
                f"expected a cache on one device, found a {type(filled).__name__}, whose layers are on several. Load "
                "the target on one device, or decode with speculative_generate."
            )
        layers, _, batch, heads, capacity, width = filled.kv.shape
        super().__init__(layers, heads, width, 0, batch=batch, dtype=filled.kv.dtype, device=filled.kv.device)
        self.kv, self.capacity = filled.kv, capacity
        self.held = torch.full((), filled.length, dtype=torch.long, device=filled.kv.device)
        self._slots = torch.empty(0, dtype=torch.long, device=filled.kv.device)

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write `(B, H, n, D)` keys and values behind what is there; returns all slots of that layer."""
        start, new = self.length_of[layer], keys.shape[-2]
        if layer == 0:  # the other layers of this forward write to the same slots
            self._slots = self.held + start + torch.arange(new, device=keys.device)
        self.kv[layer, 0].index_copy_(-2, self._slots, keys)
        self.kv[layer, 1].index_copy_(-2, self._slots, values)
        self.length_of[layer] = start + new
        return self.kv[layer, 0], self.kv[layer, 1]

    def visible(self, own: Bool[Tensor, "rows entries"]) -> Bool[Tensor, "1 1 rows capacity"]:
        """A mask over all slots: all that is held, and of the entries written after it what `own` says."""
        entry = torch.arange(self.capacity, device=own.device) - self.held  # a slot's number among the new entries
        inside = (entry >= 0) & (entry < own.shape[1])
        of_own = own[:, entry.clamp(0, own.shape[1] - 1)] & inside  # (rows, capacity)
        return (of_own | (entry < 0))[None, None]

    def additive(self, own: Bool[Tensor, "rows entries"]) -> Tensor:
        """The same as numbers to add to the scores: 0 where a row may look, else the least there is."""
        mask = torch.zeros(1, 1, own.shape[0], self.capacity, dtype=self.kv.dtype, device=own.device)
        return mask.masked_fill_(~self.visible(own), torch.finfo(self.kv.dtype).min)

    def keep_padded(self, path: Int[Tensor, "rows"], count: Int[Tensor, ""]) -> None:
        """`keep` with a fixed number of rows: of the new entries keep the first `count` that `path` names.

        path is padded with any rows; what they bring ends up beyond `held`, where nobody looks and others write next.
        """
        to = self.held + torch.arange(path.shape[0], device=path.device)
        self.kv.index_copy_(-2, to, self.kv.index_select(-2, self.held + path))
        self.hold(count)

    def hold(self, count: Int[Tensor, ""]) -> None:
        """Of the new entries the first `count` stay, the others are forgotten."""
        self.held.add_(count)
        self.truncate(0)



# ---- static ----

class Noise:
    """Position-keyed noise in a buffer that stays where it is: the host refills it, a graph reads it.

    Without a temperature there is none, and `rows` gives None.
    """

    def __init__(self, sampling: SamplingConfig, target: Target, levels: int):
        self.block = max(GumbelNoise.BLOCK, 4 * (levels + 1))
        self.ahead = levels + 1  # positions that a round may draw at
        self.source = None if sampling.greedy else GumbelNoise(sampling.seed, target.vocab_size, target.device)
        self.values = self.source and self.source.rows(0, self.block).clone()  # (block, V)
        self.first, self.first_here = 0, torch.zeros((), dtype=torch.long, device=target.device)

    def prepare(self, position: int) -> None:
        """Make sure of the rows for a round whose first draw is the text's token number `position`."""
        if self.source and not self.first <= position <= self.first + self.block - self.ahead:
            self.first = position
            self.first_here.fill_(position)
            self.values.copy_(self.source.rows(position, self.block))

    def rows(self, position: Int[Tensor, "rows"]) -> Float[Tensor, "rows vocab"] | None:
        """The rows of these positions, which the device alone knows."""
        return None if self.source is None else self.values.index_select(0, position - self.first_here)


def node_features(
    target: Target,
    tokens: Int[Tensor, "nodes"],
    depth: Int[Tensor, "nodes"],
    ancestors: Bool[Tensor, "nodes nodes"],
    cache: StaticCache,
) -> Float[Tensor, "nodes hidden"]:
    """`target.tree_features` over a static cache."""
    return target.backbone(
        input_ids=tokens[None],
        attention_mask=cache.additive(ancestors),
        position_ids=(cache.held + depth)[None],
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state[0]


class StaticDraft(Draft):
    """A draft as `tree.expand` calls it, over a static cache: it is told of the tree alone, as if no text preceded.

    expand's masks and positions begin at cache.length, which a StaticCache counts from `held` on; the text's part is
    added here, from the device.
    """

    def __init__(self, draft: Draft):
        nn.Module.__init__(self)
        self._draft, self._target, self.config = (draft,), (draft.target,), draft.config

    def forward(self, features, next_token_ids, attention_mask=None, *, positions=None, cache=None) -> DraftOutput:
        mask = cache.visible(attention_mask[0, 0])  # (k, entries) -> (1, 1, k, capacity)
        return self._draft[0](features, next_token_ids, mask, positions=positions + cache.held, cache=cache)


@runtime_checkable
class Step(Protocol):
    """What a loop does again and again. state: what `run` changes. run: a + 1 tokens behind their number a, padded."""

    target: Target
    state: list[Tensor]
    noise: Noise

    def run(self) -> Int[Tensor, "rows"]: ...


class PlainStep:
    """A step of plain decoding: a tree of the root alone. token: the last one of the text, not yet in the cache."""

    def __init__(self, target: Target, sampling: SamplingConfig, cache: KVCache, token: int):
        self.target, self.sampling, self.noise = target, sampling, Noise(sampling, target, 0)
        self.cache = StaticCache(cache)
        self.token = torch.full((1,), token, device=target.device)
        self.depth, self.itself = torch.zeros_like(self.token), torch.ones(1, 1, dtype=torch.bool, device=target.device)
        self.zero, self.one = torch.zeros_like(self.token), torch.ones_like(self.token[0])
        self.state = [self.token, self.cache.held]

    @torch.no_grad()
    def run(self) -> Int[Tensor, "rows"]:
        features = node_features(self.target, self.token.clamp(min=0), self.depth, self.itself, self.cache)
        logits = at_least_float32(self.target.lm_head(features))
        drawn = choose(process_logits(logits, self.sampling), self.noise.rows(self.cache.held + 1 + self.depth))
        self.cache.hold(self.one)
        self.token.copy_(drawn)
        return torch.cat((self.zero, drawn))


class Round:
    """A round of speculative decoding.

    Args:
        cache, draft_cache: filled as usual, the target's with the text but for `token`, the draft's with one pair less
            than that: the pair (feature, token) is the first that `run` gives it.
        feature, token: f of the last position in the target's cache, and the token that was drawn from it.

    The target's cache needs room for total_tokens entries behind the text, the draft's for levels + 1 + depth * top_k.
    """

    def __init__(
        self, target: Target, draft: Draft, tree: TreeConfig, sampling: SamplingConfig, cache: KVCache,
        draft_cache: KVCache, feature: Float[Tensor, "hidden"], token: int,
    ):  # fmt: skip
        self.target, self.draft, self.tree, self.sampling = target, draft, tree, sampling
        self.noise = Noise(sampling, target, tree.levels)
        self.cache, self.draft_cache = StaticCache(cache), StaticCache(draft_cache)
        self.frontier_draft = StaticDraft(draft)
        padded = tree.levels + 1
        self.features = feature.new_zeros(padded, feature.shape[0])  # of the root and the accepted tokens, padded
        self.features[0] = feature
        self.tokens = torch.zeros(padded, dtype=torch.long, device=target.device)  # accepted ones, bonus, padding
        self.tokens[0] = token
        self.accepted = torch.zeros((), dtype=torch.long, device=target.device)
        self.causal = torch.ones(padded, padded, dtype=torch.bool, device=target.device).tril()
        self.place = torch.arange(padded, device=target.device)
        self.state = [self.features, self.tokens, self.accepted, self.cache.held, self.draft_cache.held]

    @torch.no_grad()
    def run(self) -> Int[Tensor, "rows"]:
        nodes = self.grow()
        return self.settle(nodes, *self.score(nodes))

    @torch.no_grad()
    def grow(self) -> DraftTree:
        """The draft's part: its extension over the last round's pairs, then the tree."""
        tokens = self.tokens.clamp(min=0)  # -1, an impossible row, is the host's to refuse; no embedding knows it
        out = self.draft(
            self.features[None], tokens[None], self.draft_cache.visible(self.causal),
            positions=(self.draft_cache.held + self.place)[None], cache=self.draft_cache,
        )  # fmt: skip
        last = self.accepted[None]
        u, g = (part[0].index_select(0, last)[0] for part in out)  # (levels + 1, D) -> (D,)
        self.draft_cache.hold(self.accepted + 1)
        scored = expand(self.frontier_draft, u, g, self.tree, self.draft_cache)
        self.draft_cache.truncate(0)
        return rerank(tokens.index_select(0, last)[0], *scored, self.tree)

    @torch.no_grad()
    def score(self, nodes: DraftTree) -> tuple[Float[Tensor, "nodes hidden"], Float[Tensor, "nodes vocab"]]:
        """The target's part: features and logits of all nodes."""
        features = node_features(self.target, nodes.token, nodes.depth, nodes.ancestors, self.cache)
        return features, self.target.lm_head(features)

    @torch.no_grad()
    def settle(self, nodes: DraftTree, features: Tensor, logits: Tensor) -> Int[Tensor, "rows"]:
        """Draw, verify, keep, and make ready for the next round."""
        noise = self.noise.rows(self.cache.held + 1 + nodes.depth)
        drawn = choose(process_logits(at_least_float32(logits), self.sampling), noise)
        verdict = verify(nodes, drawn, self.tree.levels)
        self.cache.keep_padded(verdict.path, verdict.accepted + 1)
        self.features.copy_(features.index_select(0, verdict.path))
        self.tokens.copy_(verdict.tokens)
        self.accepted.copy_(verdict.accepted)
        return torch.cat((verdict.accepted[None], verdict.tokens))


@torch.no_grad()
def static_generate(
    target: Target,
    draft: Draft | None,
    input_ids: Int[Tensor, "..."] | list[int],
    *,
    max_new_tokens: int = 128,
    eos_token_id: int | list[int] | None = None,
    sampling: SamplingConfig | None = None,
    tree: TreeConfig | None = None,
    graphs: bool = True,
) -> Generation:
    """`speculative_generate` in static shapes, or without a draft `autoregressive_generate`: the same text, and counts.

    graphs: on a GPU, one CUDA graph a round; capturing takes a second or so for every call of this function, so it is
    for long texts, and for measuring. Logits processors and stop strings are not at hand here: they look at numbers.
    """
    sampling, tree = sampling or SamplingConfig(), tree or TreeConfig()
    text = prepare_prompt(target, input_ids, max_new_tokens, extra=tree.levels if draft else 0)  # (1, T)
    result, ending = Generation(), Stop(max_new_tokens, eos_token_id, None, None)
    if max_new_tokens == 0:
        return result
    cache, features = prefilled(target, text, max_new_tokens, max(tree.total_tokens, tree.levels + 1) if draft else 1)
    text, token = Chooser(sampling, target).extend(text, target.lm_head(features[:, -1]))
    if ending.take(result, [token]):
        return result
    if draft is None:
        step: Step = PlainStep(target, sampling, cache, token)
    else:
        draft_cache = prefilled_draft(draft, features, text, max_new_tokens, tree)
        step = Round(target, draft, tree, sampling, cache, draft_cache, features[0, -1], token)
    step.noise.prepare(text.shape[1])
    run = capture(step.run, step.state, target.device) if graphs else step.run
    for tokens in blocks(step, run, text.shape[1]):
        if ending.take(result, tokens, accepted=len(tokens) - 1):
            break
    return result


def blocks(step: Step, run: Callable[[], Tensor], length: int) -> Iterator[list[int]]:
    """The tokens of one round after another, without end, of a text of so many tokens; run: step.run, or its graph."""
    while True:
        step.noise.prepare(length)
        accepted, *tokens = run().tolist()  # the round's one copy to the host
        length += accepted + 1
        yield tokens[: accepted + 1]


def prefilled(target: Target, text: Int[Tensor, "1 seq"], room: int, nodes: int) -> tuple[KVCache, Tensor]:
    """The target's cache after the prompt, with room for so many tokens and a tree; and the prompt's features."""
    cache = target.new_cache(aligned(text.shape[1] + room + nodes))
    return cache, target.features(text, cache=cache)


@torch.no_grad()
def prefilled_draft(
    draft: Draft,
    features: Float[Tensor, "1 seq hidden"],
    text: Int[Tensor, "1 seq_plus_1"],
    room: int,
    tree: TreeConfig,
) -> KVCache:
    """The draft's cache after all pairs of the prompt but the last, which a round begins with."""
    cache = draft.new_cache(aligned(text.shape[1] + room + tree.levels + 1 + tree.depth * tree.top_k))
    if features.shape[1] > 1:
        draft(features[:, :-1], text[:, 1:-1], cache=cache)
    return cache


