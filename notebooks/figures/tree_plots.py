"""Pictures of draft trees, large ones with words in boxes and small ones with markers, alone and beside their mask; and
what a tree's settings do to tau (chapter 06).

`TreeView`s (tree_views.py) -> Figure, and the same -> one line of text.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jaxtyping import Bool
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Patch
from torch import Tensor

from fspad_ref.viz.style import BLACK, BLUE, CYCLE, DARK, GREY, MARKERS, ORANGE, SKY, styled
from fspad_ref.viz.tree_layout import tree_rows
from fspad_ref.viz.tree_views import ROLES, Role, TreeView

COLUMN, ROW = 1.18, 0.235  # inches a level and a leaf take
HALF, HIGH = 0.39, 0.37  # half a box: width in levels, height in leaves
LONGEST = 8  # characters of a token that fit a box
COUNTED = {"frontier": "in the frontier", "dropped": "dropped", "text": "on the target's text"}

# --- pictures --------------------------------------------------------------------------------------------------------


@styled
def tree_panels(views: Mapping[str, TreeView], columns: int = 1) -> Figure:
    """Trees from left to right, a box a node: its number, its token, and the probability of the path to it.

    A tree that is an earlier stage of the largest one is laid out like it, so that nothing moves from panel to panel.
    """
    heights, down = _heights(list(views.values())), math.ceil(len(views) / columns)
    across = [max(one.levels for one in list(views.values())[i::columns]) + 1 for i in range(min(columns, len(views)))]
    lines = [1 + max(max(rows) for rows in heights[i * columns : (i + 1) * columns]) for i in range(down)]
    size = (COLUMN * sum(across) + 0.2, ROW * sum(lines) + 0.3 * down + 0.45)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(down, len(across), squeeze=False, height_ratios=lines, width_ratios=across).flatten()
    for place, (axes, (title, one)) in enumerate(zip(panels, views.items(), strict=False)):
        _draw_boxes(axes, one, heights[place])
        row, column = divmod(place, len(across))
        axes.set(xlim=(-0.42, across[column] - 0.42), ylim=(lines[row] - 0.4, -0.6), title=title)
    for axes in panels:
        axes.axis("off")
    _legend(figure, list(views.values()), boxes=True)
    return figure


def tree_picture(one: TreeView, title: str = "") -> Figure:
    """One tree, as in `tree_panels`."""
    return tree_panels({title: one})


def tree_claim(one: TreeView) -> str:
    """How many guesses on how many levels, and what became of them."""
    return f"{_counts(one)}."


def panels_claim(views: Mapping[str, TreeView]) -> str:
    """The same for every panel."""
    return ". ".join(f"{title}: {_counts(one)}" for title, one in views.items()) + "."


def _counts(one: TreeView) -> str:
    """For example "6 guesses on 2 levels, 2 of them in the frontier"."""
    parts = [f"{len(one) - 1} guesses on {one.levels} level{'s' * (one.levels > 1)}"]
    found = Counter(one.role)
    parts += [f"{found[name]} of them {meaning}" for name, meaning in COUNTED.items() if found[name]]
    return ", ".join(parts + [f"{sum(one.left_out)} more dropped"] * any(one.left_out))


@styled
def thumbnails(views: Mapping[str, TreeView], columns: int = 5) -> Figure:
    """Small trees side by side, a marker a node; columns are levels, and the x-axis counts them."""
    views, deepest = dict(views), max(one.levels for one in views.values())
    columns, down = min(columns, len(views)), math.ceil(len(views) / columns)
    figure = Figure(figsize=(9.4 * min(1, columns / 4 + 0.15), 2.9 * down + 0.4), layout="constrained")
    panels = figure.subplots(down, columns, squeeze=False, sharex=True).flatten()
    for axes, (title, one) in zip(panels, views.items(), strict=False):
        rows = tree_rows(list(one.parent))
        for node in range(1, len(one)):
            up, on_text = one.parent[node], one.role[node] == "text"
            look = {"color": BLUE, "linewidth": 2.2} if on_text else {"color": GREY, "linewidth": 0.6}
            axes.plot((one.depth[up], one.depth[node]), (rows[up], rows[node]), zorder=2 if on_text else 1, **look)
        for name in dict.fromkeys(one.role):
            nodes = [node for node in range(len(one)) if one.role[node] == name]
            places = [one.depth[node] for node in nodes], [rows[node] for node in nodes]
            axes.plot(*places, linestyle="", zorder=4 if name == "text" else 3, **_mark(name))
        axes.set(title=title, ylim=(max(rows) + 1, -1), xlim=(-0.4, deepest + 0.4), xlabel="depth")
        axes.set_xticks(range(deepest + 1))
        axes.set_yticks([])
        axes.grid(False)
        axes.spines["left"].set_visible(False)
    for axes in panels[len(views) :]:
        axes.axis("off")
    _legend(figure, list(views.values()), boxes=False)
    return figure


def thumbnails_claim(views: Mapping[str, TreeView]) -> str:
    """How deep every tree goes, and how many of its guesses the target writes."""
    parts = [
        f"{title}: {one.levels} levels, {one.role.count('text')} guesses on the text" for title, one in views.items()
    ]
    return "; ".join(parts) + "."


@styled
def tree_and_mask(one: TreeView, ancestors: Bool[Tensor, "nodes nodes"]) -> Figure:
    """The tree, and beside it, with the same numbers, what every node may attend to: one row a node."""
    rows, count = tree_rows(list(one.parent)), len(one)
    wide, high = COLUMN * (one.levels + 1), max(ROW * (max(rows) + 1), 0.2 * min(count, 30)) + 0.8
    figure = Figure(figsize=(wide + high + 0.3, high + 0.3), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(wide, high))
    _draw_boxes(left, one, rows)
    left.set(xlim=(-0.45, one.levels + 0.55), ylim=(max(rows) + 0.6, -0.6), title="The tree")
    left.axis("off")
    # 0: hidden, 1: an ancestor, 2: itself, 3: the prefix, in a column of its own
    cells = [[3, *(2 if v == w else int(ancestors[v, w]) for w in range(count))] for v in range(count)]
    right.imshow(cells, cmap=ListedColormap(["white", SKY, ORANGE, "#CCCCCC"]), vmin=0, vmax=3, aspect="equal")
    size = max(1.0, 60 / count) ** 0.5 * 1.6
    for value, marker in ((1, "o"), (2, "D"), (3, "s")):
        places = [(x, y) for y, line in enumerate(cells) for x, cell in enumerate(line) if cell == value]
        right.plot(*zip(*places, strict=True), linestyle="", color=BLACK, marker=marker, markersize=size)
    step = 1 if count <= 24 else 5
    right.set_xticks([0, *range(1, count + 1, step)], ["prefix", *map(str, range(0, count, step))], fontsize=7)
    right.xaxis.get_majorticklabels()[0].set_rotation(90)
    right.set_yticks(range(0, count, step), range(0, count, step), fontsize=7)
    right.set(xlabel="may attend to", ylabel="node", title="The ancestor mask")
    right.grid(False)
    looks = (("s", "#CCCCCC", "the prefix, all of it"), ("o", SKY, "an ancestor"), ("D", ORANGE, "itself"))
    handles = [Line2D([], [], linestyle="", marker=m, color=BLACK, markerfacecolor=c, label=t) for m, c, t in looks]
    figure.legend(handles=handles, loc="outside lower right", ncols=3, fontsize=9)
    return figure


def mask_claim(one: TreeView, ancestors: Bool[Tensor, "nodes nodes"]) -> str:
    """How much of the square is visible, and how much the deepest nodes see."""
    count, most = len(one), int(ancestors.sum(dim=1).max())
    return (
        f"Of {count * count} pairs of nodes {int(ancestors.sum())} are visible; a node sees at most {most} nodes, "
        "itself included, and all of the prefix."
    )


def _heights(views: Sequence[TreeView]) -> list[list[float]]:
    largest = max(views, key=len)
    rows = tree_rows(list(largest.parent))
    shared = [one.parent == largest.parent[: len(one)] for one in views]
    return [rows[: len(one)] if same else tree_rows(list(one.parent)) for one, same in zip(views, shared, strict=True)]


def _draw_boxes(axes: Axes, one: TreeView, rows: Sequence[float]) -> None:
    for node in range(len(one)):
        chance, role = math.exp(one.score[node]), ROLES[one.role[node]]
        x, y, right = one.depth[node], rows[node], one.depth[node] + HALF
        if node:
            up, (colour, style) = one.parent[node], (GREY, ":") if role.marker == "x" else (DARK, "-")
            look = {"color": colour, "linestyle": style, "linewidth": 0.5 + 2.5 * chance, "zorder": 1}
            axes.plot((one.depth[up] + HALF, x - HALF), (rows[up], y), **look)
        _box(axes, x, y, role)
        plate = {"bbox": {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"}}
        behind = plate if role.hatch else {}
        small = {"fontsize": 6.5, "va": "center", "color": DARK, "zorder": 3}
        axes.text(x - HALF + 0.03, y, str(node), ha="left", **small, **behind)
        if node:
            axes.text(right - 0.03, y, probability(chance), ha="right", **small, **behind)
        if one.left_out[node]:
            axes.text(right + 0.04, y, f"+{one.left_out[node]}", ha="left", **small, **plate)
        ink = DARK if role.marker == "x" else BLACK
        place = {"ha": "center", "va": "center", "fontsize": 7.2, "zorder": 3, "parse_math": False}
        axes.text(x - 0.035, y, short(one.text[node]), color=ink, **place, **behind)


def _box(axes: Axes, x: float, y: float, role: Role) -> None:
    colour, style, width = role.edge
    shape = f"{role.corner},pad=0" + (",rounding_size=0.12" if role.corner == "round" else "")
    look = {"facecolor": role.fill, "hatch": role.hatch, "edgecolor": colour, "linestyle": style, "linewidth": width}
    axes.add_patch(FancyBboxPatch((x - HALF, y - HIGH), 2 * HALF, 2 * HIGH, boxstyle=shape, zorder=2, **look))


def probability(chance: float) -> str:
    """Two digits without the leading zero; what rounds to 0 or 1 is told from 0 and 1."""
    return "1" if chance == 1 else ">.99" if chance >= 0.995 else "<.01" if chance < 0.005 else f"{chance:.2f}"[1:]


def short(text: str) -> str:
    """A token that fits a box: blanks made visible, long ones cut."""
    shown = text.replace(" ", "␣").replace("\n", "⏎").replace("\t", "→") or "∅"
    return shown if len(shown) <= LONGEST else shown[: LONGEST - 1] + "…"


def _mark(name: str) -> dict:
    role = ROLES[name]
    size = {"text": 6, "root": 6, "frontier": 5}.get(name, 3.5)
    return {"marker": role.marker, "markersize": size, "markerfacecolor": role.fill, "markeredgecolor": role.edge[0],
            "markeredgewidth": min(role.edge[2], 1.2)}  # fmt: skip


def _legend(figure: Figure, views: Sequence[TreeView], boxes: bool) -> None:
    found = {name for one in views for name in one.role}
    handles = []
    for name, (fill, hatch, _, (colour, style, width), _, label) in ROLES.items():
        if name not in found:
            continue
        look = {"facecolor": fill, "hatch": hatch, "edgecolor": colour, "linestyle": style, "linewidth": width}
        handles.append(Patch(**look) if boxes else Line2D([], [], linestyle="", **_mark(name)))
        handles[-1].set_label(label)
    if any(sum(one.left_out) for one in views):
        handles.append(Line2D([], [], linestyle="", label="+n: n children dropped"))
    figure.legend(handles=handles, loc="outside lower left", ncols=4, fontsize=9)


# --- curves ----------------------------------------------------------------------------------------------------------


class Bin(NamedTuple):
    """Guesses whose path probability falls in one interval: its mean, the share that was right, their number."""

    predicted: float
    right: float
    count: int


@styled
def calibration_plot(series: Mapping[str, Sequence[Bin]]) -> Figure:
    """The share of right guesses against the path probability, with the diagonal; and how many guesses stand behind."""
    figure = Figure(figsize=(8.4, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    left.plot((0, 1), (0, 1), color=BLACK, linestyle="--", linewidth=1, label="if q were p")
    for index, (name, bins) in enumerate(series.items()):
        look = {"color": CYCLE[index], "marker": MARKERS[index], "label": name}
        left.plot([b.predicted for b in bins], [b.right for b in bins], **look)
        right.plot([b.predicted for b in bins], [b.count for b in bins], **look)
    left.set(xlabel="path probability exp(score)", ylabel="share that the target wrote", ylim=(-0.03, 1.03))
    left.set(title="How often the paths were right", xlim=(-0.03, 1.03))
    right.set(xlabel="path probability exp(score)", ylabel="guesses", yscale="log", title="How many there were")
    left.legend(loc="upper left")
    return figure


def calibration_claim(series: Mapping[str, Sequence[Bin]]) -> str:
    """Where the points lie: do they rise, and on which side of the diagonal."""
    parts = []
    for name, bins in series.items():
        rises = sum(a.right < b.right for a, b in zip(bins, bins[1:], strict=False))
        above = sum(b.right > b.predicted for b in bins)
        parts.append(
            f"{name}: {rises} of {len(bins) - 1} steps go up, {above} of {len(bins)} points lie above the diagonal"
        )
    return "; ".join(parts) + "."


@styled
def knob_curves(panels: Mapping[str, Mapping[str, Mapping[int, float]]]) -> Figure:
    """tau against each setting in turn: panels[setting][series][value] = tau. Values stand at equal distances."""
    figure = Figure(figsize=(9.2, 3.2), layout="constrained")
    for place, (axes, (setting, series)) in enumerate(
        zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels.items(), strict=True)
    ):
        for index, (name, taus) in enumerate(series.items()):
            axes.plot(range(len(taus)), taus.values(), color=CYCLE[index], marker=MARKERS[index], label=name)
            axes.set_xticks(range(len(taus)), taus)
        axes.set(xlabel=setting, ylabel="tau: tokens a target forward" if place == 0 else "")
    axes.legend(loc="lower right")
    return figure


def knob_claim(panels: Mapping[str, Mapping[str, Mapping[int, float]]]) -> str:
    """tau at the two ends of every curve."""
    parts = []
    for setting, series in panels.items():
        ends = {name: (list(taus), list(taus.values())) for name, taus in series.items()}
        (values, _), *_ = ends.values()
        moves = [f"{taus[0]:.1f} to {taus[-1]:.1f} ({name})" for name, (_, taus) in ends.items()]
        parts.append(f"{setting} from {values[0]} to {values[-1]}: tau {' and '.join(moves)}")
    return "; ".join(parts) + "."
