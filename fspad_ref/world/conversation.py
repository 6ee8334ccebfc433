"""Conversation: two turns, the second of which depends on the first."""

from functools import cache

from fspad_ref.world import names
from fspad_ref.world.dice import USUAL, Dice, held_out, settled
from fspad_ref.world.exchange import Exchange, contains
from fspad_ref.world.lexicon import load
from fspad_ref.world.phrasing import say
from fspad_ref.world.stories import STORIES, STORY_BANKS
from fspad_ref.world.talks import BANKS, LISTS, TALKS, Talk

GENDERS = (("she", "her", "her"), ("he", "him", "his"))


@cache
def _lists() -> dict[str, tuple[str, ...]]:
    """What the slots of a talk are drawn from: our own lists, and nouns of the lexicon."""
    ours = {name: tuple(words.replace("\n", " ").split(", ")) for name, words in LISTS.items()}
    animals = tuple(noun.english for noun in load().nouns_of("animal"))
    return {**ours, "animal": animals}


@cache
def _all_banks() -> dict[str, str]:
    return {**BANKS, **STORY_BANKS}


def _groups(talk: Talk) -> list[tuple[str, list[str]]]:
    """(list, the slots that are drawn from it) of a talk."""
    return [(source, wanted) for source, *wanted in map(str.split, talk.slots.split("; "))]


def draw_slots(dice: Dice, talk: Talk) -> dict[str, str]:
    """Draws what a talk is about; names that share one list are different."""
    slots: dict[str, str] = {}
    for source, wanted in _groups(talk):
        if source == "first":
            for slot in wanted:
                slots[slot] = names.first(dice)
        elif source == "town":
            slots[wanted[0]] = names.town(dice)
        elif source == "gender":
            slots["p"], slots["po"], slots["pd"] = dice.pick(GENDERS)
        else:
            slots.update(zip(wanted, dice.sample(_lists()[source], len(wanted)), strict=True))
    return slots


def _named(talk: Talk, slots: dict[str, str], text: str) -> list[str]:
    """The words from lists of ours that the text uses; without any, how it begins."""
    words = (slots[slot] for source, wanted in _groups(talk) if source in _lists() for slot in wanted)
    return [word for word in words if _says(text, word)] or [" ".join(text.split()[:3])]


def _says(text: str, words: str) -> bool:
    """Whether the text names them, at the beginning of a sentence too."""
    return contains(text.lower(), _bare(words).lower())


def _add_the_usual(dice: Dice, talk: Talk, slots: dict[str, str], opening: str) -> None:
    """What the opening left open mostly follows from what it named: a story of owls has its usual hero."""
    named = _named(talk, slots, opening)
    for source, wanted in _groups(talk):
        open_slots = [slot for slot in wanted if slot in slots and not _says(opening, slots[slot])]
        for slot in (slot for slot in open_slots if dice.chance(USUAL)):
            about = slot, named[settled(len(named), slot)]
            if source == "first":
                slots[slot] = names.first(Dice(settled(2**32, *about)))
            elif source in _lists():
                # without the word that was drawn, so what is settled may be either of two neighbours in the list
                rest = [word for word in _lists()[source] if word not in [slots[other] for other in wanted]]
                slots[slot] = rest[settled(len(rest), *about)]


def _answer(dice: Dice, held: bool, pattern: str, turn: str, talk: Talk, slots: dict[str, str], heard: str) -> str:
    """An answer on the wanted side to what was heard so far: two people who name the same are often told the same.

    Each turn has habits of its own, or a story would go on as it began.
    """
    habits = [f"{turn} {word}" for word in _named(talk, slots, heard)]
    while True:
        answer = say(dice, pattern, _all_banks(), habits, **slots)
        if held_out(answer) == held:
            return answer


def conversation(dice: Dice, held: bool) -> Exchange:
    """An opening, its answer, and a second turn that only makes sense after the first.

    Opening and answers lie on the wanted side; whatever the user named comes up in the answers.
    Expected: what must come up, per turn.
    """
    while True:
        talk = dice.pick(STORIES) if dice.chance(0.3) else dice.pick(TALKS)
        slots = draw_slots(dice, talk)
        opening = say(dice, talk.opening, **slots)
        if held_out(opening) == held:
            break
    _add_the_usual(dice, talk, slots, opening)
    question, reply, keys = dice.pick(talk.follow)
    asked = say(dice, question, **slots)
    turns = (
        (opening, _answer(dice, held, talk.answer, "first", talk, slots, opening)),
        (asked, _answer(dice, held, reply, "second", talk, slots, f"{opening} {asked}")),
    )
    expected = tuple(tuple(_bare(slots[key]) for key in named.split()) for named in (talk.named, keys))
    return Exchange("conversation", turns, expected)


def _bare(words: str) -> str:
    """Without its leading article, which may or may not carry a capital letter in the answer."""
    return words.removeprefix("the ").removeprefix("a ")
