"""Pictures of chapter 05, first half: from a dialogue to pairs, and one step for four drafts.

As in `plots`: numbers -> Figure, and beside it the same numbers -> one line of text.
"""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch, Rectangle

from figures.alignment_plots import LOOKS
from fspad_ref.errors import InputError
from fspad_ref.viz.style import BLACK, GREEN, GREY, ORANGE, SKY, styled

EDGE = "#555555"
TEACHER = "#D9EFE6"


# --- one dialogue as pairs -------------------------------------------------------------------------------------------


@styled
def pair_strip(tokens: Sequence[str], response: Sequence[bool], trained: Sequence[bool]) -> Figure:
    """A column a token, and below it the pair that stands there: what goes in, what is wanted, whether it counts.

    tokens, response: T entries. trained: T - 1, one a pair. Raises InputError if the lengths do not fit.
    """
    if not len(tokens) == len(response) == len(trained) + 1:
        counts = f"{len(tokens)} tokens, {len(response)} of the response mask and {len(trained)} pairs"
        raise InputError(f"expected T tokens, T entries of the response mask and T - 1 pairs, found {counts}")
    figure = Figure(figsize=(2.0 + 0.58 * len(tokens), 3.5), layout="constrained")
    axes = figure.subplots()
    for t, token in enumerate(tokens):
        _cell(axes, t, 0, token, *((ORANGE, "///") if response[t] else ("#EEEEEE", "")))
    for t, counts in enumerate(trained):
        _cell(axes, t, 1.5, f"$f_{{{t}}}$", SKY if counts else "white")
        _cell(axes, t, 2.5, f"$x_{{{t + 1}}}$", SKY if counts else "white")
        _cell(axes, t, 3.5, f"$f_{{{t + 1}}}$", TEACHER if counts else "white")
        drafted = f"$x_{{{t + 2}}}$" if t + 2 < len(tokens) else "none"
        _cell(axes, t, 4.5, drafted, TEACHER if counts else "white")
        _cell(axes, t, 6, "1" if counts else "0", *((GREEN, "xx") if counts else ("white", "")))
    rows = {
        0: "token",
        1.5: "input: feature",
        2.5: "input: next token",
        3.5: "teacher",
        4.5: "drafted token",
        6: "mask",
    }
    axes.set_yticks([y + 0.45 for y in rows], list(rows.values()))
    axes.set_xticks([t + 0.45 for t in range(len(tokens))], [str(t) for t in range(len(tokens))])
    axes.tick_params(length=0)
    axes.set(xlim=(-0.1, len(tokens)), ylim=(7.0, -0.1), xlabel="position $t$")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    looks = (("prompt", "#EEEEEE", ""), ("response", ORANGE, "///"), ("counts in the loss", GREEN, "xx"),
             ("goes in, and counts", SKY, ""), ("wanted, and counts", TEACHER, ""))  # fmt: skip
    handles = [Patch(facecolor=face, hatch=hatch, edgecolor=EDGE, label=label) for label, face, hatch in looks]
    figure.legend(handles=handles, loc="outside lower left", ncols=5)
    return figure


def pair_claim(response: Sequence[bool], trained: Sequence[bool]) -> str:
    """How many pairs count, and where the first of them stands."""
    first = list(trained).index(True)
    place = "on the last token of the prompt" if not response[first] else "inside the response"
    return (
        f"{len(response)} tokens make {len(trained)} pairs; {sum(trained)} of them count in the loss, and the first of "
        f"these has its feature {place}."
    )


def _cell(axes: Axes, x: float, y: float, text: str, face: str, hatch: str = "") -> None:
    axes.add_patch(Rectangle((x, y), 0.92, 0.9, facecolor=face, hatch=hatch, edgecolor=EDGE, linewidth=0.6))
    shown = text.replace("\n", "⏎") or "∅"
    behind = {"boxstyle": "round,pad=0.1", "facecolor": face, "edgecolor": "none"} if hatch else None
    size = 9 if len(shown) <= 5 or "$" in shown else 7.5 if len(shown) <= 8 else 6
    math = "$" in shown and shown.startswith("$")
    if len(shown) > 9 and not math:
        shown = f"{shown[: len(shown) // 2]}\n{shown[len(shown) // 2 :]}"
    axes.text(x + 0.46, y + 0.47, shown, ha="center", va="center", fontsize=size, bbox=behind, parse_math=math)


# --- one step for several drafts -------------------------------------------------------------------------------------


@styled
def step_flow(kinds: Sequence[str], batch: int, length: int, hidden: int) -> Figure:
    """Token ids go through the frozen target once; every draft learns from the same features."""
    figure = Figure(figsize=(10.2, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(0, 20.4), ylim=(0, 7.2))
    axes.axis("off")
    middle = 3.6
    _box(axes, 1.9, middle, 3.2, f"dialogues\nids {batch} x {length}", "#EEEEEE")
    _box(axes, 6.5, middle, 3.4, "target\nfrozen, one pass", GREY, "//")
    _box(axes, 11.2, middle, 3.6, f"features\n{batch} x {length} x {hidden}", SKY)
    _arrow(axes, (3.5, middle), (4.8, middle))
    _arrow(axes, (8.2, middle), (9.4, middle))
    gap = 6.0 / len(kinds)
    for place, kind in enumerate(kinds):
        y = 6.6 - gap * (place + 0.5)
        _box(axes, 15.8, y, 2.0, kind, LOOKS[kind][0], height=0.62 * gap)
        _box(axes, 19.0, y, 2.0, "loss", "white", height=0.62 * gap)
        _arrow(axes, (13.0, middle), (14.8, y))
        _arrow(axes, (16.8, y + 0.12 * gap), (18.0, y + 0.12 * gap))
        _arrow(axes, (18.0, y - 0.12 * gap), (16.8, y - 0.12 * gap), dashed=True)
    axes.text(11.2, 1.6, "in: with noise\nteacher: shifted by one", ha="center", fontsize=9)
    axes.text(17.4, 6.75, "gradient (dashed) stops at the draft", ha="center", fontsize=9)
    return figure


def flow_claim(kinds: Sequence[str]) -> str:
    """What the picture says."""
    return (
        f"One pass of the frozen target serves {len(kinds)} drafts; each has a loss of its own, and no gradient "
        "reaches the target."
    )


def _box(axes: Axes, x: float, y: float, width: float, text: str, face: str, hatch: str = "", height=1.9) -> None:
    corner = (x - width / 2, y - height / 2)
    shape = {"boxstyle": "round,pad=0,rounding_size=0.2", "edgecolor": EDGE, "hatch": hatch}
    axes.add_patch(FancyBboxPatch(corner, width, height, facecolor=face, **shape))
    behind = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none"} if hatch else None
    axes.text(x, y, text, ha="center", va="center", fontsize=9, bbox=behind)


def _arrow(axes: Axes, start, end, dashed: bool = False) -> None:
    look = {"linestyle": "--" if dashed else "-", "color": BLACK, "linewidth": 1.1}
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, **look))
