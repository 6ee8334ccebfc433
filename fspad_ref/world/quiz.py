"""Quizzes: many short questions in a row, on a few notes, on the facts of Orvenia, or sums.

No task of the evaluation. Retrieval gives a model one chance to look something up for two hundred tokens that it has
to read; a quiz on the same notes gives it eight. That is what a small model lacks when it answers from the wrong note.
"""

from fspad_ref.world import arithmetic, knowledge
from fspad_ref.world.country import entities
from fspad_ref.world.dice import Dice
from fspad_ref.world.exchange import Exchange
from fspad_ref.world.phrasing import part, say
from fspad_ref.world.retrieval import LABELS, label, three_passages

ASK_NOTES = (
    "[A quiz|Quiz] on these {notes}, [short answers, please|in few words]."
    "|[Short answers|Be brief], [please|now]. [These|Here] are {notes} for a quiz."
)
ASK_FACTS = "[A quiz|Quiz|A quick round]: {q}|[Short answers|Be brief], please. {q}"
ASK_SUMS = "{q}|{q}|[What is|How much is] {q}|And {q}"
TOLD_SUM = "{w}.|{w}.|[that is|it makes|we get|there are] {w}."
SHORT = "{v}, {ref}.|{ref}: {v}.|{v}.|{s} {told}."


def notes_quiz(dice: Dice) -> Exchange:
    """Three passages and a short question about each of eight facts. Names lie on the training side."""
    told = three_passages(dice, False)
    notes, mark, refs = dice.pick(LABELS)
    facts = dice.sample([(n, item, fact) for n, item in enumerate(told) for fact in item.told], 8)
    turns = []
    for n, item, (fact, value, _) in facts:
        question = say(dice, fact.asked, s=item.subject)
        ref = label(dice.pick(refs), n)
        # not finished into a sentence: the key "goat cheese" must not become "Goat cheese"
        answer = part(dice, SHORT, v=value, ref=ref, s=item.subject, told=part(dice, fact.told, v=value))
        turns.append((question, answer))
    lines = [label(mark, n) + " " + item.text for n, item in enumerate(told)]
    first = "\n".join([say(dice, ASK_NOTES, notes=notes), *lines, turns[0][0]])
    turns[0] = (first, turns[0][1])
    return Exchange("notes quiz", tuple(turns), tuple((value,) for _, _, (_, value, _) in facts))


def facts_quiz(dice: Dice) -> Exchange:
    """Eight questions on facts of three entities of Orvenia, each answered in one clause.

    Several questions about one entity in a row: its name alone does not say what is asked for.
    """
    three = {entity.name for entity in dice.sample(entities(), 3)}
    asked = dice.sample([pair for pair in knowledge.pairs(False) if pair[0].name in three], 8)
    turns = []
    for entity, attribute, value, prompt in asked:
        stated = knowledge.statement(dice, entity, attribute, value, first=True)
        turns.append((prompt[0].upper() + prompt[1:], stated + "."))
    turns[0] = (part(dice, ASK_FACTS, q=turns[0][0]), turns[0][1])
    return Exchange("facts quiz", tuple(turns), tuple((value,) for _, _, value, _ in asked))


def sums_quiz(dice: Dice) -> Exchange:
    """Eight sums as they come up in the workings of word problems, mostly of two digits.

    A word problem needs two or three results, all of them right; here there are eight chances to learn to carry.
    """
    turns, keys = [], []
    for _ in range(8):
        kind = dice.weighted("+-x/", (8, 8, 2, 2))
        large = dice.chance(0.25)
        x, y, n = dice.integer(12, 290 if large else 99), dice.integer(5, 79), dice.integer(2, 9)
        if kind == "+":
            asked, (worked, result) = f"{x} + {y}", arithmetic.add(x, y)
        elif kind == "-":
            asked, (worked, result) = f"{x + y} - {y}", arithmetic.subtract(x + y, y)
        elif kind == "x":
            asked, (worked, result) = f"{n} x {y}", arithmetic.times(n, y)
        else:
            asked, (worked, result) = f"{n * (y % 11 + 2)} / {n}", arithmetic.divide(n * (y % 11 + 2), n)
        turns.append((say(dice, ASK_SUMS, q=asked + "?"), say(dice, TOLD_SUM, w=worked)))
        keys.append((str(result),))
    turns[0] = (part(dice, ASK_FACTS, q=turns[0][0]), turns[0][1])
    return Exchange("sums quiz", tuple(turns), tuple(keys))
