"""How sure is a number? One bootstrap, paired, over questions and over seeds.

tau of a task is a ratio of sums, tokens gained over rounds; that of several tasks is their mean. Chance enters twice:

    questions   others could have been asked: those of each task are drawn anew, with replacement
    seeds       another training gives another draft: the trained drafts are drawn anew, too

All methods meet the same drawn questions, and seed s of one is compared with seed s of the other (same data order, same
noise). What two methods share then cancels in their difference, and its interval becomes narrow.

A bootstrap over S seeds is too narrow for small S: it sees (S - 1)/S of the variance, and the normal quantile z instead
of Student's. The weights w_s of the drawn seeds (their mean is 1/S) are therefore stretched,

    w_s  ->  1/S + c (w_s - 1/S),    c = t_{S-1} / z * sqrt(S / (S - 1))

which gives Student's width where seeds are all that varies and changes nothing where drafts agree. Answers come as a
table, a row each: method, seed, temperature, task, question_id, tokens, rounds, ...
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from fspad_ref.errors import InputError

LEVEL, RESAMPLES = 0.95, 2000
MEAN = "mean"  # of all tasks, each weighing alike
Values = dict[str, np.ndarray]  # method -> (tasks, seeds, 1 + resamples): of the answers as they are, then resampled


def resampled(answers: pd.DataFrame, top: str, bottom: str, resamples: int = RESAMPLES) -> Values:
    """Sum of column `top` over sum of column `bottom`, for every method, task and seed, as it is and resampled.

    Raises InputError unless all methods answered the same questions, and for sums of zero below.
    """
    rng, values = np.random.default_rng(0), defaultdict(list)
    sums = answers.groupby(["task", "method", "seed", "question_id"], sort=False)[[top, bottom]].sum()
    for task in answers["task"].unique():
        counts = sums.loc[task].unstack("question_id")  # (methods x seeds, 2 x questions)
        if counts.isna().any(axis=None):
            raise InputError(f"expected all methods to answer the same questions of task {task!r}. Ask them alike.")
        number = counts[top].shape[1]
        drawn = rng.multinomial(number, np.full(number, 1 / number), size=resamples)
        times = np.vstack((np.ones(number), drawn))  # (1 + resamples, questions): how often each question counts
        for method, rows in counts.groupby("method", sort=False):
            above, below = (rows[column].to_numpy() @ times.T for column in (top, bottom))  # (seeds, 1 + resamples)
            if not (below > 0).all():
                raise InputError(f"expected {bottom} in every resample of task {task!r}, found none. Ask more "
                                 "questions, or questions with longer answers.")  # fmt: skip
            ratio = above / below
            ratio[:, 1:] += 0.0 if number > 1 else np.nan  # a single question has no interval
            values[method].append(ratio)
    return {method: np.stack(of_tasks) for method, of_tasks in values.items()}


def columns(name: str, values: np.ndarray) -> dict[str, float]:
    """Mean over seeds with its interval, as three columns of a table: name, name_low, name_high.

    values: (seeds, 1 + resamples), a tau, or a difference or ratio of two. A task of one question has NaN bounds.
    """
    seeds, draws = values.shape[0], values.shape[1] - 1
    share = np.random.default_rng(seeds).multinomial(seeds, np.full(seeds, 1 / seeds), size=draws).T / seeds
    if seeds > 1:
        quantile = (1 + LEVEL) / 2
        stretch = stats.t.ppf(quantile, seeds - 1) / stats.norm.ppf(quantile) * np.sqrt(seeds / (seeds - 1))
        share = 1 / seeds + stretch * (share - 1 / seeds)
    low, high = np.quantile((share * values[:, 1:]).sum(axis=0), ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return {name: float(values[:, 0].mean()), f"{name}_low": float(low), f"{name}_high": float(high)}


def by_task(answers: pd.DataFrame, values: Values) -> Iterator[tuple[str, Values]]:
    """(task, its values) for every task, then for their mean; the values are (seeds, 1 + resamples) by method."""
    for number, task in enumerate(answers["task"].unique()):
        yield task, {method: of_tasks[number] for method, of_tasks in values.items()}
    yield MEAN, {method: of_tasks.mean(axis=0) for method, of_tasks in values.items()}


def gained(answers: pd.DataFrame, resamples: int = RESAMPLES) -> Values:
    """tau: tokens per forward pass of the target. The prefill and its token are no round: plain decoding has 1."""
    return resampled(answers.assign(gained=answers["tokens"] - 1), "gained", "rounds", resamples)


def taus(answers: pd.DataFrame) -> pd.DataFrame:
    """tau with its interval, a row for every temperature, task and method."""
    return pd.DataFrame([
        {"temperature": temperature, "task": task, "method": method} | columns("tau", values)
        for temperature, at in answers.groupby("temperature", sort=False)
        for task, of_methods in by_task(at, gained(at))
        for method, values in of_methods.items()
    ])  # fmt: skip


def differences(answers: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """tau of one method minus that of another, and the gain relative to the other, for (method, against) pairs; at
    temperatures at which both were measured."""
    rows = []
    for temperature, at in answers.groupby("temperature", sort=False):
        for task, tau in by_task(at, gained(at)):
            for method, against in (pair for pair in pairs if {*pair} <= {*tau}):
                a, b = tau[method], tau[against]  # (seeds, 1 + resamples)
                row = {"temperature": temperature, "task": task, "method": method, "against": against}
                rows.append(row | columns("difference", a - b) | columns("gain", a / b - 1))
    return pd.DataFrame(rows)


def spread(rows: pd.DataFrame, name: str, index: str | Sequence[str] = "method", form: str = "{:.2f}") -> str:
    """For reading: a table for every temperature, tasks side by side, the mean with its interval."""

    def cell(row: pd.Series) -> str:
        value, low, high = (form.format(row[column]) for column in (name, f"{name}_low", f"{name}_high"))
        return f"{value} [{low}, {high}]" if row["task"] == MEAN and pd.notna(row[f"{name}_low"]) else value

    tables = []
    for temperature, at in rows.assign(cell=rows.apply(cell, axis=1)).groupby("temperature", sort=False):
        wide = at.pivot(index=index, columns="task", values="cell")
        wide = wide.loc[at.set_index(index).index.unique(), at["task"].unique()].rename_axis(columns=None)
        tables.append(f"{name}, T={temperature:g}\n{wide.to_string()}")
    return "\n\n".join(tables)
