"""Dialogues -> rows of tokens for training the built-in target.

Dialogues are short and of every length, so several share one row: padding would cost as much as text does. A
token sees only its own dialogue (`attention_mask`), and positions begin at 0 in each, exactly as when it is alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from fspad_ref.corpus import Dialogue, encode
from fspad_ref.errors import InputError
from fspad_ref.world.exchange import Exchange

Stream = Callable[[int, int, bool], Exchange]  # (seed, index, held out) -> one dialogue


@dataclass(frozen=True)
class Packed:
    """Rows of packed dialogues. `label` is the next token of the same dialogue, and -100 where there is none."""

    input_ids: Int[Tensor, "rows seq"]
    position_ids: Int[Tensor, "rows seq"]
    dialogue: Int[Tensor, "rows seq"]  # which dialogue of the batch a token is of; -1 is padding
    label: Int[Tensor, "rows seq"]
    weight: Float[Tensor, "rows seq"]  # 1 where the label is of an answer, prompt_weight where of a question
    tokens: int

    def to(self, device: torch.device | str) -> "Packed":
        """The same rows on another device."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return Packed(**{k: v.to(device, non_blocking=True) if torch.is_tensor(v) else v for k, v in values.items()})

    def rows(self, start: int, end: int) -> "Packed":
        """Some of the rows (`tokens` stays that of the whole)."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return Packed(**{k: v[start:end] if torch.is_tensor(v) else v for k, v in values.items()})

    def attention_mask(self) -> Bool[Tensor, "rows 1 seq seq"]:
        """True where a token may look: backwards, within its own dialogue."""
        same = self.dialogue[:, :, None] == self.dialogue[:, None, :]
        return same.tril()[:, None]  # (R, T, T) -> (R, 1, T, T)


def pack(
    encoded: Sequence[tuple[list[int], list[bool]]], row_tokens: int, limit: int, prompt_weight: float = 0.0
) -> Packed:
    """Lay (ids, response mask) pairs into rows, the longest first, each into the first row with room.

    A row has `row_tokens` places, or as many as the longest dialogue needs. Raises InputError above `limit`.
    """
    order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i][0]))
    longest = len(encoded[order[0]][0])
    if longest > limit:
        raise InputError(f"expected dialogues of at most {limit} tokens, found one of {longest}; shorten its task")
    width = max(row_tokens, -(-longest // 32) * 32)
    rows: list[list[int]] = []
    room: list[int] = []
    for i in order:
        length = len(encoded[i][0])
        row = next((r for r, left in enumerate(room) if left >= length), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(width)
        rows[row].append(i)
        room[row] -= length
    return _lay_out(encoded, rows, width, prompt_weight)


def _lay_out(encoded, rows, width, prompt_weight) -> Packed:
    shape = (len(rows), width)
    ids, positions = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    dialogue, label = torch.full(shape, -1), torch.full(shape, -100)
    weight = torch.zeros(shape)
    for r, members in enumerate(rows):
        start = 0
        for i in members:
            tokens, answered = torch.tensor(encoded[i][0]), torch.tensor(encoded[i][1])
            end = start + len(tokens)
            ids[r, start:end] = tokens
            positions[r, start:end] = torch.arange(len(tokens))
            dialogue[r, start:end] = i
            label[r, start : end - 1] = tokens[1:]
            weight[r, start : end - 1] = answered[1:].float().clamp_min(prompt_weight)
            start = end
    return Packed(ids, positions, dialogue, label, weight, sum(len(tokens) for tokens, _ in encoded))


class PackedBatches(Dataset):
    """Batch number -> rows. Batch b holds the dialogues b * size ... (b + 1) * size - 1 of the stream."""

    def __init__(
        self,
        stream: Stream,
        seed: int,
        tokenizer: PreTrainedTokenizerBase,
        size: int,
        row_tokens: int,
        limit: int,
        prompt_weight: float = 0.0,
    ):
        self.stream, self.seed, self.tokenizer, self.size = stream, seed, tokenizer, size
        self.row_tokens, self.limit, self.prompt_weight = row_tokens, limit, prompt_weight

    def __getitem__(self, number: int) -> Packed:
        members = range(number * self.size, (number + 1) * self.size)
        encoded = [encode(Dialogue(self.stream(self.seed, i, False).turns), self.tokenizer) for i in members]
        return pack(encoded, self.row_tokens, self.limit, self.prompt_weight)
