"""The people, things and words of one passage to translate: what the sentence patterns are made of.

Everything here chooses among the lexicon's core words and returns both languages at once (see german.py).
A sentence is its (English, German) pair.
"""

from dataclasses import dataclass, replace
from functools import cache

from fspad_ref.world.dice import Dice
from fspad_ref.world.german import (
    WE,
    Clause,
    I,
    Part,
    Phrase,
    be,
    both,
    clause,
    location,
    noun_phrase,
    possessive,
    pronoun,
)
from fspad_ref.world.lexicon import Adverb, Lexicon, Noun, Verb, load

# Verbs that happen to people: no modal, no manner, no purpose goes with them.
STATES = ("love", "need", "find", "lose", "forget", "see")
NOWHERE = ("love", "need")  # these are not done in a place
POSTURES = ("live", "sit", "stand")  # these need a place
TO_SOMEBODY = ("bring", "show")  # these need a receiver
# qualities without degrees: nothing is "very broken"
ABSOLUTE = set("broken missing secret red blue green white black brown yellow grey empty".split())
RELATIVES = set("friend brother father uncle son mother sister daughter aunt grandmother niece".split())
Sentence = tuple[str, str]


@dataclass(frozen=True)
class Scene:
    """What the passage is about so far. tense: present or past; `used`: English verbs that are taken."""

    dice: Dice
    tense: str
    subject: Phrase
    thing: Phrase
    used: tuple[str, ...] = ()

    def form_of(self, verb: Verb) -> str:
        """A simple or modal form in this tense; states take no modal."""
        if verb.english in STATES:
            return self.tense
        form = self.dice.weighted(("", "can", "must", "want"), (6, 1, 1, 1))
        if not form:
            return self.tense
        return form if self.tense == "present" else form + "-past"

    @property
    def who(self) -> Phrase:
        return pronoun(self.subject)

    @property
    def it(self) -> Phrase:
        return pronoun(self.thing)


@cache
def core() -> Lexicon:
    """The words that this task uses."""
    words = load()
    kept = ([w for w in group if w.core] for group in (words.nouns, words.verbs, words.adjectives, words.adverbs))
    return Lexicon(*(tuple(group) for group in kept))


@cache
def _adverbs(kind: str, tense: str) -> tuple[Adverb, ...]:
    return tuple(a for a in core().adverbs if a.kind == kind and a.tense in (tense, "any"))


@cache
def _nouns(*kinds: str) -> tuple[Noun, ...]:
    return core().nouns_of(*kinds)


@cache
def _relatives() -> tuple[Noun, ...]:
    return tuple(n for n in core().nouns if n.english in RELATIVES)


def sentence(english: str, german: str) -> Sentence:
    """Capital letter and full stop."""
    return english[0].upper() + english[1:] + ".", german[0].upper() + german[1:] + "."


# --- the words of a scene


def people(dice: Dice) -> Phrase:
    """A subject: I, we, one person, several, or two."""
    shape = dice.weighted(("I", "we", "one", "relative", "many", "two"), (8, 8, 50, 12, 12, 10))
    if shape in ("I", "we"):
        return I if shape == "I" else WE
    if shape == "relative":
        return noun_phrase(dice.pick(_relatives()), dice.pick(("my", "our")))
    plural = shape == "many"
    det = dice.pick(("the", "the", "these", "two")) if plural else dice.pick(("the", "the", "the", "a", "this"))
    adjective = (dice.pick(core().adjectives_for("person")),) if dice.chance(0.6) and shape != "two" else ()
    first = noun_phrase(dice.pick(trades()), "this" if det == "these" else det, adjective, plural)
    return both(first, relative(dice, first)) if shape == "two" else first


def relative(dice: Dice, owner: Phrase) -> Phrase:
    """ "his sister": somebody who is not the subject."""
    return noun_phrase(dice.pick(_relatives()), possessive(owner))


def new_thing(dice: Dice, kinds: tuple[str, ...], owner: Phrase, det: str = "") -> Phrase:
    """A noun phrase for a thing of one of the kinds, with an adjective more often than not."""
    noun = dice.pick(_nouns(*(k for k in kinds if k != "person")))
    plural = not det and dice.chance(0.2)
    if plural:
        det = dice.pick(("the", "", "two", "three", "this"))
    elif not det:
        det = dice.weighted(("a", "the", "this", possessive(owner)), (45, 28, 9, 18))
    return noun_phrase(noun, det, _adjectives(dice, noun.kind, 0.75), plural)


def _adjectives(dice: Dice, kind: str, chance: float) -> tuple:
    return (dice.pick(core().adjectives_for(kind)),) if dice.chance(chance) else ()


@cache
def trades() -> tuple[Noun, ...]:
    """The people who are nobody's relatives."""
    return tuple(n for n in _nouns("person") if n.english not in RELATIVES)


def transitive(dice: Dice, avoid: tuple[str, ...] = (), kind: str = "") -> Verb:
    """A verb with an object (of this kind) that is not a person."""
    verbs = core().verbs_with(kind) if kind else [v for v in core().verbs if set(v.objects) - {"person"}]
    return dice.pick([v for v in verbs if v.english not in avoid and v.english not in TO_SOMEBODY])


def _barred(parts: tuple[Part, ...], form: str) -> tuple[str, ...]:
    """The verbs that do not go with these parts."""
    slots = {p.slot for p in parts}
    if slots & {"manner", "for", "with"} or form.startswith("can"):
        return STATES
    return NOWHERE if "place" in slots else ()


def intransitive(dice: Dice) -> Verb:
    return dice.pick([v for v in core().verbs if not v.objects])


def when(dice: Dice, tense: str) -> Part:
    """today, last week, in the evening ... as the tense allows."""
    adverb = dice.pick(_adverbs("time", tense))
    return Part("time", adverb.english, adverb.german)


def how(dice: Dice, kind: str) -> Part:
    """An adverb of manner or frequency."""
    adverb = dice.pick([a for a in _adverbs(kind, "any") if a.english != "together"])
    return Part(kind, adverb.english, adverb.german)


def where(dice: Dice) -> Part:
    """in the garden, behind the castle, here ..."""
    if dice.chance(0.2):
        adverb = dice.pick(_adverbs("place", "any"))
        return Part("place", adverb.english, adverb.german)
    noun = dice.pick(_nouns("place", "building"))
    preposition = dice.weighted(("in", "behind", "in front of", "next to"), (70, 10, 10, 10))
    return location(preposition, noun_phrase(noun, "the", _adjectives(dice, noun.kind, 0.35)))


def near(dice: Dice) -> Part:
    """Where a thing is: on the table, in the cellar ..."""
    if dice.chance(0.5):
        return location("in", noun_phrase(dice.pick(_nouns("place", "building")), "the"))
    table = noun_phrase(dice.pick(_nouns("furniture")), "the", _adjectives(dice, "furniture", 0.2))
    return location(dice.pick(("next to", "behind", "under", "in front of")), table)


def obj(phrase: Phrase) -> Part:
    return Part("pronoun" if phrase.pronoun else "object", phrase.english_object, phrase.acc)


def to(phrase: Phrase) -> Part:
    return Part("dative", f"to {phrase.english_object}", phrase.dat)


def for_(phrase: Phrase) -> Part:
    return Part("for", f"for {phrase.english_object}", f"für {phrase.acc}")


def with_(phrase: Phrase) -> Part:
    return Part("with", f"with {phrase.english_object}", f"mit {phrase.dat}")


def quality(scene: Scene, about: Phrase, *parts: Part, negated: bool = False) -> Clause:
    """ "he is very tired", "it is too expensive": a predicate that suits the noun behind the pronoun."""
    kind, dice = about.kind, scene.dice
    adjective = dice.pick([a for a in core().adjectives_for(kind) if a.english not in about.english.split()])
    degree = (
        "" if negated or adjective.english in ABSOLUTE or dice.chance(0.5) else dice.pick(_adverbs("degree", "any"))
    )
    english, german = (f"{degree.english} ", f"{degree.german} ") if degree else ("", "")
    return be(
        pronoun(about), scene.tense, english + adjective.english, german + adjective.german, *parts, negated=negated
    )


def sub(english: str, german: str, inner: Clause) -> Sentence:
    """A subordinate clause, German verb last."""
    return f"{english} {inner.english()}", f"{german} {inner.verb_last()}"


def after(main: Clause, inner: Sentence) -> Sentence:
    """Main clause, then subordinate clause."""
    return sentence(f"{main.english()} {inner[0]}", f"{main.german()}, {inner[1]}")


def before(inner: Sentence, main: Clause) -> Sentence:
    """Subordinate clause first; German continues with the verb."""
    return sentence(f"{inner[0]}, {main.english()}", f"{inner[1]}, {main.inverted()}")


def dated(dice: Dice, tense: str, parts: tuple[Part, ...] = (), form: str = "") -> tuple[Part, ...]:
    """Often adds a time to parts that have none; the perfect keeps without."""
    free = form != "perfect" and not {p.slot for p in parts} & {"time", "frequency", "manner"}
    return (*parts, when(dice, tense)) if free and dice.chance(0.6) else parts


def acts(scene: Scene, *parts: Part, form: str = "", negated: bool = False) -> tuple[Clause, Scene]:
    """ "he needs it": the people do something new with the thing."""
    parts = dated(scene.dice, scene.tense, parts, form)
    verb = transitive(scene.dice, scene.used + _barred(parts, form), scene.thing.kind)
    scene = replace(scene, used=(*scene.used, verb.english))
    return clause(scene.who, verb, form or scene.form_of(verb), obj(scene.it), *parts, negated=negated), scene


def starts(
    dice: Dice,
    tense: str,
    *parts: Part,
    form: str = "",
    subject: Phrase | None = None,
    det: str = "",
    negated: bool = False,
) -> tuple[Clause, Scene]:
    """ "the teacher buys a hammer": a fresh scene and its first clause. Returns (clause, scene)."""
    subject = subject or people(dice)
    parts = dated(dice, tense, parts, form)
    verb = transitive(dice, _barred(parts, form))
    thing = new_thing(dice, verb.objects, subject, det)
    while any(thing.english.split()[-1] in p.english for p in parts):  # no sofa behind the sofa
        thing = new_thing(dice, verb.objects, subject, det)
    scene = Scene(dice, tense, subject, thing, (verb.english,))
    return clause(subject, verb, form or scene.form_of(verb), obj(scene.thing), *parts, negated=negated), scene
