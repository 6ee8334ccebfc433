"""A small grammar of choices, from which the passages, reports and conversations of the world are spoken.

A pattern is text with three devices: `[this|that|]` picks one of the alternatives (which may be empty, and may
nest), `{name}` is replaced by a slot or by a bank of phrases, and `a~` becomes "a" or "an". A bar outside all
brackets separates alternatives of the whole pattern.

    say(Dice(0), "a~ [old|new] {thing}", thing="map")     # -> "An old map" or "A new map"

With `habits`, a choice mostly follows from one of them, and the choice itself settles from which. So what is said of
apples and pears is put together of what is said of apples and of what is said of pears (see dice.usual).
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache

from fspad_ref.errors import InputError
from fspad_ref.world.dice import Dice, settled, usual
from fspad_ref.world.lexicon import with_article

_PIECES = re.compile(r"[\[\]|]|\{\w+\}|[^\[\]|{}]+")
_ARTICLE = re.compile(r"\b([aA])~ (?=(\"?)(\w+))")
_START = re.compile(r"(?:^|(?<=[.!?] )|(?<=[.!?]\" )|(?<=\n))(\"?)([a-z])")
_BLANKS = re.compile(" {2,}")
_GAPS = re.compile(r" +(?=[,.!?;:\n])")


class Slot(str):
    """The name of a slot inside a parsed pattern."""


@cache
def parse(pattern: str) -> tuple[tuple, ...]:
    """The alternatives of a pattern: each a tuple of texts, `Slot`s and nested tuples of alternatives.

    Raises InputError when the brackets do not match.
    """
    stack: list[list[list]] = [[[]]]
    for piece in _PIECES.findall(pattern):
        if piece == "[":
            stack.append([[]])
        elif piece == "|":
            stack[-1].append([])
        elif piece == "]" and len(stack) > 1:
            inner = tuple(map(tuple, stack.pop()))
            stack[-1][-1].append(inner)
        elif piece[0] == "{":
            stack[-1][-1].append(Slot(piece[1:-1]))
        elif piece != "]":
            stack[-1][-1].append(piece)
        else:
            raise InputError(f"expected matching brackets, found a ']' too many in {pattern!r}; remove it")
    if len(stack) > 1:
        raise InputError(f"expected matching brackets, found an open '[' in {pattern!r}; close it")
    return tuple(map(tuple, stack[0]))


@cache
def _place(alternatives: tuple) -> str:
    """A choice by name: the same wherever the same alternatives are offered."""
    return repr(alternatives)


class _Speech:
    """One unfolding under way: the slots and banks at hand, and what the banks have already said."""

    def __init__(self, dice: Dice, slots: Mapping[str, str], banks: Mapping[str, str], habits: Sequence[str]):
        self.dice, self.slots, self.banks, self.habits = dice, slots, banks, habits
        self.said: set[str] = set()
        self.uses: Counter[str] = Counter()  # of each bank: its second use has habits of its own

    def unfold(self, alternatives: tuple, use: int = 0) -> str:
        chosen = alternatives[0] if len(alternatives) == 1 else self.choose(alternatives, use)
        return "".join([item if type(item) is str else self.value(item, use) for item in chosen])

    def choose(self, alternatives: tuple, use: int) -> tuple:
        if not self.habits:
            return self.dice.pick(alternatives)
        place = f"{use} {_place(alternatives)}"
        return usual(self.dice, alternatives, place, self.habits[settled(len(self.habits), place)])

    def value(self, item: "tuple | Slot", use: int) -> str:
        if type(item) is tuple:
            return self.unfold(item, use)
        if item in self.slots:
            return str(self.slots[item])
        if item not in self.banks:
            raise InputError(f"expected a slot or bank, found the unknown name {item!r}; pass it or mend the pattern")
        for _ in range(4):  # nobody says the same phrase twice in one breath, if there is another
            self.uses[item] += 1
            if (text := self.unfold(parse(self.banks[item]), self.uses[item])) not in self.said:
                break
        self.said.add(text)
        return text


def part(
    dice: Dice, pattern: str, banks: Mapping[str, str] | None = None, habits: Sequence[str] = (), **slots
) -> str:
    """One unfolding of the pattern, as a part of a sentence: no capital letters, no a/an yet."""
    return _Speech(dice, slots, banks or {}, habits).unfold(parse(pattern))


def finish(text: str) -> str:
    """Settles a/an, removes double blanks, and gives every sentence its capital letter."""
    text = _GAPS.sub("", _BLANKS.sub(" ", text.strip()))
    text = _ARTICLE.sub(lambda hit: hit[1] + with_article(hit[3])[1:-len(hit[3])], text)
    return _START.sub(lambda hit: hit[1] + hit[2].upper(), text)


def say(
    dice: Dice, pattern: str, banks: Mapping[str, str] | None = None, habits: Sequence[str] = (), **slots
) -> str:
    """One unfolding of the pattern, as finished sentences."""
    return finish(part(dice, pattern, banks, habits, **slots))


def join(words: list[str] | tuple[str, ...]) -> str:
    """`["a", "b", "c"]` -> `"a, b and c"`."""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
