"""Pictures of chapter 04: two losses and one or two heads, gradients that meet, heads that specialise.

As in `plots`: numbers -> Figure, and beside it the same numbers -> one line of text.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch
from torch import Tensor

from figures.gradients import HeadScore, Meeting
from fspad_ref.viz.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, styled

FEATURE, LOGIT = BLUE, VERMILION  # the two losses, in every picture
LOOKS = {"eagle": (GREY, "v"), "fs": (ORANGE, "o"), "pad": (PURPLE, "D"), "fspad": (GREEN, "s")}


# --- the two arrangements --------------------------------------------------------------------------------------------


@styled
def loss_pipeline(hidden: int, inner: int, vocabulary: int) -> Figure:
    """From the pair to the two losses: through one vector (left) or through two heads (right), with the widths."""
    figure = Figure(figsize=(10.4, 4.3), layout="constrained")
    shared, split = figure.subplots(1, 2)
    for axes, title, width in ((shared, "shared", hidden), (split, "split", 2 * hidden)):
        axes.set(xlim=(0, 12.1), ylim=(0, 10.4), title=f"{title}: last map {inner} → {width}")
        axes.axis("off")
        _box(axes, 5, 0.9, 6.4, f"pair (feature, next token): 2 x {hidden}", "#EEEEEE")
        _box(axes, 5, 2.9, 6.4, f"trunk: {hidden} → {inner}", SKY)
        _arrow(axes, (5, 1.5), (5, 2.3))
        _box(axes, 2.4, 7.4, 4.3, f"lm_head: {hidden} → {vocabulary}", "#EEEEEE")
        _box(axes, 2.4, 9.5, 4.3, "logit loss", LOGIT, "//", "white")
        _box(axes, 7.7, 9.5, 4.3, "feature loss", FEATURE, "", "white")
        _arrow(axes, (2.4, 8.0), (2.4, 8.9))
    _box(shared, 5, 5.1, 5.0, f"one vector, u = g: {hidden}", ORANGE)
    _arrow(shared, (5, 3.5), (5, 4.5))
    _arrow(shared, (4.2, 5.7), (2.8, 6.8))
    _arrow(shared, (6.0, 5.7), (7.6, 8.9))
    _box(split, 2.4, 5.1, 4.3, f"logit feature u: {hidden}", ORANGE, "//")
    _box(split, 7.6, 5.1, 4.3, f"aligned feature g: {hidden}", ORANGE)
    _arrow(split, (4.2, 3.5), (2.9, 4.5))
    _arrow(split, (5.8, 3.5), (7.1, 4.5))
    _arrow(split, (2.4, 5.7), (2.4, 6.8))
    _arrow(split, (7.7, 5.7), (7.7, 8.9))
    for axes, start, side in ((shared, (7.55, 5.1), 9.2), (split, (9.7, 4.7), 10.3)):
        _arrow(axes, start, (8.25, 0.9), bend=-0.5, dashed=True)
        axes.text(side, 2.9, "fed back as\nthe feature of\nthe next step", va="center", fontsize=8)
    return figure


def pipeline_claim(hidden: int) -> str:
    """What the picture says."""
    return (
        f"Shared: one vector of {hidden} numbers answers to both losses and is fed back. Split: the logit loss reaches "
        "u only, the feature loss g only, and g is fed back; both reach the trunk."
    )


def _box(axes: Axes, x: float, y: float, width: float, text: str, face: str, hatch: str = "", colour=BLACK) -> None:
    shape = {"boxstyle": "round,pad=0,rounding_size=0.2", "edgecolor": "#555555"}
    axes.add_patch(FancyBboxPatch((x - width / 2, y - 0.6), width, 1.2, facecolor=face, hatch=hatch, **shape))
    behind = {"boxstyle": "round,pad=0.1", "facecolor": face, "edgecolor": "none"} if hatch else None
    axes.text(x, y, text, ha="center", va="center", fontsize=9, color=colour, bbox=behind)


def _arrow(axes: Axes, start, end, bend: float = 0.0, dashed: bool = False, colour=BLACK, width: float = 1.2) -> None:
    look = {"linestyle": "--" if dashed else "-", "color": colour, "linewidth": width}
    axes.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, connectionstyle=f"arc3,rad={bend}", **look)
    )


# --- smooth L1 -------------------------------------------------------------------------------------------------------


@styled
def kink_curve(points: Mapping[float, float]) -> Figure:
    """Smooth L1 between its two parts, half the square and the distance less one half, with points worked by hand."""
    figure = Figure(figsize=(6.0, 2.9), layout="constrained")
    axes = figure.subplots()
    x = torch.linspace(-2.6, 2.6, 201)
    axes.plot(x, x**2 / 2, color=GREY, linestyle=":", label="half the square")
    axes.plot(x, x.abs() - 0.5, color=GREY, linestyle="--", label="distance less 1/2")
    axes.plot(x, torch.nn.functional.smooth_l1_loss(x, 0 * x, reduction="none"), color=FEATURE, label="smooth L1")
    axes.plot(list(points), list(points.values()), "D", color=ORANGE, markeredgecolor=BLACK, label="by hand")
    for place in (-1, 1):
        axes.axvline(place, color="#DDDDDD", linewidth=1, zorder=0)
    axes.set(xlabel="difference in one coordinate", ylabel="loss", ylim=(-0.6, 2.6))
    axes.legend(loc="upper center", fontsize=9)
    return figure


def kink_claim(points: Mapping[float, float]) -> str:
    """On which side of the kink the points lie."""
    inside = sum(abs(x) <= 1 for x in points)
    return (
        f"Within 1 of the target smooth L1 is half the square ({inside} points), beyond it a straight line of slope 1 "
        f"({len(points) - inside} points)."
    )


# --- the toy in the plane --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plane:
    """Both losses on a grid of outputs (x, y), the cosine of their gradients there, and what is marked.

    futures: the features that may come. best_feature, best_logit: where each loss is smallest.
    point: the output at which the two steps (minus the gradients) are drawn.
    """

    x: Float[Tensor, "n"]
    y: Float[Tensor, "rows"]
    feature: Float[Tensor, "rows n"]
    logit: Float[Tensor, "rows n"]
    cosine: Float[Tensor, "rows n"]
    futures: Float[Tensor, "k 2"]
    best_feature: Float[Tensor, "2"]
    best_logit: Float[Tensor, "2"]
    point: Float[Tensor, "2"]
    feature_step: Float[Tensor, "2"]
    logit_step: Float[Tensor, "2"]


@styled
def plane_map(plane: Plane) -> Figure:
    """Contours of both losses over the outputs, the region where their gradients oppose, and both steps at a point."""
    figure = Figure(figsize=(8.7, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.grid(False)
    grid = plane.x.numpy(), plane.y.numpy()
    axes.contourf(*grid, plane.cosine.numpy(), levels=[-1.01, 0], colors=["#F4DDEB"], hatches=["..."])
    for values, colour, style in ((plane.feature, FEATURE, "solid"), (plane.logit, LOGIT, "dashed")):
        above = (values - values.min()).sqrt().numpy()  # evenly spaced in distance, not in height
        axes.contour(*grid, above, levels=7, colors=[colour], linestyles=style, linewidths=0.9)
    axes.plot(*plane.futures.T.numpy(), "o", color=BLACK, markersize=8, linestyle="none")
    axes.plot(*plane.best_feature.numpy(), "D", color=FEATURE, markersize=8, markeredgecolor="white")
    axes.plot(*plane.best_logit.numpy(), "s", color=LOGIT, markersize=8, markeredgecolor="white")
    for step, colour, dashed in ((plane.feature_step, FEATURE, False), (plane.logit_step, LOGIT, True)):
        end = plane.point + 0.12 * step / step.norm()
        _arrow(axes, tuple(plane.point.tolist()), tuple(end.tolist()), dashed=dashed, colour=colour, width=2.6)
    axes.plot(*plane.point.numpy(), ".", color=BLACK, markersize=9, zorder=5)
    axes.set(xlabel="first coordinate of the output", ylabel="second coordinate", aspect="equal")
    axes.legend(handles=_plane_handles(), loc="upper left", bbox_to_anchor=(1.02, 1), fontsize=9)
    return figure


def plane_claim(plane: Plane) -> str:
    """How far apart the two best outputs are, and where the gradients oppose."""
    apart = float((plane.best_feature - plane.best_logit).norm())
    share = float((plane.cosine < 0).double().mean())
    angle = float(torch.cosine_similarity(plane.feature_step, plane.logit_step, dim=0))
    return (
        f"The two losses are smallest {apart:.2f} apart. In {100 * share:.0f} % of the picture their gradients oppose; "
        f"at the marked point their cosine is {angle:.2f}."
    )


def _plane_handles() -> list:
    def mark(marker: str, colour: str, label: str) -> Line2D:
        return Line2D([], [], marker=marker, color=colour, linestyle="none", label=label)

    return [
        mark("o", BLACK, "features that may come"),
        Line2D([], [], color=FEATURE, label="feature loss"),
        mark("D", FEATURE, "its best output"),
        Line2D([], [], color=LOGIT, linestyle="--", label="logit loss"),
        mark("s", LOGIT, "its best output"),
        mark(".", BLACK, "an output, and the\nstep each loss asks for"),
        Patch(facecolor="#F4DDEB", hatch="...", edgecolor=BLACK, label="cosine below 0"),
    ]


# --- cosines ---------------------------------------------------------------------------------------------------------

Meetings = Mapping[str, Mapping[str, Meeting]]  # kind -> place -> how the losses meet there
History = Mapping[str, Sequence[Mapping[str, Meeting]]]  # kind -> the same place -> meeting, look by look


@styled
def cosine_panels(steps: Sequence[int], live: History, shipped: Meetings) -> Figure:
    """A row a place: cosines over the steps of a short training (left), and of drafts trained to the end (right).

    The bars on the right are two standard errors of the cosine across batches.
    """
    places = list(next(iter(shipped.values())))
    figure = Figure(figsize=(9.0, 2.6 * len(places) + 0.6), layout="constrained")
    panels = figure.subplots(len(places), 2, sharey=True, squeeze=False, width_ratios=(3, 2))
    for (left, right), place in zip(panels, places, strict=True):
        for kind, history in live.items():
            colour, marker = LOOKS[kind]
            same, across, _ = zip(*(found[place] for found in history), strict=True)
            left.plot(steps, same, color=colour, marker=marker, fillstyle="none", linestyle="--")
            left.plot(steps, across, color=colour, marker=marker)
        for column, (kind, found) in enumerate(shipped.items()):
            colour, marker = LOOKS[kind]
            same, across, error = found[place]
            right.plot(column - 0.12, same, color=colour, marker=marker, fillstyle="none", markersize=8)
            right.plot(column + 0.12, across, color=colour, marker=marker, markersize=8)
            right.vlines(column + 0.12, across - 2 * error, across + 2 * error, color=colour)
        for axes in (left, right):
            axes.axhline(0, color=BLACK, linewidth=0.8)
            axes.set(ylim=(-1.6, 1.1), yticks=(-1, -0.5, 0, 0.5, 1))  # an estimate may pass -1 by its error
        left.set(xlabel="step", ylabel="cosine of the gradients", title=f"{place}: a short training")
        right.set(title=f"{place}: the shipped drafts", xlim=(-0.6, len(shipped) - 0.4))
        right.set_xticks(range(len(shipped)), list(shipped))
    handles = [Line2D([], [], color=LOOKS[kind][0], marker=LOOKS[kind][1], label=kind) for kind in live]
    looks = (("same batch", "none", "--"), ("across batches", "full", "-"))
    handles += [Line2D([], [], color=BLACK, marker="o", fillstyle=f, linestyle=s, label=n) for n, f, s in looks]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


def cosine_claim(live: History, shipped: Meetings) -> str:
    """The sign of every cosine of the shipped drafts, and whether the live ones end below where they began."""
    parts = []
    for place in next(iter(shipped.values())):
        same = ", ".join(f"{kind} {sign(found[place].same)}" for kind, found in shipped.items())
        across = ", ".join(f"{kind} {sign(*found[place][1:])}" for kind, found in shipped.items())
        parts += [f"{place}, on the same batch: {same}", f"{place}, across batches: {across}"]
    fell = [kind for kind, history in live.items() if history[-1]["trunk"].across < history[0]["trunk"].across]
    falls = f"{len(fell)} of {len(live)} cosines of the trunk end lower than they began"
    return f"Shipped drafts: {'; '.join(parts)}. In the short training {falls}."


def sign(cosine: float, error: float = 0.0) -> str:
    """In words; within two standard errors of 0 no sign is told."""
    if math.isnan(cosine + error):
        return "lost in noise"
    if cosine == 0.0:
        return "0"
    return "not clear of 0" if abs(cosine) < 2 * error else "positive" if cosine > 0 else "negative"


# --- what the heads have become --------------------------------------------------------------------------------------

HEADS = {"one vector": (GREY, ""), "u": (VERMILION, "//"), "g": (BLUE, "")}


@styled
def head_bars(scores: Mapping[str, Mapping[str, HeadScore]]) -> Figure:
    """Distance to the target's feature and divergence of the tokens, a group a draft, a bar a head."""
    figure = Figure(figsize=(8.6, 3.1), layout="constrained")
    panels = figure.subplots(1, 2)
    titles = ("Distance to the target's feature", "Divergence of the tokens")
    for axes, name, title, unit in zip(panels, HeadScore._fields, titles, ("L1 a coordinate", "nats"), strict=False):
        for place, heads in enumerate(scores.values()):
            _group(axes, place, {head: getattr(score, name) for head, score in heads.items()})
        axes.set_xticks(range(len(scores)), list(scores))
        axes.set(title=title, ylabel=unit)
        axes.margins(y=0.12)
    used = [head for head in HEADS if any(head in heads for heads in scores.values())]
    handles = [Patch(facecolor=HEADS[x][0], hatch=HEADS[x][1], edgecolor="white", label=x) for x in used]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def head_claim(scores: Mapping[str, Mapping[str, HeadScore]]) -> str:
    """Which head is closer to the feature and which gives the better tokens, for every draft with two."""
    parts = []
    for kind, heads in scores.items():
        if len(heads) > 1:
            near = min(heads, key=lambda head: heads[head].distance)
            good = min(heads, key=lambda head: heads[head].divergence)
            parts.append(f"{kind}: {near} is closer to the target's feature, {good} gives the better tokens")
    return "; ".join(parts) + "."


@styled
def fed_back_bars(scores: Mapping[str, Mapping[str, HeadScore]]) -> Figure:
    """Divergence of the second step's tokens, by what was fed back as its feature."""
    figure = Figure(figsize=(6.4, 2.9), layout="constrained")
    axes = figure.subplots()
    looks = {"the target's": (GREEN, "xx"), **HEADS}
    for place, fed in enumerate(scores.values()):
        _group(axes, place, {name: score.divergence for name, score in fed.items()}, looks)
    axes.set_xticks(range(len(scores)), list(scores))
    axes.set(ylabel="divergence of the\nsecond tokens (nats)")
    axes.margins(y=0.12)
    handles = [Patch(facecolor=f, hatch=h, edgecolor="white", label=f"fed back: {x}") for x, (f, h) in looks.items()]
    figure.legend(handles=handles, loc="outside right center", fontsize=9)
    return figure


def fed_back_claim(scores: Mapping[str, Mapping[str, HeadScore]]) -> str:
    """Which feature serves the second step best and worst, a draft at a time."""
    parts = []
    for kind, fed in scores.items():
        order = sorted(fed, key=lambda name: fed[name].divergence)
        parts.append(f"{kind}: best {order[0]}, worst {order[-1]}")
    return f"What serves the second step: {'; '.join(parts)}."


def _group(axes: Axes, place: int, values: Mapping[str, float], looks: Mapping = HEADS) -> None:
    """Bars side by side around `place`, each with its value."""
    for index, (name, value) in enumerate(values.items()):
        x = place + 0.26 * (index - (len(values) - 1) / 2)
        fill, hatch = looks[name]
        axes.bar(x, value, 0.24, color=fill, hatch=hatch, edgecolor="white")
        axes.text(x, value, f"{value:.2f}", ha="center", va="bottom", fontsize=8)
