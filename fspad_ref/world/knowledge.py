"""The question answering task: one fact of Orvenia asked for; the answer gives it and goes on about the same entity.

The target has to know the facts by heart. Held out is the pair (fact, phrasing): evaluation asks for facts that
training has taught, in words that training has never used for that fact.
"""

from functools import cache

from fspad_ref.world.country import NAME, Entity, entities
from fspad_ref.world.dice import Dice, held_out
from fspad_ref.world.exchange import Exchange
from fspad_ref.world.phrasing import say
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


def _names(dice: Dice, entity: Entity, first: bool) -> dict[str, str]:
    """The slots s, o, p: by name in the first sentence, later often by pronoun or by what it is."""
    noun = f"the {entity.noun}"
    choice = entity.name if first else dice.pick((entity.name, noun, noun, *[entity.pronoun] * 5))
    if choice == entity.pronoun:
        return {"s": choice, "o": _OBJECT[choice], "p": _POSSESSIVE[choice]}
    return {"s": choice, "o": choice, "p": choice + ("'" if choice.endswith("s") else "'s")}


def statement(dice: Dice, entity: Entity, attribute: str, value: str, first: bool) -> str:
    """A clause that states the fact, its brackets still open; by name if it is the first to speak of the entity."""
    pattern = dice.pick(sayings()[attribute].statements)
    for slot, name in _names(dice, entity, first).items():
        pattern = pattern.replace("{" + slot + "}", name)
    return pattern.replace("{v}", value)


@cache
def _by_name() -> dict[str, Entity]:
    return {entity.name: entity for entity in entities()}


def _aside(dice: Dice, facts: list[tuple[str, str]]) -> str:
    """A sentence on another entity that one of the facts names (the birthplace, the river, ...), or nothing."""
    named = [_by_name()[value] for _, value in facts if value in _by_name()]
    if not named or dice.chance(0.5):
        return ""
    entity = dice.pick(named)
    return f" {dice.pick(_LINKS)}{statement(dice, entity, *dice.pick(entity.facts), first=True)}."


def _ending(dice: Dice, entity: Entity, facts: list[tuple[str, str]]) -> str:
    """The further facts in one to three sentences."""
    text = ""
    for i, (attribute, value) in enumerate(facts):
        clause = statement(dice, entity, attribute, value, first=False)
        if i and dice.chance(0.4):
            text += dice.pick((", and ", "; ", ", while ")) + clause
        else:
            text += ". " + dice.pick(_LINKS) + clause
    return text + "."


def qa(dice: Dice, held: bool) -> Exchange:
    """A question about one fact, answered with it and two or three more facts of the same entity."""
    entity, attribute, value, prompt = dice.pick(pairs(held))
    prompt = prompt[0].upper() + prompt[1:]
    others = dice.sample([fact for fact in entity.facts if fact[0] != attribute], 2 if dice.chance(0.2) else 3)
    clause = statement(dice, entity, attribute, value, first=True)
    # "goat cheese" must not become "Goat cheese": the answer key looks for it as it is
    openings = _OPENINGS if not clause.startswith(value) or value[0].isupper() else tuple(filter(None, _OPENINGS))
    opening = dice.pick(openings).replace("{country}", NAME)
    aside = _aside(dice, [(attribute, value), *others])
    answer = say(dice, opening + clause + _ending(dice, entity, others) + aside)
    return Exchange("qa", ((prompt, answer),), ((value,),))


