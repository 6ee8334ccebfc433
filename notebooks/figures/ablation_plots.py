"""Pictures of chapter 05's recorded trainings: four drafts trained to the end, and every kind from several seeds.

As in `plots`: numbers -> Figure, and beside it the same numbers -> one line of text.
"""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures.alignment_plots import LOOKS as FOUR
from figures.training_plots import Losses, Points, smoothed
from fspad_ref.bench.statistics import Estimate
from fspad_ref.errors import InputError
from fspad_ref.viz.style import BLACK, BLUE, SKY, VERMILION, styled

LOOKS = FOUR | {"eagle_wide": (SKY, "^")}
BySeed = Mapping[float, Mapping[str, Sequence[float]]]  # temperature -> kind -> tau of every seed
Differences = Mapping[str, Mapping[float, Estimate]]  # "fs - eagle" -> temperature -> difference of tau
SIGNS = ("above 0", "below 0", "not clear of 0")


# --- a training to the end -------------------------------------------------------------------------------------------


@styled
def long_training(losses: Losses, live: Losses, taus: Points, smooth: int = 50) -> Figure:
    """Left: the logit loss of a long training, and dashed of a short one; steps on a log scale. Right: tau of the long.

    Losses are averaged over `smooth` neighbouring steps, those of the short training over a fifth as many.
    """
    figure = Figure(figsize=(9.4, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for drawn, style, width in ((losses, "-", smooth), (live, "--", max(1, smooth // 5))):
        for kind, values in drawn.items():
            left.plot(*smoothed(values, width), color=LOOKS[kind][0], linestyle=style, linewidth=1.3)
    for kind, points in taus.items():
        colour, marker = LOOKS[kind]
        right.plot(*zip(*points, strict=True), color=colour, marker=marker)
    left.set(xlabel="step (log scale)", ylabel="cross entropy (nats)", title="Logit loss", xscale="log", ylim=(0, None))
    right.set(xlabel="step", title="tau on held-out prompts", xlim=(0, None))
    right.locator_params(axis="x", nbins=4)
    handles = [Line2D([], [], color=LOOKS[kind][0], marker=LOOKS[kind][1], label=kind) for kind in losses]
    lengths = (("long training", "-"), ("short training", "--"))
    handles += [Line2D([], [], color=BLACK, linestyle=style, label=label) for label, style in lengths]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def shares_at_first_look(losses: Losses, taus: Points, window: int = 50) -> tuple[dict[str, float], dict[str, float]]:
    """What share of the fall of the loss, and of the rise of tau from 1, is done at the first look at tau.

    Returns two dicts by kind. Losses are means over `window` steps; at the look over the steps before it.
    """
    fallen, risen = {}, {}
    for kind, values in losses.items():
        step = taus[kind][0][0]
        first, then, last = (_mean(part) for part in (values[:window], values[step - window : step], values[-window:]))
        fallen[kind] = (first - then) / (first - last)
        risen[kind] = (taus[kind][0][1] - 1) / (taus[kind][-1][1] - 1)
    return fallen, risen


def long_claim(losses: Losses, taus: Points) -> str:
    """How far loss and tau have come at the first look."""
    fallen, risen = shares_at_first_look(losses, taus)
    kind = next(iter(losses))
    return (
        f"At step {taus[kind][0][0]} of {len(losses[kind])}, {_percent(fallen.values())} of the fall of the logit loss "
        f"is done, and {_percent(risen.values())} of the rise of tau."
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _percent(shares) -> str:
    low, high = (round(100 * bound) for bound in (min(shares), max(shares)))
    return f"{low} %" if low == high else f"{low} to {high} %"


# --- several seeds ---------------------------------------------------------------------------------------------------


@styled
def seed_dots(taus: BySeed) -> Figure:
    """A mark a training: mean tau by kind, seeds side by side, a panel a temperature. Lines join a seed's marks."""
    figure = Figure(figsize=(4.7 * len(taus), 3.3), layout="constrained")
    panels = figure.subplots(1, len(taus), sharey=True, squeeze=False)[0]
    for axes, (temperature, kinds) in zip(panels, taus.items(), strict=True):
        seeds = len(next(iter(kinds.values())))
        shifts = [0.5 * (seed + 0.5) / seeds - 0.25 for seed in range(seeds)]
        for shift, of_seed in zip(shifts, zip(*kinds.values(), strict=True), strict=True):
            axes.plot([place + shift for place in range(len(kinds))], of_seed, color="#CCCCCC", linewidth=0.8, zorder=1)
        for place, (kind, values) in enumerate(kinds.items()):
            colour, marker = LOOKS[kind]
            places = [place + shift for shift in shifts]
            axes.hlines(_mean(values), place - 0.33, place + 0.33, color=BLACK, linewidth=1.6, zorder=2)
            axes.scatter(places, values, color=colour, marker=marker, edgecolor="white", linewidth=0.5, s=46, zorder=3)
        axes.set_xticks(range(len(kinds)), [kind.replace("_", "\n") for kind in kinds])
        axes.set(title=f"T = {temperature:g}", xlim=(-0.5, len(kinds) - 0.5))
    panels[0].set(ylabel="tau, mean over tasks")
    return figure


def orders(kinds: Mapping[str, Sequence[float]]) -> list[tuple[str, ...]]:
    """For every seed the kinds from the largest tau to the smallest."""
    seeds = range(len(next(iter(kinds.values()))))
    return [tuple(sorted(kinds, key=lambda kind: kinds[kind][seed], reverse=True)) for seed in seeds]


def seed_claim(taus: BySeed) -> str:
    """In how many different orders the seeds put the kinds."""
    parts = []
    for temperature, kinds in taus.items():
        found = orders(kinds)
        many = len(set(found))
        parts.append(f"at T={temperature:g} {len(found)} seeds put the kinds in {many} order{'s' * (many > 1)}")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


@styled
def difference_rows(differences: Differences) -> Figure:
    """A row a comparison: the difference of mean tau with its interval over seeds, a mark a temperature."""
    figure = Figure(figsize=(7.6, 0.48 * len(differences) + 1.3), layout="constrained")
    axes = figure.subplots()
    temperatures = list(dict.fromkeys(t for row in differences.values() for t in row))
    looks = dict(zip(temperatures, ((BLUE, "o", "full"), (VERMILION, "s", "none")), strict=False))
    for place, row in enumerate(differences.values()):
        for shift, (temperature, one) in zip((-0.16, 0.16), row.items(), strict=False):
            colour, marker, fill = looks[temperature]
            if one.low is not None:
                axes.hlines(place + shift, one.low, one.high, color=colour, linewidth=1.6)
            axes.plot(one.value, place + shift, color=colour, marker=marker, fillstyle=fill, linestyle="")
    axes.axvline(0, color=BLACK, linewidth=0.9)
    axes.set_yticks(range(len(differences)), list(differences))
    axes.set(xlabel="difference of mean tau", ylim=(len(differences) - 0.5, -0.5))
    axes.grid(True, axis="x")
    axes.grid(False, axis="y")
    handles = [Line2D([], [], color=c, marker=m, fillstyle=f, label=f"T = {t:g}") for t, (c, m, f) in looks.items()]
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1))
    return figure


def sign(one: Estimate) -> str:
    """Where an interval lies. Raises InputError for an estimate without one, from a single seed."""
    if one.low is None or one.high is None:
        raise InputError(f"expected an estimate with an interval, found {one}. Train with two seeds or more.")
    return SIGNS[0] if one.low > 0 else SIGNS[1] if one.high < 0 else SIGNS[2]


def difference_claim(differences: Differences) -> str:
    """Which differences are clear of 0, and to which side."""
    parts = []
    for temperature in dict.fromkeys(t for row in differences.values() for t in row):
        found = {name: sign(row[temperature]) for name, row in differences.items()}
        named = [", ".join(name for name, one in found.items() if one == side) for side in SIGNS]
        parts.append(
            f"T={temperature:g}: " + "; ".join(f"{s}: {n or 'none'}" for s, n in zip(SIGNS, named, strict=True))
        )
    return ". ".join(parts) + "."
