"""Intervals equal scipy's and worked examples, pairing works, and 95 % intervals hold the truth 95 % of the time."""

import numpy as np
import pytest
from scipy import stats

from fspad_ref.bench.statistics import (
    Estimate,
    bootstrap_difference,
    bootstrap_gain,
    bootstrap_tau,
    mean_tau,
    paired_difference,
    relative_gain,
    t_interval,
)
from fspad_ref.errors import InputError

# one seed; task "a" has two questions of (tokens, rounds), task "b" three
BY_HAND = {"a": np.array([[[10, 5], [20, 5]]]), "b": np.array([[[4, 4], [4, 2], [4, 2]]])}


def close(estimate, value: float, low: float, high: float, tolerance: float = 1e-12) -> bool:
    return np.allclose([estimate.value, estimate.low, estimate.high], [value, low, high], atol=tolerance, rtol=0)


def random_counts(rng: np.random.Generator, seeds: int = 2, questions: int = 40) -> dict[str, np.ndarray]:
    """Two tasks; rounds 5 to 19 a question, about 3 tokens a round in one task and 4 in the other."""
    counts = {}
    for task, tau in (("a", 3.0), ("b", 4.0)):
        rounds = rng.integers(5, 20, size=(seeds, questions))
        counts[task] = np.stack((rng.poisson(tau * rounds), rounds), axis=-1)
    return counts


def test_t_interval_by_hand() -> None:
    # mean 3, standard deviation 1, t_{0.975, 2} = 4.302653: half-width 4.302653 / sqrt(3)
    assert close(t_interval([2.0, 3.0, 4.0]), 3.0, 3.0 - 2.484138, 3.0 + 2.484138, 1e-6)


def test_a_single_value_has_no_interval() -> None:
    assert t_interval([1.5]) == Estimate(1.5, None, None)
    assert relative_gain([3.0], [2.0]) == Estimate(0.5, None, None)


def test_paired_difference_is_scipys_paired_t_test() -> None:
    rng = np.random.default_rng(1)
    b = rng.normal(4.0, 0.5, 7)
    a = b + rng.normal(0.3, 0.05, 7)
    theirs = stats.ttest_rel(a, b).confidence_interval(0.9)
    assert close(paired_difference(a, b, level=0.9), (a - b).mean(), theirs.low, theirs.high)
    paired, apart = paired_difference(a, b), stats.ttest_ind(a, b).confidence_interval()
    assert paired.high - paired.low < (apart.high - apart.low) / 3, "what both share must cancel"


def test_relative_gain_by_hand() -> None:
    # gains 10 % and 20 %: mean 15 %, standard error 5 %, t_{0.975, 1} = 12.706205
    assert close(relative_gain([2.2, 4.8], [2.0, 4.0]), 0.15, 0.15 - 0.6353102, 0.15 + 0.6353102, 1e-6)


def test_tau_is_sum_over_sum_then_the_mean_of_tasks() -> None:
    assert mean_tau(BY_HAND).tolist() == [(30 / 10 + 12 / 8) / 2]
    assert bootstrap_tau(BY_HAND, resamples=10).value == 2.25


def test_bootstrap_is_scipys_on_a_single_task() -> None:
    tokens, rounds = random_counts(np.random.default_rng(2), seeds=1)["a"][0].T
    ours = bootstrap_tau({"a": np.stack((tokens, rounds), axis=-1)[None]}, resamples=4000)
    theirs = stats.bootstrap(
        (tokens, rounds), lambda x, y, axis: x.sum(axis) / y.sum(axis), paired=True, method="percentile",
        n_resamples=4000, rng=np.random.default_rng(3),
    ).confidence_interval  # fmt: skip
    assert close(ours, tokens.sum() / rounds.sum(), theirs.low, theirs.high, tolerance=0.02)
    assert ours.high - ours.low > 0.1, "the tolerance must be small against the width"


def test_resampling_stays_within_tasks() -> None:
    """All questions of a task alike: no resample can differ, though the tasks differ much."""
    same = {"a": np.full((3, 5, 2), (9, 3)), "b": np.full((3, 7, 2), (50, 10))}
    assert close(bootstrap_tau(same), 4.0, 4.0, 4.0)


def test_methods_meet_the_same_questions() -> None:
    """b needs twice a's rounds on every question: whatever is drawn, its tau is half."""
    a = random_counts(np.random.default_rng(4))
    b = {task: table * [1, 2] for task, table in a.items()}
    assert close(bootstrap_gain(a, b), 1.0, 1.0, 1.0)
    halves, tau = bootstrap_difference(a, b, seed=5), bootstrap_tau(a, seed=5)
    assert close(halves, tau.value / 2, tau.low / 2, tau.high / 2)


def test_the_value_is_the_mean_over_seeds() -> None:
    a, b = (random_counts(np.random.default_rng(seed), seeds=4) for seed in (6, 7))
    assert np.isclose(bootstrap_difference(a, b).value, paired_difference(mean_tau(a), mean_tau(b)).value)
    assert np.isclose(bootstrap_gain(a, b).value, relative_gain(mean_tau(a), mean_tau(b)).value)


def test_coverage_over_seeds() -> None:
    rng = np.random.default_rng(8)
    intervals = [paired_difference(rng.normal(1.0, 2.0, 5), rng.normal(0.0, 1.0, 5)) for _ in range(600)]
    held = np.mean([i.low <= 1.0 <= i.high for i in intervals])
    assert abs(held - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 600)


def test_coverage_over_questions() -> None:
    rng = np.random.default_rng(9)
    samples = [random_counts(rng, seeds=1) for _ in range(250)]
    intervals = [bootstrap_tau(sample, resamples=300, seed=n) for n, sample in enumerate(samples)]
    held = np.mean([i.low <= 3.5 <= i.high for i in intervals])
    # percentiles of 40 questions a task are a little narrow: 94 % rather than 95 %
    assert abs(held - 0.94) < 4 * np.sqrt(0.95 * 0.05 / 250)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: t_interval([]), "at least one finite value"),
        (lambda: t_interval([1.0, np.nan]), "at least one finite value"),
        (lambda: paired_difference([1.0, 2.0], [1.0]), "Pair them by seed"),
        (lambda: mean_tau({"a": np.zeros((1, 3, 2))}), "found none"),
        (lambda: bootstrap_tau({"a": np.ones((1, 1, 2))}), "two questions a task"),
        (lambda: bootstrap_difference(BY_HAND, {"a": BY_HAND["a"]}), "Ask both alike"),
        (lambda: bootstrap_tau({"a": np.array([[[4, 2], [0, 0]]])}), "resample"),
    ],
)
def test_what_has_no_interval_is_refused(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
