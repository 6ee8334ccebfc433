"""Dialogues -> padded batches, in an order that follows from a seed and can be entered anywhere.

Dialogues are shuffled, taken in pools, sorted by length within a pool so that a batch holds little padding, and the
batches of a pool are shuffled again. A place in the data is (epoch, pool, batch): nothing else has to be remembered to
go on exactly where a training stopped.
"""

import hashlib
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from fspad_ref.corpus import Dialogue, encode
from fspad_ref.errors import InputError

Encoded = tuple[Sequence[int], Sequence[bool]]  # token ids, which of them are response
Place = tuple[int, int, int]  # epoch, pool, batch
POOL = 1024  # dialogues a pool


@dataclass
class Batch:
    """Right-padded dialogues, the place of the batch in the data, and the place after it."""

    input_ids: Int[Tensor, "batch seq"]
    response: Bool[Tensor, "batch seq"]
    tokens: int  # without padding
    place: Place
    following: Place


def trained_positions(response: Bool[Tensor, "batch seq"]) -> Bool[Tensor, "batch seq-1"]:
    """The loss mask: m_t = 1 iff tokens t+1 and t+2 are both response.

    The pair (f_t, x_{t+1}) drafts token t+2. Where t is the last prompt token, x_{t+1} is the first token of the
    response, which the target has sampled itself: the first pair that a draft ever meets, so it is trained.

    >>> trained_positions(torch.tensor([[False, False, True, True, True]])).int().tolist()
    [[0, 1, 1, 0]]
    """
    mask = torch.zeros_like(response[:, 1:])
    mask[:, :-1] = response[:, 1:-1] & response[:, 2:]
    return mask


def data_hash(dialogues: Sequence[Dialogue | Encoded], most: int = 1000) -> str:
    """16 hex digits that tell data apart: a hash of their number and of up to `most` dialogues, spread evenly.

    Not of all of them, since they may be written only when asked for.
    """
    hashed = hashlib.sha256(str(len(dialogues)).encode())
    for index in range(0, len(dialogues), max(1, -(-len(dialogues) // most))):
        hashed.update(repr(dialogues[index]).encode())
    return hashed.hexdigest()[:16]


def batches(
    dialogues: Sequence[Dialogue | Encoded],
    tokenizer: Any,
    tokens_per_batch: int,
    limit: int,
    vocabulary: int,
    seed: int = 0,
    start: Place = (0, 0, 0),
) -> Iterator[Batch]:
    """Endless batches, epoch after epoch, from a place in the data on.

    A batch holds at most `tokens_per_batch` tokens, padding included; a dialogue longer than that makes a batch of its
    own. Dialogues are cut to `limit` tokens, and left out if no position of them is trained. Raises InputError for
    malformed dialogues, and if a whole epoch has nothing to train on.
    """
    epoch, pool, batch = start
    while True:
        order = list(range(len(dialogues)))
        random.Random(f"{seed}:{epoch}").shuffle(order)
        complete, found = pool == 0 and batch == 0, False
        for number in range(pool, math.ceil(len(order) / POOL)):
            chosen = order[number * POOL : (number + 1) * POOL]
            encoded = [_encoded(dialogues[i], i, tokenizer, vocabulary, limit) for i in chosen]
            groups = _groups([e for e in encoded if _trainable(e[1])], tokens_per_batch)
            random.Random(f"{seed}:{epoch}:{number}").shuffle(groups)
            for place in range(batch, len(groups)):
                found = True
                yield _pad(groups[place], (epoch, number, place), (epoch, number, place + 1))
            batch = 0
        if complete and not found:
            raise InputError(f"expected dialogues with a response of two tokens or more within {limit} tokens, found "
                             f"none among {len(dialogues)}; check the response mask, or raise max_length")
        epoch, pool, batch = epoch + 1, 0, 0


def _encoded(dialogue: Dialogue | Encoded, number: int, tokenizer: Any, vocabulary: int, limit: int) -> Encoded:
    ids, response = encode(dialogue, tokenizer) if isinstance(dialogue, Dialogue) else dialogue
    if len(ids) != len(response):
        raise InputError(f"dialogue {number}: expected a response mask of {len(ids)} entries, found {len(response)}")
    if ids and not 0 <= min(ids) <= max(ids) < vocabulary:
        raise InputError(f"dialogue {number}: expected token ids from 0 to {vocabulary - 1}, found {min(ids)} to "
                         f"{max(ids)}; encode it with the target's own tokenizer")
    return ids[:limit], response[:limit]


def _trainable(response: Sequence[bool]) -> bool:
    return any(a and b for a, b in zip(response[1:], response[2:], strict=False))


def _groups(encoded: list[Encoded], budget: int) -> list[list[Encoded]]:
    """Dialogues of similar length together, as many as fit the budget when padded to the longest."""
    groups: list[list[Encoded]] = []
    for one in sorted(encoded, key=lambda e: len(e[0])):
        if groups and len(one[0]) * (len(groups[-1]) + 1) <= budget:
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups


def _pad(group: list[Encoded], place: Place, following: Place) -> Batch:
    length = max(len(ids) for ids, _ in group)
    input_ids = torch.zeros(len(group), length, dtype=torch.long)
    response = torch.zeros(len(group), length, dtype=torch.bool)
    for row, (ids, mask) in enumerate(group):
        input_ids[row, : len(ids)] = torch.tensor(ids)
        response[row, : len(ids)] = torch.tensor(mask)
    return Batch(input_ids, response, sum(len(ids) for ids, _ in group), place, following)
