"""What was aimed at, what was measured, and whether the one reaches the other; computed from the results' own files."""

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fspad_ref.lab.comparison import MAIN, MEAN

OURS = "fspad"
OUTSIDE_SHARE, OF_IDEAL, OVER_TRANSFORMERS, GROWTH = 0.08, 0.9, 1.3, 4.5
SPEEDUP = {0.0: 2.0, 1.0: 1.6}
TAU = 3.2, 4.8  # of EAGLE-2: as on real models; a world that is easier to draft hides what drafts differ in


@dataclass(frozen=True)
class Goal:
    """measured is to be at least, at most, or above the bound."""

    goal: str
    measured: float
    sense: str
    bound: float

    @property
    def met(self) -> bool:
        compare = {"at least": operator.ge, "at most": operator.le, "above": operator.gt}
        return compare[self.sense](self.measured, self.bound)


def goals(results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every goal that these results can tell about. results: name of a file without .json -> what it holds."""
    found: list[Goal] = []
    if "study" in results:
        found += _claim(results["study"])
    if "speed" in results:
        found += [*_speedups(results["speed"]["summary"]), *_model(results["speed"]["cost_model"])]
    if "stages" in results:
        found += _stages(results["stages"]["profiles"])
    if "calibration" in results:
        found += _calibration(results["calibration"]["summary"])
    return [asdict(goal) | {"met": goal.met} for goal in found]


def _claim(study: Mapping[str, Any]) -> Iterator[Goal]:
    """FSPAD above EAGLE-2: lower bounds of both intervals, and the gain against the smallest published one."""
    for row in study["differences"]:
        if (row["method"], row["against"]) != MAIN or row["task"] != MEAN:
            continue
        temperature = f"{row['temperature']:g}"
        for over in ("over_seeds", "over_questions"):
            if row[over]["low"] is not None:
                what = (
                    f"T={temperature}: FSPAD - EAGLE-2 in mean tau, lower end of its interval {over.replace('_', ' ')}"
                )
                yield Goal(what, row[over]["low"], "above", 0.0)
        if temperature in study["published_gains"]:
            least = study["published_gains"][temperature][0]
            what = f"T={temperature}: FSPAD's gain over EAGLE-2 in mean tau; bound: the smallest published one"
            yield Goal(what, row["gain_over_seeds"]["value"], "at least", least)


def _speedups(rows: Sequence[Mapping[str, Any]]) -> Iterator[Goal]:
    mean = {(row["method"], row["temperature"]): row["speedup"] for row in rows if row["task"] == MEAN}
    for temperature in dict.fromkeys(row["temperature"] for row in rows):
        ours = mean[OURS, temperature]
        if temperature in SPEEDUP:
            what = f"T={temperature:g}: FSPAD's mean speedup over plain decoding, tuned tree"
            yield Goal(what, ours, "at least", SPEEDUP[temperature])
        best = max(mean[name, temperature] for name in ("prompt_lookup", "assisted"))
        what = f"T={temperature:g}: the same over the best of transformers' prompt lookup and assisted generation"
        yield Goal(what, ours / best, "at least", OVER_TRANSFORMERS)


def _model(rows: Sequence[Mapping[str, Any]]) -> Iterator[Goal]:
    for row in rows:
        if row["method"] == OURS:
            what = f"T={row['temperature']:g}: FSPAD's speedup over the cost model's ideal, tuned tree"
            yield Goal(what, row["measured_of_ideal"], "at least", OF_IDEAL)


def _stages(rows: Sequence[Mapping[str, Any]]) -> Iterator[Goal]:
    by_name = {(row["name"], row["temperature"]): row for row in rows}
    for (name, temperature), row in by_name.items():
        if name in ("tuned", "N=60"):
            what = f"T={temperature:g}: share of a round outside the models' forwards, {name}"
            yield Goal(what, row["outside_share"]["median"], "at most", OUTSIDE_SHARE)
    for temperature in dict.fromkeys(temperature for _, temperature in by_name):
        large, small = (by_name[name, temperature]["outside"]["median"] for name in ("N=240", "N=60"))
        yield Goal(f"T={temperature:g}: time outside the models' forwards, N=240 over N=60", large / small, "at most",
                   GROWTH)  # fmt: skip


def _calibration(rows: Sequence[Mapping[str, Any]]) -> Iterator[Goal]:
    """The band in which the baseline should lie."""
    for row in rows:
        if (row["method"], row["task"]) == (MAIN[1], MEAN):
            what = f"T={row['temperature']:g}: EAGLE-2's mean tau, shipped draft, tree of its paper"
            yield from (Goal(what, row["tau"], *bound) for bound in zip(("at least", "at most"), TAU, strict=True))


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """Plain text, a line a goal."""
    lines = []
    for one in found:
        verdict = "met" if one["met"] else "NOT met"
        lines.append(f"{verdict:8}{one['measured']:8.3f}  {one['sense']:9}{one['bound']:<7g}{one['goal']}")
    return "\n".join(lines)
