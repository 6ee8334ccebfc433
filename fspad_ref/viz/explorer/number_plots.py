"""Pictures of the panels: a law under temperature, predicted speedup over the tree's shape, a rule on trial.

As in `plots`: numbers -> Figure, and beside it the same numbers -> one line of text.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fspad_ref.viz.explorer.laws import TEMPERATURES, NodeLaw
from fspad_ref.viz.explorer.prices import Landscape
from fspad_ref.viz.explorer.trials import Trial
from fspad_ref.viz.style import BLACK, BLUE, CYCLE, DARK, GREY, MARKERS, ORANGE, SKY, VERMILION, styled
from fspad_ref.viz.tree_views import short

DPI = 100
Taus = Mapping[str, Mapping[float, float]]  # of whom -> temperature -> tau


def _margins(panels: int) -> dict[str, float]:
    """Room for labels, set by hand: a layout engine draws everything twice, and these pictures follow a slider."""
    return {"left": 0.22 / panels, "right": 1 - 0.05 / panels, "bottom": 0.19, "top": 0.9, "wspace": 0.26}


# --- temperature -----------------------------------------------------------------------------------------------------


@styled
def law_picture(
    law: NodeLaw,
    curves: Mapping[str, Sequence[float]],
    taus: Taus | None = None,
    temperatures: Sequence[float] = TEMPERATURES,
) -> Figure:
    """The law at a node; the expected acceptance there over temperature; and tau over temperature, where known.

    curves: name -> expected acceptance, one number a temperature; the first is drawn bold.
    """
    count = 2 + bool(taus)
    figure = Figure(figsize=(8.8 if count == 2 else 11.4, 3.5), dpi=DPI)
    left, middle, *right = figure.subplots(1, count, gridspec_kw=_margins(count))
    _law_bars(left, law)
    for index, (name, values) in enumerate(curves.items()):
        look = {"color": CYCLE[index + 1], "linestyle": "-" if index == 0 else "--", "linewidth": 2.4 - index}
        middle.plot(temperatures, values, label=name, **look)
    middle.plot(law.sampling.temperature, law.expected, marker="D", color=VERMILION, markersize=8, linestyle="")
    middle.axvline(law.sampling.temperature, color=VERMILION, linestyle=":", linewidth=1)
    middle.set(xlabel="temperature", ylabel="sum of p over the guesses", ylim=(-0.03, 1.05))
    middle.set(title=f"Expected acceptance: {law.expected:.2f}")
    middle.legend(loc="lower left")
    for axes in right:
        for index, (name, points) in enumerate(taus.items()):
            axes.plot(*zip(*sorted(points.items()), strict=True), color=CYCLE[index % len(CYCLE)],
                      marker=MARKERS[index % len(MARKERS)], label=name)  # fmt: skip
        highest = max(tau for points in taus.values() for tau in points.values())
        axes.set(xlabel="temperature", ylabel="tau: tokens a target forward", title="Average acceptance length")
        axes.set(ylim=(1, 1.1 * max(highest, 1.1)))  # plain decoding has 1
        axes.legend(fontsize=8)
    return figure


def _law_bars(axes: Axes, law: NodeLaw) -> None:
    places = range(len(law.word))
    for guessed, colour, hatch, label in ((True, SKY, "", "p, guessed"), (False, ORANGE, "///", "p, not guessed")):
        mine = [i for i in places if (law.q[i] is not None) == guessed]
        axes.barh(mine, [law.p[i] for i in mine], 0.75, color=colour, hatch=hatch, edgecolor="white", label=label)
    axes.plot(law.at_one, places, linestyle="", marker="|", color=BLACK, markersize=8, label="p at T=1, no cuts")
    asked = [i for i in places if law.q[i] is not None]
    axes.plot([law.q[i] for i in asked], asked, linestyle="", marker="D", markersize=4, color=BLUE, label="q")
    axes.set_yticks(places, [short(word) for word in law.word], parse_math=False, fontsize=8)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", visible=True)
    kind = "greedy" if law.sampling.greedy else f"T={law.sampling.temperature:g}, top-p {law.sampling.top_p:g}"
    axes.set(xlabel=f"probability (all others together: {law.rest:.2f})", title=f"The law at the node, {kind}")
    axes.legend(fontsize=8, loc="lower right")


def law_claim(law: NodeLaw) -> str:
    """The expected acceptance, and how sure the target is."""
    best = max(range(len(law.p)), key=lambda i: law.p[i])
    guessed = "was" if law.q[best] is not None else "was not"
    kind = "greedily" if law.sampling.greedy else f"at T={law.sampling.temperature:g}, top-p {law.sampling.top_p:g}"
    return (
        f"Choosing {kind}, what was guessed here ({law.guesses}) has {law.expected:.2f} of the probability; the most "
        f"probable token, '{short(law.word[best])}' with {law.p[best]:.2f}, {guessed} guessed."
    )


# --- costs -----------------------------------------------------------------------------------------------------------


@styled
def cost_picture(land: Landscape) -> Figure:
    """Predicted speedup against the number of nodes, a line a depth; and as a map with its best point."""
    figure = Figure(figsize=(9.6, 3.7), dpi=DPI)
    left, right = figure.subplots(1, 2, gridspec_kw=_margins(2) | {"right": 0.95})
    row, column = land.best
    shown = sorted({0, len(land.depths) // 3, 2 * len(land.depths) // 3, len(land.depths) - 1, row})
    for index, line in enumerate(shown):
        look = {"color": CYCLE[index], "marker": MARKERS[index], "markersize": 4}
        look["linewidth"] = 2.6 if line == row else 1.2
        left.plot(land.sizes, land.speedup[line], label=f"depth {land.depths[line]}", **look)
    left.axhline(1, color=BLACK, linestyle="--", linewidth=1)
    best = land.speedup[row, column]
    left.plot(land.sizes[column], best, marker="*", markersize=17, color=VERMILION, markeredgecolor=BLACK)
    left.set(xlabel="total tokens N", ylabel="predicted speedup", ylim=(0, 1.12 * max(best, 1)))
    left.set(title=f"Best: depth {land.depths[row]}, N = {land.sizes[column]}: {best:.2f} times")
    left.legend(fontsize=8)
    _cost_map(figure, right, land)
    return figure


def _cost_map(figure: Figure, axes: Axes, land: Landscape) -> None:
    row, column = land.best
    image = axes.imshow(land.speedup, aspect="auto", cmap="cividis", origin="lower", vmin=0)
    figure.colorbar(image, ax=axes, label="predicted speedup")
    pays = np.argwhere(land.speedup <= 1)
    if len(pays):  # where speculation does not pay
        axes.plot(pays[:, 1], pays[:, 0], linestyle="", marker="x", color="white", markersize=6, label="slower: x")
        axes.set_title("Depth and size (x: slower than plain decoding)")
    else:
        axes.set_title("Depth and size")
    axes.plot(column, row, marker="*", markersize=17, color=VERMILION, markeredgecolor="white")
    axes.set_xticks(range(len(land.sizes)), land.sizes, fontsize=8)
    axes.set_yticks(range(len(land.depths)), land.depths)
    axes.set(xlabel="total tokens N", ylabel="depth")
    axes.grid(False)


def cost_claim(land: Landscape) -> str:
    """The best tree, what it brings, and whether speculation pays at all."""
    row, column = land.best
    slower, all_of_them = int((land.speedup <= 1).sum()), int(np.isfinite(land.speedup).sum())
    verdict = "faster than plain decoding" if land.pays else "slower than plain decoding: speculation does not pay"
    return (
        f"The best tree has depth {land.depths[row]} and {land.sizes[column]} nodes: tau {land.tau[row, column]:.1f}, "
        f"speed {land.speedup[row, column]:.1f} of plain decoding's, {verdict}; {slower} of {all_of_them} trees are "
        "not faster."
    )


# --- a rule on trial -------------------------------------------------------------------------------------------------


@styled
def trial_picture(trials: Sequence[Trial]) -> Figure:
    """One histogram a rule, counts (bars) and what the target's law expects (marks); then the p-value over the runs."""
    figure = Figure(figsize=(3.3 * (len(trials) + 1), 3.4), dpi=DPI)
    *panels, last = figure.subplots(1, len(trials) + 1, gridspec_kw=_margins(len(trials) + 1) | {"top": 0.84})
    for axes, one, hatch in zip(panels, trials, ("", "///", "..", "xx"), strict=False):
        words, places = list(one.target), range(len(one.target))
        counts = [one.counts.get(word, 0) for word in words]
        axes.bar(places, counts, 0.7, color=SKY, hatch=hatch, edgecolor="white", label="counted")
        expected = [one.runs * float(one.target[word]) for word in words]
        marks = {"color": BLACK, "linewidth": 2}
        axes.hlines(expected, [x - 0.42 for x in places], [x + 0.42 for x in places], label="expected", **marks)
        names = [short(one.words[word]) for word in words]
        axes.set_xticks(places, names, parse_math=False, rotation=60 if len(names) > 5 else 0, fontsize=8)
        axes.set(ylabel=f"of {one.runs} runs", title=f"{one.rule}:\np-value {p_value_words(one.p_value)}")
    highest = max(axes.get_ylim()[1] for axes in panels)
    for axes in panels:
        axes.set_ylim(0, highest)
    panels[0].legend(fontsize=8)
    for index, one in enumerate(trials):
        runs, values = zip(*one.path, strict=True)
        look = {"color": (BLUE, VERMILION)[index % 2], "marker": MARKERS[index], "linestyle": ("-", "--")[index % 2]}
        last.plot(runs, np.maximum(values, 1e-12), label=one.rule, markersize=4, **look)
    last.axhspan(1e-14, 1e-6, color=GREY, alpha=0.3, linewidth=0)
    last.text(0.02, 0.03, "grey: below a millionth", transform=last.transAxes, fontsize=8, color=DARK)
    last.set(xscale="log", yscale="log", ylim=(1e-14, 2), xlabel="runs", title="p-value as runs are added")
    marks = [trials[0].path[place][0] for place in (0, len(trials[0].path) // 2, -1)]
    last.set_xticks(marks, marks)
    last.set_xticks([], minor=True)
    last.legend(fontsize=8, loc="center left")
    return figure


def trial_claim(trials: Sequence[Trial]) -> str:
    """p-value and exact distance of every rule."""
    parts = []
    for one in trials:
        exact = f"exactly {float(one.distance):.3f}" if one.distance else "exactly 0"
        parts.append(f"{one.rule}: p-value {p_value_words(one.p_value)}, total variation {exact}")
    return f"{trials[0].runs} runs each. {'; '.join(parts)}."


def p_value_words(value: float) -> str:
    """Two digits; below a millionth nothing but that."""
    return "below 1e-6" if value < 1e-6 else f"{value:.2f}" if value >= 0.01 else f"{value:.1e}"
