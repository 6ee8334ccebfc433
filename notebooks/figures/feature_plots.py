"""Pictures of chapter 02: where a feature comes from, the next features it allows, how far they spread, what counts.

As in `plots`: numbers -> Figure, and beside it the same numbers -> one line of text.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch

from fspad_ref.viz.style import BLACK, BLUE, CYCLE, GREEN, GREY, MARKERS, ORANGE, SKY, VERMILION, styled

Points = Sequence[tuple[float, float]]
PALE = "#EEEEEE"


@dataclass(frozen=True)
class Cloud:
    """What may follow one place: tokens, their probabilities, and in a plane their next features, mean and f_t."""

    tokens: Sequence[str]
    probability: Sequence[float]
    points: Points
    mean: tuple[float, float]
    now: tuple[float, float]


@dataclass(frozen=True)
class Score:
    """A way to guess the next feature: its squared error as a share of the total, and how often its token is right.

    Each twice: over all places, and over the uncertain ones.
    """

    error: tuple[float, float]
    agree: tuple[float, float]


# --- schemes ---------------------------------------------------------------------------------------------------------


@styled
def pipeline(tokens: int, hidden: int, layers: int, vocab: int) -> Figure:
    """From token ids to logits and back, with the shape of everything on the way."""
    wide = f"(1, {tokens}, {hidden})"
    boxes = [("token ids", f"(1, {tokens})"), ("embeddings e", wide), ("hidden states h", wide)]
    boxes += [("features f", wide), ("logits", f"(1, {tokens}, {vocab})")]
    figure = Figure(figsize=(9.4, 2.2), layout="constrained")
    axes = figure.subplots()
    for place, (name, shape) in enumerate(boxes):
        face, hatch = (SKY, "//") if name == "features f" else (PALE, "")
        _box(axes, 2 * place, 0, 1.3, 0.9, f"{name}\n{shape}", face, hatch)
    for place, name in enumerate(("embed", f"{layers} layers", "final\nnorm", "lm_head")):
        _arrow(axes, (2 * place + 0.68, 0), (2 * place + 1.32, 0))
        axes.text(2 * place + 1, 0.12, name, ha="center", va="bottom", fontsize=9)
    axes.plot((8, 8, 0), (-0.5, -1, -1), color=BLACK, linewidth=1.2)
    _arrow(axes, (0, -1.02), (0, -0.5))
    axes.text(4, -0.93, "softmax of the last row, draw a token, append it", ha="center", va="bottom", fontsize=9)
    axes.set(xlim=(-0.8, 8.8), ylim=(-1.15, 0.75))
    axes.axis("off")
    return figure


def pipeline_claim(tokens: int, hidden: int, layers: int, vocab: int) -> str:
    """The way in one sentence."""
    return (
        f"{tokens} tokens become {tokens} features of {hidden} numbers, through {layers} layers and the final norm; "
        f"lm_head turns each into {vocab} logits, from which the next token is drawn."
    )


@styled
def shifted_pairs(words: Sequence[str]) -> Figure:
    """The draft's inputs and goals at consecutive places. The last word has been drawn, but not yet read."""
    figure = Figure(figsize=(1.5 + 1.75 * len(words), 3.5), layout="constrained")
    axes = figure.subplots()
    last = len(words) - 1
    for t, word in enumerate(words):
        _box(axes, 2 * t, 3, 1.5, 0.56, word.strip() or repr(word), *((ORANGE, "..") if t == last else (PALE, "")))
        if t == last:
            continue
        name, after = _index(t - last + 1), _index(t - last + 2)
        _box(axes, 2 * t, 2, 1.0, 0.56, f"$f_{{{name}}}$", SKY, "//")
        _box(axes, 2 * t - 0.42, 0.9, 0.72, 0.6, f"$f_{{{name}}}$", SKY, "//")
        _box(axes, 2 * t + 0.42, 0.9, 0.72, 0.6, f"$e_{{{after}}}$", ORANGE, "..")
        _box(axes, 2 * t, -0.1, 1.0, 0.56, f"$f_{{{after}}}$", GREEN, "xx")
        _arrow(axes, (2 * t, 2.7), (2 * t, 2.3))
        _arrow(axes, (2 * t - 0.1, 1.7), (2 * t - 0.42, 1.22))
        _arrow(axes, (2 * t + 1.55, 2.7), (2 * t + 0.52, 1.24), ORANGE)
        _arrow(axes, (2 * t, 0.58), (2 * t, 0.2))
    for y, name in ((3, "token"), (2, "target's\nfeature"), (0.9, "the draft\nreads"), (-0.1, "the draft\npredicts")):
        axes.text(-1.1, y, name, ha="right", va="center", fontsize=9)
    axes.set(xlim=(-2.4, 2 * last + 0.9), ylim=(-0.5, 3.4))
    axes.axis("off")
    return figure


def shifted_claim(words: Sequence[str]) -> str:
    """What the draft reads at the last place."""
    read, drawn = words[-2].strip(), words[-1].strip()
    return (
        f"At each place the draft reads a feature together with the token after it; at the last one the feature at "
        f"'{read}' with the token '{drawn}', which has been drawn and which the target has not read yet."
    )


def _index(offset: int) -> str:
    return "t" if offset == 0 else f"t{offset:+d}"


def _box(axes: Axes, x: float, y: float, width: float, height: float, text: str, face: str, hatch: str) -> None:
    shape = {"boxstyle": "round,pad=0,rounding_size=0.08", "edgecolor": "#555555", "hatch": hatch}
    axes.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height, facecolor=face, **shape))
    backdrop = {"boxstyle": "round,pad=0.12", "facecolor": "white", "edgecolor": "none", "alpha": 0.85 if hatch else 0}
    axes.text(x, y, text, ha="center", va="center", fontsize=9, bbox=backdrop)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = BLACK) -> None:
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=10, color=colour, linewidth=1.2))


# --- what a feature knows --------------------------------------------------------------------------------------------


@styled
def entropy_bars(pieces: Sequence[str], entropy: Sequence[float], limit: float = 1.0) -> Figure:
    """One bar a token: the entropy, in nats, of the law it was drawn from. Hatched where it is above `limit`."""
    figure = Figure(figsize=(9.4, 2.9), layout="constrained")
    axes = figure.subplots()
    for above, colour, hatch in ((False, SKY, ""), (True, ORANGE, "///")):
        places = [i for i, value in enumerate(entropy) if (value > limit) == above]
        axes.bar(places, [entropy[i] for i in places], 0.85, color=colour, hatch=hatch, edgecolor="white")
    axes.axhline(limit, color=BLACK, linestyle="--", linewidth=0.8)
    labels = [piece.strip() or repr(piece) for piece in pieces]
    axes.set_xticks(range(len(pieces)), labels, rotation=90, fontsize=8, parse_math=False)
    axes.set(ylabel="entropy of the law\nbefore this token (nats)", xlim=(-0.7, len(pieces) - 0.3))
    return figure


def entropy_claim(pieces: Sequence[str], entropy: Sequence[float], limit: float = 1.0) -> str:
    """How many places are uncertain, and where most."""
    above = sum(value > limit for value in entropy)
    most = pieces[max(range(len(entropy)), key=entropy.__getitem__)].strip()
    return f"{above} of {len(entropy)} tokens were drawn at an entropy above {limit:g}; the largest is before '{most}'."


# --- what it cannot know ---------------------------------------------------------------------------------------------


@styled
def feature_clouds(clouds: Mapping[str, Cloud]) -> Figure:
    """A row a place: the law of the next token, and beside it, numbered alike, the next features it allows."""
    figure = Figure(figsize=(9.4, 3.2 * len(clouds) + 0.4), layout="constrained")
    rows = figure.subplots(len(clouds), 2, squeeze=False, width_ratios=(1, 1.9))
    reach = [max(abs(p[i] - c.mean[i]) for c in clouds.values() for p in (*c.points, c.now)) for i in (0, 1)]
    for (left, right), (name, cloud) in zip(rows, clouds.items(), strict=True):
        places = range(len(cloud.tokens))
        left.barh(places, cloud.probability, 0.75, color=BLUE, hatch="//", edgecolor="white")
        labels = [f"{token.strip() or repr(token)}  {i + 1}" for i, token in enumerate(cloud.tokens)]
        left.set_yticks(places, labels, parse_math=False)
        left.invert_yaxis()
        left.grid(False)
        left.set(xlabel="probability of the next token", xlim=(0, 1), title=name)
        _fan(right, cloud)
        right.set(xlabel="first principal direction of the cloud, from its mean", ylabel="second", aspect="equal")
        right.set(xlim=(-1.2 * reach[0], 1.2 * reach[0]), ylim=(-1.35 * reach[1], 1.35 * reach[1]))
    marks = [
        ("s", BLACK, BLACK, "the feature now, $f_t$"),
        ("D", "none", VERMILION, "mean of the next features, weighted"),
    ]
    marks += [("o", SKY, BLUE, "a next feature $f_{t+1}$, area: probability")]
    handles = [right.scatter([], [], marker=m, facecolor=f, edgecolor=e, s=60, label=text) for m, f, e, text in marks]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def _fan(axes: Axes, cloud: Cloud) -> None:
    now, *points = np.subtract([cloud.now, *cloud.points], cloud.mean)
    for number, (point, chance) in enumerate(zip(points, cloud.probability, strict=True), start=1):
        axes.plot(*zip(now, point, strict=True), color=GREY, linewidth=0.3 + 2.5 * chance, zorder=1)
        face = SKY if chance >= 0.01 else "white"
        axes.scatter(*point, s=70 + 900 * chance, color=face, edgecolor=BLUE, zorder=2 + (1 - chance))
        axes.text(*point, str(number), ha="center", va="center", fontsize=7, zorder=6)
    axes.scatter(*now, marker="s", s=60, color=BLACK, zorder=4)
    axes.scatter(0, 0, marker="D", s=130, facecolor="none", edgecolor=VERMILION, linewidth=2, zorder=5)


def clouds_claim(clouds: Mapping[str, Cloud]) -> str:
    """How many tokens of at least 1 % each place allows."""
    counts = {name: sum(chance >= 0.01 for chance in cloud.probability) for name, cloud in clouds.items()}
    parts = [f"{name}: {count} next feature{'s' * (count != 1)} of 1 % or more" for name, count in counts.items()]
    return f"One feature and what may follow. {'; '.join(parts)}."


@styled
def spread_scatter(entropy: Sequence[float], spread: Sequence[float], marked: Mapping[str, int]) -> Figure:
    """A point a place, both axes logarithmic; `marked` places (name -> index) stand out."""
    x, y = (np.maximum(np.asarray(values, dtype=float), 1e-10) for values in (entropy, spread))
    figure = Figure(figsize=(6.4, 3.9), layout="constrained")
    axes = figure.subplots()
    axes.scatter(x, y, s=16, color=BLUE, alpha=0.6, edgecolor="none", label="a place in an answer")
    for (name, place), marker, colour in zip(marked.items(), ("D", "^"), (VERMILION, GREEN), strict=False):
        axes.scatter(x[place], y[place], s=90, marker=marker, color=colour, edgecolor=BLACK, label=name)
    axes.set(xscale="log", yscale="log", xlabel="entropy of the next token (nats)")
    axes.set_ylabel("spread of the next feature\n(share of the variance over all places)")
    axes.legend(loc="upper left")
    return figure


def spread_claim(entropy: Sequence[float], spread: Sequence[float], correlation: float) -> str:
    """The rank correlation, rounded down to a tenth."""
    least = math.floor(10 * correlation) / 10
    return f"Over {len(entropy)} places, spread grows with entropy: rank correlation at least {least:.1f}."


# --- guesses of the next feature -------------------------------------------------------------------------------------


@styled
def guess_bars(scores: Mapping[str, Score]) -> Figure:
    """Two panels, error and right tokens; for every way to guess, a bar over all places and one over uncertain ones."""
    figure = Figure(figsize=(9.4, 0.62 * len(scores) + 1.5), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    looks = (("all places", SKY, ""), ("uncertain places", ORANGE, "///"))
    for axes, part in zip(panels, ("error", "agree"), strict=True):
        for index, (_, colour, hatch) in enumerate(looks):
            values = [getattr(score, part)[index] for score in scores.values()]
            places = [row + 0.2 * (2 * index - 1) for row in range(len(scores))]
            axes.barh(places, values, 0.38, color=colour, hatch=hatch, edgecolor="white")
            for place, value in zip(places, values, strict=True):
                axes.text(value + 0.01, place, f"{value:.0%}", va="center", fontsize=9)
        axes.set(xlim=(0, 1.15))
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
        axes.grid(axis="y", visible=False)
    panels[0].set_yticks(range(len(scores)), list(scores))
    panels[0].invert_yaxis()
    panels[0].set(title="Squared error of the guess", xlabel="share of the variance over all places")
    panels[1].set(title="Same most probable token", xlabel="share of cases")
    handles = [Patch(facecolor=colour, hatch=hatch, edgecolor="white", label=name) for name, colour, hatch in looks]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def guess_claim(scores: Mapping[str, Score]) -> str:
    """The errors of all ways to guess."""
    parts = [f"{name} {x.error[0]:.0%} ({x.error[1]:.0%})" for name, x in scores.items()]
    return f"Squared error over all places (over uncertain ones): {', '.join(parts)}."


# --- features as points ----------------------------------------------------------------------------------------------


@styled
def variance_curves(curves: Mapping[str, Sequence[float]]) -> Figure:
    """Share of the variance in the first n principal directions, a curve for each set of points."""
    figure = Figure(figsize=(6.4, 3.5), layout="constrained")
    axes = figure.subplots()
    for index, (name, shares) in enumerate(curves.items()):
        look = {"color": CYCLE[index], "marker": MARKERS[index], "markevery": max(1, len(shares) // 9)}
        axes.plot(range(1, len(shares) + 1), shares, label=name, **look)
    axes.axhline(0.9, color=BLACK, linestyle="--", linewidth=0.8)
    axes.set(xlabel="principal directions", ylabel="share of the variance", ylim=(0, 1.04), xscale="log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.legend(loc="lower right")
    return figure


def variance_claim(curves: Mapping[str, Sequence[float]]) -> str:
    """How many directions hold nine tenths."""
    parts = [f"{name} {1 + sum(share < 0.9 for share in shares)}" for name, shares in curves.items()]
    return f"Directions that hold 90 % of the variance: {', '.join(parts)}."


@styled
def distance_histograms(same: Sequence[float], different: Sequence[float], marked: Mapping[str, float]) -> Figure:
    """Distances between features whose most probable tokens are the same, and different; vertical lines at `marked`."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    bins = np.linspace(0, 1.05 * max(*same, *different), 60)
    for values, colour, hatch, name in ((same, SKY, "//", "same token"), (different, ORANGE, "..", "different tokens")):
        axes.hist(values, bins, density=True, color=colour, alpha=0.65, hatch=hatch, edgecolor="white", label=name)
    for (name, value), style, colour in zip(marked.items(), ("--", ":"), (VERMILION, BLUE), strict=False):
        axes.axvline(value, color=colour, linestyle=style, linewidth=2, label=name)
    axes.set(xlabel="distance of two features (typical: 1)", ylabel="density")
    figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    return figure


def distance_claim(marked: Mapping[str, float]) -> str:
    """The marked distances, to a tenth."""
    return f"In units of the typical distance: {', '.join(f'{name} {value:.1f}' for name, value in marked.items())}."


@styled
def direction_curves(lengths: Sequence[float], changed: Mapping[str, Sequence[float]]) -> Figure:
    """How often an error of a given length changes the most probable token, a curve for each direction."""
    figure = Figure(figsize=(6.4, 3.3), layout="constrained")
    axes = figure.subplots()
    for index, (name, shares) in enumerate(changed.items()):
        axes.plot(lengths, shares, color=CYCLE[index], marker=MARKERS[index], label=name)
    axes.set(xlabel="length of the error (1: length of the feature)", ylabel="places where the\ntoken changes")
    axes.set(ylim=(-0.04, 1.04))
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:.0%}")
    axes.legend(loc="center right")
    return figure


def direction_claim(lengths: Sequence[float], changed: Mapping[str, Sequence[float]]) -> str:
    """The shares at the length nearest one half."""
    at = min(range(len(lengths)), key=lambda i: abs(lengths[i] - 0.5))
    parts = [f"{name} {shares[at]:.0%}" for name, shares in changed.items()]
    return (
        f"An error of {lengths[at]:g} times the feature's length changes the token: {', '.join(parts)} of the places."
    )
