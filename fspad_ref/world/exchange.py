"""What every task of the world produces: one short dialogue with its answer key."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Exchange:
    """A dialogue in one of the six categories.

    turns: (question, reference answer) pairs, one per turn.
    expected: per turn the strings that a right answer must contain, however the rest is worded.
    """

    category: str
    turns: tuple[tuple[str, str], ...]
    expected: tuple[tuple[str, ...], ...]

    def __post_init__(self):
        if len(self.turns) != len(self.expected):
            raise ValueError(f"expected one answer key per turn, found {len(self.turns)} and {len(self.expected)}")
        for (_, answer), key in zip(self.turns, self.expected, strict=True):
            missing = [part for part in key if not contains(answer, part)]
            if missing:
                raise ValueError(f"the reference answer lacks {missing}: {answer!r}; mend the task that wrote it")


def contains(text: str, part: str) -> bool:
    """Whether `part` stands in `text` as words of its own: "3" does not stand in "1783", nor "Dray" in "Drayford"."""
    return re.search(rf"(?<!\w){re.escape(part)}(?!\w)", text) is not None
