"""How sure is a mean? Intervals over seeds, intervals over questions, and differences of methods, paired.

tau of a task is a ratio of sums, tokens over rounds; the mean tau of several tasks weighs tasks alike. Two kinds of
chance are in it, and each has its interval, 95 % unless told otherwise:

    over seeds       x_1 .. x_S, one number a trained draft:   mean(x) +- t_{S-1} std(x) / sqrt(S)
                     what another training would give, on the same questions
    over questions   bootstrap: questions are drawn anew, with replacement and within their task; the percentiles of
                     the resampled values; what other questions would give, with the same drafts

Two methods are compared *paired*: seed s of one with seed s of the other (same data order, same noise), and in the
bootstrap both on the same resampled questions. What is common to both then cancels, and intervals become narrower.

`Counts` hold what was counted: task -> (seeds, questions, 2) with (tokens after the first, rounds) on the last axis.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from fspad_ref.errors import InputError

LEVEL = 0.95
RESAMPLES = 2000
Counts = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Estimate:
    """A value with the bounds of its confidence interval; None where there is a single value, hence no interval."""

    value: float
    low: float | None
    high: float | None


# ---- over seeds ----


def t_interval(values: Sequence[float] | np.ndarray, level: float = LEVEL) -> Estimate:
    """Mean of independent values and its Student t-interval; without bounds for a single value.

    Raises InputError for no value, and for values that are not finite.
    """
    x = np.asarray(values, dtype=float)
    if x.ndim != 1 or len(x) < 1 or not np.isfinite(x).all():
        raise InputError(f"expected at least one finite value, found {x.tolist()}. Train with one seed or more.")
    if len(x) == 1:
        return Estimate(float(x[0]), None, None)
    half = stats.t.ppf((1 + level) / 2, len(x) - 1) * stats.sem(x)
    return Estimate(float(x.mean()), float(x.mean() - half), float(x.mean() + half))


def paired_difference(a: Sequence[float], b: Sequence[float], level: float = LEVEL) -> Estimate:
    """Mean of a_s - b_s over seeds s, with the interval of the paired t-test. Raises InputError for unequal lengths."""
    return t_interval(np.subtract(*_pairs(a, b)), level)


def relative_gain(a: Sequence[float], b: Sequence[float], level: float = LEVEL) -> Estimate:
    """Mean of a_s / b_s - 1 over seeds s, with its t-interval: 0.07 is a gain of 7 % over b."""
    return t_interval(np.divide(*_pairs(a, b)) - 1.0, level)


def _pairs(a: Sequence[float], b: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if x.shape != y.shape:
        raise InputError(f"expected as many values of both methods, found {x.shape} and {y.shape}. Pair them by seed.")
    return x, y


# ---- over questions ----


def mean_tau(counts: Counts) -> np.ndarray:
    """tau of every seed, (seeds,): sum over sum within each task, then the mean over tasks.

    Raises InputError for a task without a single round, where tau is not defined.
    """
    for task, table in counts.items():
        if not (table[..., 1].sum(axis=-1) > 0).all():
            raise InputError(f"expected rounds in task {task!r}, found none. Ask questions with answers of two tokens.")
    return np.mean([_ratio(table) for table in counts.values()], axis=0)


def _ratio(table: np.ndarray) -> np.ndarray:
    """Sum over sum: (..., questions, 2) -> (...)."""
    tokens, rounds = np.moveaxis(table.sum(axis=-2), -1, 0)
    return tokens / rounds


def bootstrap_tau(counts: Counts, **settings) -> Estimate:
    """Mean tau, averaged over seeds, with its interval over questions."""
    return _bootstrap([counts], lambda tau: tau, **settings)


def bootstrap_difference(a: Counts, b: Counts, **settings) -> Estimate:
    """Mean tau of a minus that of b, averaged over seeds, both on the same resampled questions."""
    return _bootstrap([a, b], np.subtract, **settings)


def bootstrap_gain(a: Counts, b: Counts, **settings) -> Estimate:
    """Mean tau of a over that of b, minus 1, averaged over seeds, both on the same resampled questions."""
    return _bootstrap([a, b], lambda x, y: x / y - 1.0, **settings)


def _bootstrap(
    methods: Sequence[Counts],
    compare: Callable[..., np.ndarray],
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Estimate:
    """Percentile bootstrap of compare(tau of each method), averaged over seeds; stratified by task.

    scipy resamples one sample a stratum; ours are the *indices* of a task's questions, so that every method, and every
    seed, meets the same questions.
    """
    sizes = _sizes(methods)

    def statistic(*chosen: np.ndarray, axis: int) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):  # refused below
            taus = [
                np.mean([_ratio(counts[task][:, at]) for task, at in zip(sizes, chosen, strict=True)], axis=0)
                for counts in methods  # (seeds, questions, 2)[:, (resamples, questions)] -> (seeds, resamples)
            ]
            values = compare(*taus).mean(axis=0)  # (seeds, resamples) -> (resamples,)
        if not np.isfinite(values).all():
            raise InputError(
                "expected rounds in every resample, found one without: too few questions have answers of two tokens "
                "or more. Ask more questions."
            )
        return values

    value = compare(*(mean_tau(counts) for counts in methods)).mean()
    interval = stats.bootstrap(
        [np.arange(size) for size in sizes.values()],
        statistic,
        n_resamples=resamples,
        batch=250,
        vectorized=True,
        axis=-1,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(float(value), float(interval.low), float(interval.high))


def _sizes(methods: Sequence[Counts]) -> dict[str, int]:
    """Questions by task. Raises InputError unless all methods answered the same numbers of them, two a task or more."""
    first, *others = [{task: table.shape[-2] for task, table in counts.items()} for counts in methods]
    if any(other != first for other in others):
        raise InputError(f"expected the same questions for both methods, found {first} and {others}. Ask both alike.")
    if not first or min(first.values()) < 2:
        raise InputError(f"expected at least two questions a task to resample, found {first}. Ask more questions.")
    return first
