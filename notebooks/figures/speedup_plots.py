"""Pictures of chapter 08, second half: what a round costs, where its time goes, and how much faster that makes.

Rows are those of data/results/speed.json and stages.json. As in `plots`: numbers -> Figure, and beside it the same
numbers -> one line of text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures.acceptance_plots import LABELS, LOOKS
from fspad_ref.bench.bench import PLAIN
from fspad_ref.bench.speed import FORWARDS, OUTSIDE
from fspad_ref.bench.study import MAIN
from fspad_ref.errors import InputError
from fspad_ref.viz.style import BLACK, BLUE, CYCLE, GREEN, GREY, HATCHES, MARKERS, ORANGE, SKY, VERMILION, styled

Row = Mapping[str, Any]
Points = Mapping[int, float]  # size -> speedup, or seconds
FIXED_TREE = " (fixed tree)"
STAGE_LOOKS = {"draft extension": (SKY, ""), "draft levels": (BLUE, "//"), "draft head": (GREEN, ".."),
               "target forward": (ORANGE, ""), "target head": (VERMILION, "xx")}  # fmt: skip


def label_of(method: str) -> str:
    """A method's name for readers; "(fixed tree)" stays behind it."""
    name = method.removesuffix(FIXED_TREE)
    return LABELS[name] + method[len(name) :]


# --- what a pass costs -----------------------------------------------------------------------------------------------


@styled
def pass_times(measured: Points, plain: float, where: str) -> Figure:
    """Milliseconds of a pass over N nodes, beside N passes over one: in plain numbers and on logarithmic axes."""
    sizes = sorted(measured)
    figure = Figure(figsize=(8.6, 3.3), layout="constrained")
    for axes in figure.subplots(1, 2):
        axes.plot(sizes, [1e3 * measured[n] for n in sizes], color=BLUE, marker="o", label="one pass over N nodes")
        axes.plot(sizes, [1e3 * plain * n for n in sizes], color=VERMILION, linestyle="--", label="N passes over one")
        axes.set(xlabel="nodes N", ylabel="milliseconds")
    plain_axes, log_axes = figure.axes
    plain_axes.set(ylim=(0, 1.15e3 * max(measured.values())), title=f"The target, {where}")
    plain_axes.legend(fontsize=9)
    log_axes.set(xscale="log", yscale="log", title="The same, logarithmic")
    log_axes.set_xticks(sizes, sizes, fontsize=8)
    log_axes.set_xticks([], minor=True)
    log_axes.yaxis.set_major_formatter("{x:g}")
    log_axes.yaxis.set_minor_formatter("")
    return figure


def pass_claim(measured: Points, plain: float) -> str:
    """How many plain steps the widest pass takes."""
    widest = max(measured)
    return f"A pass over {widest} nodes takes as long as {measured[widest] / plain:.1f} steps of plain decoding."


@dataclass(frozen=True)
class Crossing:
    """A speedup curve's best size, and the size where it falls below 1 for good (None: nowhere as far as it goes)."""

    best: int
    highest: float
    stops: float | None


def crossing(curve: Points) -> Crossing:
    """Where a curve is highest, and where it stops paying, on the straight line between two sizes."""
    if not curve:
        raise InputError("expected a curve of at least one size, found none. Predict some sizes.")
    sizes = sorted(curve)
    best = max(sizes, key=lambda n: curve[n])
    if curve[sizes[-1]] >= 1:
        return Crossing(best, curve[best], None)
    pays = [n for n in sizes if curve[n] >= 1]
    if not pays:
        return Crossing(best, curve[best], float(sizes[0]))
    low = pays[-1]
    high = sizes[sizes.index(low) + 1]
    share = (curve[low] - 1) / (curve[low] - curve[high])
    return Crossing(best, curve[best], low + share * (high - low))


@styled
def pays(curves: Mapping[str, Points], measured: Mapping[str, Points] | None = None) -> Figure:
    """Predicted speedup against the nodes of the tree, with its best point and the place where it falls below 1.

    measured: name of a curve -> speedups from the clock, drawn as open markers.
    """
    figure = Figure(figsize=(7.6, 3.9), layout="constrained")
    axes = figure.subplots()
    top = 1.0
    for index, (name, curve) in enumerate(curves.items()):
        colour, marker, at = CYCLE[index], MARKERS[index], crossing(curve)
        axes.plot(sorted(curve), [curve[n] for n in sorted(curve)], color=colour, marker=marker, markersize=4,
                  label=name)  # fmt: skip
        axes.plot(at.best, at.highest, marker="*", color=colour, markersize=15, markeredgecolor=BLACK)
        if at.stops is not None:
            axes.plot(at.stops, 1, marker="X", color=colour, markersize=11, markeredgecolor=BLACK)
        points = dict((measured or {}).get(name, {}))
        axes.plot(list(points), list(points.values()), linestyle="", marker="o", fillstyle="none", color=BLACK,
                  markersize=9, markeredgewidth=1.6)  # fmt: skip
        top = max(top, at.highest, *points.values(), 0)
    axes.axhline(1, color=BLACK, linestyle="--", linewidth=1)
    sizes = sorted({n for curve in curves.values() for n in curve})
    axes.set(xscale="log", xlabel="nodes N of the tree", ylabel="speedup over plain decoding", ylim=(0, 1.15 * top))
    axes.set_xticks(sizes, sizes, fontsize=8)
    axes.set_xticks([], minor=True)
    handles, _ = axes.get_legend_handles_labels()
    looks = [("best", "*", "full")] + [("measured", "o", "none")] * bool(measured)
    looks += [("stops paying", "X", "full")] * any(crossing(curve).stops is not None for curve in curves.values())
    handles += [Line2D([], [], linestyle="", color=GREY, marker=m, fillstyle=f, markeredgecolor=BLACK, markersize=9,
                       label=t) for t, m, f in looks]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=9)
    return figure


def pays_claim(curves: Mapping[str, Points]) -> str:
    """Best size of every curve, and where it stops paying."""
    parts = []
    for name, curve in curves.items():
        at = crossing(curve)
        end = "pays at all sizes shown" if at.stops is None else f"stops paying at about {at.stops:.0f} nodes"
        parts.append(f"{name} is best at {at.best} nodes with {at.highest:.1f} and {end}")
    return f"Predicted speedup: {'; '.join(parts)}."


# --- where the time goes ---------------------------------------------------------------------------------------------


@styled
def stage_bars(profiles: Sequence[Row]) -> Figure:
    """Medians of the stages of a round: left the whole round, right what is outside the two models' forwards."""
    names = [f"{row['name']}, T={row['temperature']:g}" for row in profiles]
    figure = Figure(figsize=(10.2, 0.42 * len(names) + 1.9), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    outside = {stage: (CYCLE[i % len(CYCLE)], HATCHES[-1 - i]) for i, stage in enumerate(OUTSIDE)}
    _stack(left, profiles, STAGE_LOOKS)
    sums = [sum(_ms(row, stage) for stage in STAGE_LOOKS) for row in profiles]
    rest = [sum(_ms(row, stage) for stage in OUTSIDE) for row in profiles]
    left.barh(range(len(names)), rest, 0.66, left=sums, color=BLACK, label="outside")
    _stack(right, profiles, outside)
    left.set_yticks(range(len(names)), names)
    left.set(ylim=(len(names) - 0.5, -0.5), xlabel="ms a round", title="A round")
    right.set(xlabel="ms a round", title="Outside the two models' forwards")
    for axes, anchor in ((left, 3), (right, 4)):
        axes.grid(axis="x")
        axes.grid(visible=False, axis="y")
        axes.legend(fontsize=8, ncols=anchor, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    return figure


def _stack(axes: Axes, profiles: Sequence[Row], looks: Mapping[str, tuple[str, str]]) -> None:
    begin = np.zeros(len(profiles))
    for stage, (colour, hatch) in looks.items():
        width = np.array([_ms(row, stage) for row in profiles])
        axes.barh(range(len(profiles)), width, 0.66, left=begin, color=colour, hatch=hatch, edgecolor="white",
                  linewidth=0.4, label=stage)  # fmt: skip
        begin += width


def _ms(profile: Row, stage: str) -> float:
    return 1e3 * profile["seconds"][stage]["median"]


def stage_claim(profiles: Sequence[Row]) -> str:
    """The share of a round outside the forwards, and how much of it is the target's own."""
    parts = []
    for row in profiles:
        target = sum(_ms(row, stage) for stage in FORWARDS if stage.startswith("target"))
        target /= 1e3 * row["round"]["median"]
        parts.append(f"{row['name']} at T={row['temperature']:g}: target {target:.0%}, "
                     f"outside {row['outside_share']['median']:.1%}")  # fmt: skip
    return f"Share of a round: {'; '.join(parts)}."


# --- side by side ----------------------------------------------------------------------------------------------------


@styled
def method_bars(rows: Sequence[Row]) -> Figure:
    """tau and speedup of every method, a bar a temperature. rows: speed.json's summary, the mean over tasks.

    Whiskers: of tau the interval over questions, of the speedup the range over repetitions.
    """
    methods = [name for name in dict.fromkeys(row["method"] for row in rows) if name != PLAIN]
    temperatures = list(dict.fromkeys(row["temperature"] for row in rows))
    figure = Figure(figsize=(9.6, 0.46 * len(methods) + 1.3), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for row in rows:
        if row["method"] == PLAIN:
            continue
        index = temperatures.index(row["temperature"])
        place = methods.index(row["method"]) + 0.4 * (index - (len(temperatures) - 1) / 2)
        runs = row["by_repetition"]
        for axes, value, low, high in ((left, row["tau"], row["tau_low"], row["tau_high"]),
                                       (right, row["speedup"], min(runs), max(runs))):  # fmt: skip
            axes.barh(place, value, 0.38, color=(SKY, ORANGE)[index % 2], hatch=("", "//")[index % 2],
                      edgecolor="white")  # fmt: skip
            axes.hlines(place, low, high, color=BLACK, linewidth=1.2)
    for axes, title in ((left, "tau"), (right, "speedup over plain decoding")):
        axes.axvline(1, color=BLACK, linestyle="--", linewidth=1)
        axes.set(xlabel=title)
        axes.grid(axis="x")
        axes.grid(visible=False, axis="y")
    left.set_yticks(range(len(methods)), [label_of(name) for name in methods])
    left.set_ylim(len(methods) - 0.5, -0.5)
    handles = [Line2D([], [], marker="s", linestyle="", markersize=9, color=(SKY, ORANGE)[i % 2], label=f"T={t:g}")
               for i, t in enumerate(temperatures)]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def method_claim(rows: Sequence[Row]) -> str:
    """The fastest method at every temperature, and FSPAD's place."""
    parts = []
    for temperature in dict.fromkeys(row["temperature"] for row in rows):
        order = sorted((row for row in rows if row["temperature"] == temperature), key=lambda row: -row["speedup"])
        names = [row["method"] for row in order]
        place = names.index(MAIN[0]) + 1
        parts.append(f"at T={temperature:g} the fastest is {label_of(names[0])} with {order[0]['speedup']:.2f}, "
                     f"FSPAD has {order[place - 1]['speedup']:.2f} and is number {place} of {len(names)}")  # fmt: skip
    return f"Speedup over plain decoding: {'; '.join(parts)}."


@styled
def trade_off(points: Mapping[tuple[str, float], tuple[float, float]]) -> Figure:
    """What a draft gains a round against what its round costs, both relative to EAGLE-2's; above the line it wins.

    points: (kind of draft, temperature) -> (time of a round, tau), EAGLE-2 = 1.
    """
    figure = Figure(figsize=(7.6, 4.2), layout="constrained")
    axes = figure.subplots()
    everywhere = [x for point in points.values() for x in point] + [1.0]
    low, high = min(everywhere) - 0.02, max(everywhere) + 0.02
    axes.plot((low, high), (low, high), color=BLACK, linewidth=1)
    axes.fill_between((low, high), (low, high), (high, high), color=GREEN, alpha=0.12, linewidth=0)
    axes.text(low + 0.004, high - 0.004, "faster than EAGLE-2", va="top", fontsize=9)
    axes.text(high - 0.004, low + 0.004, "slower than EAGLE-2", ha="right", fontsize=9)
    coldest = min(temperature for _, temperature in points)
    for (kind, temperature), (time, tau) in [((MAIN[1], coldest), (1.0, 1.0)), *points.items()]:
        fill = "full" if temperature == coldest else "none"
        name = LABELS[kind] + (f", T={temperature:g}" if kind != MAIN[1] else "")
        axes.plot(time, tau, color=LOOKS[kind][0], marker=LOOKS[kind][1], markersize=9, fillstyle=fill,
                  markeredgewidth=1.6, linestyle="", label=name)  # fmt: skip
    axes.set(xlabel="time of a round, EAGLE-2 = 1", ylabel="tau, EAGLE-2 = 1", xlim=(low, high), ylim=(low, high))
    axes.grid(axis="x")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def trade_claim(points: Mapping[tuple[str, float], tuple[float, float]]) -> str:
    """Gain and price of every point."""
    parts = [f"{LABELS[kind]} at T={temperature:g}: tau {tau - 1:+.1%}, time of a round {time - 1:+.1%}, "
             f"speed {tau / time - 1:+.1%}" for (kind, temperature), (time, tau) in points.items()]  # fmt: skip
    return f"Against EAGLE-2: {'; '.join(parts)}."


@styled
def model_dots(rows: Sequence[Row]) -> Figure:
    """Ideal, predicted and measured speedup of every method that the cost model was held against."""
    names = [f"{label_of(row['method'])}, T={row['temperature']:g}" for row in rows]
    figure = Figure(figsize=(7.6, 0.42 * len(rows) + 1.3), layout="constrained")
    axes = figure.subplots()
    looks = (("ideal", "|", GREY, 14), ("predicted", "D", BLUE, 7), ("measured", "o", VERMILION, 8))
    for what, marker, colour, size in looks:
        axes.plot([row[what] for row in rows], range(len(rows)), linestyle="", marker=marker, color=colour,
                  markersize=size, markeredgewidth=2 if marker == "|" else 1, label=what)  # fmt: skip
    for place, row in enumerate(rows):
        axes.hlines(place, row["measured"], row["ideal"], color=GREY, linewidth=1, zorder=1)
    axes.axvline(1, color=BLACK, linestyle="--", linewidth=1)
    axes.set_yticks(range(len(rows)), names)
    axes.set(ylim=(len(rows) - 0.4, -0.6), xlabel="speedup over plain decoding")
    axes.grid(axis="x")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def model_claim(rows: Sequence[Row]) -> str:
    """How much of the ideal the clock shows, and how far predictions are off."""
    ideal = [row["measured_of_ideal"] for row in rows]
    errors = [row["predicted"] / row["measured"] - 1 for row in rows]
    return (
        f"Measured is {min(ideal):.0%} to {max(ideal):.0%} of the ideal; predictions are off by "
        f"{min(errors):+.0%} to {max(errors):+.0%}."
    )
