"""Many texts of the target at once: continuous batching with position-keyed noise.

Training a draft needs millions of tokens that the target itself wrote, and a study needs its answers to hundreds of
questions. Here a fixed number of *slots* decode side by side. Whenever one text ends, the next one takes its slot, so
the batch stays full although texts differ in length:

    slot 0   | prompt  a a a a end | prompt  b b b b b b ...
    slot 1   | prompt  c c end | prompt  d d d d d d d d ...         each step draws one token in every slot

What is written is a *job*: a generator that yields (tokens to append, how to draw the next one) and receives the token
drawn. `answer` is the simplest job. Token number i of a text is drawn with the noise of (seed, i), as in generate.py,
so a text depends on its prompt and its seed, not on the texts beside it (up to rounding: a batch rounds differently
from a single row, and at a near-tie another token can win; bench/replay.py checks for that where it matters).
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from fspad_ref.cache import KVCache
from fspad_ref.errors import InputError
from fspad_ref.sampling import SamplingConfig, at_least_float32, choose, position_uniforms, process_logits
from fspad_ref.target import Target

Job = Generator[tuple[Sequence[int], SamplingConfig], int, Any]
PREFILL = 32  # longer pieces of text get a forward pass of their own; shorter ones go through the batch token by token


def answer(prompt: Sequence[int], sampling: SamplingConfig, max_new_tokens: int, eos_token_id: int) -> Job:
    """A job: the text after `prompt`, up to and including the end token, or max_new_tokens long."""
    tokens: list[int] = []
    feed = prompt
    while len(tokens) < max_new_tokens and tokens[-1:] != [eos_token_id]:
        tokens.append((yield feed, sampling))
        feed = tokens[-1:]
    return tokens


def answers(
    target: Target,
    prompts: Sequence[Sequence[int]],
    sampling: SamplingConfig | Sequence[SamplingConfig],
    max_new_tokens: int,
    eos_token_id: int,
    slots: int = 64,
) -> list[list[int]]:
    """The target's answers to many prompts, in their order; sampling settings are shared, or one per prompt."""
    each = [sampling] * len(prompts) if isinstance(sampling, SamplingConfig) else sampling
    jobs = [answer(p, one, max_new_tokens, eos_token_id) for p, one in zip(prompts, each, strict=True)]
    longest = max(map(len, prompts), default=0) + max_new_tokens
    found = dict(run_jobs(target, jobs, min(slots, max(1, len(jobs))), longest))
    return [found[number] for number in range(len(prompts))]


@torch.inference_mode()
def run_jobs(target: Target, jobs: Iterable[Job], slots: int, capacity: int) -> Iterator[tuple[int, Any]]:
    """Run jobs in `slots` slots of `capacity` positions; yields (number of the job, what it returned) as they end."""
    if capacity > target.max_positions:
        raise InputError(f"expected texts of at most {target.max_positions} tokens, found {capacity}. Shorten them.")
    batch, waiting = _Batch(target, slots, capacity), enumerate(jobs)
    running: dict[int, tuple[int, Job]] = {}
    for slot in range(slots):
        yield from _start(batch, slot, waiting, running)
    while running:
        for slot, token in batch.step(running).items():
            number, job = running[slot]
            try:
                batch.append(slot, *job.send(token))
            except StopIteration as stop:
                yield number, stop.value
                yield from _start(batch, slot, waiting, running)


def _start(batch: "_Batch", slot: int, waiting: Iterator[tuple[int, Job]], running: dict) -> Iterator[tuple[int, Any]]:
    """Give the slot to the next job that wants a token; yields jobs that end at once."""
    running.pop(slot, None)
    for number, job in waiting:
        try:
            wanted = next(job)
        except StopIteration as stop:
            yield number, stop.value
            continue
        running[slot] = number, job
        batch.clear(slot)
        batch.append(slot, *wanted)
        return


class _Batch:
    """The slots: per slot the tokens still to be fed, how to draw after them, and its row of the cache."""

    def __init__(self, target: Target, slots: int, capacity: int):
        self.target = target
        self.cache = _SlotCache(target, slots, capacity)
        self.feed: list[list[int]] = [[] for _ in range(slots)]
        self.sampling = [SamplingConfig()] * slots

    def clear(self, slot: int) -> None:
        self.cache.length[slot] = 0

    def append(self, slot: int, tokens: Sequence[int], sampling: SamplingConfig) -> None:
        """Text to feed before the next token is drawn; all of a long text but its last token is prefilled at once."""
        self.feed[slot], self.sampling[slot] = list(tokens), sampling
        if len(tokens) > PREFILL:
            row = self.cache.row(slot)
            self.target.features(torch.tensor([list(tokens[:-1])], device=self.target.device), cache=row)
            self.cache.length[slot] = row.length
            self.feed[slot] = list(tokens[-1:])

    def step(self, running: Iterable[int]) -> dict[int, int]:
        """One forward pass over one token per running slot; returns the tokens drawn, slot by slot."""
        rows = sorted(running)
        ids = torch.tensor([[self.feed[slot].pop(0)] for slot in rows], device=self.target.device)  # (R, 1)
        hidden = self.cache.forward(rows, ids)  # (R, D)
        ready = [i for i, slot in enumerate(rows) if not self.feed[slot]]
        drawn: dict[int, int] = {}
        for config in {(self.sampling[rows[i]].temperature, self.sampling[rows[i]].top_p, self.sampling[rows[i]].top_k)
                       for i in ready}:  # fmt: skip
            alike = [i for i in ready if self._settings(rows[i]) == config]
            tokens = self._draw(hidden[alike], [rows[i] for i in alike])
            drawn |= zip((rows[i] for i in alike), tokens, strict=True)
        return drawn

    def _settings(self, slot: int) -> tuple[float, float, int]:
        one = self.sampling[slot]
        return one.temperature, one.top_p, one.top_k

    def _draw(self, hidden: Float[Tensor, "rows hidden"], slots: list[int]) -> list[int]:
        """One token per row; all rows share temperature, top-p and top-k, each has its own seed and position."""
        config, noise = self.sampling[slots[0]], None
        logits = at_least_float32(self.target.lm_head(hidden))  # (R, V)
        if not config.greedy:
            keys = [(self.sampling[slot].seed, torch.tensor([self.cache.length[slot]])) for slot in slots]
            uniform = torch.cat([position_uniforms(seed, position, logits.shape[1]) for seed, position in keys])
            noise = -torch.log(-torch.log(uniform)).to(logits.device)  # standard Gumbel, (R, V)
        tokens = choose(process_logits(logits, config), noise).tolist()
        if -1 in tokens:
            raise InputError("expected finite logits, found NaN or only impossible tokens. Check the target's weights.")
        return tokens


class _SlotCache(Cache):
    """Keys and values of all slots; in a step every running row appends one position at its own length."""

    def __init__(self, target: Target, slots: int, capacity: int):
        config = target.config
        super().__init__(layers=[_SlotLayer(self, index) for index in range(config.num_hidden_layers)])
        self.store = target.new_cache(capacity, batch=slots)
        self.target, self.length = target, [0] * slots

    def row(self, slot: int) -> KVCache:
        """One slot as a cache of its own, on the same storage."""
        row = KVCache(len(self.layers), 0, 0, 0)
        row.kv, row.capacity = self.store.kv[:, :, slot : slot + 1], self.store.capacity
        row.truncate(self.length[slot])
        return row

    def forward(self, rows: list[int], ids: Tensor) -> Float[Tensor, "rows hidden"]:
        """The features of one token per row, whose keys and values are appended."""
        device = ids.device
        self.at = torch.tensor([self.length[slot] for slot in rows], device=device)  # (R,)
        self.rows, self.end = torch.tensor(rows, device=device), int(self.at.max()) + 1
        self.all = len(rows) == self.store.kv.shape[2]
        mask = torch.arange(self.end, device=device) <= self.at[:, None]  # (R, end)
        features = self.target.backbone(input_ids=ids, position_ids=self.at[:, None], past_key_values=self,
                                        attention_mask=mask[:, None, None]).last_hidden_state  # fmt: skip
        for slot in rows:
            self.length[slot] += 1
        return features[:, 0]

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """(R, H, 1, d) keys and values to every row's own place; returns all that the rows hold, (R, H, end, d)."""
        store = self.store.kv[layer]  # (2, slots, H, capacity, d)
        store[0, self.rows, :, self.at], store[1, self.rows, :, self.at] = keys[:, :, 0], values[:, :, 0]
        held = store[:, :, :, : self.end]
        return tuple(held if self.all else held[:, self.rows])


class _SlotLayer(CacheLayerMixin):
    """One layer of a `_SlotCache`, in the shape that `transformers` models talk to."""

    is_sliding = False

    def __init__(self, owner: _SlotCache, index: int):
        super().__init__()
        self.owner, self.index, self.is_initialized = owner, index, True

    def lazy_initialization(self, *_) -> None:
        """Nothing to do: the storage exists from the start."""

    def update(self, keys: Tensor, values: Tensor, *_, **__) -> tuple[Tensor, Tensor]:
        return self.owner.write(self.index, keys, values)

    def get_seq_length(self, *_) -> int:
        return 0

    def get_mask_sizes(self, *_) -> tuple[int, int]:
        return self.owner.end, 0

    def get_max_length(self) -> int:
        return self.owner.store.capacity

    get_max_cache_shape = get_max_length  # the name before transformers 5.20
