"""The look of all figures: Okabe and Ito's colours, and one colour, marker and hatch per method.

A figure is a pure function of its arguments: a bare `matplotlib.figure.Figure`, no pyplot, no global state. What a
colour says, a marker, hatch or sign says too. In a notebook, `plt.rcParams.update(STYLE)` gives plots the same look.

>>> look("FSPAD")["color"] == look("fspad (live)")["color"] == GREEN
True
"""

import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE, GREY = "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#999999"
DARK, PALE = "#555555", "#EEEEEE"  # small print and edges; quiet areas

# for what is not a method
CYCLE = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, YELLOW, GREY)
MARKERS, HATCHES = ("o", "s", "^", "D", "v", "P", "X", "*"), ("//", "", "..", "xx", "\\\\", "++", "oo", "--")

STYLE = {
    "axes.prop_cycle": matplotlib.cycler(color=CYCLE), "lines.markersize": 5,
    "figure.facecolor": "white", "savefig.facecolor": "white", "axes.facecolor": "white", "figure.dpi": 100,
    "font.size": 10, "axes.titlesize": 11, "axes.titlelocation": "left", "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.grid.axis": "y",
    "grid.color": "#DDDDDD", "hatch.linewidth": 0.6, "legend.frameon": False, "svg.fonttype": "none",
}  # fmt: skip

# part of a method's name in lower case -> colour, marker, hatch; the first part that is found counts
METHODS = {
    "fspad": (GREEN, "s", ""), "eagle": (BLUE, "o", "//"), "pad": (PURPLE, "D", ".."), "fs": (ORANGE, "^", "++"),
    "medusa": (SKY, "v", "xx"), "assist": (VERMILION, "P", "\\\\"), "lookup": (YELLOW, "X", "oo"),
    "plain": (BLACK, "x", ""), "": (GREY, "*", "--"),
}  # fmt: skip

# a decorator: gives a function that draws the look of all our figures; matplotlib's settings are left as they were
styled = matplotlib.rc_context(STYLE)


def look(method: str) -> dict[str, Any]:
    """Colour, marker, hatch and opacity of a method. A variant, named in brackets or after a comma, is drawn paler."""
    colour, marker, hatch = next(known for part, known in METHODS.items() if part in method.lower())
    pale = "(" in method or "," in method
    return {"color": colour, "marker": marker, "hatch": hatch, "alpha": 0.5 if pale else 1.0}


@styled
def bars(rows: pd.DataFrame, value: str, ylabel: str) -> Figure:
    """A group of bars per task, a bar per method, a panel per temperature; plain decoding is the dashed line at 1.

    rows: columns task, method, temperature; and for the value tau, say: tau, and tau_low and tau_high, its interval.
    """
    tasks, methods, temperatures = (list(rows[name].unique()) for name in ("task", "method", "temperature"))
    width = 0.82 / len(methods)
    size = (2.0 + 0.3 * (len(methods) + 1) * len(tasks), 0.7 + 2.5 * len(temperatures))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(temperatures), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, temperature in zip(panels, temperatures, strict=True):
        for index, method in enumerate(methods):
            mine = rows[(rows.method == method) & (rows.temperature == temperature)]
            places = [tasks.index(task) + (index - (len(methods) - 1) / 2) * width for task in mine.task]
            fill = {name: value for name, value in look(method).items() if name != "marker"}
            axes.bar(places, mine[value], width, label=method, edgecolor="white", **fill)
            axes.vlines(places, mine[f"{value}_low"], mine[f"{value}_high"], color=BLACK, linewidth=1)
        axes.axhline(1, color=BLACK, linestyle="--", linewidth=0.8)
        axes.set(ylabel=ylabel, title=f"T={temperature:g}")
        axes.set_xticks(range(len(tasks)), [task.replace("_", "\n") for task in tasks])
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(len(methods), 4))
    return figure


def curves(axes: Axes, points: Mapping[str, Sequence[tuple[float, float]]], **labels: str) -> None:
    """A line per method through its points (x, y), in the method's colour and marker; labels as for `Axes.set`."""
    for name, line in points.items():
        ink = {key: value for key, value in look(name).items() if key != "hatch"}
        axes.plot(*zip(*line, strict=True), label=name, markevery=max(1, len(line) // 8), **ink)
    axes.set(**labels)
    axes.legend(fontsize=8)


def drawable(text: str) -> str:
    """The text with □ for letters that the font lacks (emoji, other scripts), about which matplotlib would warn."""
    font = get_font(findfont("DejaVu Sans"))
    return "".join(letter if font.get_char_index(ord(letter)) else "□" for letter in text)


def svg(figure: Figure, label: str, tips: Sequence[str] = ()) -> str:
    """The figure as inline SVG, at most as wide as its place.

    label: the alternative text. tips[i]: shown when the pointer rests on the part with the gid "tip-i".
    """
    data = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(data, format="svg")
    width = 96 * figure.get_figwidth()
    size = f"width: 100%; max-width: {width:.0f}px; min-width: {0.6 * width:.0f}px; height: auto"
    head = rf'<svg viewBox="\1" role="img" aria-label="{html.escape(label)}" style="display: block; {size}">'
    text = re.sub(r'.*?<svg .*?viewBox="(.*?)".*?>', head, data.getvalue(), count=1, flags=re.DOTALL)
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)  # it would style the page
    for number, tip in enumerate(tips):
        text = text.replace(f'<g id="tip-{number}">', f'<g class="fspad-part"><title>{html.escape(tip)}</title>', 1)
    return text.replace('<g id="text_', '<g pointer-events="none" id="text_')
