"""Verification rules to take apart: two that are lossless and eight that look lossless and are not.

For teaching only. Decoding uses `fspad_ref.verify`.

A rule is a function of a `Place` and of `choose`, its only source of chance (see `exact`), and returns the word that
it emits there. So its distribution can be enumerated in fractions, and the same function can be run and counted. Each
broken rule is the textbook rule with one line changed; a comment marks that line.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from fspad_ref.teaching.exact import Choose, normalised

Rule = Callable[["Place", Choose], int]


@dataclass(frozen=True)
class Place:
    """One place in a text: distributions over a few words, and the words that the draft proposes there, best first.

    p: the target's distribution, with temperature and cuts; raw: without them; q: the draft's. Fractions or floats,
    each summing to 1, one for each word. All guesses are different words.
    """

    words: tuple[str, ...]
    p: tuple[Fraction, ...]
    raw: tuple[Fraction, ...]
    q: tuple[Fraction, ...]
    guesses: tuple[int, ...]

    def in_floats(self) -> "Place":
        """The same place in floats, for many quick runs."""
        return replace(self, **{name: tuple(map(float, getattr(self, name))) for name in ("p", "raw", "q")})


def animals() -> Place:
    """The place of chapter 01: after *the*, at temperature 1/2, with the guesses *dog* and *cow*."""
    weights = (16, 9, 9, 1), (4, 3, 3, 1), (2, 4, 3, 1)  # p, raw, q
    return Place(("cat", "dog", "cow", "fox"), *(tuple(normalised(w)) for w in weights), guesses=(1, 2))


def _coin(chance, choose: Choose) -> bool:
    return choose([chance, 1 - chance]) == 0


def _without(weights: Sequence, word: int) -> list:
    return [weight * (index != word) for index, weight in enumerate(weights)]


def _missing(p: Sequence, q: Sequence) -> list:
    return [max(a - b, 0) for a, b in zip(p, q, strict=True)]


# ---- lossless ----


def one_draw(place: Place, choose: Choose) -> int:
    """Draw first, then ask whether the draft had proposed it: the rule of `fspad_ref.verify`."""
    return choose(place.p)


def textbook(place: Place, choose: Choose) -> int:
    """Accept each guess with its probability in the residual; after a rejection zero it and renormalise."""
    residual = list(place.p)
    for guess in place.guesses:
        if residual[guess] == 1 or _coin(residual[guess], choose):
            return guess
        residual = normalised(_without(residual, guess))
    return choose(residual)


# ---- broken ----


def bonus_from_raw(place: Place, choose: Choose) -> int:
    """The last draw forgets temperature and cuts."""
    residual, raw = list(place.p), list(place.raw)
    for guess in place.guesses:
        if residual[guess] == 1 or _coin(residual[guess], choose):
            return guess
        residual, raw = normalised(_without(residual, guess)), _without(raw, guess)
    return choose(normalised(raw))  # broken: residual


def no_renormalisation(place: Place, choose: Choose) -> int:
    """After a rejection the other guesses do not receive the probability of the rejected one."""
    residual = list(place.p)
    for guess in place.guesses:
        if residual[guess] == 1 or _coin(residual[guess], choose):
            return guess
        residual = _without(residual, guess)  # broken: normalised(...)
    return choose(normalised(residual if any(residual) else place.p))


def rejected_stays(place: Place, choose: Choose) -> int:
    """A rejected guess gets a second chance in the last draw."""
    for guess in place.guesses:
        if _coin(place.p[guess], choose):
            return guess
    return choose(place.p)  # broken: the guesses should be removed


def scored_against_q(place: Place, choose: Choose) -> int:
    """min(1, p/q) and max(p - q, 0): right for a guess *drawn* from q, but these guesses were picked."""
    residual = list(place.p)
    for guess in place.guesses:
        chance = min(1, residual[guess] / place.q[guess]) if place.q[guess] else 1  # broken: residual[guess]
        if chance == 1 or _coin(chance, choose):
            return guess
        missing = _missing(residual, place.q)
        residual = normalised(missing if any(missing) else _without(residual, guess))
    return choose(residual)


def drawn_then_picked(place: Place, choose: Choose) -> int:
    """Two words are drawn from q and only the one with the larger q is kept: no longer a draw from q."""
    guess = max(choose(place.q), choose(place.q), key=lambda word: place.q[word])  # broken: one draw
    chance = min(1, place.p[guess] / place.q[guess])
    if chance == 1 or _coin(chance, choose):
        return guess
    return choose(normalised(_missing(place.p, place.q)))


def one_uniform(place: Place, choose: Choose) -> int:
    """All guesses are compared with the same uniform number u.

    A rejection at threshold t means u >= t. So a later threshold s accepts with probability max(s - t, 0) / (1 - t).
    """
    residual, least = list(place.p), 0
    for guess in place.guesses:
        threshold = residual[guess]
        chance = max(threshold - least, 0) / (1 - least) if least < 1 else 1  # broken: threshold
        if chance == 1 or (chance and _coin(chance, choose)):
            return guess
        least = max(least, threshold)
        residual = normalised(_without(residual, guess))
    return choose(residual)


def noise_reused(place: Place, choose: Choose) -> int:
    """The tree has looked at the noise, a uniform number u: it guesses the word whose share of q holds u.

    So u lies between `least`, the shares of the words before, and least + q(guess). Then the coin is the same u.
    """
    guess = choose(place.q)
    least = sum(place.q[:guess])
    chance = min(max(place.p[guess] - least, 0) / place.q[guess], 1)  # broken: place.p[guess], a fresh coin
    if chance == 1 or (chance and _coin(chance, choose)):
        return guess
    return choose(normalised(_without(place.p, guess)))


def noise_scored_against_q(place: Place, choose: Choose, power: int = 2) -> int:
    """The guess is the best child of a tree that adds 1 / power of the noise; it is scored as if it were drawn from q.

    argmax_w( log q(w) + noise(w) / power ) is a draw from q^power, normalised. At power 1, all of the noise, that is q.
    """
    guess = choose(normalised([chance**power for chance in place.q]))  # broken: place.q
    chance = min(1, place.p[guess] / place.q[guess])
    if chance == 1 or _coin(chance, choose):
        return guess
    return choose(normalised(_missing(place.p, place.q)))


LOSSLESS: dict[str, Rule] = {"one draw": one_draw, "textbook": textbook}
BROKEN: dict[str, Rule] = {
    "bonus from raw logits": bonus_from_raw,
    "no renormalisation": no_renormalisation,
    "rejected guess stays": rejected_stays,
    "scored against q": scored_against_q,
    "drawn from q, then picked": drawn_then_picked,
    "one uniform for all siblings": one_uniform,
    "noise reused as the coin": noise_reused,
    "noise, then scored against q": noise_scored_against_q,
}
