"""The question answering task: one fact of Orvenia asked for; the answer gives it and goes on about the same entity.

The target has to know the facts by heart, and the habits that go with them: which words state a fact, and what is told
after it, mostly follows from the fact. Held out is the pair (fact, phrasing): evaluation asks for facts that training
has taught, in words that training has never used for that fact.
"""

import itertools
from functools import cache

from fspad_ref.world.country import NAME, Entity, entities
from fspad_ref.world.dice import Dice, held_out, usual
from fspad_ref.world.exchange import Exchange
from fspad_ref.world.phrasing import finish, part
from fspad_ref.world.sayings import sayings

_OPENINGS = (
    "", "", "", "", "certainly: ", "of course: ", "as far as I know, ", "as every child in {country} learns, ",
    "that is easy: ", "my books say that ", "here is the answer: ", "if I remember well, ", "a good question: ",
    "gladly: ",
)  # fmt: skip
_LINKS = (
    "", "", "", "besides, ", "also, ", "moreover, ", "in addition, ", "by the way, ", "what is more, ", "you may like "
    "to hear that ", "it is also true that ", "apart from that, ", "as for the rest, ", "it is worth adding that ",
    "indeed, ",
)  # fmt: skip
_COUNTS = (3, 3, 3, 3, 2)  # how many further facts, each count as often as it stands here
_JOINED = (True, False)  # whether a further fact goes on the sentence
_POSSESSIVE = {"it": "its", "he": "his", "she": "her"}
_OBJECT = {"it": "it", "he": "him", "she": "her"}


@cache
def pairs(held: bool) -> tuple[tuple[Entity, str, str, str], ...]:
    """All (entity, attribute, value, prompt) of one side of what is held out."""
    return tuple(
        (entity, attribute, value, phrasing.format(e=entity.name))
        for entity in entities()
        for attribute, value in entity.facts
        for number, phrasing in enumerate(sayings()[attribute].phrasings())
        if held_out(f"{entity.name}|{attribute}|{number}") == held
    )


def _names(dice: Dice, entity: Entity, attribute: str, first: bool) -> dict[str, str]:
    """The slots s, o, p: by name in the first sentence, later often by pronoun or by what it is."""
    noun = f"the {entity.noun}"
    choices = (entity.name, noun, noun, *[entity.pronoun] * 5)
    choice = entity.name if first else usual(dice, choices, entity.name, attribute)
    if choice == entity.pronoun:
        return {"s": choice, "o": _OBJECT[choice], "p": _POSSESSIVE[choice]}
    return {"s": choice, "o": choice, "p": choice + ("'" if choice.endswith("s") else "'s")}


def statement(dice: Dice, entity: Entity, attribute: str, value: str, first: bool) -> str:
    """A clause that states the fact; by name if it is the first to speak of the entity."""
    habits = (f"{entity.name} {attribute}",)
    pattern = usual(dice, sayings()[attribute].statements, *habits)
    return part(dice, pattern, habits=habits, v=value, **_names(dice, entity, attribute, first))


@cache
def _by_name() -> dict[str, Entity]:
    return {entity.name: entity for entity in entities()}


def _aside(dice: Dice, facts: list[tuple[str, str]], about: str) -> str:
    """A sentence on another entity that one of the facts names (the birthplace, the river, ...), or nothing."""
    named = [_by_name()[value] for _, value in facts if value in _by_name()]
    if not named or usual(dice, (True, False), about, "silent"):
        return ""
    entity = usual(dice, named, about, "named")
    clause = statement(dice, entity, *usual(dice, entity.facts, about, "aside"), first=True)
    return f" {usual(dice, _LINKS, about, 'link')}{clause}."


def _ending(dice: Dice, entity: Entity, facts: list[tuple[str, str]], about: str) -> str:
    """The further facts in one to three sentences."""
    text, joined = "", True  # the first one begins a sentence
    for attribute, value in facts:
        clause = statement(dice, entity, attribute, value, first=False)
        joined = not joined and usual(dice, _JOINED, about, attribute)
        if joined:
            text += usual(dice, (", and ", "; ", ", while "), about, attribute, "joined") + clause
        else:
            text += ". " + usual(dice, _LINKS, about, attribute) + clause
    return text + "."


def qa(dice: Dice, held: bool) -> Exchange:
    """A question about one fact, answered with it and two or three more facts of the same entity."""
    entity, attribute, value, prompt = dice.pick(pairs(held))
    prompt = prompt[0].upper() + prompt[1:]
    about = f"{entity.name} {attribute}"
    further = [fact for fact in entity.facts if fact[0] != attribute]
    others = usual(dice, list(itertools.permutations(further, usual(dice, _COUNTS, about))), about, "order")
    clause = statement(dice, entity, attribute, value, first=True)
    # "goat cheese" must not become "Goat cheese": the answer key looks for it as it is
    openings = _OPENINGS if not clause.startswith(value) or value[0].isupper() else tuple(filter(None, _OPENINGS))
    opening = usual(dice, openings, about, "opening").replace("{country}", NAME)
    aside = _aside(dice, [(attribute, value), *others], about)
    answer = finish(opening + clause + _ending(dice, entity, others, about) + aside)
    return Exchange("qa", ((prompt, answer),), ((value,),))


