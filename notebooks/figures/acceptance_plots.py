"""Pictures of chapter 08, section 3: what the recorded study says about acceptance.

Rows are those of data/results/study.json, as lab/comparison.py writes them. As in `plots`: numbers -> Figure, and
beside it the same numbers -> one line of text.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from figures import alignment_plots
from fspad_ref.bench.bench import PLAIN
from fspad_ref.bench.study import CONTROL, MAIN, MEAN
from fspad_ref.errors import InputError
from fspad_ref.viz.style import (
    BLACK,
    BLUE,
    DARK,
    HATCHES,
    VERMILION,
    Measure,
    acceptance_claim,
    styled,
)

LABELS = {PLAIN: "plain decoding", "generate": "transformers' own `generate`", "prompt_lookup": "prompt lookup",
          "assisted": "assisted generation", "medusa": "Medusa", "eagle_static": "EAGLE, static tree",
          "eagle": "EAGLE-2", "eagle_wide": "EAGLE-2, as large as FSPAD", "fs": "feature sampling only",
          "pad": "partial alignment only", "fspad": "FSPAD"}  # fmt: skip

Row = Mapping[str, Any]
LOOKS = alignment_plots.LOOKS | {"eagle_wide": (BLUE, "P")}  # kind -> (colour, marker)


def pick(rows: Sequence[Row], **fields: Any) -> list[Row]:
    """The rows in which every named field has that value. Raises InputError if there is none."""
    found = [row for row in rows if all(row[name] == value for name, value in fields.items())]
    if not found:
        raise InputError(f"expected a row with {fields}, found none among {len(rows)}. Ask for what was measured.")
    return found


def _by_temperature(rows: Sequence[Row]) -> dict[float, list[Row]]:
    return {t: pick(rows, temperature=t) for t in dict.fromkeys(row["temperature"] for row in rows)}


def _panels(rows: Sequence[Row], size: tuple[float, float], **shared: Any) -> tuple[Figure, dict[Axes, list[Row]]]:
    """A figure with a panel for the rows of every temperature."""
    by_temperature = _by_temperature(rows)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(by_temperature), squeeze=False, **shared)[0]
    for axes, temperature in zip(panels, by_temperature, strict=True):
        axes.set_title(f"T={temperature:g}")
    return figure, dict(zip(panels, by_temperature.values(), strict=True))


# --- tau -------------------------------------------------------------------------------------------------------------


@styled
def tau_dots(rows: Sequence[Row]) -> Figure:
    """tau by task and method, a panel a temperature: mean over seeds with its t-interval."""
    tasks, methods = (list(dict.fromkeys(row[name] for row in rows)) for name in ("task", "method"))
    figure, panels = _panels(rows, (9.4, 0.62 * len(tasks) + 1.3), sharex=True, sharey=True)
    for axes, mine in panels.items():
        for row in mine:
            index = methods.index(row["method"])
            place = tasks.index(row["task"]) + 0.72 * ((index + 0.5) / len(methods) - 0.5)
            _dot(axes, row["over_seeds"], place, *LOOKS[row["method"]])
        for place in range(1, len(tasks)):
            axes.axhline(place - 0.5, color=BLACK if tasks[place] == MEAN else "#DDDDDD", linewidth=0.8)
        axes.set_xlabel("tau: tokens a target forward (accepted + 1)")
        axes.grid(visible=False, axis="y")
    _task_axis(list(panels), tasks)
    _legend(figure, methods)
    return figure


def tau_claim(rows: Sequence[Row]) -> str:
    """In how many tasks FSPAD's tau is above EAGLE-2's."""
    measures = [Measure(r["task"], LABELS[r["method"]], r["temperature"], r["over_seeds"]["value"]) for r in rows]
    return acceptance_claim(measures, *(LABELS[name] for name in MAIN))


def _task_axis(panels: Sequence[Axes], tasks: Sequence[str]) -> None:
    """Tasks from top to bottom, lines at the values."""
    panels[0].set_yticks(range(len(tasks)), [task.replace("_", " ") for task in tasks])
    panels[0].set_ylim(len(tasks) - 0.5, -0.5)
    for axes in panels:
        axes.grid(axis="x")


def _dot(axes: Axes, one: Row, place: float, colour: str, marker: str) -> None:
    """A value with its horizontal interval, if it has one."""
    if one["low"] is not None:
        axes.hlines(place, one["low"], one["high"], color=colour, linewidth=1.6)
    axes.plot(one["value"], place, color=colour, marker=marker, markersize=5)


def _legend(figure: Figure, methods: Sequence[str], more: Sequence[Line2D] = ()) -> None:
    looks = {name: LOOKS[name] for name in methods}
    handles = [Line2D([], [], color=c, marker=m, label=LABELS[name]) for name, (c, m) in looks.items()]
    figure.legend(handles=[*handles, *more], loc="outside lower center", ncols=3, fontsize=9)


# --- the claim -------------------------------------------------------------------------------------------------------


@styled
def gain_forest(rows: Sequence[Row], published: Mapping[str, Sequence[float]]) -> Figure:
    """Gains by task, in percent, with both intervals; a panel a temperature; what was published for the mean as a band.

    rows: of study.json's differences, one pair of methods.
    """
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    figure, panels = _panels(rows, (9.4, 0.5 * len(tasks) + 1.3), sharex=True, sharey=True)
    kinds = (("gain_over_seeds", "s", BLUE, -0.14), ("gain_over_questions", "o", VERMILION, 0.14))
    for axes, mine in panels.items():
        if band := published.get(f"{mine[0]['temperature']:g}"):
            axes.axvspan(100 * band[0], 100 * band[1], facecolor="#DDDDDD", hatch="//", edgecolor="white", linewidth=0)
        for row in mine:
            for name, marker, colour, shift in kinds:
                percent = {key: None if value is None else 100 * value for key, value in row[name].items()}
                _dot(axes, percent, tasks.index(row["task"]) + shift, colour, marker)
        axes.axvline(0, color=BLACK, linewidth=1)
        axes.axhline(tasks.index(MEAN) - 0.5, color=BLACK, linewidth=0.8)
        axes.set_xlabel("gain in tau, %")
    _task_axis(list(panels), tasks)
    handles = [Line2D([], [], color=colour, marker=marker, label=f"95 % {name.removeprefix('gain_').replace('_', ' ')}")
               for name, marker, colour, _ in kinds]  # fmt: skip
    handles.append(Patch(facecolor="#DDDDDD", hatch="//", edgecolor="white", label="published, mean of 3 tasks"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=9)
    return figure


def gain_claim(rows: Sequence[Row]) -> str:
    """The gain of the mean at every temperature, with both intervals, and in how many tasks it is positive."""
    parts = []
    for temperature, mine in _by_temperature(rows).items():
        (mean,) = pick(mine, task=MEAN)
        tasks = [row for row in mine if row["task"] != MEAN]
        positive = sum(row["gain_over_seeds"]["value"] > 0 for row in tasks)
        bounds = ", ".join(f"{_bounds(mean[name])} {name.removeprefix('gain_').replace('_', ' ')}"
                           for name in ("gain_over_seeds", "gain_over_questions"))  # fmt: skip
        parts.append(f"at T={temperature:g} the mean gain is {mean['gain_over_seeds']['value']:+.1%} ({bounds}), "
                     f"positive in {positive} of {len(tasks)} tasks")  # fmt: skip
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _bounds(one: Row) -> str:
    return "no interval" if one["low"] is None else f"{one['low']:+.1%} to {one['high']:+.1%}"


@styled
def weight_dots(drafts: Sequence[Row], taus: Sequence[Row]) -> Figure:
    """Mean tau against the weights of the draft, a panel a temperature. taus: rows of the mean.

    The widened EAGLE, which has FSPAD's number of weights, is drawn a little to the right of it.
    """
    weights = {row["method"]: row["parameters"] for row in drafts}
    figure, panels = _panels(taus, (8.6, 3.5))
    for axes, mine in panels.items():
        for row in mine:
            colour, marker = LOOKS[row["method"]]
            x, one = weights[row["method"]] / 1000 * (1.02 if row["method"] == CONTROL[1] else 1), row["over_seeds"]
            if one["low"] is not None:
                axes.vlines(x, one["low"], one["high"], color=colour, linewidth=1.6)
            axes.plot(x, one["value"], color=colour, marker=marker, markersize=8)
        axes.set(xlabel="weights of the draft, thousands", ylabel="mean tau")
        axes.margins(x=0.12)
    _legend(figure, [row["method"] for row in drafts])
    return figure


def weight_claim(differences: Sequence[Row]) -> str:
    """What widening EAGLE brings, and what FSPAD brings, in mean tau. differences: rows of study.json."""
    parts = []
    for temperature, rows in _by_temperature(differences).items():
        gains = {row["method"]: row["gain_over_seeds"]["value"]
                 for row in pick(rows, task=MEAN, against=MAIN[1])}  # fmt: skip
        parts.append(f"at T={temperature:g} EAGLE-2 widened to FSPAD's size {gains[CONTROL[1]]:+.1%}, "
                     f"FSPAD {gains[MAIN[0]]:+.1%}")  # fmt: skip
    return f"Gain in mean tau over EAGLE-2: {'; '.join(parts)}."


# --- by position -----------------------------------------------------------------------------------------------------


@styled
def alpha_lines(rows: Sequence[Row], published: Sequence[float] = ()) -> Figure:
    """n-alpha against n, a line a method, a panel a temperature, with t-intervals over seeds.

    published: values to set beside them, drawn in the first panel only.
    """
    methods = list(dict.fromkeys(row["method"] for row in rows))
    figure, panels = _panels(rows, (9.0, 3.8), sharey=True)
    for axes, mine in panels.items():
        for index, method in enumerate(methods):
            colour, marker = LOOKS[method]
            of_method = pick(mine, method=method)
            x = [row["n"] + 0.07 * (index - (len(methods) - 1) / 2) for row in of_method]
            axes.plot(x, [row["over_seeds"]["value"] for row in of_method], color=colour, marker=marker, markersize=5)
            for place, row in zip(x, of_method, strict=True):
                if row["over_seeds"]["low"] is not None:
                    axes.vlines(place, row["over_seeds"]["low"], row["over_seeds"]["high"], color=colour)
        axes.set_xlabel("n: guessed features in the input")
        axes.set_xticks(sorted({row["n"] for row in mine}))
    first, *_ = panels
    first.set_ylabel("n-alpha")
    look = {"color": DARK, "marker": "x", "linestyle": ":", "label": "EAGLE on Vicuna-7B, published"}
    _legend(figure, methods, first.plot(range(len(published)), published, **look) if len(published) else ())
    return figure


def alpha_claim(rows: Sequence[Row]) -> str:
    """First and last n-alpha of FSPAD and of EAGLE-2."""
    parts = []
    for temperature, mine in _by_temperature(rows).items():
        for method in MAIN:
            first, *_, last = sorted(pick(mine, method=method), key=lambda row: row["n"])
            values = f"{first['over_seeds']['value']:.2f} to {last['over_seeds']['value']:.2f}"
            parts.append(f"{LABELS[method]} at T={temperature:g} from {values} over n = {first['n']} to {last['n']}")
    return f"n-alpha: {'; '.join(parts)}."


@styled
def accepted_bars(rows: Sequence[Row]) -> Figure:
    """Share of rounds that accept 0, 1, 2, ... guesses, of all seeds together; a panel a temperature."""
    figure, panels = _panels(rows, (8.6, 3.2), sharey=True)
    for axes, mine in panels.items():
        for index, row in enumerate(mine):
            share = _shares(row)
            x = np.arange(len(share)) + 0.4 * (index - (len(mine) - 1) / 2)
            axes.bar(x, share, 0.38, color=LOOKS[row["method"]][0], hatch=HATCHES[index], edgecolor="white",
                     label=LABELS[row["method"]])  # fmt: skip
        axes.set_xlabel("guesses accepted in a round")
    first, *_ = panels
    first.set_ylabel("share of the rounds")
    first.legend()
    return figure


def accepted_claim(rows: Sequence[Row]) -> str:
    """How many rounds accept all levels of the tree."""
    parts = [f"{_shares(row)[-1]:.0%} ({LABELS[row['method']]}, T={row['temperature']:g})" for row in rows]
    return f"Share of rounds that accept a guess on every level of the tree: {', '.join(parts)}."


def _shares(row: Row) -> np.ndarray:
    """(levels + 1,): all seeds pooled."""
    return np.sum(row["rounds_by_seed"], axis=0) / np.sum(row["rounds_by_seed"])
