"""Temperature, costs, verification rules: for each its numbers, and numbers -> a figure and one line of text."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from matplotlib.figure import Figure
from pandas import DataFrame

from fspad_ref.sampling import SamplingConfig
from fspad_ref.target import Target
from fspad_ref.teaching.broken import BROKEN, LOSSLESS, Place
from fspad_ref.teaching.exact import dice, distribution_of, g_test, total_variation
from fspad_ref.tree import TreeConfig
from fspad_ref.viz.runs import Round, Words, distribution
from fspad_ref.viz.strips import visible
from fspad_ref.viz.style import BLACK, BLUE, DARK, MARKERS, ORANGE, SKY, VERMILION, curves, drawable, styled

Points = Sequence[tuple[float, float]]  # (temperature, value)

# ---- temperature; features are recorded, so none of this takes a forward pass of the target ----


@torch.no_grad()
def node_distribution(target: Target, one: Round, node: int, sampling: SamplingConfig, words: Words = str) -> DataFrame:
    """A row per token after `node`, the twelve most probable ones and all children.

    Columns: token; word; p, with `sampling`; at_one, p at T=1 without cuts; q, the draft's, NaN if not proposed.
    """
    logits = target.lm_head(one.features[node : node + 1])  # (1, D) -> (1, V)
    p, at_one = (distribution(logits, s)[0] for s in (sampling, SamplingConfig(1.0)))  # (V,)
    q = {int(one.tree.token[child]): one.q[child] for child in one.children(node)}
    tokens = {*at_one.topk(min(12, len(at_one))).indices.tolist(), *q}
    rows = [(w, words(w), float(p[w]), float(at_one[w]), q.get(w, math.nan)) for w in tokens]
    found = DataFrame(rows, columns=["token", "word", "p", "at_one", "q"])
    return found.sort_values("at_one", ascending=False, ignore_index=True)


def acceptance_curve(target: Target, one: Round, node: int, top_p: float) -> Points:
    """(temperature, probability that the walk goes on from `node`: its children's p), temperatures from 0 to 2."""
    samplings = [SamplingConfig(step / 10, top_p) for step in range(21)]
    found = [(s.temperature, node_distribution(target, one, node, s)) for s in samplings]
    return [(temperature, float(at.p[at.q.notna()].sum())) for temperature, at in found]


@styled
def temperature_picture(
    found: DataFrame, sampling: SamplingConfig, curve: Points, taus: Mapping[str, Points]
) -> tuple[Figure, str]:
    """p at a node; the expected acceptance there over temperature; tau over temperature by method, where known."""
    figure = Figure(figsize=(11.4 if taus else 8.8, 3.6), layout="constrained")
    left, middle, *right = figure.subplots(1, 2 + bool(taus))
    proposed = found.q.notna()
    expected = float(found.p[proposed].sum())
    for mine, fill, hatch, label in ((proposed, SKY, "", "p, proposed"), (~proposed, ORANGE, "//", "p, not proposed")):
        left.barh(found.index[mine], found.p[mine], 0.75, color=fill, hatch=hatch, edgecolor="white", label=label)
    left.plot(found.q, found.index, "D", markersize=4, color=BLUE, label="q, the draft's")
    left.plot(found.at_one, found.index, "|", markersize=8, color=BLACK, label="p at T=1, no cuts")
    left.set_yticks(found.index, [drawable(visible(word)) for word in found.word], parse_math=False, fontsize=8)
    left.invert_yaxis()
    left.grid(visible=False)
    left.set(xlim=(0, 1.02), xlabel="probability", title="The next token at the node")
    left.legend(fontsize=8, loc="lower right")
    middle.plot(*zip(*curve, strict=True), color=BLUE, linewidth=2)
    middle.plot(sampling.temperature, expected, "D", color=VERMILION, markersize=8)
    middle.set(xlabel="temperature", ylim=(-0.03, 1.05), title=f"Expected acceptance: {expected:.2f}")
    for axes in right:
        curves(axes, taus, xlabel="temperature", title="tau: tokens per target pass")
        axes.set_ylim(bottom=1)
    best = found.loc[found.p.idxmax()]
    return figure, (
        f"At T={sampling.temperature:g}, top-p {sampling.top_p:g}, the proposed tokens have probability {expected:.2f}."
        f" The most probable token, '{visible(best.word)}' with {best.p:.2f}, is {'not ' * math.isnan(best.q)}proposed."
    )


# ---- costs ----

DEPTHS, SIZES = range(1, 9), (2, 4, 8, 12, 16, 24, 32, 48, 60, 80, 100, 120)


def landscape(
    target: float, draft: float, growth: float, overhead: float, first: float, decay: float, top_k: int
) -> DataFrame:
    """tau and predicted speedup per (depth, nodes); trees that cannot be are left out.

    The formula of `bench.costs` with straight lines for measured seconds, and a model for tau: given that all above it
    was right, the r-th best guess (r = 0, 1, ...) at depth d is right with probability
    a_d (1 - a_d)^r, a_d = first * decay^(d - 1). The best tree of N nodes holds the N - 1 most probable paths, and

        tau = 1 + the sum of their probabilities
        speedup = tau * target / ((depth + 1) * draft + target * (1 + (growth - 1) * (N - 1) / 59) + overhead)

    Args:
        target, draft: time of a forward pass over one token. overhead: time of a round besides its passes.
        growth: time of a target pass over 60 nodes, in passes over one.
    """
    rows, level, gains = [], np.ones(1), np.empty(0)  # probabilities of the best paths of one level, of all so far
    for depth in (0, *DEPTHS):
        chance = first * decay**depth
        ranks = chance * (1 - chance) ** np.arange(top_k)  # (k,)
        level = np.sort((level[:, None] * ranks).ravel())[::-1][: SIZES[-1]]  # no path is likelier than its beginning
        gains = np.sort(np.concatenate((gains, level)))[::-1][: SIZES[-1]]
        for nodes in (n for n in SIZES if depth and n <= TreeConfig(top_k, depth, 1).capacity):
            tau, verify = 1 + gains[: nodes - 1].sum(), target * (1 + (growth - 1) * (nodes - 1) / 59)
            rows.append((depth, nodes, tau, tau * target / ((depth + 1) * draft + verify + overhead)))
    return DataFrame(rows, columns=["depth", "nodes", "tau", "speedup"]).set_index(["depth", "nodes"])


@styled
def cost_picture(land: DataFrame) -> tuple[Figure, str]:
    """Predicted speedup against the number of nodes, a line per depth; and as a map. The star is the best tree."""
    figure = Figure(figsize=(9.6, 3.7), layout="constrained")
    left, right = figure.subplots(1, 2)
    speed, (depth, nodes) = land.speedup.unstack(), land.speedup.idxmax()  # (depths, sizes)
    star = {"marker": "*", "markersize": 17, "color": VERMILION, "markeredgecolor": BLACK}
    for line, marker in zip(sorted({1, 3, 5, 8, depth}), MARKERS, strict=False):
        thick = 2.6 if line == depth else 1.2
        left.plot(speed.loc[line], label=f"depth {line}", marker=marker, markersize=4, linewidth=thick)
    left.axhline(1, color=BLACK, linestyle="--", linewidth=1)
    left.plot(nodes, speed.loc[depth, nodes], **star)
    left.set(xlabel="nodes N", ylim=(0, 1.1 * speed.max().max()), title="Predicted speedup over plain decoding")
    left.legend(fontsize=8)
    figure.colorbar(right.imshow(speed, aspect="auto", cmap="cividis", origin="lower", vmin=0), ax=right)
    slow = np.argwhere(speed.to_numpy() <= 1)
    right.plot(slow[:, 1], slow[:, 0], "x", color="white", markersize=6)
    right.plot(speed.columns.get_loc(nodes), speed.index.get_loc(depth), **star)
    right.set_xticks(range(len(speed.columns)), speed.columns, fontsize=8)
    right.set_yticks(range(len(speed)), speed.index)
    right.set(xlabel="nodes N", ylabel="depth", title="x: slower than plain decoding" * bool(len(slow)))
    right.grid(False)
    tau, best = land.loc[(depth, nodes)]
    return figure, (
        f"The best tree has depth {depth} and {nodes} nodes: tau {tau:.1f}, {best:.1f} of plain decoding's speed"
        f"{'; speculation does not pay' * (best <= 1)}. {len(slow)} of {len(land)} trees are not faster."
    )


# ---- verification rules ----


@dataclass(frozen=True)
class Trial:
    """One rule at one place. target: the distribution it should have; emitted: the exact one it has; counts: of runs.

    path: (runs so far, p-value), how often chance alone fits the target's distribution as badly.
    """

    rule: str
    words: tuple[str, ...]
    target: dict[int, Fraction]
    emitted: dict[int, Fraction]
    counts: Counter
    path: list[tuple[int, float]]

    @property
    def distance(self) -> Fraction:
        """Total variation between the two distributions: 0 if and only if the rule is lossless here."""
        return total_variation(self.target, self.emitted)


def trial(place: Place, rule: str, runs: int = 2000, seed: int = 0) -> Trial:
    """Enumerate a rule of `broken` at a place, and run it. Raises InputError for too few runs."""
    function, target, quick = (LOSSLESS | BROKEN)[rule], dict(enumerate(place.p)), place.in_floats()
    choose, least = dice(seed), math.ceil(5 / min(target.values()))  # the rarest word is expected 5 times
    emitted = [function(quick, choose) for _ in range(runs)]
    marks = sorted({round(least * (runs / least) ** (step / 12)) for step in range(13)})
    path = [(mark, g_test(Counter(emitted[:mark]), target)) for mark in marks]
    exact = distribution_of(lambda choose: function(place, choose))
    return Trial(rule, place.words, target, exact, Counter(emitted), path)


@styled
def trial_picture(lossless: Trial, broken: Trial) -> tuple[Figure, str]:
    """The target's and the broken rule's exact distributions, with counts; p-values of both rules as runs are added."""
    figure = Figure(figsize=(9.6, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    places, runs = np.arange(len(broken.words)), broken.counts.total()
    counted = {word: n / runs for word, n in broken.counts.items()}
    shown = ((broken.target, SKY, "", "target, exact"), (broken.emitted, ORANGE, "///", "rule, exact"),
             (counted, "white", "...", "rule, counted"))  # fmt: skip
    for bar, (values, colour, hatch, label) in enumerate(shown):
        heights = [float(values.get(word, 0)) for word in places]
        left.bar(places + 0.27 * (bar - 1), heights, 0.26, color=colour, hatch=hatch, edgecolor=DARK, label=label)
    left.set_xticks(places, [drawable(visible(word, 8)) for word in broken.words], parse_math=False)
    left.set(title=f"{broken.rule}: total variation {float(broken.distance):.3f}", ylabel="probability")
    left.legend(fontsize=8)
    for one, colour, line in ((lossless, BLUE, "o-"), (broken, VERMILION, "s--")):
        right.plot(*np.maximum(one.path, 1e-12).T, line, color=colour, label=one.rule, markersize=4)
    right.set(yscale="log", ylim=(1e-13, 2), xlabel="runs", title="p-value, drawn down to 1e-12")
    right.legend(fontsize=8, loc="center left")
    parts = []
    for one in (lossless, broken):
        exact = f"{float(one.distance):.3f}" if one.distance else "exactly 0"
        fit = f"{one.path[-1][1]:.2g}" if one.path[-1][1] >= 1e-6 else "below 1e-6"
        parts.append(f"{one.rule}: total variation {exact}, p-value {fit}")
    return figure, f"{runs} runs of each rule. {'; '.join(parts)}."
