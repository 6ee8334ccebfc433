"""Ratios of sums, pairing, and 95 % intervals that hold the truth 95 % of the time, over questions and over seeds."""

import numpy as np
import pandas as pd
import pytest

from fspad_ref.bench.statistics import columns, differences, gained, spread, taus


def answers_of(counts: dict[str, dict[str, np.ndarray]]) -> pd.DataFrame:
    """method -> task -> (seeds, questions, 2) of (tokens after the first, rounds)."""
    return pd.DataFrame([
        {"method": method, "seed": seed, "temperature": 0.0, "task": task, "question_id": question,
         "tokens": 1 + gain, "rounds": rounds}
        for method, tasks in counts.items() for task, table in tasks.items()
        for seed, row in enumerate(table.tolist()) for question, (gain, rounds) in enumerate(row)
    ])  # fmt: skip


def random_counts(rng: np.random.Generator, seeds: int = 1, spread: float = 0.0, questions: int = 40) -> dict:
    """Two tasks, about 3 tokens per round in one and 4 in the other; questions differ, and so do seeds by `spread`."""
    counts, of_seed = {}, rng.normal(0, spread, size=(seeds, 1))
    for task, tau in (("a", 3.0), ("b", 4.0)):
        rounds = np.tile(rng.integers(5, 20, size=questions), (seeds, 1))
        noise = rng.normal(0, 0.6, size=questions) + rng.normal(0, 0.1, size=(seeds, questions))
        counts[task] = np.stack((rounds * (tau + of_seed + noise), rounds), axis=-1)
    return counts


def test_tau_is_sum_over_sum_then_the_mean_of_tasks():
    """Two turns of a question count together: question 0 of task b has (4 + 2, 2 + 1)."""
    answers = answers_of({"m": {"a": np.array([[[10, 5], [20, 5]]]), "b": np.array([[[4, 2], [3, 3]]])}})
    answers.loc[len(answers)] = dict(answers.loc[2]) | {"tokens": 3, "rounds": 1}
    found = taus(answers).set_index("task")["tau"]
    assert found.to_dict() == pytest.approx({"a": 30 / 10, "b": 9 / 6, "mean": (3 + 1.5) / 2})
    assert found["mean"] == taus(answers.sample(frac=1, random_state=0)).set_index("task")["tau"]["mean"]


def test_resampling_stays_within_tasks():
    """All questions of a task alike: no resample can differ, though the tasks differ much."""
    same = {"a": np.full((3, 5, 2), (9, 3)), "b": np.full((3, 7, 2), (50, 10))}
    assert np.allclose(list(columns("tau", gained(answers_of({"m": same}))["m"].mean(axis=0)).values()), 4.0)


def test_methods_meet_the_same_questions_and_seeds():
    """b needs twice a's rounds on every question: whatever is drawn, its tau is half."""
    a = random_counts(np.random.default_rng(4), 3, 0.3)
    answers = answers_of({"a": a, "b": {task: table * [1, 2] for task, table in a.items()}})
    tau, found = taus(answers), differences(answers, [("a", "b")])
    assert np.allclose(found[["gain", "gain_low", "gain_high"]], 1.0)
    of_a = tau[tau["method"] == "a"][["tau", "tau_low", "tau_high"]].to_numpy()
    assert np.allclose(found[["difference", "difference_low", "difference_high"]], of_a / 2)
    assert (of_a[:, 2] - of_a[:, 1] > 0.1).all()


@pytest.mark.parametrize("seeds, spread", [(1, 0.0), (3, 0.0), (3, 0.1), (3, 0.3), (5, 0.3)])
def test_coverage(seeds, spread):
    """The truth is 3.5: questions alone vary, seeds too, or mostly seeds. Unstretched, 3 seeds would hold 75 %."""
    rng, held = np.random.default_rng(9), []
    for _ in range(300):
        answers = answers_of({"m": random_counts(rng, seeds, spread)})
        found = columns("tau", gained(answers, 300)["m"].mean(0))
        held.append(found["tau_low"] <= 3.5 <= found["tau_high"])
    # percentiles of 40 questions are a little narrow: 94 % rather than 95 %
    assert abs(np.mean(held) - 0.94) < 4 * np.sqrt(0.95 * 0.05 / 300), np.mean(held)


def test_one_question_has_no_interval_and_the_table_is_read_off_the_rows():
    rows = taus(answers_of({"m": {"a": np.array([[[6, 3]]]), "b": np.array([[[9, 3], [9, 3]]])}}))
    assert rows["tau"].tolist() == [2.0, 3.0, 2.5]
    assert rows["tau_low"].isna().tolist() == [True, False, True]
    assert spread(rows, "tau").endswith(" 2.50") and spread(rows, "tau").startswith("tau, T=0")
