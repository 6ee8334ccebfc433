"""A round at one stage as SVG: `stage_plots`' two pictures in the same layout, for the screen.

Every node tells its numbers when the pointer rests on it; so does every row of the mask and every slot of the cache.
"""

import math
from collections.abc import Sequence

import numpy as np

from fspad_ref.viz.explorer import stage_plots
from fspad_ref.viz.explorer.markup import box, legend, part, ring, svg, words
from fspad_ref.viz.explorer.stage_plots import DPI, SLOTS, mask_cells, mask_side
from fspad_ref.viz.explorer.stages import LOOKS, SIGNS, StageView
from fspad_ref.viz.style import BLACK, BLUE, DARK, GREY, ORANGE, SKY
from fspad_ref.viz.tree_views import Role, probability, short

COLUMN, ROW, TOP = DPI * stage_plots.COLUMN, DPI * stage_plots.ROW, DPI * stage_plots.TOP  # pixels
WIDE, HIGH = 2 * stage_plots.HALF * COLUMN, 2 * stage_plots.HIGH * ROW  # of a box

# --- the tree --------------------------------------------------------------------------------------------------------


def tree_svg(
    one: StageView, selected: int | None = None, title: str = "", tips: Sequence[str] = (), label: str = ""
) -> str:
    """The tree from left to right, as `stage_plots.stage_tree` has it. tips: one a node, shown by the pointer."""
    rows, width, height = (DPI * part if index else part for index, part in enumerate(stage_plots.layout(one)))
    middle = [((depth + 0.5) * COLUMN, TOP + (row + 0.5) * ROW) for depth, row in zip(one.depth, rows, strict=False)]
    parts = [words(10, TOP / 2 + 4, title or one.name.capitalize(), 15, "start")]
    parts += [_edge(one, middle, node) for node in range(1, len(one))]
    for node, (x, y) in enumerate(middle):
        tip = tips[node] if tips else short(one.text[node])
        parts.append(part(_node(one, node, x, y), tip))
    if selected is not None:
        x, y = middle[selected]
        parts.append(ring(x - WIDE / 2 - 4, y - HIGH / 2 - 3, WIDE + 8, HIGH + 6))
    named = [(LOOKS[name], f"{SIGNS.get(name, '')} {LOOKS[name].label}".strip()) for name in dict.fromkeys(one.role)]
    more = [(None, "+n: n more, not shown")] if any(one.left_out) else []
    parts.append(legend(named + more, height - 46, width, 4))
    return svg(width, height, "".join(parts), label)


def _edge(one: StageView, middle: Sequence[tuple[float, float]], node: int) -> str:
    (x, y), (right, low), role = middle[one.parent[node]], middle[node], one.role[node]
    colour, thick, dash = DARK, 0.5 + 3 * math.exp(one.score[node]), ""
    if role in ("accepted", "bonus"):
        colour, thick = (BLUE, 4) if role == "accepted" else (BLACK, 2.5)
    elif role in ("rejected", "dropped", "beyond"):
        colour, thick, dash = GREY, 1, ' stroke-dasharray="2 3"'
    line = f"M{x + WIDE / 2:.0f} {y:.1f}L{right - WIDE / 2:.0f} {low:.1f}"
    return f'<path d="{line}" stroke="{colour}" stroke-width="{thick:.1f}"{dash}/>'


def _node(one: StageView, node: int, x: float, y: float) -> str:
    name, inside = one.role[node], node < one.nodes
    ink = DARK if name in ("rejected", "dropped") else BLACK
    faint = BLACK if LOOKS[name].hatch else DARK
    number = str(node) + SIGNS.get(name, "") if inside else SIGNS["bonus"]
    left, right, upper = x - WIDE / 2 + 4, x + WIDE / 2 - 4, y - 7
    parts = [box(x - WIDE / 2, y - HIGH / 2, WIDE, HIGH, LOOKS[name]), words(left, upper, number, 10, "start", faint)]
    parts.append(words(x + 2, upper, short(one.text[node]), 12, colour=ink, room=66))
    if inside and node:
        parts.append(words(right, upper, probability(math.exp(one.score[node])), 10, "end", faint))
    if one.under[node]:
        parts.append(words(x, y + 8, one.under[node], 10, colour=ink, room=WIDE - 6))
    if one.left_out[node]:
        parts.append(words(x + WIDE / 2 + 3, upper - 2, f"+{one.left_out[node]}", 10, "start", DARK))
    return "".join(parts)


# --- mask and cache --------------------------------------------------------------------------------------------------

LEFT = 44  # pixels for the numbers of the rows
KINDS = {
    3: (Role("#CCCCCC", "", "square", (DARK, "-", 0.8), "s", ""), "prefix"),
    1: (Role(SKY, "", "square", (DARK, "-", 0.8), "o", ""), "an ancestor; a kept slot"),
    2: (Role(ORANGE, "///", "square", (DARK, "-", 0.8), "D", ""), "the node itself"),
}
SLOT = {
    "prefix": KINDS[3][0],
    "kept": KINDS[1][0],
    "used": Role("#E8E8E8", "", "square", (DARK, "-", 0.8), "s", "a slot in use"),
    "forgotten": Role("white", "xx", "square", (DARK, "-", 0.8), "x", "forgotten"),
    "free": Role("white", "", "square", (GREY, ":", 1.0), "o", "not yet written"),
}


def mask_svg(one: StageView, selected: int | None = None, label: str = "") -> str:
    """Ancestor mask and cache, as `stage_plots.stage_mask` has them."""
    side, cells = DPI * mask_side(one.nodes), mask_cells(one)
    width, top = max(side + 2 * LEFT, 560.0), 60.0
    parts = [words(10, 14, "Ancestor mask: row attends to column", 14, "start"), *_mask(cells, side, top, selected)]
    slots, end = _cache(one, top + side + 36, width, selected)
    used = [(SLOT[name], SLOT[name].label) for name in ("used", "forgotten", "free")]
    parts += [*slots, legend([*KINDS.values(), *used], end + 16, width, 3)]
    return svg(width, end + 50, "".join(parts), label)


def _mask(cells: np.ndarray, side: float, top: float, selected: int | None) -> list[str]:
    count, parts = len(cells), []
    size, step = side / count, 1 if count <= 24 else 5
    for kind, (look, _) in KINDS.items():
        places = [(LEFT + x * size, top + y * size) for y, x in np.argwhere(cells == kind)]
        shape = "".join(f"M{x:.1f} {y:.1f}h{size:.1f}v{size:.1f}h-{size:.1f}z" for x, y in places)
        parts.append(f'<path d="{shape}" fill="{look.fill}" stroke="white" stroke-width="0.5"/>')
        dot = size / 3 if kind == 2 else size / 5  # the node itself has the larger mark
        marks = "".join(f"M{x + size / 2:.1f} {y + size / 2 - dot / 2:.1f}v{dot:.1f}" for x, y in places)
        parts.append(f'<path d="{marks}" stroke="black" stroke-width="{dot:.1f}"/>')
    parts.append(
        f'<rect x="{LEFT}" y="{top}" width="{side + size:.1f}" height="{side:.1f}" fill="none" stroke="{DARK}"/>'
    )
    for node in range(count):
        y = top + node * size
        seen = [str(column - 1) for column in range(1, count + 1) if cells[node, column] == 1]
        tip = f"node {node} attends to the prefix{''.join(', ' + other for other in seen)} and itself"
        where = f'x="{LEFT}" y="{y:.1f}" width="{side + size:.1f}" height="{size:.1f}"'
        parts.append(part(f'<rect class="fspad-edge" {where} fill="transparent"/>', tip))
        if node % step == 0:
            parts.append(words(LEFT - 5, y + size / 2, str(node), 10, "end", DARK))
            parts.append(words(LEFT + (node + 1.5) * size, top - 8, str(node), 10, colour=DARK))
    parts.append(words(LEFT, top - 22, "↓ prefix", 10, "start", DARK))
    if selected is not None and selected < count:
        parts.append(ring(LEFT - 1, top + selected * size, side + size + 2, size))
    return parts


def _cache(one: StageView, top: float, width: float, selected: int | None) -> tuple[list[str], float]:
    """The slots, and where they end."""
    before, during, after = one.slots
    size, kept, marked = (width - 20) / SLOTS, set(one.kept), []
    state = "during the pass" if one.written else "the target has not seen the tree"
    parts = [words(10, top, f"Cache, {state}: {during if one.written else before} slots in use", 13, "start")]
    parts.append(_slot(10, top + 14, 5 * size, f"prefix: slots 0-{before - 1}", "prefix", "the text so far"))
    end = top + 14 + 27

    def row_of(nodes: Sequence[int], top: float, names: Sequence[str], tips: Sequence[str]) -> float:
        for place, (node, name, tip) in enumerate(zip(nodes, names, tips, strict=True)):
            x, y = 10 + place % SLOTS * size, top + place // SLOTS * 27
            parts.append(_slot(x, y, size, str(node), name, tip))
            if node == selected:
                marked.append(ring(x + 1, y + 1, size - 2, 25))
        return top + 27 * math.ceil(len(nodes) / SLOTS)

    if one.numbered:
        nodes = range(one.nodes)
        names = [
            "free" if not one.written else "used" if not kept else "kept" if v in kept else "forgotten" for v in nodes
        ]
        tips = [
            f"node {v}, slot {before + v}: {SLOT[name].label or 'kept'}" for v, name in zip(nodes, names, strict=True)
        ]
        end = row_of(nodes, end, names, tips)
    if one.kept:
        parts.append(words(10, end + 18, f"Afterwards: {after} slots in use", 13, "start"))
        tips = [f"node {v}, now slot {before + place}" for place, v in enumerate(one.kept)]
        end = row_of(one.kept, end + 32, ["kept"] * len(one.kept), tips)
    return parts + marked, end


def _slot(x: float, y: float, width: float, text: str, name: str, tip: str) -> str:
    body = box(x + 1.5, y + 1.5, width - 3, 24, SLOT[name])
    return part(body + words(x + width / 2, y + 13.5, text, 10, colour=DARK if name == "free" else BLACK), tip)
