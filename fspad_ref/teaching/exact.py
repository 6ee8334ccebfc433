"""Laws: exact ones by trying everything, observed ones by counting.

A *law* is a dict {outcome: probability}, probabilities as Fractions, impossible outcomes left out. An *experiment* is
a function of `choose`, its only source of chance: choose(weights) returns an index, i with probability weights[i].

>>> def two_coins(choose):
...     half = Fraction(1, 2)
...     return choose([half, half]) + choose([half, half])
>>> describe(law_of(two_coins))
'0: 1/4, 1: 1/2, 2: 1/4'
>>> law_of(two_coins) == image(law_of(lambda choose: choose([Fraction(1, 4)] * 4)), lambda i: (i + 1) // 2)
True
"""

import math
import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from fractions import Fraction
from functools import cache

import torch

from fspad_ref.errors import InputError

Law = dict[Hashable, Fraction]
Choose = Callable[[Sequence[Fraction]], int]


def normalised(weights: Sequence) -> list[Fraction]:
    """The weights over their sum. Raises InputError if that is 0: then no outcome is possible."""
    total = sum(weights)
    if not total:
        raise InputError(f"expected a positive weight, found only zeros in {list(weights)}. Nothing can be drawn.")
    return [Fraction(weight) / total for weight in weights]


def as_law(probabilities: Sequence[Fraction]) -> Law:
    """The law of an index with these probabilities."""
    return {index: probability for index, probability in enumerate(probabilities) if probability}


def law_of(experiment: Callable[[Choose], Hashable]) -> Law:
    """The exact law of what `experiment(choose)` returns: run it once for each way in which its choices can fall."""
    law, unexplored = defaultdict(Fraction), [[]]
    while unexplored:
        outcome, probability = replay(experiment, unexplored.pop(), unexplored)
        law[outcome] += probability
    return dict(sorted(law.items()))


def replay(experiment: Callable, script: list[int], unexplored: list[list[int]]) -> tuple[Hashable, Fraction]:
    """One run: (outcome, probability). Choices fall as in `script`, and beyond it on the first possible index.

    Every other index that a choice beyond the script could have fallen on is a new script: it goes to `unexplored`.
    Raises InputError if the experiment chooses from weights that are no probabilities.
    """
    made, probability = [], Fraction(1)

    def choose(weights: Sequence[Fraction]) -> int:
        nonlocal probability
        if sum(weights) != 1 or min(weights) < 0:
            raise InputError(
                f"expected probabilities that sum to 1, found {[str(w) for w in weights]}. Normalise them."
            )
        possible = [index for index, weight in enumerate(weights) if weight]
        if len(made) == len(script):
            unexplored.extend([*made, other] for other in possible[1:])
            script.append(possible[0])
        made.append(script[len(made)])
        probability *= weights[made[-1]]
        return made[-1]

    return experiment(choose), probability


def image(law: Law, function: Callable[[Hashable], Hashable]) -> Law:
    """The law of function(outcome): outcomes with the same value are added up."""
    values = defaultdict(Fraction)
    for outcome, probability in law.items():
        values[function(outcome)] += probability
    return dict(sorted(values.items()))


def law_of_text(one_round: Callable[[tuple], Law], start: tuple, length: int) -> Law:
    """The law of the first `length` tokens written after `start`, round after round.

    one_round(text) is the law of the tuple of tokens that one round emits after `text`, at least one of them. What the
    last round emits beyond `length` is cut off.
    """

    @cache
    def continued(text: tuple) -> Law:
        if len(text) == len(start) + length:
            return {text[len(start) :]: Fraction(1)}
        law = defaultdict(Fraction)
        for emitted, probability in one_round(text).items():
            for whole, rest in continued((text + emitted)[: len(start) + length]).items():
                law[whole] += probability * rest
        return law

    return dict(sorted(continued(start).items()))


def total_variation(law: Law, other: Law) -> Fraction:
    """1/2 sum over outcomes |law - other|: the largest difference that any event's probabilities can have."""
    return sum((abs(law.get(x, 0) - other.get(x, 0)) for x in law.keys() | other.keys()), Fraction(0)) / 2


def describe(law: Mapping, words: Sequence[str] = ()) -> str:
    """A law in one line, tokens as words where `words` is given."""
    return ", ".join(f"{named(outcome, words)}: {probability}" for outcome, probability in law.items())


def named(outcome: Hashable, words: Sequence[str]) -> str:
    """A token, or a tuple of them, in words. What is no token (a bool, say) stays as it is."""
    if isinstance(outcome, tuple):
        return " ".join(named(part, words) for part in outcome)
    return words[outcome] if words and type(outcome) is int else str(outcome)


# --- observed laws ---------------------------------------------------------------------------------------------------


def dice(seed: int) -> Choose:
    """A `choose` that really draws, always the same way for one seed."""
    source = random.Random(seed)
    return lambda weights: source.choices(range(len(weights)), [float(weight) for weight in weights])[0]


def g_test(observed: Mapping[Hashable, int], law: Law) -> float:
    """p-value of the counts `observed` if `law` is true: how often chance alone would fit as badly, or worse.

    G = 2 sum O ln(O / E), E = runs * law, is about chi-square with (outcomes - 1) degrees of freedom. An outcome that
    the law excludes gives 0. Raises InputError where a cell expects fewer than 5, as the approximation is poor there.
    """
    runs = sum(observed.values())
    if runs * min(law.values()) < 5:
        raise InputError(
            f"expected at least 5 runs in every cell, found {float(runs * min(law.values())):.2g}. Run more."
        )
    if any(count and outcome not in law for outcome, count in observed.items()):
        return 0.0
    terms = (count * math.log(count / (runs * law[outcome])) for outcome, count in observed.items() if count)
    half_g = torch.tensor(sum(terms), dtype=torch.float64).clamp(min=0)  # below 0 by rounding alone
    freedom = torch.tensor((len(law) - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(freedom, half_g))  # P(chi2 > G)
