"""Pictures of a round at one stage: the tree, and beside it its ancestor mask and its slots in the cache.

A `StageView` -> Figure. Sizes are in inches and fixed by the tree, so that text stays readable at sixty nodes; axes are
placed by hand, as a layout engine would draw everything twice. Node numbers are the same in both pictures.
"""

import io
import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Patch, Rectangle

from fspad_ref.viz.explorer.stages import LOOKS, SIGNS, StageView
from fspad_ref.viz.style import BLACK, BLUE, DARK, GREY, ORANGE, SKY, VERMILION, styled
from fspad_ref.viz.tree_layout import tree_rows
from fspad_ref.viz.tree_views import probability, short

COLUMN, ROW = 1.5, 0.42  # inches a level and a leaf take
HALF, HIGH = 0.42, 0.39  # half a box: width in levels, height in leaves
TOP, BOTTOM = 0.35, 0.62  # inches for title and legend
SLOTS = 16  # cache slots a line
DPI = 100


def layout(one: StageView) -> tuple[list[float], float, float]:
    """The height of every node in leaves, and the picture's size in inches; places left free are counted."""
    rows = tree_rows([*one.parent, *one.room])
    levels = max([max(one.depth) + 1, *(one.depth[up] + 2 for up in one.room)])
    return rows, max(COLUMN * levels, 7.2), ROW * (max(rows) + 1) + TOP + BOTTOM


@styled
def stage_tree(one: StageView, selected: int | None = None, title: str = "") -> Figure:
    """The tree from left to right. In a box: number, token, probability of the path to it (exp of its path score);
    below: q, p and the token drawn there, as far as they are known. `selected` has a ring."""
    rows, width, height = layout(one)
    figure = Figure(figsize=(width, height), dpi=DPI)
    axes = figure.add_axes((0, BOTTOM / height, 1, 1 - (TOP + BOTTOM) / height))
    axes.set(xlim=(-0.5, width / COLUMN - 0.5), ylim=(max(rows) + 0.5, -0.5))
    axes.axis("off")
    figure.text(0.1 / width, 1 - 0.22 / height, title or one.name.capitalize(), fontsize=11, va="center")
    for node in range(1, len(one)):
        _edge(axes, one, rows, node)
    for node in range(len(one)):
        _node(axes, one, rows, node, node == selected)
    _legend(figure, one)
    return figure


def _edge(axes: Axes, one: StageView, rows: list[float], node: int) -> None:
    up, role = one.parent[node], one.role[node]
    look = {"color": DARK, "linewidth": 0.5 + 2.5 * math.exp(one.score[node])}
    if role == "accepted":
        look = {"color": BLUE, "linewidth": 3}
    elif role == "bonus":
        look = {"color": BLACK, "linewidth": 2}
    elif role in ("rejected", "dropped", "beyond"):
        look = {"color": GREY, "linewidth": 0.7, "linestyle": ":"}
    axes.plot((one.depth[up] + HALF, one.depth[node] - HALF), (rows[up], rows[node]), zorder=1, **look)


def _node(axes: Axes, one: StageView, rows: list[float], node: int, selected: bool) -> None:
    x, y, name = one.depth[node], rows[node], one.role[node]
    fill, hatch, corner, (colour, style, width), *_ = LOOKS[name]
    shape = f"{corner},pad=0" + (",rounding_size=0.14" if corner == "round" else "")
    look = {"facecolor": fill, "hatch": hatch, "edgecolor": colour, "linestyle": style, "linewidth": width}
    axes.add_patch(FancyBboxPatch((x - HALF, y - HIGH), 2 * HALF, 2 * HIGH, boxstyle=shape, zorder=2, **look))
    if selected:
        ring = {"fill": False, "edgecolor": VERMILION, "linewidth": 3, "zorder": 4}
        axes.add_patch(Rectangle((x - HALF - 0.03, y - HIGH - 0.05), 2 * HALF + 0.06, 2 * HIGH + 0.1, **ring))
    plate = {"bbox": {"boxstyle": "square,pad=0.08", "facecolor": "white", "edgecolor": "none"}} if hatch else {}
    ink = DARK if name in ("rejected", "dropped") else BLACK
    small = {"fontsize": 7, "va": "center", "zorder": 3, "color": DARK, **plate}
    number = SIGNS["bonus"] if node >= one.nodes else str(node)
    sign = SIGNS.get(name, "") if node < one.nodes else ""
    axes.text(x - HALF + 0.03, y - 0.17, number + sign, ha="left", **small)
    axes.text(x + 0.02, y - 0.17, short(one.text[node]), ha="center", va="center", fontsize=8, zorder=3, color=ink,
              parse_math=False, **plate)  # fmt: skip
    if 0 < node < one.nodes:
        axes.text(x + HALF - 0.03, y - 0.17, probability(math.exp(one.score[node])), ha="right", **small)
    if one.under[node]:
        axes.text(x, y + 0.19, one.under[node], ha="center", parse_math=False, **small)
    if one.left_out[node]:
        axes.text(x + HALF + 0.02, y - 0.2, f"+{one.left_out[node]}", ha="left", fontsize=7, va="center", zorder=3)


def _legend(figure: Figure, one: StageView) -> None:
    handles = []
    for name in dict.fromkeys(one.role):
        fill, hatch, _, (colour, style, width), _, label = LOOKS[name]
        look = {"facecolor": fill, "hatch": hatch, "edgecolor": colour, "linestyle": style, "linewidth": width}
        handles.append(Patch(label=f"{SIGNS.get(name, '')} {label}".strip(), **look))
    if any(one.left_out):
        handles.append(Line2D([], [], linestyle="", label="+n: n more, not shown"))
    figure.legend(handles=handles, loc="lower left", ncols=4, fontsize=8, borderaxespad=0.2)


# --- mask and cache --------------------------------------------------------------------------------------------------


def mask_side(count: int) -> float:
    """Inches that the mask of so many nodes takes."""
    return min(5.2, max(2.4, 0.2 * count))


def mask_cells(one: StageView) -> np.ndarray:
    """(nodes, 1 + nodes): 3 the prefix, 2 the node itself, 1 above it, 0 hidden from it."""
    count = one.nodes
    cells = np.zeros((count, 1 + count), dtype=int)
    cells[:, 0] = 3
    for node in range(count):
        if node:
            cells[node, 1:] = np.minimum(cells[one.parent[node], 1:], 1)
            cells[node, 1 + one.parent[node]] = 1
        cells[node, 1 + node] = 2
    return cells


@styled
def stage_mask(one: StageView, selected: int | None = None) -> Figure:
    """What every node may attend to, a row a node; below it the cache: while the tree is judged, and afterwards."""
    count = one.nodes
    side, lines = mask_side(count), 1 + math.ceil(count / SLOTS)
    strips = 0.32 * (lines + 1 + math.ceil(max(len(one.kept), 1) / SLOTS)) + 0.6
    width, height = max(side + 0.9, 6.0), side + strips + 1.35
    figure = Figure(figsize=(width, height), dpi=DPI)
    upper = figure.add_axes((0.55 / width, (strips + 0.95) / height, side / width, side / height))
    _mask(upper, mask_cells(one), selected)
    lower = figure.add_axes((0.1 / width, 0.5 / height, 1 - 0.2 / width, strips / height))
    _cache(lower, one, selected, lines)
    looks = [("#CCCCCC", "", "prefix"), (SKY, "", "an ancestor; a kept slot"), (ORANGE, "", "the node itself")]
    looks += [("#E8E8E8", "", "a slot in use"), ("white", "xx", "forgotten")]
    handles = [Patch(facecolor=f, hatch=h, edgecolor=DARK, label=label) for f, h, label in looks]
    figure.legend(handles=handles, loc="lower left", ncols=3, fontsize=8, borderaxespad=0.2)
    return figure


def _mask(axes: Axes, cells: np.ndarray, selected: int | None) -> None:
    count = len(cells)
    axes.imshow(cells, cmap=ListedColormap(["white", SKY, ORANGE, "#CCCCCC"]), vmin=0, vmax=3, aspect="auto")
    size = max(1.0, 60 / count) ** 0.5 * 1.6
    for value, marker in ((1, "o"), (2, "D"), (3, "s")):
        y, x = np.nonzero(cells == value)
        axes.plot(x, y, linestyle="", color=BLACK, marker=marker, markersize=size)
    step = 1 if count <= 24 else 5
    axes.set_xticks([0, *range(1, count + 1, step)], ["prefix", *map(str, range(0, count, step))], fontsize=7)
    axes.xaxis.get_majorticklabels()[0].set_rotation(90)
    axes.set_yticks(range(0, count, step), range(0, count, step), fontsize=7)
    axes.set_title("Ancestor mask: row attends to column", fontsize=10)
    axes.grid(False)
    if selected is not None and selected < count:
        axes.add_patch(Rectangle((-0.5, selected - 0.5), count + 1, 1, fill=False, edgecolor=VERMILION, linewidth=2))


def _cache(axes: Axes, one: StageView, selected: int | None, lines: int) -> None:
    before, during, after = one.slots
    axes.set(xlim=(0, SLOTS + 0.1), ylim=(lines + 2.9 + (len(one.kept) > SLOTS), -0.9))
    axes.axis("off")
    held = during if one.written else before
    state = "during the pass" if one.written else "the target has not seen the tree"
    axes.text(0, -0.45, f"Cache, {state}: {held} slots in use", fontsize=9, va="center")
    _slot(axes, 0, 0, f"prefix: slots 0-{before - 1}", "#CCCCCC", "", wide=5)
    kept = set(one.kept)
    for node in range(one.nodes if one.numbered else 0):
        fill, hatch = ("white", "") if not one.written else ("#E8E8E8", "")
        if one.kept:
            fill, hatch = (SKY, "") if node in kept else ("white", "xx")
        place = node % SLOTS, 1 + node // SLOTS
        _slot(axes, *place, str(node), fill, hatch, ring=node == selected, ghost=not one.written)
    if one.kept:
        y = lines + 1.4
        axes.text(0, y - 0.45, f"Afterwards: {after} slots in use", fontsize=9, va="center")
        for place, node in enumerate(one.kept):
            spot = place % SLOTS, y + place // SLOTS
            _slot(axes, *spot, str(node), SKY, "", ring=node == selected)


def _slot(
    axes: Axes, x: float, y: float, text: str, fill: str, hatch: str, wide: int = 1, ring: bool = False, ghost=False
) -> None:
    edge = {"edgecolor": VERMILION if ring else GREY if ghost else DARK, "linewidth": 2.5 if ring else 0.8}
    look = {"facecolor": fill, "hatch": hatch, "linestyle": ":" if ghost else "-", "zorder": 3 if ring else 2, **edge}
    axes.add_patch(Rectangle((x + 0.05, y + 0.05), wide - 0.1, 0.85, **look))
    plate = {"bbox": {"boxstyle": "square,pad=0.05", "facecolor": "white", "edgecolor": "none"}} if hatch else {}
    axes.text(x + wide / 2, y + 0.48, text, ha="center", va="center", fontsize=7, zorder=4,
              color=GREY if ghost else BLACK, **plate)  # fmt: skip


def png_of(figure: Figure) -> bytes:
    """The figure as it is sized, quickly: for pictures that change under a slider."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=figure.dpi, pil_kwargs={"compress_level": 1})
    return data.getvalue()
