"""Pictures of chapter 03: two ways to fuse token and feature, Jacobians, gates, predicted next features.

As in `plots`: numbers -> Figure, and beside it the same numbers -> one line of text. A *token* is given by its text.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch
from torch import Tensor

from fspad_ref.viz.style import BLACK, BLUE, CYCLE, GREY, HATCHES, MARKERS, ORANGE, SKY, VERMILION, styled

SIGNED = LinearSegmentedColormap.from_list("signed", (VERMILION, "white", BLUE))  # below 0, 0, above 0
TOKEN, FEATURE, NEUTRAL, GATE = (ORANGE, "///"), (SKY, ""), ("#EEEEEE", ""), ("#F7DFA5", "...")  # (fill, hatch)
DARK = "#555555"


# --- the two fusions -------------------------------------------------------------------------------------------------


@styled
def fusions(hidden: int, inner: int) -> Figure:
    """What happens to the pair (e, f) before the decoder layer, without and with feature sampling, with shapes."""
    figure = Figure(figsize=(9.4, 4.8), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=(1, 1.45))
    two, one, wide = f"2D = {2 * hidden}", f"D = {hidden}", f"F = {inner}"
    upper.set(ylim=(0, 2.3), title="EAGLE: the token is added")
    lower.set(ylim=(0, 3.3), title="FSPAD: the token is added, and then gates")
    for axes in (upper, lower):
        axes.set_xlim(0, 14.2)
        axes.axis("off")
        _path(axes, (1.1, 0.75), (2.2, 0.75), one)
        _path(axes, (3.0, 0.75), (4.2, 0.75), two)
        _path(axes, (5.0, 0.75), (6.1, 0.75), one)
        _box(axes, 0.65, 0.75, "f", FEATURE)
        _box(axes, 2.6, 0.75, "[e ; f]", NEUTRAL)
        _box(axes, 4.6, 0.75, "W_fc, b", NEUTRAL)
        _box(axes, 6.5, 0.75, "h", FEATURE)
        _box(axes, 13.5, 0.75, "decoder\nlayer", NEUTRAL, half=0.55)
    _box(upper, 0.65, 1.75, "e", TOKEN)
    _path(upper, (1.1, 1.75), (2.6, 1.75), one, (2.6, 1.1))
    _path(upper, (6.9, 0.75), (12.95, 0.75), one)
    _draw_gate(lower, one, wide)
    return figure


def _draw_gate(axes: Axes, one: str, wide: str) -> None:
    _box(axes, 0.65, 2.6, "e", TOKEN)
    _path(axes, (1.1, 2.6), (7.2, 2.6), one)
    _path(axes, (2.6, 2.6), (2.6, 1.1))
    _box(axes, 8.0, 2.6, "silu(W_gate e)", GATE, half=0.8)
    _path(axes, (8.8, 2.6), (9.6, 2.6), wide, (9.6, 0.97))
    _path(axes, (6.9, 0.75), (7.2, 0.75))
    _box(axes, 8.0, 0.75, "W_up norm(h)", NEUTRAL, half=0.8)
    _path(axes, (8.8, 0.75), (9.4, 0.75))
    _mark(axes, 9.6, 0.75, "×")
    _path(axes, (9.8, 0.75), (10.1, 0.75))
    _box(axes, 10.6, 0.75, "W_down", NEUTRAL, half=0.5)
    _path(axes, (11.1, 0.75), (11.4, 0.75))
    _mark(axes, 11.6, 0.75, "+")
    _path(axes, (6.5, 1.1), (6.5, 1.75), "", (11.6, 1.75), (11.6, 0.97))
    axes.text(7.0, 1.8, one, fontsize=8, ha="left", va="bottom", color=DARK)
    _path(axes, (11.8, 0.75), (12.15, 0.75))
    _box(axes, 12.4, 0.75, "h'", FEATURE, half=0.25)
    _path(axes, (12.65, 0.75), (12.95, 0.75))


def fusions_claim(hidden: int, inner: int) -> str:
    """What the two have in common, and what feature sampling adds."""
    return (
        f"Both map [e ; f], {2 * hidden} numbers, to h, {hidden} numbers; feature sampling adds {inner} units "
        "whose gates read e alone, between h and the decoder layer."
    )


def _box(axes: Axes, x: float, y: float, text: str, look: tuple[str, str], half: float = 0.42) -> None:
    shape = {"boxstyle": "round,pad=0,rounding_size=0.08", "edgecolor": DARK, "zorder": 2}
    axes.add_patch(FancyBboxPatch((x - half, y - 0.33), 2 * half, 0.66, facecolor=look[0], hatch=look[1], **shape))
    label = {"boxstyle": "round,pad=0.12", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
    axes.text(x, y, text, ha="center", va="center", fontsize=9, zorder=3, bbox=label if look[1] else None)


def _mark(axes: Axes, x: float, y: float, text: str) -> None:
    axes.text(x, y, text, ha="center", va="center", fontsize=12, zorder=3,
              bbox={"boxstyle": "circle,pad=0.15", "facecolor": "white", "edgecolor": BLACK})  # fmt: skip


def _path(axes: Axes, start: tuple, corner: tuple, text: str = "", *more: tuple) -> None:
    """Lines from corner to corner with an arrow head on the last; `text` stands over the first."""
    points = [start, corner, *more]
    for a, b in zip(points[:-2], points[1:-1], strict=True):
        axes.plot((a[0], b[0]), (a[1], b[1]), color=BLACK, linewidth=1, zorder=1)
    axes.annotate("", points[-1], points[-2], arrowprops={"arrowstyle": "->", "shrinkA": 0, "shrinkB": 0})
    if text:
        middle = (start[0] + corner[0]) / 2
        axes.text(middle, start[1] + 0.06, text, ha="center", va="bottom", fontsize=8, color=DARK)


# --- Jacobians -------------------------------------------------------------------------------------------------------


@styled
def jacobian_grid(grid: Mapping[str, Mapping[str, Float[Tensor, "D D"]]]) -> Figure:
    """One small matrix for each fusion (row) and token (column), its entries written in."""
    columns = len(next(iter(grid.values())))
    figure = Figure(figsize=(0.5 + 2.3 * columns, 0.4 + 2.3 * len(grid)), layout="constrained")
    panels = figure.subplots(len(grid), columns, squeeze=False)
    for row, (fusion, matrices) in zip(panels, grid.items(), strict=True):
        for axes, (token, matrix) in zip(row, matrices.items(), strict=True):
            axes.imshow(matrix.numpy(), cmap=SIGNED, vmin=-1.3, vmax=1.3)
            for (i, j), value in np.ndenumerate(matrix.numpy()):
                text = "0" if abs(value) < 0.005 else f"{value:.2f}"
                axes.text(j, i, text, ha="center", va="center", fontsize=9)
            axes.set(title=f"{fusion}, after {token}", xticks=range(matrix.shape[1]), yticks=range(matrix.shape[0]))
            axes.grid(False)
    for axes in panels[-1]:
        axes.set_xlabel("entry of the feature")
    for axes in panels[:, 0]:
        axes.set_ylabel("entry of the output")
    return figure


def jacobian_claim(grid: Mapping[str, Mapping[str, Float[Tensor, "D D"]]]) -> str:
    """How many different matrices each fusion has."""
    parts = []
    for fusion, matrices in grid.items():
        count = _different(list(matrices.values()))
        many = "the same Jacobian" if count == 1 else f"{count} different Jacobians"
        parts.append(f"{fusion}: {many} for {len(matrices)} tokens")
    return f"{'; '.join(parts)}."


def _different(matrices: Sequence[Tensor]) -> int:
    seen: list[Tensor] = []
    for matrix in matrices:
        if not any(torch.allclose(matrix, other, atol=1e-5) for other in seen):
            seen.append(matrix)
    return len(seen)


@styled
def jacobian_changes(changes: Mapping[str, Mapping[str, float]]) -> Figure:
    """changes[draft][part]: how much a Jacobian differs between two tokens, relative to its size. A group a part."""
    parts = list(next(iter(changes.values())))
    figure = Figure(figsize=(6.4, 2.9), layout="constrained")
    axes = figure.subplots()
    _bars(axes, parts, changes, "{:.0%}")
    axes.set(ylabel="difference between two tokens,\nrelative to the Jacobian's size")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def jacobian_changes_claim(changes: Mapping[str, Mapping[str, float]]) -> str:
    """The same numbers, in words."""
    texts = []
    for part in next(iter(changes.values())):
        texts.append(f"{part}: " + ", ".join(f"{draft} {values[part]:.0%}" for draft, values in changes.items()))
    return f"How much the Jacobian depends on the token, {'; '.join(texts)}."


def _bars(axes: Axes, groups: Sequence[str], values: Mapping[str, Mapping[str, float]], style: str) -> None:
    width = 0.8 / len(values)
    for index, (draft, of_group) in enumerate(values.items()):
        places = [place + (index - (len(values) - 1) / 2) * width for place in range(len(groups))]
        heights = [of_group[group] for group in groups]
        axes.bar(places, heights, width, color=CYCLE[index], hatch=HATCHES[index], edgecolor="white", label=draft)
        for place, height in zip(places, heights, strict=True):
            axes.text(place, height, style.format(height), ha="center", va="bottom", fontsize=8.5)
    axes.set_xticks(range(len(groups)), groups)
    axes.margins(y=0.12)


# --- gates -----------------------------------------------------------------------------------------------------------


@styled
def gate_heatmap(gates: Float[Tensor, "tokens F"], tokens: Sequence[str]) -> Figure:
    """A row a token, a column a unit; the units in the order of the first token's gates."""
    order = gates[0].argsort(descending=True)
    limit = float(gates.abs().flatten().quantile(0.98))
    figure = Figure(figsize=(8.6, 0.42 * len(tokens) + 1.1), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(
        gates[:, order].numpy(), cmap=SIGNED, vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest"
    )
    axes.set_yticks(range(len(tokens)), tokens, parse_math=False)
    axes.set(xlabel=f"the {gates.shape[1]} units, in the order of the gates of the first row")
    axes.grid(False)
    axes.hlines([row - 0.5 for row in range(1, len(tokens))], -0.5, gates.shape[1] - 0.5, color="white", linewidth=3)
    figure.colorbar(picture, ax=axes, label="gate", extend="both")
    return figure


def gate_claim(gates: Float[Tensor, "tokens F"]) -> str:
    """How many units have gates of both signs, and how alike the rows are."""
    both = int(((gates > 0).any(0) & (gates < 0).any(0)).sum())
    pairs = combinations(range(len(gates)), 2)
    alike = torch.stack([torch.corrcoef(gates[list(pair)])[0, 1] for pair in pairs]).mean()
    return (
        f"{both} of {gates.shape[1]} units have a positive gate for one of the {len(gates)} tokens and a negative "
        f"one for another; two rows have a mean correlation of {float(alike):.2f}."
    )


# --- predicted next features -----------------------------------------------------------------------------------------


@styled
def fork(
    truth: Float[Tensor, "tokens D"], guesses: Mapping[str, Float[Tensor, "tokens D"]], tokens: Sequence[str]
) -> Figure:
    """The target's next feature for each token (filled) and each draft's guess of it (open), in the truths' plane."""
    centre = truth.mean(0)
    plane = torch.linalg.svd(truth - centre, full_matrices=False).Vh[:2]  # (2, D): the first two principal components
    figure = Figure(figsize=(1.0 + 3.7 * len(guesses), 3.6), layout="constrained")
    panels = figure.subplots(1, len(guesses), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (draft, guess) in zip(panels, guesses.items(), strict=True):
        pairs = zip((truth - centre) @ plane.T, (guess - centre) @ plane.T, strict=True)  # (K, D) -> (K, 2)
        for index, (true, guessed) in enumerate(pairs):
            look = {"color": CYCLE[index % len(CYCLE)], "marker": MARKERS[index % len(MARKERS)], "markersize": 9}
            axes.plot(*zip(true, guessed, strict=True), color=GREY, linewidth=1, linestyle="--", zorder=1)
            axes.plot(*true, linestyle="", markeredgecolor=BLACK, **look)
            axes.plot(*guessed, linestyle="", fillstyle="none", markeredgewidth=2, **look)
        axes.set(title=f"{draft}: distance {_distances(truth, guess).mean():.1f}", xlabel="first principal component")
        axes.grid(True, axis="both")
    panels[0].set_ylabel("second principal component")
    handles = [
        Line2D([], [], linestyle="", marker=MARKERS[i % len(MARKERS)], color=CYCLE[i % len(CYCLE)], label=token)
        for i, token in enumerate(tokens)
    ]
    handles += [Line2D([], [], linestyle="", marker="o", color=DARK, label="filled: the target's feature")]
    handles += [Line2D([], [], linestyle="", marker="o", color=DARK, fillstyle="none", label="open: the draft's guess")]
    figure.legend(handles=handles, loc="outside right center")
    return figure


def fork_claim(truth: Float[Tensor, "tokens D"], guesses: Mapping[str, Float[Tensor, "tokens D"]]) -> str:
    """The mean distances in the whole space, and for how many tokens the last draft is nearer than the first."""
    distances = {draft: _distances(truth, guess) for draft, guess in guesses.items()}
    first, *_, last = distances
    nearer = int((distances[last] < distances[first]).sum())
    means = ", ".join(f"{draft} {float(each.mean()):.1f}" for draft, each in distances.items())
    return f"Mean distance in all {truth.shape[1]} dimensions: {means}; {last} is nearer for {nearer} of {len(truth)}."


def _distances(truth: Tensor, guess: Tensor) -> Tensor:
    return (guess - truth).norm(dim=-1)  # (K, D) -> (K,)


@styled
def places_scatter(errors: Mapping[str, Float[Tensor, " places"]]) -> Figure:
    """One dot a place: the error of the first draft to the right, of the second upwards. Below the line it is less."""
    (right, x), (up, y) = errors.items()
    figure = Figure(figsize=(4.6, 3.9), layout="constrained")
    axes = figure.subplots()
    high = 1.08 * float(torch.cat((x, y)).max())
    axes.plot((0, high), (0, high), color=BLACK, linestyle="--", linewidth=1)
    for chosen, colour, marker, label in ((y < x, BLUE, "o", f"{up} better"), (y >= x, ORANGE, "^", f"{right} better")):
        axes.plot(x[chosen], y[chosen], linestyle="", color=colour, marker=marker, markersize=6, label=label)
    axes.set(xlabel=f"error of {right}", ylabel=f"error of {up}", xlim=(0, high), ylim=(0, high), aspect="equal")
    axes.grid(True, axis="both")
    axes.legend(loc="upper left")
    return figure


def places_claim(errors: Mapping[str, Float[Tensor, " places"]]) -> str:
    """At how many places the second draft's error is smaller, and both means."""
    (right, x), (up, y) = errors.items()
    return (
        f"The error of {up} is smaller at {int((y < x).sum())} of {len(x)} places; "
        f"means: {right} {float(x.mean()):.2f}, {up} {float(y.mean()):.2f}."
    )


@styled
def thirds_bars(measures: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Figure:
    """measures[quantity][draft][third]: a panel a quantity, a group a third of the places, a bar a draft."""
    figure = Figure(figsize=(3.3 * len(measures), 3.1), layout="constrained")
    panels = figure.subplots(1, len(measures), squeeze=False)[0]
    for axes, (quantity, values) in zip(panels, measures.items(), strict=True):
        thirds = list(next(iter(values.values())))
        top = max(value for of_third in values.values() for value in of_third.values())
        _bars(axes, thirds, values, "{:.1f}" if top > 1 else "{:.2f}")
        axes.set(title=quantity, xlabel="how sure the target was")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(values))
    return figure


def thirds_claim(
    measures: Mapping[str, Mapping[str, Mapping[str, float]]], less_is_better: Sequence[str] = ("distance",)
) -> str:
    """In how many thirds the last draft is better than the first, by every quantity."""
    parts = []
    for quantity, values in measures.items():
        first, *_, last = values
        sign = -1 if quantity in less_is_better else 1
        better = sum(sign * values[last][third] > sign * values[first][third] for third in values[last])
        parts.append(f"by {quantity} in {better} of {len(values[last])} thirds")
    return f"{last} is better than {first} {', '.join(parts)}."
