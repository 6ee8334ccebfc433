"""Just enough English and German grammar to write the same sentence in both.

A `Phrase` is a noun phrase or pronoun in both languages with its German cases; a `Clause` is a subject, a verb group
and parts in named slots. The clause knows the three German word orders: verb second, verb second after a fronted
part, and verb last in a subordinate clause.

>>> from fspad_ref.world.lexicon import load
>>> words = load()
>>> garden = next(n for n in words.nouns if n.english == "garden")
>>> location("in", noun_phrase(garden, "the")).german
'im Garten'
"""

from dataclasses import dataclass

from fspad_ref.world.lexicon import Adjective, Noun, Verb, with_article

CASES = ("nom", "acc", "dat")
# One column per case (nominative, accusative, dative), one row per gender; "p" is the plural of all genders.
THE = {"m": ("der", "den", "dem"), "f": ("die", "die", "der"), "n": ("das", "das", "dem"), "p": ("die", "die", "den")}
THIS = {"m": ("er", "en", "em"), "f": ("e", "e", "er"), "n": ("es", "es", "em"), "p": ("e", "e", "en")}
EIN = {"m": ("", "en", "em"), "f": ("e", "e", "er"), "n": ("", "", "em"), "p": ("e", "e", "en")}
AFTER_DER = {"m": ("e", "en", "en"), "f": ("e", "e", "en"), "n": ("e", "e", "en"), "p": ("en", "en", "en")}
AFTER_EIN = {"m": ("er", "en", "en"), "f": ("e", "e", "en"), "n": ("es", "es", "en"), "p": ("en", "en", "en")}
BARE_PLURAL = ("e", "e", "en")
EIN_WORDS = {"a": "ein", "no": "kein", "my": "mein", "our": "unser", "his": "sein", "her": "ihr", "their": "ihr"}
NUMBERS = {"": "", "two": "zwei", "three": "drei", "four": "vier"}
PREPOSITIONS = {"in": "in", "behind": "hinter", "in front of": "vor", "next to": "neben", "on": "auf", "under": "unter"}


@dataclass(frozen=True)
class Phrase:
    """A noun phrase or pronoun. person: 1s, 1p, 3s or 3p; gender: m, f, n, or p for a plural."""

    english: str
    english_object: str
    nom: str
    acc: str
    dat: str
    person: str
    gender: str
    kind: str
    pronoun: bool = False


@dataclass(frozen=True)
class Part:
    """A piece of a clause in both languages; `slot` decides its place in each."""

    slot: str
    english: str
    german: str


I = Phrase("I", "me", "ich", "mich", "mir", "1s", "m", "person", True)  # noqa: E741 - the pronoun
WE = Phrase("we", "us", "wir", "uns", "uns", "1p", "p", "person", True)
THEY = ("they", "them", "sie", "sie", "ihnen")
HE, SHE = ("he", "him", "er", "ihn", "ihm"), ("she", "her", "sie", "sie", "ihr")
IT = {"m": ("er", "ihn", "ihm"), "f": ("sie", "sie", "ihr"), "n": ("es", "es", "ihm")}
POSSESSIVE = {"1s": "my", "1p": "our", "3p": "their"}


def noun_phrase(noun: Noun, det: str, adjectives: tuple[Adjective, ...] = (), plural: bool = False) -> Phrase:
    """The noun with determiner (the, this, a, no, my, ..., or "", two, three, four in the plural) and adjectives."""
    english = " ".join([*(a.english for a in adjectives), noun.plural if plural else noun.english])
    if det == "a" and not plural:
        english = with_article(english)
    elif det:
        english = f"{'these' if plural and det == 'this' else det} {english}"
    row = "p" if plural else noun.gender
    cases = [_german_case(noun, det, adjectives, row, i) for i in range(3)]
    return Phrase(english, english, *cases, "3p" if plural else "3s", row, noun.kind)


def _german_case(noun: Noun, det: str, adjectives: tuple[Adjective, ...], row: str, case: int) -> str:
    if det in ("the", "this"):
        article = THE[row][case] if det == "the" else "dies" + THIS[row][case]
        ending = AFTER_DER[row][case]
    elif det in EIN_WORDS:
        article, ending = EIN_WORDS[det] + EIN[row][case], AFTER_EIN[row][case]
    else:
        article, ending = NUMBERS[det], BARE_PLURAL[case]
    name = noun.german_plural if row == "p" else noun.german
    if row == "p" and CASES[case] == "dat" and not name.endswith(("n", "s")):
        name += "n"
    return " ".join([*filter(None, [article]), *(a.stem + ending for a in adjectives), name])


def both(first: Phrase, second: Phrase) -> Phrase:
    """Two phrases joined by "and": a plural."""
    german = (f"{getattr(first, c)} und {getattr(second, c)}" for c in CASES)
    english = f"{first.english} and {second.english}"
    return Phrase(english, english, *german, "3p", "p", first.kind)


def pronoun(of: Phrase) -> Phrase:
    """The pronoun that stands for a phrase: by sex for persons in English, by gender in German."""
    if of.pronoun:
        return of
    if of.person == "3p":
        forms = THEY
    elif of.kind == "person":
        forms = HE if of.gender == "m" else SHE
    else:
        forms = ("it", "it", *IT[of.gender])
    return Phrase(*forms, of.person, of.gender, of.kind, True)


def possessive(owner: Phrase) -> str:
    """my, our, their, his or her: the determiner that points back to the owner."""
    return POSSESSIVE.get(owner.person) or ("his" if owner.gender == "m" else "her")


def location(preposition: str, place: Phrase) -> Part:
    """A place where something is (dative), with the contraction of "in dem"."""
    german = f"{PREPOSITIONS[preposition]} {place.dat}"
    return Part("place", f"{preposition} {place.english}", german.replace("in dem ", "im ", 1))


def present(verb: Verb, person: str) -> tuple[str, str]:
    """English and German present tense."""
    if person == "3s":
        return verb.third, verb.german_third
    if person == "1s":
        return verb.english, _first_person(verb)
    return verb.english, verb.german


def _first_person(verb: Verb) -> str:
    if verb.german_third == "weiß":  # wissen: ich weiß, er weiß
        return "weiß"
    if verb.german.endswith("eln"):  # lächeln: ich lächle
        return verb.german[:-3] + "le"
    return verb.german.removesuffix("n").removesuffix("e") + "e"


def past(verb: Verb, person: str) -> tuple[str, str]:
    """English past and German Präteritum."""
    german = verb.german_past
    if person.endswith("p"):
        german += "n" if german.endswith("e") else "en"
    return verb.past, german


# modal: English third person, other persons, past; German singular, plural, past singular
MODALS = {
    "can": ("can", "can", "could", "kann", "können", "konnte"),
    "must": ("must", "must", "had to", "muss", "müssen", "musste"),
    "want": ("wants to", "want to", "wanted to", "will", "wollen", "wollte"),
}
BE = {"1s": ("am", "was", "bin", "war"), "3s": ("is", "was", "ist", "war")}
BE_PLURAL = ("are", "were", "sind", "waren")

# the order of the slots after the verb
ENGLISH_ORDER = ("pronoun", "object", "dative", "for", "with", "manner", "place", "time")
GERMAN_ORDER = ("pronoun", "time", "frequency", "dative", "with", "manner", "object", "for", "not", "place")


@dataclass(frozen=True)
class Clause:
    """subject + verb group + parts. The German verb is split: `finite` moves, `tail` (participle ...) stays last."""

    subject: Phrase
    group: str
    finite: str
    tail: str
    parts: tuple[Part, ...]

    def english(self, front: str = "", subject: bool = True) -> str:
        """Plain word order; `front` names the slot that goes first; without subject for "and repairs it"."""
        rest = [p.english for s in ENGLISH_ORDER if s != front for p in self.parts if p.slot == s]
        first = [p.english for p in self.parts if p.slot == front]
        return " ".join([*first, *([self.subject.english] if subject else []), self.group, *rest])

    def german(self, front: str = "", subject: bool = True) -> str:
        """Verb second."""
        first = [p.german for p in self.parts if p.slot == front]
        head = [*first, self.finite, self.subject.nom] if first else [self.subject.nom, self.finite]
        return " ".join([*(head if subject else [self.finite]), *self._middle(front), *filter(None, [self.tail])])

    def inverted(self) -> str:
        """German after a subordinate clause: verb first."""
        return " ".join([self.finite, self.subject.nom, *self._middle(""), *filter(None, [self.tail])])

    def verb_last(self) -> str:
        """German in a subordinate clause."""
        return " ".join([self.subject.nom, *self._middle(""), *filter(None, [self.tail]), self.finite])

    def _middle(self, front: str) -> list[str]:
        return [p.german for s in GERMAN_ORDER if s != front for p in self.parts if p.slot == s]


def clause(subject: Phrase, verb: Verb, form: str, *parts: Part, negated: bool = False) -> Clause:
    """A clause in `form`: present, past, perfect, or a modal (can, must, want) with "-past" for its past."""
    often = "".join(p.english + " " for p in parts if p.slot == "frequency")
    group, finite, tail = _verb_group(subject.person, verb, form, often, negated)
    if negated:
        parts = (*parts, Part("not", "", "nicht"))
    return Clause(subject, group, finite, tail, parts)


def no_object(subject: Phrase, verb: Verb, form: str, thing: Phrase, *parts: Part) -> Clause:
    """ "does not buy a hammer": English negates the verb, German the object (kein Hammer); `thing` has kein forms."""
    group, finite, tail = _verb_group(subject.person, verb, form, "", True)
    return Clause(subject, group, finite, tail, (Part("object", thing.english_object, thing.acc), *parts))


def _verb_group(person: str, verb: Verb, form: str, often: str, negated: bool) -> tuple[str, str, str]:
    third, plural = person == "3s", person.endswith("p")
    if form in ("present", "past"):
        english, finite = (present if form == "present" else past)(verb, person)
        if negated:
            do = "did" if form == "past" else "does" if third else "do"
            english = f"{do} not {verb.english}"
        return often + english, finite, ""
    if form == "perfect":
        have, finite = ("has" if third else "have"), {"1s": "habe", "3s": "hat"}.get(person, "haben")
        return f"{have} {'not ' if negated else ''}{often}{verb.participle}", finite, verb.german_participle
    name, _, when = form.partition("-")
    he, others, before, sg, pl, german_past = MODALS[name]
    english = before if when else he if third else others
    finite = german_past + "n" * plural if when else pl if plural else sg
    if negated:
        english = {"can": "cannot", "could": "could not"}[english]
    return f"{english} {verb.english}", finite, verb.german


def be(subject: Phrase, tense: str, english: str, german: str, *parts: Part, negated: bool = False) -> Clause:
    """ "is" with a predicate, which German puts last: "ist heute müde", "weil er heute müde ist"."""
    forms = BE.get(subject.person, BE_PLURAL)
    group, finite = (forms[0], forms[2]) if tense == "present" else (forms[1], forms[3])
    often = "".join(p.english + " " for p in parts if p.slot == "frequency")
    group = f"{group} {'not ' if negated else ''}{often}{english}"
    return Clause(subject, group, finite, ("nicht " if negated else "") + german, parts)
