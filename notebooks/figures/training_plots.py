"""Pictures of chapter 05, second half: the schedule, and what training brings.

As in `plots`: numbers -> Figure, and beside it the same numbers -> one line of text.
"""

from collections.abc import Mapping, Sequence

from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from torch import Tensor

from figures.alignment_plots import LOOKS
from fspad_ref.viz.style import BLACK, BLUE, GREEN, GREY, VERMILION, styled

Losses = Mapping[str, Sequence[float]]  # kind of draft -> loss of every step
Points = Mapping[str, Sequence[tuple[int, float]]]  # kind -> (step, tau)
Accuracies = Mapping[str, Float[Tensor, "depth ks"]]  # kind -> top-k accuracy by depth
EDGE = "#555555"
TEACHER = "#D9EFE6"

# --- the schedule ----------------------------------------------------------------------------------------------------


@styled
def schedule_curves(rates: Mapping[str, Sequence[float]], warmup: int) -> Figure:
    """The learning rate of every step, one line a kind of decay, and where the warm-up ends."""
    figure = Figure(figsize=(6.4, 2.9), layout="constrained")
    axes = figure.subplots()
    for (name, values), colour, style in zip(rates.items(), (BLUE, VERMILION, GREEN), ("-", "--", ":"), strict=False):
        axes.plot(range(len(values)), values, color=colour, linestyle=style, linewidth=2, label=f"decay: {name}")
    axes.axvline(warmup, color=GREY, linewidth=1)
    axes.text(warmup, 0, " warm-up ends", fontsize=9, va="bottom")
    axes.set(xlabel="step", ylabel="learning rate", ylim=(0, None))
    axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1))
    return figure


def schedule_claim(rates: Mapping[str, Sequence[float]]) -> str:
    """Where each schedule peaks, and what is left of the peak in its last step."""
    peaks = {name: max(range(len(values)), key=lambda i, v=values: v[i]) for name, values in rates.items()}
    left = ", ".join(f"{name} {100 * values[-1] / max(values):.0f} %" for name, values in rates.items())
    steps = " and ".join(str(step) for step in sorted(set(peaks.values())))
    return f"The rate is highest at step {steps}. Left of it in the last step: {left}."


# --- the curves of a training ----------------------------------------------------------------------------------------


@styled
def loss_curves(feature: Losses, logit: Losses, smooth: int = 9) -> Figure:
    """Both parts of the loss over the steps, averaged over `smooth` neighbouring steps; pale: every step."""
    figure = Figure(figsize=(9.4, 3.3), layout="constrained")
    panels = figure.subplots(1, 2)
    titles = (("Feature loss", "smooth L1"), ("Logit loss", "cross entropy (nats)"))
    for axes, losses, (title, unit) in zip(panels, (feature, logit), titles, strict=True):
        for kind, values in losses.items():
            colour, marker = LOOKS[kind]
            axes.plot(range(1, len(values) + 1), values, color=colour, alpha=0.25, linewidth=0.7)
            steps, means = smoothed(values, smooth)
            axes.plot(steps, means, color=colour, marker=marker, markevery=max(1, len(means) // 7), label=kind)
        axes.set(xlabel="step", ylabel=unit, title=title)
    panels[1].legend()
    return figure


def loss_claim(feature: Losses, logit: Losses, window: int = 10) -> str:
    """How many curves end lower than they began, each end being a mean over `window` steps."""
    curves = [*feature.values(), *logit.values()]
    fell = sum(sum(values[-window:]) < sum(values[:window]) for values in curves)
    return f"{fell} of {len(curves)} curves end lower than they began."


def smoothed(values: Sequence[float], width: int) -> tuple[list[float], list[float]]:
    """Middle step and mean of every `width` values in a row."""
    width = min(width, len(values))
    starts = range(len(values) - width + 1)
    return [s + (width + 1) / 2 for s in starts], [sum(values[s : s + width]) / width for s in starts]


@styled
def norm_curves(norms: Losses, limit: float, smooth: int = 9) -> Figure:
    """Length of the gradient at every step, before clipping, on a log scale; above the dashed line it is shortened."""
    figure = Figure(figsize=(6.6, 3.1), layout="constrained")
    axes = figure.subplots()
    for kind, values in norms.items():
        colour, marker = LOOKS[kind]
        axes.plot(range(1, len(values) + 1), values, color=colour, alpha=0.25, linewidth=0.7)
        steps, means = smoothed(values, smooth)
        axes.plot(steps, means, color=colour, marker=marker, markevery=max(1, len(means) // 7), label=kind)
    axes.axhline(limit, color=BLACK, linestyle="--", linewidth=1, label=f"limit {limit:g}")
    axes.set(xlabel="step", ylabel="length of the gradient")
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1))
    return figure


def norm_claim(norms: Losses, limit: float) -> str:
    """How many drafts begin above the limit, and for how many that was rarer in the second half of the training."""
    begun = sum(values[0] > limit for values in norms.values())
    rarer = 0
    for values in norms.values():
        over = [value > limit for value in values]
        rarer += sum(over[len(over) // 2 :]) < sum(over[: len(over) // 2])
    return (
        f"The first gradient of {begun} of {len(norms)} drafts is longer than the limit; in the second half of the "
        f"training {rarer} of {len(norms)} are clipped less often than in the first."
    )


@styled
def tau_curves(points: Points) -> Figure:
    """tau on held-out prompts over the steps; the dashed line is plain decoding."""
    figure = Figure(figsize=(6.0, 3.1), layout="constrained")
    axes = figure.subplots()
    for kind, values in points.items():
        colour, marker = LOOKS[kind]
        axes.plot(*zip(*values, strict=True), color=colour, marker=marker, label=kind)
    axes.axhline(1, color=BLACK, linestyle="--", linewidth=0.8)
    axes.set(xlabel="step", ylabel="tau on held-out prompts")
    axes.legend(loc="upper left")
    return figure


def tau_claim(points: Points) -> str:
    """How many drafts' tau rose. Not which draft is ahead: one short training cannot tell."""
    rose = sum(values[-1][1] > values[0][1] for values in points.values())
    return f"tau of {rose} of {len(points)} drafts is higher at the last look than at the first."


# --- accuracy by depth -----------------------------------------------------------------------------------------------


@styled
def accuracy_panels(accuracy: Accuracies, ks: Sequence[int]) -> Figure:
    """Top-k accuracy by depth: a panel a k, a line a draft."""
    figure = Figure(figsize=(3.1 * len(ks), 3.1), layout="constrained")
    panels = figure.subplots(1, len(ks), sharey=True, squeeze=False)[0]
    for column, (axes, k) in enumerate(zip(panels, ks, strict=True)):
        for kind, table in accuracy.items():
            colour, marker = LOOKS[kind]
            axes.plot(range(1, len(table) + 1), 100 * table[:, column], color=colour, marker=marker, label=kind)
        axes.set(xlabel="depth", title=f"among the {k} best" if k > 1 else "the best", ylim=(0, 100))
        axes.set_xticks(range(1, len(table) + 1))
    panels[0].set(ylabel="target's token found (%)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(accuracy))
    return figure


def accuracy_claim(accuracy: Accuracies, ks: Sequence[int]) -> str:
    """How many curves are lower at the last depth than at the first."""
    curves = [table[:, column] for table in accuracy.values() for column in range(len(ks))]
    lower = sum(bool(curve[-1] < curve[0]) for curve in curves)
    return f"{lower} of {len(curves)} curves are lower at depth {len(curves[0])} than at depth 1."


@styled
def live_against_shipped(
    live: Accuracies, shipped: Accuracies, taus: Mapping[str, tuple[float, float]], ks: Sequence[int], k: int
) -> Figure:
    """Left: top-k accuracy by depth, short training (dashed) and shipped. Right: tau of both. taus: kind -> the two."""
    figure = Figure(figsize=(9.4, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    column = list(ks).index(k)
    for tables, style, fill in ((shipped, "-", "full"), (live, "--", "none")):
        for kind, table in tables.items():
            colour, marker = LOOKS[kind]
            look = {"color": colour, "marker": marker, "linestyle": style, "fillstyle": fill}
            left.plot(range(1, len(table) + 1), 100 * table[:, column], **look)
    left.set(xlabel="depth", ylabel="target's token found (%)", ylim=(0, 100), title=f"among the {k} best")
    left.set_xticks(range(1, len(table) + 1))
    for place, (kind, values) in enumerate(taus.items()):
        for shift, value, hatch in zip((-0.2, 0.2), values, ("///", ""), strict=True):
            right.bar(place + shift, value, 0.36, color=LOOKS[kind][0], hatch=hatch, edgecolor="white")
    right.axhline(1, color=BLACK, linestyle="--", linewidth=0.8)
    right.set_xticks(range(len(taus)), list(taus))
    right.set(title="tau on held-out prompts")
    handles = [Line2D([], [], color=LOOKS[kind][0], marker=LOOKS[kind][1], label=kind) for kind in live]
    looks = (("short training", "--", "///"), ("shipped", "-", ""))
    handles += [
        (Line2D([], [], color=BLACK, linestyle=style), Patch(facecolor=GREY, hatch=hatch, edgecolor="white"))
        for _, style, hatch in looks
    ]
    labels = [*live, *(label for label, _, _ in looks)]
    figure.legend(handles, labels, loc="outside lower center", ncols=6, handler_map={tuple: HandlerTuple(None)})
    return figure


def against_claim(
    live: Accuracies, shipped: Accuracies, taus: Mapping[str, tuple[float, float]], ks: Sequence[int], k: int
) -> str:
    """In how many places and taus the shipped draft of a kind is above the one of the short training."""
    column = list(ks).index(k)
    above = sum(int((shipped[kind][:, column] > live[kind][:, column]).sum()) for kind in live)
    points = sum(len(table) for table in live.values())
    more = sum(after > before for before, after in taus.values())
    return (
        f"The shipped draft is above the short training of its kind at {above} of {points} points of the curves, "
        f"and in tau for {more} of {len(taus)} drafts."
    )
