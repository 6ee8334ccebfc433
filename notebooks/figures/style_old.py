"""Numbers -> Figure, and numbers -> one line of text.

Every figure is a pure function of its arguments: a bare `matplotlib.figure.Figure`, no pyplot, no
global state. Beside each stands a `..._claim` that says in one sentence, computed from the same
numbers, what the figure shows: print it under the figure; it is its alternative text.

Colours are Okabe and Ito's, and whatever a colour says, a hatch or a marker says too.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ParamSpec

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from fspad_ref.errors import InputError

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE, GREY = "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#999999"
DARK = "#555555"  # edges of boxes, small print
CYCLE = (ORANGE, BLUE, GREEN, PURPLE, SKY, VERMILION, YELLOW, GREY)
HATCHES = ("//", "", "..", "xx", "\\\\", "++", "oo", "--")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

STYLE = {
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "axes.facecolor": "white",
    "figure.dpi": 110,
    "savefig.dpi": 140,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
}

# the plate behind a word on hatching
PLATE = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}

# kind of token -> (fill, hatch, what it is)
TOKEN_KINDS = {
    "draft": (SKY, "", "proposed by the draft, accepted"),
    "target": (ORANGE, "///", "the target's own"),
    "prompt": ("#EEEEEE", "", "prompt"),
}

P = ParamSpec("P")


@dataclass(frozen=True)
class Measure:
    """One bar: `value`, with an interval from `low` to `high` if there is one (NaN: none)."""

    task: str
    method: str
    temperature: float
    value: float
    low: float = math.nan
    high: float = math.nan

    @property
    def counts(self) -> bool:
        """Whether claims count it: a bar for the mean is drawn, but it is no task."""
        return self.task != "mean"


@dataclass(frozen=True)
class Curve:
    """The record of one training run: the loss at `steps`, tau on held-out prompts at `tau_steps`."""

    steps: Sequence[int]
    loss: Sequence[float]
    tau_steps: Sequence[int] = ()
    tau: Sequence[float] = ()


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Give `draw` the one look of all our figures and leave matplotlib's settings as they were."""

    @functools.wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return wrapper


@styled
def token_strip(tokens: Sequence[str], kinds: Sequence[str], title: str = "", columns: int = 88) -> Figure:
    """One box a token, filled and hatched by its kind ("draft", "target" or "prompt").

    Boxes flow like text over lines of `columns` characters. Raises InputError for lists of unequal
    length or an unknown kind.
    """
    _check_kinds(tokens, kinds)
    boxes = _flow([_visible(token) for token in tokens], columns)
    rows = 1 + max((row for _, row, _ in boxes), default=0)
    figure = Figure(figsize=(columns * 0.085 + 0.4, rows * 0.3 + 0.9), layout="constrained")
    axes = figure.subplots()
    for (column, row, text), kind in zip(boxes, kinds, strict=True):
        fill, hatch, _ = TOKEN_KINDS[kind]
        box = Rectangle((column, row), len(text), 0.82, facecolor=fill, edgecolor="white", hatch=hatch, linewidth=1)
        axes.add_patch(box)
        middle = column + len(text) / 2
        axes.text(middle, row + 0.43, text, ha="center", va="center", family="monospace", fontsize=9, parse_math=False)
    axes.set(xlim=(0, columns), ylim=(rows, 0), title=title)
    axes.axis("off")
    shown = [kind for kind in TOKEN_KINDS if kind in kinds]
    handles = [Patch(facecolor=f, hatch=h, edgecolor="white", label=t) for f, h, t in map(TOKEN_KINDS.get, shown)]
    figure.legend(handles=handles, loc="outside lower left", ncols=len(shown) or 1)
    return figure


def token_claim(kinds: Sequence[str]) -> str:
    """What `token_strip` shows, in one line."""
    draft, own = kinds.count("draft"), kinds.count("target")
    return f"{draft} of {draft + own} tokens were proposed by the draft and accepted; {own} are the target's own."


@styled
def acceptance_bars(rows: Sequence[Measure]) -> Figure:
    """tau by task and method, one panel a temperature; the dashed line is plain decoding (tau = 1)."""
    return _bars(rows, "tau: tokens a target forward\n(accepted + 1)", "Average acceptance length")


def acceptance_claim(rows: Sequence[Measure], method: str, baseline: str) -> str:
    """In how many tasks `method` has a larger tau than `baseline`, a temperature at a time."""
    return f"{method}'s tau is above {baseline}'s " + _wins(rows, method, baseline)


@styled
def speedup_bars(rows: Sequence[Measure]) -> Figure:
    """Speedup by task and method, one panel a temperature: medians, with their spread as whiskers."""
    return _bars(rows, "times as many tokens a second\nas plain decoding", "Speedup")


def speedup_claim(rows: Sequence[Measure], method: str, baseline: str | None = None) -> str:
    """In how many tasks `method` is faster than `baseline`, or than plain decoding if that is None."""
    if baseline is not None:
        return f"{method} is faster than {baseline} " + _wins(rows, method, baseline)
    parts = []
    rows = [row for row in rows if row.counts]
    for temperature in _distinct(row.temperature for row in rows):
        values = [row.value for row in rows if (row.method, row.temperature) == (method, temperature)]
        parts.append(f"in {sum(value > 1 for value in values)} of {len(values)} tasks at T={temperature:g}")
    return f"{method} is faster than plain decoding {_and(parts)}."


@styled
def training_curves(curves: Mapping[str, Curve]) -> Figure:
    """Loss (log scale) and tau over steps, one line and marker a draft."""
    with_tau = any(len(curve.tau) for curve in curves.values())
    figure = Figure(figsize=(9 if with_tau else 5, 3.4), layout="constrained")
    panels = figure.subplots(1, 2 if with_tau else 1, squeeze=False)[0]
    for index, (name, curve) in enumerate(curves.items()):
        look = {"color": CYCLE[index % len(CYCLE)], "marker": MARKERS[index % len(MARKERS)], "label": name}
        panels[0].plot(curve.steps, curve.loss, markevery=max(1, len(curve.steps) // 8), **look)
        if with_tau:
            panels[1].plot(curve.tau_steps, curve.tau, **look)
    panels[0].set(xlabel="step", ylabel="loss", yscale="log", title="Training loss")
    panels[0].yaxis.set_major_formatter("{x:g}")  # plain numbers; log axes default to powers of ten
    panels[0].yaxis.set_minor_formatter("{x:.2g}")
    panels[0].legend()
    if with_tau:
        panels[1].set(xlabel="step", ylabel="tau on held-out prompts", title="Average acceptance length")
    return figure


def training_claim(curves: Mapping[str, Curve]) -> str:
    """Which drafts' losses fell, and which draft ends with the largest tau."""
    fell = sum(curve.loss[-1] < curve.loss[0] for curve in curves.values())
    text = f"The loss of {fell} of {len(curves)} drafts fell"
    last = {name: curve.tau[-1] for name, curve in curves.items() if len(curve.tau)}
    return f"{text}; the largest tau at the end is {max(last, key=last.__getitem__)}'s." if last else f"{text}."


def _bars(rows: Sequence[Measure], ylabel: str, title: str) -> Figure:
    """Grouped bars: a group a task, a bar a method, a panel a temperature, and a line at 1."""
    if not rows:
        raise InputError("a bar chart needs at least one measure, found none")
    temperatures = _distinct(row.temperature for row in rows)
    tasks, methods = _distinct(row.task for row in rows), _distinct(row.method for row in rows)
    figure = Figure(figsize=(1.6 + 0.28 * (len(methods) + 1) * len(tasks), 0.6 + 2.7 * len(temperatures)))
    figure.set_layout_engine("constrained")
    panels = figure.subplots(len(temperatures), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, temperature in zip(panels, temperatures, strict=True):
        _panel(axes, [row for row in rows if row.temperature == temperature], tasks, methods)
        axes.set(ylabel=ylabel, title=f"{title} at T={temperature:g}")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(len(methods), 4))
    return figure


def _panel(axes: Axes, rows: Sequence[Measure], tasks: list[str], methods: list[str]) -> None:
    width = 0.82 / len(methods)
    for index, method in enumerate(methods):
        mine = [row for row in rows if row.method == method]
        places = [tasks.index(row.task) + (index - (len(methods) - 1) / 2) * width for row in mine]
        colour, hatch = CYCLE[index % len(CYCLE)], HATCHES[index % len(HATCHES)]
        values = [row.value for row in mine]
        axes.bar(places, values, width, label=method, color=colour, hatch=hatch, edgecolor="white", linewidth=0.5)
        for place, row in zip(places, mine, strict=True):
            if not (math.isnan(row.low) or math.isnan(row.high)):
                axes.vlines(place, row.low, row.high, color=BLACK, linewidth=1)
    axes.axhline(1, color=BLACK, linestyle="--", linewidth=0.8)
    axes.set_xticks(range(len(tasks)), [task.replace("_", "\n") for task in tasks])


def _wins(rows: Sequence[Measure], method: str, baseline: str) -> str:
    value = {(row.task, row.method, row.temperature): row.value for row in rows if row.counts}
    parts = []
    for temperature in _distinct(row.temperature for row in rows):
        tasks = [t for t, m, at in value if (m, at) == (method, temperature) and (t, baseline, at) in value]
        won = sum(value[t, method, temperature] > value[t, baseline, temperature] for t in tasks)
        parts.append(f"in {won} of {len(tasks)} tasks at T={temperature:g}")
    return _and(parts) + "."


def _and(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _distinct(values) -> list:
    return list(dict.fromkeys(values))


def _check_kinds(tokens: Sequence[str], kinds: Sequence[str]) -> None:
    if len(tokens) != len(kinds):
        raise InputError(f"expected one kind a token, found {len(tokens)} tokens and {len(kinds)} kinds")
    if unknown := set(kinds) - set(TOKEN_KINDS):
        raise InputError(f"unknown kinds of token {sorted(unknown)}; known are {sorted(TOKEN_KINDS)}")


def _visible(token: str) -> str:
    """A token as it can be drawn: never empty, without line breaks."""
    return token.replace("\n", "⏎").replace("\t", "→") or "∅"


def _flow(texts: Sequence[str], columns: int) -> list[tuple[int, int, str]]:
    """(column, row, text) of every box."""
    column = row = 0
    boxes = []
    for text in texts:
        if column and column + len(text) > columns:
            column, row = 0, row + 1
        boxes.append((column, row, text))
        column += len(text)
    return boxes
