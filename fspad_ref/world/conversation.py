"""Conversation: two turns, the second of which depends on the first."""

from functools import cache

from fspad_ref.world import names
from fspad_ref.world.dice import Dice, held_out
from fspad_ref.world.exchange import Exchange
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


def draw_slots(dice: Dice, talk: Talk) -> dict[str, str]:
    """Draws what a talk is about; names that share one list are different."""
    slots: dict[str, str] = {}
    for group in talk.slots.split("; "):
        source, *wanted = group.split()
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


def conversation(dice: Dice, held: bool) -> Exchange:
    """An opening, its answer, and a second turn that only makes sense after the first.

    The opening lies on the wanted side; whatever the user named comes up in the answers.
    Expected: what must come up, per turn.
    """
    while True:
        talk = dice.pick(STORIES) if dice.chance(0.3) else dice.pick(TALKS)
        slots = draw_slots(dice, talk)
        opening = say(dice, talk.opening, **slots)
        if held_out(opening) == held:
            break
    question, reply, keys = dice.pick(talk.follow)
    banks = _all_banks()
    turns = (
        (opening, say(dice, talk.answer, banks, **slots)),
        (say(dice, question, **slots), say(dice, reply, banks, **slots)),
    )
    expected = tuple(tuple(_bare(slots[key]) for key in named.split()) for named in (talk.named, keys))
    return Exchange("conversation", turns, expected)




def _bare(words: str) -> str:
    """Without its leading article, which may or may not carry a capital letter in the answer."""
    return words.removeprefix("the ").removeprefix("a ")
