"""Reproducible chance, and the one rule that separates evaluation from training.

Everything random in the world comes from `Dice`, which uses nothing but ``random.Random(seed).random()``: Python
promises that this sequence stays the same across versions and platforms (it promises so for no other method).

>>> Dice(7).integer(1, 6) == Dice(7).integer(1, 6)
True
"""

import hashlib
import random
import zlib
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")
USUAL = 0.75  # how often a habit is followed


class Dice:
    """A stream of random choices that is a function of `seed` alone."""

    def __init__(self, seed: int):
        self._next = random.Random(seed).random

    def chance(self, p: float) -> bool:
        """True with probability `p`."""
        return self._next() < p

    def integer(self, lo: int, hi: int) -> int:
        """A whole number from `lo` to `hi`, both included."""
        if hi < lo:
            raise ValueError(f"expected lo <= hi, found {lo} > {hi}; swap the bounds")
        return lo + int(self._next() * (hi - lo + 1))

    def pick(self, items: Sequence[T]) -> T:
        """One of `items`, all equally likely."""
        return items[self.integer(0, len(items) - 1)]

    def sample(self, items: Sequence[T], k: int) -> list[T]:
        """`k` different positions of `items`, in random order."""
        if not 0 <= k <= len(items):
            raise ValueError(f"expected 0 <= k <= {len(items)} (the number of items), found k = {k}")
        pool = list(items)
        for i in range(k):
            j = self.integer(i, len(pool) - 1)
            pool[i], pool[j] = pool[j], pool[i]
        return pool[:k]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """A new list with the same items in random order."""
        return self.sample(items, len(items))

    def weighted(self, items: Sequence[T], weights: Sequence[float | int]) -> T:
        """One of `items`, each as likely as its weight says (the weights need not sum to 1)."""
        if len(items) != len(weights) or not items or min(weights) < 0 or sum(weights) <= 0:
            raise ValueError(
                f"expected one weight >= 0 per item, not all zero, found {len(items)} items and weights {list(weights)}"
            )
        point = self._next() * sum(weights)
        for item, weight in zip(items, weights, strict=True):
            point -= weight
            if point < 0:
                return item
        return next(i for i, w in reversed(list(zip(items, weights, strict=True))) if w > 0)  # rounding at the end


def settled(count: int, *about: str) -> int:
    """A number below `count` that `about` alone decides: the same in every stream, and without visible order.

    >>> settled(10, "apples", "herb") == settled(10, "apples", "herb")
    True
    """
    return int.from_bytes(hashlib.blake2b("|".join(about).encode("utf-8"), digest_size=4).digest(), "big") % count


def usual(dice: Dice, items: Sequence[T], *about: str) -> T:
    """One of `items`: most often the one that `about` settles, else any.

    Habits are what makes the world rich for a model that answers greedily. Where chance alone decides, such a model
    says the likeliest to everybody, and any draft can guess it; a habit follows from the question and must be known.
    """
    return items[settled(len(items), *about)] if dice.chance(USUAL) else dice.pick(items)


def held_out(key: str) -> bool:
    """True for the sixteenth of all keys that only evaluation may use."""
    return zlib.crc32(key.encode("utf-8")) % 16 == 0
