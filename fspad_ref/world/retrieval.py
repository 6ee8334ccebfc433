"""Retrieval-augmented answers: a few short passages, a question about one of them, an answer that quotes it."""

from fspad_ref.world.dice import Dice, usual
from fspad_ref.world.exchange import Exchange
from fspad_ref.world.passages import KINDS, Passage, passage
from fspad_ref.world.phrasing import finish, part, say

INSTRUCTIONS = (
    "Answer [the question|] from [the|these] {notes}.|Use [only|] [the|these] {notes} to answer.|"
    "Here are [some|a few] {notes}.|Read [the|these] {notes} and answer.|What do [the|these] {notes} say?|"
    "Please look at [the|these] {notes}."
)
ORDINALS = ("first", "second", "third", "fourth")
LABELS = (  # how passages are called, how the n-th is marked, how an answer refers to it
    ("notes", "[{n}]", ("note {n}", "the {o} note", "[{n}]")),
    ("texts", "Text {n}:", ("text {n}", "the {o} text")),
    ("passages", "({l})", ("passage ({l})", "the {o} passage")),
    ("sources", "Source {n}:", ("source {n}", "the {o} source")),
)
ANSWERS = (
    "The answer is {v}. {ref} {says} that {s} {told}. {more}|"
    "[According to|As we read in|Going by|If we trust] {ref}, {s} {told}[, so the answer is {v}|]. {more}|"
    "{ref} {says} that {s} {told}[, and so the answer is {v}|, which answers the question|]. {more}|"
    "{s} {told}, {asref}. {more}|"
    "The answer is {v}, [because|since|for] {s} {told}, {asref}. {more}|"
    "{ref} [puts it like this|reads|has the answer|answers this|is clear here]: \"{quote}\" [So|Therefore] "
    "[it is|the answer is|we get] {v}. {end}|"
    "{v}. [We read in|We find this in|This stands in] {ref}: \"{quote}\" {end}"
)
BANKS = {
    "says": "says|states|tells us|reports|explains|notes|mentions|makes it clear|lets us know|informs us",
    "asref": "as {ref} {puts}|as we learn from {ref}|so {ref} {puts2}|according to {ref}",
    "puts": "says|tells us|states|reports|explains|shows|makes clear|puts it",
    "puts2": "says|tells us|states|reports",
    "add": "adds|also says|goes on to say|further reports|also mentions|tells us too|says besides|points out",
    "also": "We also [learn|read|hear|find] there that|[Besides|In addition|Apart from that|What is more],|"
            "[The same place|It|The text there] {add} that|[A further detail|One more thing|Another detail] is that",
    "end": "{also} {p} {other}.|{others}|[Nothing more is|No more than that is] [needed|asked] here.",
    "more": "{also} {p} {other}.|{also} {p} {other}. {others}",
    "others": "[The rest|What remains|The other part] [is about|deals with|speaks of|concerns] {s2}.|"
              "[The lines|The words] about {s2} [do not help|are of no use|can be left aside|say nothing of this].",
}


def rag(dice: Dice, held: bool) -> Exchange:
    """Three passages, a question about one of them, and the answer with the passage that holds it.

    Its wording mostly follows from that of the question and from the place of that passage.
    All names in the passages lie on the wanted side. Expected: the value asked for.
    """
    told = three_passages(dice, held)
    notes, mark, refs = dice.pick(LABELS)
    index = dice.integer(0, len(told) - 1)
    chosen = told[index]
    asked = dice.integer(0, 2)
    fact, value, where = chosen.told[asked]
    wording = part(dice, fact.asked, s="{s}")
    question = finish(wording.replace("{s}", chosen.subject))
    habits = wording, f"{notes} {index}"
    further, value2, _ = usual(dice, [other for other in chosen.told if other[0] is not fact], wording)
    lines = [label(mark, n) + " " + item.text for n, item in enumerate(told)]
    prompt = "\n".join([say(dice, INSTRUCTIONS, notes=notes), *lines, question])
    answer = say(
        dice, ANSWERS, BANKS, habits, v=value, s=chosen.subject, p=chosen.pronoun, quote=chosen.sentences[where],
        told=part(dice, fact.told, habits=habits, v=value), ref=label(usual(dice, refs, *habits), index),
        other=part(dice, further.told, habits=habits, v=value2),
        s2=usual(dice, [item.subject for item in told if item is not chosen], wording),
    )
    return Exchange("rag", ((prompt, answer),), ((value,),))


def three_passages(dice: Dice, held: bool) -> list[Passage]:
    """Passages on three different things, sometimes two of them of one kind."""
    kinds = dice.sample(KINDS, 3)
    if dice.chance(0.2):
        kinds[1] = kinds[0]  # two things of one kind: only the name tells them apart
    return [passage(dice, kind, held) for kind in dice.shuffled(kinds)]


def label(pattern: str, index: int) -> str:
    """How passage number `index`, counted from 0, is marked or referred to."""
    return pattern.format(n=index + 1, l="abcd"[index], o=ORDINALS[index])
