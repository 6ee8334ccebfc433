"""Decoding in static shapes: rounds in which nothing changes but the numbers, so that each can be one CUDA graph.

A step of a large model is hundreds of kernels of some microseconds each; started one by one, they wait for Python. A
CUDA graph starts them all with one call. But it is a recording: it replays the same kernels, with the same addresses,
shapes and numbers from the host. So whatever is captured must

    1. have shapes that never change
    2. read what changes from tensors that stay where they are, and write its results into such tensors, in place
    3. take no number from the host that changes, above all not the length of the text
    4. look at no number: no .item(), no branch on data, no copy between host and device
    5. leave the host as it found it: Python does not run again in a replay

`tree.expand`, `tree.rerank` and `verify` obey all this as they stand. The rest of a round has fixed sizes here: caches
whose length is on the device, and levels + 1 rows for the accepted path, of which the first a + 1 count. A step of
plain decoding is made alike, so that the two stay comparable. On a CPU the same functions run as they are.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fspad_ref.cache import KVCache
from fspad_ref.draft import Draft, DraftOutput
from fspad_ref.generate import Chooser, Generation, Stop, prepare_prompt
from fspad_ref.sampling import GumbelNoise, SamplingConfig, at_least_float32, choose, process_logits
from fspad_ref.target import Target
from fspad_ref.tree import DraftTree, TreeConfig, expand, rerank
from fspad_ref.verify import verify


class StaticCache(KVCache):
    """A KVCache whose length is a number on the device; takes over the storage of one on a single device.

    held (): entries that stay. `length`, on the host, counts only what was written after them, the rows of one round,
    so it goes through the same values in every round. Attention sees all slots: `visible` is its mask. A write beyond
    the capacity is not refused, as the host does not know the length: make the cache large enough.
    """

    def __init__(self, filled: KVCache):
        layers, _, batch, heads, capacity, width = filled.kv.shape
        super().__init__(layers, heads, width, 0, batch=batch, dtype=filled.kv.dtype, device=filled.kv.device)
        self.kv, self.capacity = filled.kv, capacity
        self.held = torch.full((), filled.length, dtype=torch.long, device=filled.kv.device)

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write `(B, H, n, D)` keys and values behind what is there; returns all slots of that layer."""
        start, new = self.length_of[layer], keys.shape[-2]
        if layer == 0:  # the other layers of this forward write to the same slots
            self.slots = self.held + start + torch.arange(new, device=keys.device)
        self.kv[layer, 0].index_copy_(-2, self.slots, keys)
        self.kv[layer, 1].index_copy_(-2, self.slots, values)
        self.length_of[layer] = start + new
        return self.kv[layer, 0], self.kv[layer, 1]

    def visible(self, own: Bool[Tensor, "rows entries"]) -> Bool[Tensor, "1 1 rows capacity"]:
        """A mask over all slots: all that is held, and of the entries written after it what `own` says."""
        entry = torch.arange(self.capacity, device=own.device) - self.held  # a slot's number among the new entries
        inside = (entry >= 0) & (entry < own.shape[1])
        of_own = own[:, entry.clamp(0, own.shape[1] - 1)] & inside  # (rows, capacity)
        return (of_own | (entry < 0))[None, None]

    def keep_padded(self, path: Int[Tensor, "rows"], count: Int[Tensor, ""]) -> None:
        """Of the new entries keep the first `count` that `path` names. The others end up beyond `held`: never seen."""
        to = self.held + torch.arange(path.shape[0], device=path.device)
        self.kv.index_copy_(-2, to, self.kv.index_select(-2, self.held + path))
        self.hold(count)

    def hold(self, count: Int[Tensor, ""]) -> None:
        """Of the new entries the first `count` stay, the others are forgotten."""
        self.held.add_(count)
        self.truncate(0)


class StaticDraft(Draft):
    """A draft as `tree.expand` calls it, with masks and positions that begin at cache.length.

    A StaticCache counts that from `held` on, as if no text came before the tree. The text's part is added here.
    """

    def __init__(self, draft: Draft):
        nn.Module.__init__(self)
        self._draft, self._target, self.config = (draft,), (draft.target,), draft.config
        self._head, self.vocabulary = draft._head, draft.vocabulary

    def forward(self, features, next_token_ids, attention_mask=None, *, positions=None, cache=None) -> DraftOutput:
        mask = cache.visible(attention_mask[0, 0])  # (k, entries) -> (1, 1, k, capacity)
        return self._draft[0](features, next_token_ids, mask, positions=positions + cache.held, cache=cache)


def node_features(target: Target, tokens: Int[Tensor, "n"], depth: Int[Tensor, "n"], ancestors: Bool[Tensor, "n n"],
                  cache: StaticCache) -> Float[Tensor, "n hidden"]:  # fmt: skip
    """`target.tree_features` over a static cache."""
    hidden = ~cache.visible(ancestors)  # (1, 1, N, capacity)
    mask = torch.zeros(hidden.shape, dtype=target.dtype, device=target.device)
    return target.backbone(
        input_ids=tokens[None], attention_mask=mask.masked_fill_(hidden, torch.finfo(target.dtype).min),
        position_ids=(cache.held + depth)[None], past_key_values=cache, use_cache=True,
    ).last_hidden_state[0]  # fmt: skip


class PlainStep:
    """A step of plain decoding: a tree of the root alone.

    token (1,): the last one of the text, not yet in the cache. state: the tensors that `run` changes and reads again.
    """

    def __init__(self, target: Target, sampling: SamplingConfig, cache: KVCache, token: int, levels: int = 0):
        self.target, self.sampling, self.cache = target, sampling, StaticCache(cache)
        self.source = None if sampling.greedy else GumbelNoise(sampling.seed, target.vocab_size, target.device)
        self.noise = None if sampling.greedy else self.source.rows(0, levels + 1).clone()  # (levels + 1, V), by depth
        self.token = torch.full((1,), token, device=target.device)
        self.root, self.itself = torch.zeros_like(self.token), torch.ones_like(self.token, dtype=torch.bool)[None]
        self.state = [self.token, self.cache.held]

    def prepare(self, length: int) -> None:
        """Before every run: the noise for a text of so many tokens, made by the host a block at a time."""
        if self.noise is not None:
            self.noise.copy_(self.source.rows(length, self.noise.shape[0]))

    def draw(self, features: Float[Tensor, "nodes hidden"], depth: Int[Tensor, "nodes"]) -> Int[Tensor, "nodes"]:
        """One token after every node, from the target's distribution."""
        logits = at_least_float32(self.target.lm_head(features))  # (N, D) -> (N, V)
        noise = None if self.noise is None else self.noise.index_select(0, depth)
        return choose(process_logits(logits, self.sampling), noise)

    @torch.no_grad()
    def run(self) -> Int[Tensor, "rows"]:
        """(a, then levels + 1 tokens of which the first a + 1 count): here (0, the next token)."""
        features = node_features(self.target, self.token.clamp(min=0), self.root, self.itself, self.cache)
        self.token.copy_(self.draw(features, self.root))
        self.cache.hold(self.root[0] + 1)
        return torch.cat((self.root, self.token))


class Round(PlainStep):
    """A round of speculative decoding: five lines in `run`, as in generate.py.

    feature: f of the last position in the target's cache, from which `token` was drawn. draft_cache: with all pairs but
    (feature, token). Room behind the text: the target's for the tree, the draft's for levels + 1 + depth * top_k.
    """

    def __init__(self, target: Target, draft: Draft, tree: TreeConfig, sampling: SamplingConfig, cache: KVCache,
                 draft_cache: KVCache, feature: Float[Tensor, "hidden"], token: int):  # fmt: skip
        super().__init__(target, sampling, cache, token, tree.levels)
        self.draft, self.frontier_draft, self.tree = draft, StaticDraft(draft), tree
        self.draft_cache = StaticCache(draft_cache)
        self.features = feature.repeat(tree.levels + 1, 1)  # of the root and the accepted tokens, padded
        self.tokens = self.token.repeat(tree.levels + 1)  # the accepted ones, the bonus token, padding
        self.accepted = self.token.new_zeros(())
        self.state = [self.features, self.tokens, self.accepted, self.cache.held, self.draft_cache.held]

    @torch.no_grad()
    def run(self) -> Int[Tensor, "rows"]:
        nodes = self.grow()
        features = node_features(self.target, nodes.token, nodes.depth, nodes.ancestors, self.cache)  # score
        verdict = verify(nodes, self.draw(features, nodes.depth), self.tree.levels)  # draw, verify
        self.cache.keep_padded(verdict.path, verdict.accepted + 1)  # keep
        self.features.copy_(features.index_select(0, verdict.path))
        self.tokens.copy_(verdict.tokens)
        self.accepted.copy_(verdict.accepted)
        return torch.cat((verdict.accepted[None], verdict.tokens))

    @torch.no_grad()
    def grow(self) -> DraftTree:
        """The draft's part: its extension over the last round's pairs, then the tree."""
        tokens = self.tokens.clamp(min=0)  # -1, an impossible row, is the host's to refuse; no embedding knows it
        place = torch.arange(tokens.shape[0], device=tokens.device)
        mask, positions = self.draft_cache.visible(place[:, None] >= place), (self.draft_cache.held + place)[None]
        out = self.draft(self.features[None], tokens[None], mask, positions=positions, cache=self.draft_cache)
        last = self.accepted[None]
        u, g = (part[0].index_select(0, last)[0] for part in out)  # (levels + 1, D) -> (D,)
        self.draft_cache.hold(self.accepted + 1)
        noise = None if self.noise is None else self.sampling.temperature * self.noise[:-1]  # (levels, V)
        scored = expand(self.frontier_draft, u, g, self.tree, self.draft_cache, noise)
        self.draft_cache.truncate(0)
        return rerank(tokens.index_select(0, last)[0], *scored, self.tree)


def capture(run: Callable[[], Tensor], state: Sequence[Tensor], device: torch.device) -> Callable[[], Tensor]:
    """`run` as one CUDA graph, whose result every call overwrites; on any other device `run` itself.

    run: keeps to the five requirements; looking at a number raises RuntimeError, from CUDA. state: the tensors that it
    changes and reads again, which capturing leaves as they were. (PyTorch: notes on CUDA graphs.)
    """
    if device.type != "cuda":
        return run
    kept = [tensor.clone() for tensor in state]
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()  # the default stream cannot be captured
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # libraries make their handles and workspaces in the first runs
                run()
                restore(state, kept)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):  # records, does not compute: nothing to restore
            result = run()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


def restore(state: Sequence[Tensor], kept: Sequence[Tensor]) -> None:
    """Put the kept values back, in place."""
    for tensor, value in zip(state, kept, strict=True):
        tensor.copy_(value)


@torch.no_grad()
def static_generate(
    target: Target, draft: Draft | None, input_ids: Int[Tensor, "..."] | list[int], *, max_new_tokens: int = 128,
    eos_token_id: int | list[int] | None = None, sampling: SamplingConfig | None = None, tree: TreeConfig | None = None,
) -> Generation:  # fmt: skip
    """`speculative_generate` in static shapes, or without a draft `autoregressive_generate`: the same text and counts.

    No logits processors and no stop strings: they look at numbers. Capturing takes a second or so per call.
    """
    sampling, tree = sampling or SamplingConfig(), tree or TreeConfig()
    prompt = prepare_prompt(target, input_ids, max_new_tokens, extra=tree.levels if draft else 0)  # (1, T)
    result, ending = Generation(), Stop(max_new_tokens, eos_token_id, None, None)
    if max_new_tokens == 0:
        return result
    step, token = first_step(target, draft, prompt, sampling, tree, max_new_tokens)
    run, length = capture(step.run, step.state, target.device), prompt.shape[1] + 1
    done = ending.take(result, [token])
    while not done:
        step.prepare(length)
        accepted, *tokens = run().tolist()  # the round's one copy to the host
        length += accepted + 1
        done = ending.take(result, tokens[: accepted + 1], accepted)
    return result


@torch.no_grad()
def first_step(target: Target, draft: Draft | None, prompt: Int[Tensor, "1 seq"], sampling: SamplingConfig,
               tree: TreeConfig, room: int) -> tuple[PlainStep, int]:  # fmt: skip
    """Prefill: the step that continues the prompt and its next token, and that token. room: for so many new tokens."""

    def aligned(slots: int) -> int:  # kernels for masked attention want a mask's rows at round addresses
        return -(-(prompt.shape[1] + room + slots) // 64) * 64

    cache = target.new_cache(aligned(max(tree.total_tokens, tree.levels + 1) if draft else 1))
    features = target.features(prompt, cache=cache)  # (1, T, D)
    text, token = Chooser(sampling, target).extend(prompt, target.lm_head(features[:, -1]))
    if draft is None:
        return PlainStep(target, sampling, cache, token), token
    draft_cache = draft.new_cache(aligned(tree.levels + 1 + tree.depth * tree.top_k))
    if prompt.shape[1] > 1:  # all pairs but the last, which the first round begins with
        draft(features[:, :-1], text[:, 1:-1], cache=draft_cache)
    return Round(target, draft, tree, sampling, cache, draft_cache, features[0, -1], token), token
