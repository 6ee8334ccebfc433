"""A verification rule on trial: its exact law, the counts of many runs, and what a test says of them."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import torch

from fspad_ref.errors import ConfigError, InputError
from fspad_ref.sampling import SamplingConfig
from fspad_ref.target import Target
from fspad_ref.teaching.broken import BROKEN, LOSSLESS, Place
from fspad_ref.teaching.exact import Law, as_law, dice, g_test, law_of, total_variation
from fspad_ref.viz.explorer.laws import law
from fspad_ref.viz.explorer.records import Round

OTHER = "(other)"
PARTS = 10**6  # a law from floating point is rounded to whole millionths, so that enumeration stays quick


@dataclass(frozen=True)
class Trial:
    """One rule at one place. target: the law it should have; emitted: the one it has, exactly. counts: of `runs` runs.

    p_value: how often chance alone would fit the target's law as badly (`exact.g_test`). path: (runs so far, p-value)
    at some smaller numbers of runs.
    """

    rule: str
    words: tuple[str, ...]
    target: Law
    emitted: Law
    counts: dict[int, int]
    runs: int
    p_value: float
    path: tuple[tuple[int, float], ...]

    @property
    def distance(self) -> Fraction:
        """Total variation between the two laws: 0 if and only if the rule is lossless here."""
        return total_variation(self.target, self.emitted)


def trial(place: Place, rule: str, runs: int = 2000, seed: int = 0) -> Trial:
    """Put a rule of `broken.LOSSLESS` or `broken.BROKEN` on trial.

    Raises ConfigError for an unknown rule, InputError for too few runs to test.
    """
    rules = LOSSLESS | BROKEN
    if rule not in rules:
        raise ConfigError(f"expected one of {sorted(rules)}, found {rule!r}. Choose one of them.")
    target, quick, choose = as_law(place.p), place.in_floats(), dice(seed)
    least = math.ceil(5 / min(target.values()))
    if runs < least:
        raise InputError(
            f"expected at least {least} runs, so that the rarest of {len(target)} words comes 5 times, found {runs}. "
            "Run more."
        )
    emitted = [rules[rule](quick, choose) for _ in range(runs)]
    marks = sorted({least, *(round(least * (runs / least) ** (step / 12)) for step in range(12)), runs})
    path = tuple((mark, g_test(Counter(emitted[:mark]), target)) for mark in marks)
    exact = law_of(lambda choose: rules[rule](place, choose))
    return Trial(rule, place.words, target, exact, dict(Counter(emitted)), runs, path[-1][1], path)


@torch.no_grad()
def place_at(
    target: Target,
    one: Round,
    node: int,
    sampling: SamplingConfig,
    words: Callable[[int], str] = str,
    least: float = 0.02,
) -> Place:
    """A node of a recorded round as a place of a few words: those with p >= least, and one word for all others.

    Guesses are the children that are among them. Of the draft's law only the children's share is recorded; the
    remainder is spread over the others as p is. Raises InputError where p leaves a single word, as at temperature 0.
    """
    logits = target.lm_head(one.features[node : node + 1])  # (1, V)
    p, raw = law(logits, sampling)[0], law(logits, SamplingConfig(temperature=1.0))[0]  # (V,)
    tokens = [token for token in p.argsort(descending=True).tolist() if p[token] >= least]
    p_, raw_ = ([float(part[w]) for w in tokens] for part in (p, raw))
    names = [words(token) for token in tokens]
    if sum(p_) < 1 - least:
        p_, raw_ = (part + [max(0.0, 1 - sum(part))] for part in (p_, raw_))
        names.append(OTHER)
    if len(names) < 2:
        raise InputError(
            f"expected a place with at least two words to choose from, found only {names}. Choose another node, or a "
            "higher temperature."
        )
    guessed = {int(one.tree.token[child]): one.q[child] for child in one.children(node)}
    known = [guessed.get(token) for token in tokens] + [None] * (len(names) - len(tokens))
    open_p = sum(x for x, q in zip(p_, known, strict=True) if q is None)
    left = max(0.0, 1 - sum(q for q in known if q is not None))
    q_ = [x * left / open_p if q is None else q for x, q in zip(p_, known, strict=True)]
    guesses = sorted((i for i, q in enumerate(known) if q is not None), key=lambda i: -known[i])
    return Place(tuple(names), *(_millionths(part) for part in (p_, raw_, q_)), tuple(guesses))


def _millionths(weights: list[float]) -> tuple[Fraction, ...]:
    parts = [max(1, round(weight * PARTS)) for weight in weights]  # no word is quite impossible
    return tuple(Fraction(part, sum(parts)) for part in parts)
