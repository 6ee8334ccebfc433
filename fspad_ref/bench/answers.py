"""Many texts of the target at once: continuous batching with position-keyed noise.

Training a draft needs millions of tokens that the target itself wrote, and a study needs its answers to hundreds of
questions. Here a fixed number of *slots* decode side by side. Whenever one text ends, the next one takes its slot, so
the batch stays full although texts differ in length:

    slot 0   | prompt  a a a a end | prompt  b b b b b b ...
    slot 1   | prompt  c c end | prompt  d d d d d d d d ...         each step draws one token in every slot

What is written is a *job*: a generator that yields (tokens to append, how to draw the next one) and receives the token
drawn; (tokens, how, True) begins a new text with the tokens. `answer` is the simplest job. Token number i of a text is
drawn with the noise of (seed, i), as in generate.py, so a text depends on its prompt and its seed, not on the texts
beside it (up to rounding: a batch rounds differently from a single row, and at a near-tie another token can win;
bench/replay.py checks for that where it matters).
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fspad_ref.cache import KVCache
from fspad_ref.errors import InputError, require
from fspad_ref.sampling import SamplingConfig, at_least_float32, choose, gumbel, position_uniforms, process_logits
from fspad_ref.target import Target

Job = Generator[tuple, int, Any]
PREFILL = 32  # longer pieces of text get a forward pass of their own; shorter ones go through the batch token by token


def answer(
    prompt: Sequence[int], sampling: SamplingConfig, max_new_tokens: int, eos_token_id: int | None, anew: bool = False
) -> Job:
    """A job: the text after `prompt`, up to and including the end token, or max_new_tokens long."""
    tokens: list[int] = []
    while len(tokens) < max_new_tokens and tokens[-1:] != [eos_token_id]:
        tokens.append((yield tokens[-1:] or prompt, sampling, anew and not tokens))
    return tokens


def answers(
    target: Target, prompts: Sequence[Sequence[int]], sampling: SamplingConfig | Sequence[SamplingConfig],
    max_new_tokens: int, eos_token_id: int | None, slots: int = 64,
) -> list[list[int]]:  # fmt: skip
    """The target's answers to many prompts, in their order; sampling settings are shared, or one per prompt."""
    require(all(prompts), InputError, "prompts of at least one token", "an empty one", "Give the model some text.")
    each = [sampling] * len(prompts) if isinstance(sampling, SamplingConfig) else sampling
    jobs = [answer(p, one, max_new_tokens, eos_token_id) for p, one in zip(prompts, each, strict=True)]
    longest = max(map(len, prompts), default=0) + max_new_tokens
    found = dict(run_jobs(target, jobs, min(slots, max(1, len(jobs))), longest))
    return [found[number] for number in range(len(prompts))]


@torch.inference_mode()
def run_jobs(target: Target, jobs: Iterable[Job], slots: int, capacity: int) -> Iterator[tuple[int, Any]]:
    """Run jobs in `slots` slots of `capacity` positions; yields (number of the job, what it returned) as they end."""
    most = target.max_positions
    require(capacity <= most, InputError, f"texts of at most {most} tokens", capacity, "Shorten them.")
    require(not target.devices, InputError, "a target on one device", "several (device_map)", "Load it on one.")
    batch, waiting, ended = _Batch(target, slots, capacity), enumerate(jobs), []

    def one_by_one(slot: int) -> Job:
        """The job of a slot: one of the waiting jobs after the other."""
        for number, job in waiting:
            batch.cache.held[slot] = 0
            ended.append((number, (yield from job)))

    running = {slot: one_by_one(slot) for slot in range(slots)}
    drawn = dict.fromkeys(running)  # nothing yet: send(None) begins a job
    while running:
        for slot, token in drawn.items():
            try:
                batch.append(slot, *running[slot].send(token))
            except StopIteration:  # no job is waiting
                del running[slot]
        yield from ended
        ended.clear()
        drawn = batch.step(running) if running else {}


class _Batch:
    """The slots: per slot the tokens still to be fed, how to draw after them, and its row of the cache."""

    def __init__(self, target: Target, slots: int, capacity: int):
        self.target, self.cache = target, SlotCache(target.new_cache(capacity, batch=slots))
        self.feed: list[list[int]] = [[] for _ in range(slots)]
        self.sampling = [SamplingConfig()] * slots

    def append(self, slot: int, tokens: Sequence[int], sampling: SamplingConfig, anew: bool = False) -> None:
        """Text to feed before the next token is drawn; all of a long text but its last token is prefilled at once."""
        self.cache.held[slot] *= not anew
        self.feed[slot], self.sampling[slot] = list(tokens), sampling
        if len(tokens) > PREFILL:
            row = self.cache.row(slot)
            self.target.features(torch.tensor([self.feed[slot][:-1]], device=self.target.device), cache=row)
            self.cache.held[slot], self.feed[slot] = row.length, self.feed[slot][-1:]

    def step(self, running: Iterable[int]) -> dict[int, int]:
        """One forward pass over one token per running slot; returns the tokens drawn, slot by slot."""
        rows = sorted(running)
        ids = torch.tensor([[self.feed[slot].pop(0)] for slot in rows], device=self.target.device)  # (R, 1)
        positions, mask = self.cache.prepare(rows)
        features = self.target.backbone(input_ids=ids, position_ids=positions, attention_mask=mask,
                                        past_key_values=self.cache).last_hidden_state[:, 0]  # fmt: skip
        for slot in rows:
            self.cache.held[slot] += 1
        full = [i for i, slot in enumerate(rows) if not self.feed[slot]]  # all of their text has been fed
        logits = at_least_float32(self.target.lm_head(features[full]))  # (full, V)
        drawn = [self._draw(row[None], rows[i]) for i, row in zip(full, logits, strict=True)]  # (1,) each
        tokens = torch.cat(drawn).tolist() if drawn else []  # one copy to the host
        require(-1 not in tokens, InputError, "finite logits", "NaN or only impossible tokens", "Check the weights.")
        return {rows[i]: token for i, token in zip(full, tokens, strict=True)}

    def _draw(self, logits: Float[Tensor, "1 vocab"], slot: int) -> Int[Tensor, "1"]:
        """The next token of a slot, by its own settings, seed and position."""
        config, noise = self.sampling[slot], None
        if not config.greedy:
            uniform = position_uniforms(config.seed, [self.cache.held[slot]], logits.shape[1])
            noise = gumbel(uniform).to(logits.device)  # (1, V)
        return choose(process_logits(logits, config), noise)


class SlotCache(KVCache):
    """A KVCache in which every row has a length of its own; a step appends one position to some of the rows."""

    def __init__(self, empty: KVCache):
        layers, _, slots, heads, capacity, width = empty.kv.shape
        super().__init__(layers, heads, width, 0, batch=slots, dtype=empty.kv.dtype, device=empty.kv.device)
        self.kv, self.capacity, self.held = empty.kv, capacity, [0] * slots

    def row(self, slot: int) -> KVCache:
        """One slot as a cache of its own, on the same storage."""
        row = KVCache(len(self.layers), 0, 0, 0)
        row.kv, row.capacity = self.kv[:, :, slot : slot + 1], self.capacity
        row.truncate(self.held[slot])
        return row

    def prepare(self, rows: list[int]) -> tuple[Int[Tensor, "rows 1"], Float[Tensor, "rows 1 1 end"]]:
        """For a step of these rows: their positions, and what each may see."""
        self.at = torch.tensor([self.held[slot] for slot in rows], device=self.kv.device)  # (R,)
        self.rows, self.end = torch.tensor(rows, device=self.kv.device), int(self.at.max()) + 1
        require(self.end <= self.capacity, InputError, f"at most {self.capacity} tokens", self.end, "Allow more.")
        hidden = torch.arange(self.end, device=self.kv.device) > self.at[:, None]
        mask = torch.zeros(hidden.shape, dtype=self.kv.dtype, device=self.kv.device)  # eager adds it
        mask.masked_fill_(hidden, torch.finfo(mask.dtype).min)
        return self.at[:, None], mask[:, None, None]

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """(R, H, 1, d) keys and values to every row's own place; returns what the rows hold, (R, H, end, d)."""
        store = self.kv[layer]  # (2, slots, H, capacity, d)
        store[0, self.rows, :, self.at], store[1, self.rows, :, self.at] = keys[:, :, 0], values[:, :, 0]
        held = store[:, :, :, : self.end]
        return tuple(held if len(self.rows) == held.shape[1] else held[:, self.rows])
