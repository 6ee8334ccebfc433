"""From counted rounds to claims: tau of every method with its intervals, paired differences, n-alpha, and their table.

Everywhere `rounds` and the like hold one list a seed. tau is tokens a target forward, so that plain decoding has 1; the
"mean" of several tasks weighs tasks alike.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fspad_ref.lab.recordings import Recording
from fspad_ref.lab.statistics import (
    Counts,
    Estimate,
    bootstrap_difference,
    bootstrap_gain,
    bootstrap_tau,
    mean_tau,
    paired_difference,
    relative_gain,
    t_interval,
)

MEAN = "mean"
POOLED = "all"
MAIN = ("fspad", "eagle")  # the claim
CONTROL = ("fspad", "eagle_wide")  # at equal parameters


@dataclass(frozen=True)
class Tau:
    """tau of one method on one task, or on "mean": of every seed, their mean, and both intervals."""

    method: str
    task: str
    temperature: float
    by_seed: list[float]
    over_seeds: Estimate
    over_questions: Estimate


@dataclass(frozen=True)
class Difference:
    """tau of `method` minus tau of `against`, paired; and as a gain, relative to `against`."""

    method: str
    against: str
    task: str
    temperature: float
    by_seed: list[float]
    over_seeds: Estimate
    over_questions: Estimate
    gain_over_seeds: Estimate
    gain_over_questions: Estimate


@dataclass(frozen=True)
class Alpha:
    """n-alpha of one method on one task, or on all of them pooled: of every seed, their mean and its interval."""

    method: str
    task: str
    temperature: float
    n: int
    by_seed: list[float]
    over_seeds: Estimate


def count(recordings: Sequence[Recording], rounds: Sequence[Sequence[int]], temperature: float) -> Counts:
    """Tokens after the first, and rounds, by question, its turns added up.

    rounds: a list a seed, which says how many rounds each recording took.
    """
    counts = {}
    for task in dict.fromkeys(one.category for one in recordings):
        mine = [i for i, one in enumerate(recordings) if (one.category, one.temperature) == (task, temperature)]
        row = {
            question: number for number, question in enumerate(dict.fromkeys(recordings[i].question_id for i in mine))
        }
        counts[task] = np.zeros((len(rounds), len(row), 2))
        for i in mine:
            at = row[recordings[i].question_id]
            counts[task][:, at, 0] += len(recordings[i].tokens) - 1
            counts[task][:, at, 1] += [of_seed[i] for of_seed in rounds]
    return counts


def _tasks(counts: Counts) -> Iterator[tuple[str, list[str]]]:
    """Every task and the tasks it stands for: itself, and for the mean all."""
    yield from ((task, [task]) for task in counts)
    yield MEAN, list(counts)


def _part(counts: Counts, tasks: Sequence[str]) -> Counts:
    return {task: counts[task] for task in tasks}


def taus(counts: Mapping[str, Counts], temperature: float, resamples: int) -> list[Tau]:
    """tau by method and task. counts: method -> its counts at this temperature."""
    rows = []
    for method, mine in counts.items():
        for task, tasks in _tasks(mine):
            part = _part(mine, tasks)
            by_seed = mean_tau(part).tolist()
            over_questions = bootstrap_tau(part, resamples=resamples)
            rows.append(Tau(method, task, temperature, by_seed, t_interval(by_seed), over_questions))
    return rows


def differences(
    counts: Mapping[str, Counts], pairs: Sequence[tuple[str, str]], temperature: float, resamples: int
) -> list[Difference]:
    """Paired differences by task, for every pair (method, against)."""
    rows = []
    for method, against in pairs:
        for task, tasks in _tasks(counts[method]):
            a, b = (_part(counts[name], tasks) for name in (method, against))
            x, y = mean_tau(a), mean_tau(b)
            rows.append(
                Difference(
                    method,
                    against,
                    task,
                    temperature,
                    by_seed=(x - y).tolist(),
                    over_seeds=paired_difference(x, y),
                    over_questions=bootstrap_difference(a, b, resamples=resamples),
                    gain_over_seeds=relative_gain(x, y),
                    gain_over_questions=bootstrap_gain(a, b, resamples=resamples),
                )
            )
    return rows


def alphas(counted: Mapping[str, Sequence[Mapping[str, Any]]], temperature: float) -> list[Alpha]:
    """n-alpha by method, task and n, as far as every seed had a chain that long to try.

    counted: method -> for every seed, by "temperature task", (accepted, tried) of 0-alpha, 1-alpha, ...
    """
    rows = []
    for method, seeds in counted.items():
        for task, table in _by_task(seeds, temperature).items():
            accepted, tried = np.moveaxis(table, -1, 0)  # (seeds, n + 1) each
            for n in np.flatnonzero((tried > 0).all(axis=0)).tolist():
                by_seed = (accepted[:, n] / tried[:, n]).tolist()
                rows.append(Alpha(method, task, temperature, n, by_seed, t_interval(by_seed)))
    return rows


def _by_task(seeds: Sequence[Mapping[str, Any]], temperature: float) -> dict[str, np.ndarray]:
    """Counts of all seeds by task, at one temperature, and of all tasks pooled."""
    names = [name.split(" ", 1) for name in seeds[0]]
    tasks = [task for at, task in names if at == f"{temperature:g}"]
    tables = {task: np.array([of[f"{temperature:g} {task}"] for of in seeds], dtype=float) for task in tasks}
    return tables | {POOLED: sum(tables.values())}


def compare(
    recordings: Sequence[Recording],
    measured: Mapping[str, Sequence[Mapping[str, Any]]],
    temperatures: Sequence[float],
    resamples: int,
) -> dict[str, list[dict[str, Any]]]:
    """tau, its paired differences, n-alpha and accepted tokens a round, as plain data.

    measured: method -> for every seed what `study.measure` says. Every method is held against the first of MAIN.
    """
    pairs = [(method, MAIN[1]) for method in measured if method != MAIN[1]]
    pairs += [CONTROL] if {*CONTROL} <= {*measured} else []
    rows: dict[str, list] = {"taus": [], "differences": [], "alphas": []}
    accepted = []
    for temperature in temperatures:
        counts = {method: count(recordings, [one["rounds"] for one in seeds], temperature)
                  for method, seeds in measured.items()}  # fmt: skip
        chains = {method: [one["chains"] for one in seeds] for method, seeds in measured.items()}
        rows["taus"] += taus(counts, temperature, resamples)
        rows["differences"] += differences(counts, pairs, temperature, resamples)
        rows["alphas"] += alphas(chains, temperature)
        for method, seeds in measured.items():
            for task, table in _by_task([one["accepted"] for one in seeds], temperature).items():
                accepted.append({"method": method, "task": task, "temperature": temperature,
                                 "rounds_by_seed": table.astype(int).tolist()})  # fmt: skip
    return {name: [asdict(row) for row in found] for name, found in rows.items()} | {"accepted": accepted}


# ---- plain text ----


def table(results: Mapping[str, Any]) -> str:
    """The results of a study (study.py), as they stand in its file, for reading: intervals are 95 %, over seeds."""
    methods = [draft["method"] for draft in results["drafts"]]
    temperatures = list(dict.fromkeys(row["temperature"] for row in results["taus"]))
    tasks = list(dict.fromkeys(row["task"] for row in results["taus"]))
    seeds = len(results["taus"][0]["by_seed"])
    lines = [f"tau: tokens a target forward (plain decoding has 1); means of {seeds} seeds"]
    for temperature in temperatures:
        at = {(row["method"], row["task"]): row for row in results["taus"] if row["temperature"] == temperature}
        lines.append(f"\nT={temperature:g}".ljust(13) + "".join(f"{task.split('_')[0][:13]:>14}" for task in tasks))
        for method in methods:
            values = (f"{at[method, task]['over_seeds']['value']:14.3f}" for task in tasks)
            lines.append(f"{method:12}" + "".join(values) + "  " + _bounds(at[method, MEAN]["over_seeds"], "{:.3f}"))
        lines += _difference_lines(results["differences"], temperature)
    return "\n".join([*lines, *_draft_lines(results, temperatures), *_alpha_lines(results["alphas"])])


def _bounds(estimate: Mapping[str, float | None], form: str) -> str:
    if estimate["low"] is None:
        return "[one seed]"
    return f"[{form.format(estimate['low'])}, {form.format(estimate['high'])}]"


def _difference_lines(rows: Sequence[Mapping[str, Any]], temperature: float) -> list[str]:
    """FSPAD against EAGLE by task, every other pair in the mean."""
    lines = [f"\nT={temperature:g}, difference of tau".ljust(44) + "over seeds        over questions    gain"]
    for row in rows:
        main = (row["method"], row["against"]) == MAIN
        if row["temperature"] == temperature and (main or row["task"] == MEAN):
            name = f"{row['method']} - {row['against']}, {row['task']}"
            bounds = (_bounds(row[over], "{:+.3f}") for over in ("over_seeds", "over_questions"))
            gain = f"{row['gain_over_seeds']['value']:+.1%} {_bounds(row['gain_over_seeds'], '{:+.1%}')}"
            lines.append(f"{name:34} {row['over_seeds']['value']:+.3f}  " + "  ".join([*bounds, gain]))
    return lines


def _draft_lines(results: Mapping[str, Any], temperatures: Sequence[float]) -> list[str]:
    """The ablation: what each draft has and costs, and its mean tau."""
    mean = {(r["method"], r["temperature"]): r["over_seeds"] for r in results["taus"] if r["task"] == MEAN}
    lines = ["\ndraft         parameters   s a step" + "".join(f"{f'mean tau, T={t:g}':>17}" for t in temperatures)]
    for draft in results["drafts"]:
        values = "".join(f"{mean[draft['method'], t]['value']:17.3f}" for t in temperatures)
        lines.append(f"{draft['method']:12}{draft['parameters']:12,}{draft['seconds_per_step']['draft']:11.4f}{values}")
    return lines


def _alpha_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [row for row in rows if row["task"] == POOLED]
    most = max((row["n"] for row in rows), default=-1)
    lines = ["\nn-alpha".ljust(21) + "".join(f"{n:8}" for n in range(most + 1))]
    for method, temperature in dict.fromkeys((row["method"], row["temperature"]) for row in rows):
        mine = [
            row["over_seeds"]["value"] for row in rows if (row["method"], row["temperature"]) == (method, temperature)
        ]
        lines.append(f"{method:12} T={temperature:<5g}" + "".join(f"{value:8.3f}" for value in mine))
    return lines
