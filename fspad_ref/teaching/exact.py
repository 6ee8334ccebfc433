"""Probability distributions: exact ones by enumeration, observed ones by counting.

A *distribution* is a dict {outcome: probability}. Probabilities are Fractions; impossible outcomes are left out.
An *experiment* is a function of `choose`, its only source of chance: choose(weights) returns index i with
probability weights[i].

>>> def two_coins(choose):
...     half = Fraction(1, 2)
...     return choose([half, half]) + choose([half, half])
>>> describe(distribution_of(two_coins))
'0: 1/4, 1: 1/2, 2: 1/4'
"""

import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from fractions import Fraction
from functools import cache

from scipy.stats import power_divergence

from fspad_ref.errors import InputError

Distribution = dict[Hashable, Fraction]
Choose = Callable[[Sequence], int]


def normalised(weights: Sequence) -> list:
    """The weights over their sum: Fractions for integers and Fractions, floats for floats.

    Raises InputError if the sum is 0: then no outcome is possible.
    """
    total = sum(weights)
    if not total:
        raise InputError(f"expected a positive weight, found only zeros in {list(weights)}. Nothing can be drawn.")
    return [weight / (Fraction(total) if isinstance(total, int) else total) for weight in weights]


def as_distribution(probabilities: Sequence[Fraction]) -> Distribution:
    """The distribution of an index that has these probabilities."""
    return {index: probability for index, probability in enumerate(probabilities) if probability}


def distribution_of(experiment: Callable[[Choose], Hashable]) -> Distribution:
    """The exact distribution of what `experiment(choose)` returns: it runs once for each way its choices can fall."""
    distribution, unexplored = defaultdict(Fraction), [[]]
    while unexplored:
        outcome, probability = _run(experiment, unexplored.pop(), unexplored)
        distribution[outcome] += probability
    return dict(sorted(distribution.items()))


def _run(experiment: Callable, script: list[int], unexplored: list[list[int]]) -> tuple[Hashable, Fraction]:
    """One run: (outcome, probability). Choices follow `script`; after its end each takes the first possible index.

    The other possible indices of the choices after the end are new scripts, which are appended to `unexplored`.
    Raises InputError if the experiment chooses from weights that are not probabilities.
    """
    made, probability = [], Fraction(1)

    def choose(weights: Sequence[Fraction]) -> int:
        nonlocal probability
        if sum(weights) != 1 or min(weights) < 0:
            raise InputError(f"expected probabilities that sum to 1, found {list(map(str, weights))}. Normalise them.")
        possible = [index for index, weight in enumerate(weights) if weight]
        if len(made) == len(script):
            unexplored.extend([*made, other] for other in possible[1:])
            script.append(possible[0])
        made.append(script[len(made)])
        probability *= weights[made[-1]]
        return made[-1]

    return experiment(choose), probability


def image(distribution: Distribution, function: Callable[[Hashable], Hashable]) -> Distribution:
    """The distribution of function(outcome): probabilities of outcomes with the same value are added up."""
    values = defaultdict(Fraction)
    for outcome, probability in distribution.items():
        values[function(outcome)] += probability
    return dict(sorted(values.items()))


def text_distribution(one_round: Callable[[tuple], Distribution], start: tuple, length: int) -> Distribution:
    """The distribution of the first `length` tokens written after `start`, round after round.

    one_round(text) is the distribution of the tuple of tokens that one round emits after `text`, at least one token.
    What the last round emits beyond `length` is cut off.
    """

    @cache
    def continued(text: tuple) -> Distribution:
        if len(text) == len(start) + length:
            return {text[len(start) :]: Fraction(1)}
        distribution = defaultdict(Fraction)
        for emitted, probability in one_round(text).items():
            for whole, rest in continued((text + emitted)[: len(start) + length]).items():
                distribution[whole] += probability * rest
        return distribution

    return dict(sorted(continued(start).items()))


def total_variation(p: Distribution, q: Distribution) -> Fraction:
    """1/2 sum over outcomes |p - q|: the largest difference between the two in the probability of any event."""
    return sum((abs(p.get(x, 0) - q.get(x, 0)) for x in p.keys() | q.keys()), Fraction(0)) / 2


def describe(distribution: Mapping, words: Sequence[str] = ()) -> str:
    """A distribution in one line, with tokens as words where `words` is given."""
    return ", ".join(f"{_named(outcome, words)}: {probability}" for outcome, probability in distribution.items())


def _named(outcome: Hashable, words: Sequence[str]) -> str:
    """A token, or a tuple of tokens, in words. Anything that is not a token (a bool, say) stays as it is."""
    if isinstance(outcome, tuple):
        return " ".join(_named(part, words) for part in outcome)
    return words[outcome] if words and type(outcome) is int else str(outcome)


def dice(seed: int) -> Choose:
    """A `choose` that draws at random, the same way each time for the same seed."""
    source = random.Random(seed)
    return lambda weights: source.choices(range(len(weights)), [float(weight) for weight in weights])[0]


def g_test(observed: Mapping[Hashable, int], distribution: Distribution) -> float:
    """p-value of the counts `observed` if `distribution` is true: how often chance alone fits as badly, or worse.

    G = 2 sum O ln(O / E) with E = runs * distribution is about chi-square with (outcomes - 1) degrees of freedom. An
    outcome that the distribution excludes gives 0. Raises InputError where a cell expects fewer than 5 runs, because
    the approximation is poor there.
    """
    runs = sum(observed.values())
    expected = [float(runs * probability) for probability in distribution.values()]
    if min(expected) < 5:
        raise InputError(f"expected at least 5 runs in every cell, found {min(expected):.2g}. Run more.")
    counts = [observed.get(outcome, 0) for outcome in distribution]
    if sum(counts) < runs:
        return 0.0
    return float(power_divergence(counts, expected, lambda_="log-likelihood").pvalue)
