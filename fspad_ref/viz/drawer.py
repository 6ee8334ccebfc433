"""The one drawer of rounds: the draft tree beside its attention mask and its cache, at any stage of a round.

    grow 1 .. grow L   what the draft has scored so far; the frontier grows next
    rerank             which guesses are kept
    score              one forward pass of the target over all nodes: mask and cache
    draw               one token drawn at every node
    verify             the walk along the drawn tokens, the rejected guesses, the bonus token
    keep               the cache slots of the walk move to the front of the tree's slots

These are the lines of the loop in `generate.py`. matplotlib draws, because its one drawing serves every use: PNG where
no kernel runs, and SVG on the screen (sharp, and a node tells its numbers under the pointer). Nothing moves from stage
to stage, and a node has the same number in tree, mask and cache: draw(round_view(...)).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Patch, PathPatch, Rectangle
from matplotlib.path import Path

from fspad_ref.viz.runs import Round, Run, Words
from fspad_ref.viz.strips import visible
from fspad_ref.viz.style import BLACK, BLUE, DARK, GREY, ORANGE, PALE, SKY, VERMILION, YELLOW, drawable, styled

STEPS = ("grow", "rerank", "score", "draw", "verify", "keep")
WHOLE = 24  # of more scored guesses, those are drawn that are kept or have grown; the others are counted

# ---- what is shown: words and numbers ----

QUIET, STRONG, FAINT = (DARK, "-", 0.8), (BLACK, "-", 1.8), (GREY, ":", 1.0)
# role of a box -> fill; colour, style and width of its edge; sign; meaning. Roles differ by edge or sign, too.
ROLES = {
    "root": (PALE, QUIET, "", "root, in the text already"),
    "scored": ("white", QUIET, "", "scored by the draft"),
    "grown": ("white", STRONG, "", "has grown"),
    "frontier": (YELLOW, STRONG, "▸", "frontier, grows next"),
    "kept": ("#9ED8C8", QUIET, "", "kept"),
    "dropped": ("white", FAINT, "✗", "dropped"),
    "guess": ("white", QUIET, "", "a guess"),
    "match": ("#D6ECF8", (BLUE, "-", 1.4), "✓", "drawn at its parent"),
    "accepted": (SKY, (BLUE, "-", 2.2), "✓", "accepted"),
    "rejected": ("#F4F4F4", FAINT, "✗", "rejected"),
    "bonus": (ORANGE, STRONG, "★", "the bonus token"),
    "beyond": ("white", (VERMILION, "--", 1.2), "✂", "beyond the end of the text"),
}
HIDDEN = "hidden"  # the role of a box that keeps its place and is not drawn


@dataclass(frozen=True)
class Box:
    """One node in words. up: the entry of the node above. number: in mask and cache; None for guesses that have none.

    chance: the draft's probability of the path, the width of the line to the box. more: guesses below that are not
    drawn. tip: shown under the pointer.
    """

    text: str
    up: int = 0
    depth: int = 0
    number: int | None = None
    chance: float = 1.0
    role: str = "kept"
    under: str = ""
    more: int = 0
    tip: str = ""


@dataclass(frozen=True)
class View:
    """A tree at one stage of a round; a bare tree where `stage` is "".

    boxes: root first, parents before children. prefix: cache slots in use before the pass. path: the nodes of the walk,
    empty before it. claim: the picture in one line.
    """

    boxes: tuple[Box, ...]
    stage: str = ""
    prefix: int = 0
    path: tuple[int, ...] = ()
    claim: str = ""

    @property
    def attends(self) -> list[list[int]]:
        """For every numbered node the nodes that it attends to: those above it, and itself."""
        rows: list[list[int]] = []
        for box in self.boxes:
            if box.number is not None:
                rows.append([*(rows[self.boxes[box.up].number] if rows else []), box.number])
        return rows


def stage_names(levels: int) -> list[str]:
    """All stages of a round whose tree has so many levels, in order."""
    return [*(f"grow {level}" for level in range(1, levels + 1)), *STEPS[1:]]


def round_view(run: Run, number: int, stage: str, words: Words = str) -> View:
    """Round `number` (from 0) of a run at a stage of `stage_names`."""
    one, config = run.rounds[number], run.settings.tree
    token, parent, depth, score = ([0, *column.tolist()] for column in one.scored)  # entry 0 is the root
    token[0] = int(one.tree.token[0])
    best = sorted(range(1, len(token)), key=lambda i: -score[i])[: len(one.tree) - 1]  # as in `tree.rerank`
    node = {i: v for v, i in enumerate([0, *sorted(best)])}  # entry -> number in the kept tree
    grown = set(parent[1:])
    shown = [i for i in range(len(token)) if len(token) <= WHOLE or i in node or i in grown]
    place = {i: entry for entry, i in enumerate(shown)}
    step, _, level = stage.partition(" ")
    level = int(level or config.levels)
    boxes = []
    for i in shown:
        v, chance, above = node.get(i), math.exp(score[i]), math.exp(score[parent[i]])
        q = probability(chance / above if above else 0.0)
        absent = sum(up == i and c not in place and depth[c] <= level for c, up in enumerate(parent))
        boxes.append(Box(
            text=words(token[i]), up=place[parent[i]], depth=depth[i], number=None if step == "grow" else v,
            chance=chance, role=_role(one, step, v, depth[i] - level, i in grown),
            under=_under(one, step, v, q, probability(chance), words), more=absent if step in STEPS[:2] else 0,
            tip=f"{visible(words(token[i]), 40)}\nq: {q}" if v is None else node_tip(one, v, words),
        ))  # fmt: skip
    end, walked = next(entry for entry, i in enumerate(shown) if node.get(i) == one.path[-1]), step in STEPS[4:]
    role = HIDDEN if not walked else "bonus" if one.kept == len(one.path) else "beyond"
    tip = f"drawn at {one.path[-1]}"
    boxes.append(Box(words(one.tokens[-1]), end, boxes[end].depth + 1, role=role, under=tip, tip=tip))
    claim = f"Round {number + 1}. {_claim(one, step, level, sum(0 < d <= level for d in depth))}"
    return View(tuple(boxes), stage, one.prefix, one.path if walked else (), claim)


def _role(one: Round, step: str, v: int | None, below: int, grown: bool) -> str:
    """v: number in the kept tree; below: how many levels below the newest one; grown: whether it has children."""
    if v == 0:
        return "root"
    if step == "grow":
        return HIDDEN if below > 0 else "scored" if not grown else "grown" if below else "frontier"
    if v is None or step == "rerank":
        return "kept" if v is not None else "dropped" if step == "rerank" else HIDDEN
    if step in ("score", "draw"):
        return "match" if step == "draw" and one.matches[v] else "guess"
    return "rejected" if v not in one.path else "accepted" if one.path.index(v) <= one.kept else "beyond"


def _under(one: Round, step: str, v: int | None, q: str, path: str, words: Words) -> str:
    """The second line of a box: what the stage adds."""
    if step in STEPS[3:] and v is not None:
        return f"→ {visible(words(one.drawn[v]))}"
    if v == 0:
        return ""
    return f"q {q} p {probability(one.p[v])}" if step == "score" and v is not None else f"q {q} path {path}"


def _claim(one: Round, step: str, level: int, scored: int) -> str:
    nodes, accepted = len(one.tree), len(one.path) - 1
    claims = {
        "grow": f"Grow: {scored} guesses scored on {level} level{'s' * (level > 1)}.",
        "rerank": f"Rerank: {nodes - 1} of {scored} guesses are kept; with the root the tree has {nodes} nodes.",
        "score": f"Score: one forward pass over {nodes} nodes behind {one.prefix} cached tokens.",
        "draw": f"Draw: {sum(one.matches[1:])} of {nodes - 1} guesses carry the token drawn at their parent.",
        "verify": f"Verify: {accepted} of {nodes - 1} guesses are accepted, then comes the bonus token.",
        "keep": f"Keep: of {one.prefix + nodes} cache slots {one.prefix + accepted + 1} stay.",
    }
    return claims[step] + " The text ends within this round." * (step in STEPS[4:] and one.kept < len(one.tokens))


def node_tip(one: Round, v: int, words: Words) -> str:
    """All numbers of one node of the kept tree."""
    token, up = int(one.tree.token[v]), int(one.tree.parent[v])
    slot = one.prefix + one.path.index(v) if v in one.path else "forgotten"
    drafted = f"""
drawn at its parent: {visible(words(one.drawn[up]), 40)}
q, the draft's probability: {one.q[v]:.4f}
p, the target's probability: {one.p[v]:.4f}
path score, sum of log q: {float(one.tree.score[v]):.4f}"""
    return f"""node {v}: {visible(words(token), 40)} (id {token}){drafted if v else ""}
drawn at this node: {visible(words(one.drawn[v]), 40)}
expected acceptance, sum of p over its children: {sum(one.p[child] for child in one.children(v)):.4f}
cache slot during the pass: {one.prefix + v}; afterwards: {slot}"""


def probability(chance: float) -> str:
    """Two digits without the leading zero; what rounds to 0 or 1 is told from 0 and 1."""
    return "1" if chance == 1 else ">.99" if chance >= 0.995 else "<.01" if chance < 0.005 else f"{chance:.2f}"[1:]


# ---- drawing: one canvas, measured in inches from its upper left corner ----

COLUMN, ROW, WIDE, HIGH, TAB = 1.36, 0.38, 1.16, 0.31, 0.19  # TAB: for the number in a box
MARGIN, HEADER, CACHE, LEGEND, SLOT = 0.15, 0.55, 1.4, 0.35, 0.27
RING = {"edgecolor": VERMILION, "linewidth": 2.5, "zorder": 6}
SMALL = {"fontsize": 6.5, "va": "center", "zorder": 3, "parse_math": False}


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure of that size in inches, and axes whose units are inches, y downwards."""
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    return figure, axes


def tree_rows(parent: Sequence[int]) -> list[float]:
    """The height of every node, the root first: leaves one below the other, a parent in the middle of its children."""
    children = [[v for v in range(1, len(parent)) if parent[v] == node] for node in range(len(parent))]
    row, leaves = [0.0] * len(parent), iter(range(len(parent)))

    def place(node: int) -> None:
        for child in children[node]:
            place(child)
        ends = [row[child] for child in children[node]] or [float(next(leaves))]
        row[node] = (ends[0] + ends[-1]) / 2

    place(0)
    return row


@styled
def draw(view: View, selected: int | None = None, title: str = "") -> Figure:
    """The picture of a round; of a bare tree the tree alone. The node with the number `selected` has a ring."""
    width = COLUMN * max(box.depth for box in view.boxes) + WIDE
    height = ROW * (max(tree_rows([box.up for box in view.boxes])) + 1)
    if not view.stage:
        figure, axes = canvas(width + 2 * MARGIN, height + 2 * MARGIN)
        draw_tree(axes, view, MARGIN, MARGIN, selected)
        return figure
    side = min(4.6, max(2.6, 0.14 * (1 + len(view.boxes))))  # of the mask
    left, body, step = max(width, 6.3) + 0.6, max(height, side + 0.4), STEPS.index(view.stage.partition(" ")[0])
    figure, axes = canvas(left + side + MARGIN, HEADER + body + CACHE + LEGEND)
    for place, name in enumerate(STEPS):
        fill, edge, ink, weight = (YELLOW, BLACK, BLACK, "bold") if place == step else (PALE, "none", DARK, "normal")
        chip = {"facecolor": fill, "edgecolor": edge, "boxstyle": "round,pad=0.3"}
        spot = (MARGIN + 0.4 + 0.85 * place, 0.25)
        axes.text(*spot, name, ha="center", va="center", bbox=chip, color=ink, weight=weight)
    axes.text(MARGIN + 5.3, 0.25, title, va="center", fontsize=11)
    draw_tree(axes, view, MARGIN, HEADER, selected)
    _mask(axes, view, left, HEADER + 0.4, side, selected, faint=step != STEPS.index("score"))
    _cache(axes, view, step, HEADER + body + 0.25, left + side, selected)
    looks = [ROLES[name] for name in dict.fromkeys(box.role for box in view.boxes) if name != HIDDEN]
    handles = [Patch(facecolor=fill, edgecolor=colour, linestyle=line, linewidth=width, label=f"{sign} {label}".strip())
               for fill, (colour, line, width), sign, label in looks]  # fmt: skip
    if any(box.more for box in view.boxes):
        handles.append(Patch(facecolor="none", label="+n: n more guesses, not drawn"))
    figure.legend(handles=handles, loc="lower left", ncols=8, fontsize=8, borderaxespad=0.3)
    return figure


def draw_tree(axes: Axes, view: View, left: float, top: float, selected: int | None = None) -> None:
    """The tree with its upper left corner at (left, top) of a `canvas`: number, token and a second line in each box."""
    rows = tree_rows([box.up for box in view.boxes])
    spots = [(left + COLUMN * box.depth, top + ROW * (row + 0.5)) for box, row in zip(view.boxes, rows, strict=True)]
    for entry, (box, (x, y)) in enumerate(zip(view.boxes, spots, strict=True)):
        if box.role == HIDDEN:
            continue
        fill, (colour, line, width), sign, _ = ROLES[box.role]
        faint, strong = line != "-", box.role in ("accepted", "bonus")
        if entry:
            start, above = spots[box.up][0] + WIDE, spots[box.up][1]
            curve = Path([(start, above), ((start + x) / 2, above), ((start + x) / 2, y), (x, y)], [1, 4, 4, 4])
            thick = 2.5 if strong else 0.7 if faint else 0.5 + 2.5 * box.chance
            ink = colour if strong or faint else DARK
            axes.add_patch(PathPatch(curve, fill=False, zorder=1, edgecolor=ink, linestyle=line, linewidth=thick))
        look = {"facecolor": fill, "edgecolor": colour, "linestyle": line, "linewidth": width, "gid": f"tip-{entry}"}
        shape = "round,pad=0,rounding_size=0.05"
        axes.add_patch(FancyBboxPatch((x, y - HIGH / 2), WIDE, HIGH, boxstyle=shape, zorder=2, **look))
        centre, ink = x + (WIDE + TAB) / 2, {"color": DARK if faint else BLACK}
        axes.text(x + 0.04, y - 0.07, sign + ("" if box.number is None else str(box.number)), **SMALL, **ink)
        middle, large = y - (0.065 if box.under else 0), SMALL | {"fontsize": 8}
        axes.text(centre, middle, drawable(visible(box.text)), ha="center", **large, **ink)
        axes.text(centre, y + 0.08, drawable(box.under), ha="center", **SMALL, **ink)
        axes.text(x + 0.04, y + 0.08, f"+{box.more}" if box.more else "", **SMALL | {"fontsize": 5.5}, **ink)
        if selected is not None and box.number == selected:
            axes.add_patch(Rectangle((x - 0.04, y - HIGH / 2 - 0.03), WIDE + 0.08, HIGH + 0.06, fill=False, **RING))


def _mask(axes: Axes, view: View, left: float, top: float, side: float, selected: int | None, faint: bool) -> None:
    """A row per node: what it attends to, the prefix first."""
    rows = view.attends
    axes.text(left, top - 0.3, "attention mask: row attends to column", fontsize=9, va="center")
    if not rows:
        axes.add_patch(Rectangle((left, top), side, side, fill=False, edgecolor=GREY, linestyle=":"))
        return
    cell = side / (len(rows) + 1)

    def squares(places: Sequence[tuple[int, int]], colour: str, size: float = 0.9) -> None:
        down, right = np.array(places).reshape(-1, 2).T + 0.5
        look = {"markersize": 72 * cell * size, "markeredgewidth": 0, "color": colour}
        axes.plot(left + (right + 1) * cell, top + down * cell, "s", **look)

    itself = [(row, row) for row in range(len(rows))]
    squares([(row, -1) for row, _ in itself], "#CCCCCC")
    squares([(row, column) for row, seen in enumerate(rows) for column in seen[:-1]], SKY)
    squares(itself, ORANGE)
    squares(itself, BLACK, 0.35)
    axes.add_patch(Rectangle((left, top), side, side - cell, fill=False, edgecolor=DARK, linewidth=0.8))
    axes.text(left + cell, top - 0.1, "prefix", ha="right", **SMALL)
    for row in range(0, len(rows), 1 if cell > 0.16 else 5):
        axes.text(left - 0.04, top + (row + 0.5) * cell, str(row), ha="right", **SMALL)
        axes.text(left + (row + 1.5) * cell, top - 0.1, str(row) if row or cell > 0.1 else "", ha="center", **SMALL)
    if faint:
        axes.add_patch(Rectangle((left, top), side, side, facecolor="white", alpha=0.5, zorder=4))
    if selected is not None and selected < len(rows):
        axes.add_patch(Rectangle((left, top + selected * cell), side, cell, fill=False, **RING))


def _cache(axes: Axes, view: View, step: int, top: float, width: float, selected: int | None) -> None:
    """The target's cache slots before the pass, during it, and after the walk's slots have moved to the front."""
    written, keep, count = step >= STEPS.index("score"), step == STEPS.index("keep"), len(view.attends)
    says = f"cache: {view.prefix} slots in use" + f" → {view.prefix + count} during the pass" * written
    axes.text(MARGIN, top - 0.1, says + f" → {view.prefix + len(view.path)} afterwards" * keep, fontsize=9, va="center")
    first = MARGIN + 1.3
    size = min(0.3, (width - first) / max(count, 1))

    def slots(y: float, nodes: Sequence[int]) -> None:
        axes.add_patch(Rectangle((MARGIN, y), 1.28, SLOT, facecolor="#CCCCCC", edgecolor=DARK, linewidth=0.7))
        axes.text(MARGIN + 0.65, y + SLOT / 2, f"{view.prefix} tokens", ha="center", **SMALL)
        for place, node in enumerate(nodes):
            lost, x = keep and node not in view.path, first + place * size
            look = {"edgecolor": GREY if lost else DARK, "linestyle": ":" if lost else "-", "linewidth": 0.7}
            fill = PALE if not keep else "white" if lost else SKY
            look |= RING if node == selected else {}
            axes.add_patch(Rectangle((x, y), size - 0.02, SLOT, facecolor=fill, **look))
            text, ink = str(node) if size > 0.15 or node % 5 == 0 else "", GREY if lost else BLACK
            axes.text(x + size / 2, y + SLOT / 2, text, ha="center", color=ink, **SMALL | {"zorder": 7})

    slots(top + 0.03, range(count) if written else ())
    if keep:
        slots(top + 0.72, view.path)
        for place, node in enumerate(view.path):
            end, start = ((first + (at + 0.5) * size, y) for at, y in ((place, top + 0.71), (node, top + 0.31)))
            axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": BLUE})
