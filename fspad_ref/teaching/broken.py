"""Verification rules to be taken apart: two that are lossless and six that look it and are not.

FOR TEACHING ONLY. No decoding uses this file and nothing of the method imports it; `fspad_ref.verify` is the verifier.

A rule is a function of a `Place` and of `choose`, its only source of chance (see `exact`): it returns the word that it
emits at that place. So its law can be enumerated in fractions, and the same function can be run and counted. Every
broken rule is the textbook's with one line changed, which is marked.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from fspad_ref.errors import InputError
from fspad_ref.teaching.exact import Choose

Rule = Callable[["Place", Choose], int]


@dataclass(frozen=True)
class Place:
    """One place of a text: laws over a few words, and the words that the draft has guessed there, best first.

    p: the target's law, with temperature and cuts; raw: without; q: the draft's. Fractions or floats, each summing to
    1. Raises InputError for laws of unequal length, and for guesses that are not different words among them.
    """

    words: tuple[str, ...]
    p: tuple[Fraction, ...]
    raw: tuple[Fraction, ...]
    q: tuple[Fraction, ...]
    guesses: tuple[int, ...]

    def __post_init__(self):
        lengths = {len(self.words), len(self.p), len(self.raw), len(self.q)}
        if len(lengths) > 1 or len(set(self.guesses)) < len(self.guesses) or max(self.guesses, default=0) >= len(self):
            raise InputError(
                f"expected laws over {len(self)} words and different guesses among them, found {lengths} words and "
                f"guesses {self.guesses}. Give p, raw, q one number a word."
            )

    def __len__(self) -> int:
        return len(self.words)

    def in_floats(self) -> "Place":
        """The same with floats, to be run often."""
        return replace(self, **{name: tuple(map(float, getattr(self, name))) for name in ("p", "raw", "q")})


def animals() -> Place:
    """The place of chapter 01: after *the*, at temperature 1/2, with the guesses *dog* and *cow*."""
    p, raw, q = ((16, 9, 9, 1), (4, 3, 3, 1), (2, 4, 3, 1))
    laws = (tuple(_shared(weights)) for weights in (p, raw, q))
    return Place(("cat", "dog", "cow", "fox"), *laws, guesses=(1, 2))


def _shared(weights: Sequence) -> list:
    """The weights over their sum, in whatever numbers they are."""
    total = sum(weights)
    if not total:
        raise InputError("expected a positive weight, found only zeros: nothing can be drawn. Choose another place.")
    total = Fraction(total) if isinstance(total, int) else total
    return [weight / total for weight in weights]


def _coin(chance, choose: Choose) -> bool:
    return choose([chance, 1 - chance]) == 0


def _without(weights: Sequence, word: int) -> list:
    return [weight * (index != word) for index, weight in enumerate(weights)]


# --- lossless --------------------------------------------------------------------------------------------------------


def one_draw(place: Place, choose: Choose) -> int:
    """Draw first, ask afterwards whether it was guessed: what `fspad_ref.verify` does."""
    return choose(place.p)


def textbook(place: Place, choose: Choose) -> int:
    """Accept each guess with its probability in the residual; after a rejection zero it and renormalise."""
    residual = list(place.p)
    for guess in place.guesses:
        if residual[guess] == 1 or _coin(residual[guess], choose):
            return guess
        residual = _shared(_without(residual, guess))
    return choose(residual)


# --- broken ----------------------------------------------------------------------------------------------------------


def bonus_from_raw(place: Place, choose: Choose) -> int:
    """The last draw forgets temperature and cuts."""
    residual, raw = list(place.p), list(place.raw)
    for guess in place.guesses:
        if residual[guess] == 1 or _coin(residual[guess], choose):
            return guess
        residual, raw = _shared(_without(residual, guess)), _without(raw, guess)
    return choose(_shared(raw))  # broken: residual


def no_renormalisation(place: Place, choose: Choose) -> int:
    """After a rejection the other guesses do not get what the rejected one leaves."""
    residual = list(place.p)
    for guess in place.guesses:
        if residual[guess] == 1 or _coin(residual[guess], choose):
            return guess
        residual = _without(residual, guess)  # broken: _shared(...)
    return choose(_shared(residual if any(residual) else place.p))


def rejected_stays(place: Place, choose: Choose) -> int:
    """A rejected guess gets a second chance as the last draw."""
    for guess in place.guesses:
        if _coin(place.p[guess], choose):
            return guess
    return choose(place.p)  # broken: the guesses should be gone


def scored_against_q(place: Place, choose: Choose) -> int:
    """min(1, p/q) and max(p - q, 0): right for a guess *drawn* from q, but these were picked."""
    residual = list(place.p)
    for guess in place.guesses:
        chance = min(1, residual[guess] / place.q[guess]) if place.q[guess] else 1  # broken: residual[guess]
        if chance == 1 or _coin(chance, choose):
            return guess
        missing = [max(p - q, 0) for p, q in zip(residual, place.q, strict=True)]
        residual = _shared(missing if any(missing) else _without(residual, guess))
    return choose(residual)


def drawn_then_picked(place: Place, choose: Choose) -> int:
    """Two words are drawn from q and only the one with the larger q is kept: that is no draw from q any more."""
    guess = max(choose(place.q), choose(place.q), key=lambda word: place.q[word])  # broken: one draw
    chance = min(1, place.p[guess] / place.q[guess])
    if chance == 1 or _coin(chance, choose):
        return guess
    missing = [max(p - q, 0) for p, q in zip(place.p, place.q, strict=True)]
    return choose(_shared(missing))


def one_uniform(place: Place, choose: Choose) -> int:
    """All guesses are compared with the same uniform number u.

    A rejection at the threshold t says u >= t; so a later threshold s accepts with (s - t) / (1 - t), or never.
    """
    residual, least = list(place.p), 0
    for guess in place.guesses:
        threshold = residual[guess]
        chance = max(threshold - least, 0) / (1 - least) if least < 1 else 1  # broken: threshold
        if chance == 1 or (chance and _coin(chance, choose)):
            return guess
        least = max(least, threshold)
        residual = _shared(_without(residual, guess))
    return choose(residual)


LOSSLESS: dict[str, Rule] = {"one draw": one_draw, "textbook": textbook}
BROKEN: dict[str, Rule] = {
    "bonus from raw logits": bonus_from_raw,
    "no renormalisation": no_renormalisation,
    "rejected guess stays": rejected_stays,
    "scored against q": scored_against_q,
    "drawn from q, then picked": drawn_then_picked,
    "one uniform for all siblings": one_uniform,
}
