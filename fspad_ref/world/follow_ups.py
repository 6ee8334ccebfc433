"""The follow-ups of the translation task: further sentences about the people and the thing of an opening.

A follow-up ``(scene) -> (sentence, scene)`` refers back, mostly with pronouns. Its name is its id.
"""

from collections.abc import Callable
from dataclasses import replace

from fspad_ref.world.german import clause, no_object, noun_phrase
from fspad_ref.world.patterns import THAT, gives, plain, rests
from fspad_ref.world.scene import (
    Scene,
    Sentence,
    acts,
    after,
    before,
    core,
    dated,
    for_,
    how,
    obj,
    quality,
    relative,
    sentence,
    sub,
    to,
    transitive,
    when,
    where,
)

FollowUp = Callable[[Scene], tuple[Sentence, Scene]]


def f_plain(scene: Scene):
    main, scene = acts(scene, when(scene.dice, scene.tense))
    return plain(main), scene


def f_time_first(scene: Scene):
    main, scene = acts(scene, when(scene.dice, scene.tense))
    return plain(main, "time"), scene


def f_because(scene: Scene):
    main, scene = acts(scene)
    return after(main, sub("because", "weil", quality(scene, scene.thing))), scene


def f_because_first(scene: Scene):
    main, scene = acts(scene)
    return before(sub("because", "weil", quality(scene, scene.subject)), main), scene


def f_although(scene: Scene):
    main, scene = acts(scene)
    return before(sub("although", "obwohl", quality(scene, scene.thing)), main), scene


def f_although_last(scene: Scene):
    main, scene = acts(scene)
    return after(main, sub("although", "obwohl", quality(scene, scene.subject))), scene


def f_not(scene: Scene):
    form = scene.tense if scene.dice.chance(0.6) else "can" if scene.tense == "present" else "can-past"
    time = (when(scene.dice, scene.tense),) if scene.dice.chance(0.4) else ()
    main, scene = acts(scene, *time, form=form, negated=True)
    return plain(main), scene


def f_two_qualities(scene: Scene):
    first, second = quality(scene, scene.thing), quality(scene, scene.thing)
    while first.tail.split()[-1] == second.tail.split()[-1]:
        second = quality(scene, scene.thing)
    english = f"{first.english()}, but {second.english()}"
    return sentence(english, f"{first.german()}, aber {second.german()}"), scene


def f_rests(scene: Scene):
    main = rests(scene, scene.who, "", *dated(scene.dice, scene.tense))
    return plain(main), scene


def f_rests_first(scene: Scene):
    main = rests(scene, scene.who, "", when(scene.dice, scene.tense))
    return plain(main, "time"), scene


def f_but(scene: Scene):
    main, scene = acts(scene)
    other = quality(scene, scene.thing)
    return sentence(f"{main.english()}, but {other.english()}", f"{main.german()}, aber {other.german()}"), scene


def f_if(scene: Scene):
    main, after_scene = acts(scene)
    words = ("if", "wenn") if scene.tense == "present" else ("when", "als")
    return before(sub(*words, quality(scene, scene.subject)), main), after_scene


def f_that(scene: Scene):
    main = clause(scene.who, scene.dice.pick(THAT), scene.tense)
    return after(main, sub("that", "dass", quality(scene, scene.thing))), scene


def f_relative_hopes(scene: Scene):
    who = relative(scene.dice, scene.who)
    inner, after_scene = acts(replace(scene, subject=who))
    inner = replace(inner, subject=scene.who) if who.person == scene.who.person else inner
    main = clause(who, scene.dice.pick(THAT), scene.tense)
    return after(main, sub("that", "dass", inner)), replace(after_scene, subject=scene.subject)


def f_give(scene: Scene):
    verb = gives(scene.dice)
    main = clause(
        scene.who,
        verb,
        scene.form_of(verb),
        obj(scene.it),
        to(relative(scene.dice, scene.who)),
        *dated(scene.dice, scene.tense),
    )
    return plain(main), scene


def f_perfect(scene: Scene):
    if scene.tense == "past":  # the perfect belongs to a story told in the present
        main, scene = acts(scene, where(scene.dice))
    else:
        main, scene = acts(scene, where(scene.dice), form="perfect")
    return plain(main), scene


def f_for(scene: Scene):
    main, scene = acts(scene, for_(relative(scene.dice, scene.who)))
    return plain(main), scene


def f_no_other(scene: Scene):
    verb = transitive(scene.dice, scene.used)
    kinds = tuple(k for k in verb.objects if k != "person")
    noun = scene.dice.pick(core().nouns_of(*kinds))
    adjectives = tuple(scene.dice.sample(core().adjectives_for(noun.kind), 1)) if scene.dice.chance(0.75) else ()
    thing, none = noun_phrase(noun, "a", adjectives), noun_phrase(noun, "no", adjectives)
    main = no_object(scene.who, verb, scene.tense, replace(thing, acc=none.acc), *dated(scene.dice, scene.tense))
    return plain(main), replace(scene, used=(*scene.used, verb.english))


def f_often(scene: Scene):
    main, scene = acts(scene, how(scene.dice, "frequency"), form=scene.tense)
    return plain(main), scene


def f_manner(scene: Scene):
    main, scene = acts(scene, how(scene.dice, "manner"))
    return plain(main), scene


def f_while(scene: Scene):
    who = relative(scene.dice, scene.who)
    main, scene = acts(scene, form=scene.tense)
    inner = rests(scene, who, scene.tense, place=0.4)
    return after(main, sub("while", "während", inner)), scene


def f_relative(scene: Scene):
    who, verb = relative(scene.dice, scene.who), transitive(scene.dice, scene.used, scene.thing.kind)
    main = clause(who, verb, scene.form_of(verb), obj(scene.it), *dated(scene.dice, scene.tense))
    return plain(main), scene


def f_meets(scene: Scene):
    verb = scene.dice.pick([v for v in core().verbs if v.objects == ("person",)])
    place = () if verb.english == "know" else dated(scene.dice, scene.tense, (where(scene.dice),))
    main = clause(scene.who, verb, scene.form_of(verb), obj(relative(scene.dice, scene.who)), *place)
    return plain(main), scene


FOLLOW_UPS: dict[str, FollowUp] = {name: f for name, f in list(globals().items()) if name.startswith("f_")}
