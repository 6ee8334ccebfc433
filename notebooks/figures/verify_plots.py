"""Pictures of chapter 07: a round's tree, who waits for whom, the matrix behind `reached`, cache surgery, margins.

As in `plots`: numbers -> Figure, and beside it the same numbers -> one line of text (`lossless_plots.walk_claim` for
the tree). Counts against a law are drawn as in chapter 01.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from torch import Tensor

from figures.lossless_plots import ACCEPTED, OWN
from fspad_ref.errors import InputError
from fspad_ref.tree import DraftTree
from fspad_ref.verify import Verdict
from fspad_ref.viz.style import (
    BLACK,
    BLUE,
    CYCLE,
    DARK,
    GREY,
    ORANGE,
    PLATE,
    SKY,
    TOKEN_KINDS,
    VERMILION,
    styled,
)
from fspad_ref.viz.tree_layout import tree_rows, word_box

KEPT, CLEAR, WRONG = (SKY, ""), ("#EEEEEE", ""), (VERMILION, "xx")  # (fill, hatch)
DEAD = ("white", "...")


# --- the tree of a round ---------------------------------------------------------------------------------------------


@styled
def round_tree(tree: DraftTree, drawn: Sequence[int], verdict: Verdict, words: Sequence[str]) -> Figure:
    """Nodes from left to right with their numbers, what each of them draws, the walk, and the bonus token as its end.

    The bonus token gets a row of its own, below the children of the node where the walk ends.
    """
    path = verdict.path[: int(verdict.accepted) + 1].tolist()
    parent, depth = [*tree.parent.tolist(), path[-1]], [*tree.depth.tolist(), len(path)]
    row, bonus = tree_rows(parent), len(tree)
    figure = Figure(figsize=(0.8 + 1.9 * (max(depth) + 1), 0.8 + 0.7 * (max(row) + 1)), layout="constrained")
    axes = figure.subplots()
    for node in range(1, len(parent)):
        walked = {"color": BLUE if node in path else BLACK, "linewidth": 2.5}
        look = walked if node in path or node == bonus else {"color": GREY, "linewidth": 1, "linestyle": "--"}
        up = parent[node]
        axes.plot((depth[up] + 0.2, depth[node] - 0.2), (row[up], row[node]), zorder=1, **look)
    for node, token in enumerate(tree.token.tolist()):
        face, hatch = CLEAR if node == 0 else ACCEPTED if node in path else ("#EEEEEE", "...")
        word_box(axes, depth[node], row[node], words[token], face, hatch)
        draws = f"{node} draws {words[drawn[node]]}"
        axes.text(depth[node], row[node] + 0.37, draws, ha="center", va="center", fontsize=9, parse_math=False)
    word_box(axes, depth[bonus], row[bonus], words[drawn[path[-1]]], *OWN)
    axes.set(xlim=(-0.5, max(depth) + 0.5), ylim=(max(row) + 0.6, -0.4))
    axes.axis("off")
    looks = (("the root: text already", *CLEAR), ("accepted", *ACCEPTED), ("the bonus token", *OWN))
    handles = _handles((*looks, ("guesses not reached", "#EEEEEE", "...")))
    figure.legend(handles=handles, loc="outside lower left", ncols=4, fontsize=9)
    return figure


# --- who waits for whom ----------------------------------------------------------------------------------------------


@styled
def wait_lanes(looks: int) -> Figure:
    """A sketch, not a measurement: the same work with `looks` waits of the host, and with one.

    Each step is one unit of work for the host (it queues) and one for the device (it computes).
    """
    figure = Figure(figsize=(7.6, 3.0), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True)
    for axes, batches, name in ((panels[0], [1] * looks, "a look after every step"), (panels[1], [looks], "one look")):
        host, device = lanes(batches)
        axes.broken_barh(host, (1.1, 0.7), facecolor=ORANGE, hatch="///", edgecolor="white")
        axes.broken_barh(device, (0.1, 0.7), facecolor=SKY, edgecolor="white")
        end = device[-1][0] + device[-1][1]
        axes.axvline(end, color=BLACK, linestyle=":", linewidth=1.2)
        axes.text(end + 0.15, 0.95, "done", va="center")
        axes.set(title=name, yticks=(0.45, 1.45), yticklabels=("device computes", "host queues"), ylim=(-0.1, 2))
        axes.set(xticks=(), xlim=(0, 2.2 * looks + 1.6))
        axes.grid(False)
    panels[1].set_xlabel("time (sketch)")
    return figure


def lanes(batches: Sequence[int]) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """(start, length) of the bars of host and device; after each batch of steps the host waits for the device.

    Queueing a step takes 1; computing takes 1 and can begin when the step is queued; a look costs 0.2 on its own.
    """
    host, device, now, free = [], [], 0.0, 0.0
    for steps in batches:
        for _ in range(steps):
            host.append((now, 1.0))
            now += 1.0
            start = max(now, free)
            device.append((start, 1.0))
            free = start + 1.0
        now = free + 0.2
    return host, device


def wait_claim(looks: int) -> str:
    """How much longer the sketch with many looks is."""
    ends = [sum(lanes(batches)[1][-1]) for batches in ([1] * looks, [looks])]
    return (
        f"A sketch of {looks} steps: with a look after every step host and device take turns and need "
        f"{ends[0]:.1f} units of time, with one look they overlap and need {ends[1]:.1f}."
    )


# --- matches, ancestors, reached -------------------------------------------------------------------------------------


@styled
def reach_matrix(
    tree: DraftTree, matches: Bool[Tensor, "nodes"], reached: Bool[Tensor, "nodes"], words: Sequence[str]
) -> Figure:
    """The matrix of ancestors, cells marked by whether the column's node matches; `matches` above, `reached` beside.

    A row without a hatched cell is a node that is reached.
    """
    N = len(tree)
    figure = Figure(figsize=(0.36 * N + 3.6, 0.36 * N + 1.6), layout="constrained")
    axes = figure.subplots()
    for row in range(N):
        for column in range(N):
            look = (KEPT if matches[column] else WRONG) if tree.ancestors[row, column] else ("white", "")
            _cell(axes, column, row, *look)
        _cell(axes, row, -1.7, *(KEPT if matches[row] else WRONG), text=str(int(matches[row])))
        _cell(axes, N + 0.7, row, *(KEPT if reached[row] else CLEAR), text=str(int(reached[row])))
        axes.text(row + 0.5, -2.0, str(row), ha="center", va="center")
        axes.text(-0.3, row + 0.5, f"{words[tree.token[row]]}  {row}", ha="right", va="center", parse_math=False)
    axes.text(-0.3, -1.2, "matches", ha="right", va="center", style="italic")
    axes.text(N + 1.2, -0.35, "reached", ha="center", va="center", style="italic")
    axes.set(xlim=(-3.6, N + 2.6), ylim=(N + 0.1, -2.5), aspect="equal")
    axes.axis("off")
    looks = (("on the path, matches", *KEPT), ("on the path, does not match", *WRONG), ("not on the path", "white", ""))
    figure.legend(handles=_handles(looks), loc="outside lower left", ncols=3, fontsize=9)
    return figure


def reach_claim(matches: Bool[Tensor, "nodes"], reached: Bool[Tensor, "nodes"]) -> str:
    """How many nodes match, and which are reached."""
    nodes = reached.nonzero().flatten().tolist()
    return f"Of {len(matches)} nodes {int(matches.sum())} match; reached are {_list(nodes)}, one a depth."


def _cell(axes: Axes, x: float, y: float, face: str, hatch: str, text: str = "") -> None:
    axes.add_patch(Rectangle((x + 0.06, y + 0.06), 0.88, 0.88, facecolor=face, hatch=hatch, edgecolor="#BBBBBB"))
    if text:
        axes.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=9, bbox=PLATE)


# --- cache surgery ---------------------------------------------------------------------------------------------------


@styled
def cache_rows(prefix: Sequence[str], nodes: Sequence[str], path: Sequence[int]) -> Figure:
    """The slots of a cache before and after `keep`: the end of the prefix, the tree's entries, what moved where.

    Args:
        prefix: the words of all entries before the tree; the last three are drawn.
        nodes: the words of the tree's entries, in the order in which they were written.
        path: rows that are kept, ascending.
    """
    shown = list(prefix)[-3:]
    offset, width = len(shown), len(shown) + len(nodes)
    figure = Figure(figsize=(0.68 * width + 1.3, 3.2), layout="constrained")
    axes = figure.subplots()
    for slot, word in enumerate([*shown, *nodes]):
        node = slot - offset
        _slot(axes, slot, 0, word, *(CLEAR if node < 0 else KEPT if node in path else WRONG), number=node)
        stays = node < 0 or node < len(path)
        kept = word if node < 0 else nodes[path[node]] if stays else "?"
        _slot(axes, slot, 2.4, kept, *(CLEAR if node < 0 else KEPT if stays else DEAD),
              number=path[node] if 0 <= node < len(path) else -1)  # fmt: skip
    for place, row in enumerate(path):
        ends = ((offset + row + 0.5, 1.04), (offset + place + 0.5, 2.36))
        axes.annotate("", ends[1], ends[0], arrowprops={"arrowstyle": "->", "color": BLUE, "linewidth": 1.6})
    for y, length, name in ((0, len(prefix) + len(nodes), "before"), (2.4, len(prefix) + len(path), "after")):
        axes.text(-0.2, y + 0.5, f"{name}:\nlength {length}", ha="right", va="center")
    axes.set(xlim=(-1.9, width + 0.1), ylim=(3.6, -0.3))
    axes.axis("off")
    looks = (
        ("prefix (its end)", *CLEAR),
        ("kept", *KEPT),
        ("rejected", *WRONG),
        ("forgotten: may hold anything", *DEAD),
    )
    figure.legend(handles=_handles(looks), loc="outside lower left", ncols=4, fontsize=9)
    return figure


def cache_claim(prefix: Sequence[str], nodes: Sequence[str], path: Sequence[int]) -> str:
    """Which entries stay, and how the length changes."""
    before, after = len(prefix) + len(nodes), len(prefix) + len(path)
    kept = f"row {path[0]} is" if len(path) == 1 else f"rows {_list(path)} are"
    return f"Of the tree's {len(nodes)} entries {kept} kept; the length falls from {before} to {after}."


def _slot(axes: Axes, x: float, y: float, word: str, face: str, hatch: str, number: int) -> None:
    axes.add_patch(Rectangle((x + 0.03, y), 0.94, 1, facecolor=face, hatch=hatch, edgecolor=DARK, linewidth=0.8))
    text = (f"{number}\n" if number >= 0 else "") + (word if len(word) <= 7 else word[:6] + "…")
    axes.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=8, bbox=PLATE, parse_math=False)


# --- rounds and where the text ends ----------------------------------------------------------------------------------


@styled
def cut_rounds(rounds: Sequence[Sequence[str]], accepted: Sequence[int], kept: int) -> Figure:
    """One line a round: its accepted guesses, its bonus token, and what of them lies beyond the end of the text.

    Args:
        rounds: the tokens that each round emits.
        accepted: how many of them were guesses.
        kept: tokens in the text, over all rounds; the others are dropped.

    Raises InputError where the text does not end within the last of the rounds.
    """
    _check_end(rounds, kept)
    longest = max(sum(max(len(word), 2) for word in words) for words in rounds)
    figure = Figure(figsize=(max(0.092 * longest, 4.5) + 1.6, 0.36 * len(rounds) + 0.8), layout="constrained")
    axes, place = figure.subplots(), 0
    for row, (words, count) in enumerate(zip(rounds, accepted, strict=True)):
        left = 0.0
        for index, word in enumerate(words):
            fill, hatch = TOKEN_KINDS["draft" if index < count else "target"][:2] if place < kept else DEAD
            width = max(len(word), 2)
            axes.add_patch(Rectangle((left, row), width, 0.82, facecolor=fill, hatch=hatch, edgecolor=GREY))
            axes.text(left + width / 2, row + 0.42, word, ha="center", va="center", family="monospace", fontsize=9,
                      parse_math=False)  # fmt: skip
            left, place = left + width, place + 1
        axes.text(-0.8, row + 0.42, f"round {row + 1}", ha="right", va="center")
    axes.set(xlim=(-9, max(longest, 48)), ylim=(len(rounds), -0.1))
    axes.axis("off")
    kinds = (("a guess, accepted", *TOKEN_KINDS["draft"][:2]), ("the target's own", *TOKEN_KINDS["target"][:2]))
    figure.legend(handles=_handles((*kinds, ("beyond the end: dropped", *DEAD))), loc="outside lower left", ncols=3)
    return figure


def cut_claim(rounds: Sequence[Sequence[str]], kept: int) -> str:
    """In which round the text ends, and what is dropped."""
    _check_end(rounds, kept)
    total, last = sum(map(len, rounds)), len(rounds[-1])
    return f"The text ends in round {len(rounds)}: of the {last} tokens of that round {last - total + kept} are kept."


def _check_end(rounds: Sequence[Sequence[str]], kept: int) -> None:
    total = sum(map(len, rounds))
    if not rounds or not total - len(rounds[-1]) < kept <= total:
        raise InputError(f"expected a text that ends in the last of {len(rounds)} rounds, which emit {total} tokens; "
                         f"found {kept} kept tokens. Give the rounds up to the end of the text.")  # fmt: skip


# --- margins and errors ----------------------------------------------------------------------------------------------


@styled
def margin_steps(margins: Sequence[float], errors: Mapping[str, float]) -> Figure:
    """How many places have a margin of at most x (log scale), and twice the largest error of each arithmetic."""
    values = np.sort(np.asarray(margins, dtype=float))
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.step(values, np.arange(1, len(values) + 1), where="post", color=BLACK, label="places with a smaller margin")
    for (name, error), colour, style in zip(errors.items(), CYCLE[1:], ("--", "-."), strict=False):
        axes.axvline(2 * error, color=colour, linestyle=style, linewidth=2, label=f"twice {name}'s error")
    axes.set(xscale="log", xlabel="margin between the best two scores", ylabel=f"of {len(values)} places")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=3, fontsize=9)
    return figure


def margin_claim(margins: Sequence[float], errors: Mapping[str, float]) -> str:
    """Whether any place is a near-tie under each arithmetic; in words, since the errors differ between machines."""
    parts = []
    for name, error in errors.items():
        close = sum(margin <= 2 * error for margin in margins)
        parts.append(f"{'some are' if close else 'none is'} within twice the error of {name}")
    return f"Of {len(margins)} margins {', '.join(parts)}."


def _handles(looks: Sequence[tuple[str, str, str]]) -> list[Patch]:
    return [Patch(facecolor=face, hatch=hatch, edgecolor=DARK, label=label) for label, face, hatch in looks]


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
