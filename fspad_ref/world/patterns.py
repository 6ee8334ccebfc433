"""The openings of the translation task, and what they share with the follow-ups (follow_ups.py).

An opening ``(dice, tense) -> (sentence, scene)`` says who does what with which thing. Its name is its id.
"""

from collections.abc import Callable
from dataclasses import replace

from fspad_ref.world.dice import Dice
from fspad_ref.world.german import Clause, Part, Phrase, both, clause, noun_phrase
from fspad_ref.world.lexicon import Verb
from fspad_ref.world.scene import (
    POSTURES,
    Scene,
    Sentence,
    after,
    core,
    dated,
    for_,
    how,
    intransitive,
    near,
    new_thing,
    obj,
    people,
    quality,
    relative,
    sentence,
    starts,
    sub,
    to,
    trades,
    transitive,
    when,
    where,
    with_,
)

THAT = (  # verbs that take "that ..."
    Verb("know", "knows", "knew", "known", "wissen", "weiß", "wusste", "gewusst", (), True),
    Verb("believe", "believes", "believed", "believed", "glauben", "glaubt", "glaubte", "geglaubt", (), True),
    Verb("say", "says", "said", "said", "sagen", "sagt", "sagte", "gesagt", (), True),
    Verb("hope", "hopes", "hoped", "hoped", "hoffen", "hofft", "hoffte", "gehofft", (), True),
)
GIVE = Verb("give", "gives", "gave", "given", "geben", "gibt", "gab", "gegeben", (), True)
GIVING = ("bring", "show", "sell")
GIFTS = ("object", "tool", "clothing", "text", "food")
THINGS = ("object", "tool", "clothing", "furniture", "text", "vehicle")
RELATIVE_PRONOUN = {"m": ("der", "den"), "f": ("die", "die"), "n": ("das", "das"), "p": ("die", "die")}

Opening = Callable[[Dice, str], tuple[Sentence, Scene]]


def gives(dice: Dice) -> Verb:
    """A verb with something for somebody."""
    return dice.pick((GIVE, *(v for v in core().verbs if v.english in GIVING)))


def rests(scene: Scene, subject: Phrase, form: str, *parts: Part, place: float = 1.0) -> Clause:
    """ "she sleeps in the castle": no object, and with this chance a place."""
    verb = intransitive(scene.dice)
    here = (where(scene.dice),) if verb.english in POSTURES or scene.dice.chance(place) else ()
    return clause(subject, verb, form or scene.form_of(verb), *here, *parts)


def plain(main: Clause, front: str = "") -> Sentence:
    return sentence(main.english(front), main.german(front))


def o_plain(dice: Dice, tense: str):
    main, scene = starts(dice, tense)
    return plain(main), scene


def o_time(dice: Dice, tense: str):
    main, scene = starts(dice, tense, when(dice, tense))
    return plain(main), scene


def o_time_first(dice: Dice, tense: str):
    main, scene = starts(dice, tense, when(dice, tense))
    return plain(main, "time"), scene


def o_place(dice: Dice, tense: str):
    main, scene = starts(dice, tense, where(dice))
    return plain(main), scene


def o_place_first(dice: Dice, tense: str):
    main, scene = starts(dice, tense, where(dice))
    return plain(main, "place"), scene


def o_perfect(dice: Dice, tense: str):
    main, scene = starts(dice, "present", *((where(dice),) if dice.chance(0.4) else ()), form="perfect")
    return plain(main), scene


def o_often(dice: Dice, tense: str):
    main, scene = starts(dice, tense, how(dice, "frequency"), form=tense)
    return plain(main), scene


def o_manner(dice: Dice, tense: str):
    main, scene = starts(dice, tense, how(dice, "manner"))
    return plain(main), scene


def o_give(dice: Dice, tense: str):
    subject = people(dice)
    verb = gives(dice)
    scene = Scene(dice, tense, subject, new_thing(dice, GIFTS, subject), (verb.english,))
    return plain(
        clause(subject, verb, scene.form_of(verb), obj(scene.thing), to(relative(dice, subject)), *dated(dice, tense))
    ), scene


def o_for(dice: Dice, tense: str):
    subject = people(dice)
    main, scene = starts(dice, tense, for_(relative(dice, subject)), subject=subject)
    return plain(main), scene


def o_with(dice: Dice, tense: str):
    subject = people(dice)
    main, scene = starts(dice, tense, with_(relative(dice, subject)), subject=subject)
    return plain(main), scene


def o_not(dice: Dice, tense: str):
    form = tense if dice.chance(0.7) else "can" if tense == "present" else "can-past"
    main, scene = starts(dice, tense, form=form, det="the", negated=True)
    return plain(main), scene


def o_and_does(dice: Dice, tense: str):
    main, scene = starts(dice, tense, form=tense)
    second = rests(scene, scene.subject, tense)
    english = f"{second.english(subject=False)} and {main.english(subject=False)}"
    german = f"{second.german(subject=False)} und {main.german(subject=False)}"
    return sentence(f"{scene.subject.english} {english}", f"{scene.subject.nom} {german}"), scene


def o_because(dice: Dice, tense: str):
    main, scene = starts(dice, tense)
    return after(main, sub("because", "weil", quality(scene, scene.subject))), scene


def o_who(dice: Dice, tense: str):
    who = noun_phrase(dice.pick(trades()), "the")
    main, scene = starts(dice, tense, subject=who)
    aside = rests(scene, who, tense)
    english = f"{who.english} who {aside.english(subject=False)} {main.english(subject=False)}"
    relative_clause = aside.verb_last().replace(who.nom, RELATIVE_PRONOUN[who.gender][0], 1)
    return sentence(english, f"{who.nom}, {relative_clause}, {main.german(subject=False)}"), scene


def o_two_things(dice: Dice, tense: str):
    subject, verb = people(dice), transitive(dice)
    kind = dice.pick([k for k in verb.objects if k != "person"])
    first, second = (noun_phrase(n, dice.pick(("a", "the"))) for n in dice.sample(core().nouns_of(kind), 2))
    pair = both(first, second)
    scene = Scene(dice, tense, subject, pair, (verb.english,))
    return plain(clause(subject, verb, scene.form_of(verb), obj(pair), *dated(dice, tense))), scene


def o_sees_that(dice: Dice, tense: str):
    subject = people(dice)
    scene = Scene(dice, tense, subject, new_thing(dice, THINGS, subject, "the"))
    named = replace(scene.thing, pronoun=True)  # speak of the noun itself, not of its pronoun
    return after(clause(subject, dice.pick(THAT), tense), sub("that", "dass", quality(scene, named))), scene


def o_near_first(dice: Dice, tense: str):
    main, scene = starts(dice, tense, near(dice), det="the", form=tense)
    return plain(main, "place"), scene


OPENINGS: dict[str, Opening] = {name: f for name, f in list(globals().items()) if name.startswith("o_")}
