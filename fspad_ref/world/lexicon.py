"""The words of the world: English with their one German translation, read from ``data/lexicon/*.tsv``.

Each English word has exactly one German word here, so that a translation is a function of the English text.
`core` marks the words that the translation task uses: few enough to be learned; the other tasks may use all.
"""

import csv
from dataclasses import dataclass
from functools import cache
from typing import Any

from fspad_ref.world import data_file


@dataclass(frozen=True)
class Noun:
    """A countable noun. `gender` is m, f or n; `kind` is person, animal, food, ...; no weak German nouns."""

    english: str
    plural: str
    german: str
    gender: str
    german_plural: str
    kind: str
    core: bool


@dataclass(frozen=True)
class Verb:
    """A verb whose perfect takes "haben" and which does not split.

    english, third, past, participle: carry, carries, carried, carried.
    german, german_third, german_past, german_participle: tragen, trägt, trug, getragen (third person singular).
    objects: kinds of noun that can be its direct object; empty for an intransitive verb.
    """

    english: str
    third: str
    past: str
    participle: str
    german: str
    german_third: str
    german_past: str
    german_participle: str
    objects: tuple[str, ...]
    core: bool


@dataclass(frozen=True)
class Adjective:
    """`german` stands after "ist"; `stem` takes the endings (dunkel, dunkl-). kinds: nouns that it suits."""

    english: str
    german: str
    stem: str
    kinds: tuple[str, ...]
    core: bool


@dataclass(frozen=True)
class Adverb:
    """A word or phrase of time, place or manner. tense: present, past or any (which verb it goes with)."""

    english: str
    german: str
    kind: str
    tense: str
    core: bool


@dataclass(frozen=True)
class Lexicon:
    """All words, in the order of the files."""

    nouns: tuple[Noun, ...]
    verbs: tuple[Verb, ...]
    adjectives: tuple[Adjective, ...]
    adverbs: tuple[Adverb, ...]

    def nouns_of(self, *kinds: str) -> tuple[Noun, ...]:
        """The nouns of the given kinds."""
        return tuple(n for n in self.nouns if n.kind in kinds)

    def adjectives_for(self, kind: str) -> tuple[Adjective, ...]:
        """The adjectives that suit nouns of this kind."""
        return tuple(a for a in self.adjectives if kind in a.kinds)

    def verbs_with(self, kind: str) -> tuple[Verb, ...]:
        """The verbs that can have a noun of this kind as direct object."""
        return tuple(v for v in self.verbs if kind in v.objects)


@cache
def load() -> Lexicon:
    """The lexicon, read once. Raises InputError if the data folder is missing."""
    return Lexicon(
        nouns=tuple(Noun(**row) for row in _rows("nouns")),
        verbs=tuple(Verb(**row) for row in _rows("verbs")),
        adjectives=tuple(Adjective(**row) for row in _rows("adjectives")),
        adverbs=tuple(Adverb(**row) for row in _rows("adverbs")),
    )


def _rows(name: str) -> list[dict[str, Any]]:
    with data_file(f"lexicon/{name}.tsv").open(encoding="utf-8", newline="") as file:
        return [_typed(row) for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]


def _typed(row: dict[str, str]) -> dict[str, Any]:
    row = {**row, "core": row["core"] == "core"}
    return {k: tuple(v.split()) if k in ("objects", "kinds") else v for k, v in row.items()}


def with_article(phrase: str) -> str:
    """The phrase with "a" or "an", by its first sound.

    >>> with_article("old uniform"), with_article("uniform"), with_article("honest guide")
    ('an old uniform', 'a uniform', 'an honest guide')
    """
    silent_h, y_sound = ("honest", "hour", "heir"), ("uni", "use", "useful", "euro", "ewe")
    vowel = phrase.lower().startswith(tuple("aeiou")) and not phrase.lower().startswith(y_sound)
    vowel = vowel or phrase.lower().startswith(("unin", "unim", "unid"))  # uninvited, unimportant: not the y of unit
    return ("an " if vowel or phrase.lower().startswith(silent_h) else "a ") + phrase
