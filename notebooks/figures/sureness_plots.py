"""Pictures of chapter 08, section 2: how sure a mean is, over seeds and over questions.

As in `plots`: numbers -> Figure, and beside it the same numbers -> one line of text.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fspad_ref.bench.statistics import Estimate
from fspad_ref.viz.style import BLACK, CYCLE, MARKERS, SKY, VERMILION, styled


@styled
def seed_pairs(before: Sequence[float], after: Sequence[float], names: Sequence[str],
               intervals: Mapping[str, Estimate]) -> Figure:  # fmt: skip
    """Left: a line a seed, from the one method's value to the other's. Right: intervals of the difference."""
    figure = Figure(figsize=(8.2, 3.3), layout="constrained")
    left, right = figure.subplots(1, 2)
    for seed, pair in enumerate(zip(before, after, strict=True)):
        left.plot((0, 1), pair, color=CYCLE[seed], marker=MARKERS[seed], label=f"seed {seed}")
    left.set_xticks((0, 1), names)
    left.set(xlim=(-0.3, 1.3), ylabel="tau", title="A line a seed")
    left.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    _intervals(right, intervals)
    right.axvline(0, color=BLACK, linestyle="--", linewidth=0.8)
    right.set(xlabel=f"{names[1]} - {names[0]}", title="95 % interval of the difference")
    return figure


def pairs_claim(before: Sequence[float], after: Sequence[float], names: Sequence[str],
                intervals: Mapping[str, Estimate]) -> str:  # fmt: skip
    """In how many seeds the second method is above, and every interval."""
    above = sum(b > a for a, b in zip(before, after, strict=True))
    parts = [f"{name} from {one.low:+.2f} to {one.high:+.2f}" for name, one in intervals.items()]
    return f"{names[1]} is above {names[0]} in {above} of {len(before)} seeds; the difference: {', '.join(parts)}."


def _intervals(axes: Axes, intervals: Mapping[str, Estimate]) -> None:
    for row, one in enumerate(intervals.values()):
        axes.hlines(row, one.low, one.high, color=CYCLE[row], linewidth=2.5)
        axes.plot(one.value, row, color=CYCLE[row], marker=MARKERS[row], markersize=8)
    axes.set_yticks(range(len(intervals)), list(intervals))
    axes.set(ylim=(len(intervals) - 0.4, -0.6))
    axes.grid(axis="x")


@styled
def resamples(panels: Mapping[str, tuple[np.ndarray, Estimate]], alike: Sequence[str] = ()) -> Figure:
    """A histogram of resampled values a panel, with the value itself and its bounds; panels `alike` share one scale."""
    figure = Figure(figsize=(4.1 * len(panels), 3.1), layout="constrained")
    axes_of = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (name, (values, one)) in zip(axes_of, panels.items(), strict=True):
        counts, edges = np.histogram(values, bins=40)
        inside = (edges[:-1] >= one.low) & (edges[1:] <= one.high)
        for chosen, colour, hatch in ((inside, SKY, ""), (~inside, "#EEEEEE", "///")):
            axes.bar(edges[:-1][chosen], counts[chosen], np.diff(edges)[chosen], align="edge", color=colour,
                     hatch=hatch, edgecolor="white", linewidth=0.4)  # fmt: skip
        axes.axvline(one.value, color=BLACK, linewidth=1.5)
        for bound in (one.low, one.high):
            axes.axvline(bound, color=VERMILION, linestyle="--", linewidth=1.2)
        axes.set(title=name, xlabel="resampled value")
    axes_of[0].set_ylabel("resamples")
    of_one_scale = [axes for axes, name in zip(axes_of, panels, strict=True) if name in alike]
    for axes in of_one_scale[1:]:
        axes.sharex(of_one_scale[0])
    return figure


def resamples_claim(panels: Mapping[str, tuple[np.ndarray, Estimate]]) -> str:
    """Value and bounds of every panel."""
    parts = [f"{name} {one.value:.2f}, bounds {one.low:.2f} and {one.high:.2f}" for name, (_, one) in panels.items()]
    return f"{'; '.join(parts)}; 95 of 100 resampled values lie between the bounds."
