"""Pictures of chapter 01: laws as lengths and as bars, a walk through a draft tree, counts against a law.

As in `plots`: numbers -> Figure, and beside it the same numbers -> one line of text.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction

from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from fspad_ref.teaching.exact import Law, g_test, image, total_variation
from fspad_ref.tree import DraftTree
from fspad_ref.verify import Verdict
from fspad_ref.viz.style import BLACK, BLUE, DARK, GREEN, GREY, ORANGE, PLATE, SKY, TOKEN_KINDS, VERMILION, styled
from fspad_ref.viz.tree_layout import tree_rows, word_box

ACCEPTED, OWN = TOKEN_KINDS["draft"][:2], TOKEN_KINDS["target"][:2]  # (fill, hatch)
KIND_NAMES = {True: "a guess, accepted", False: "the target's own"}


# --- a law as lengths ------------------------------------------------------------------------------------------------


@styled
def interval_strips(rules: Mapping[str, Law], words: Sequence[str]) -> Figure:
    """One strip of length 1 a rule, cut into what can happen: (token, accepted) with its probability as its length."""
    figure = Figure(figsize=(7.6, 0.62 * len(rules) + 0.9), layout="constrained")
    axes = figure.subplots()
    for row, law in enumerate(rules.values()):
        left = 0.0
        for (token, accepted), probability in sorted(law.items(), key=lambda item: (not item[0][1], item[0][0])):
            fill, hatch = ACCEPTED if accepted else OWN
            box = Rectangle(
                (left, row - 0.36), float(probability), 0.72, facecolor=fill, hatch=hatch, edgecolor="white"
            )
            axes.add_patch(box)
            text = f"{words[token]} {probability}" if probability > Fraction(1, 12) else words[token]
            upright = {"rotation": 90, "fontsize": 8} if probability < Fraction(1, 20) else {}  # or it sticks out
            axes.text(left + float(probability) / 2, row, text, ha="center", va="center", bbox=PLATE, **upright)
            left += float(probability)
    axes.set(xlim=(0, 1), ylim=(len(rules) - 0.5, -0.5), xlabel="probability, as a length")
    axes.set_yticks(range(len(rules)), list(rules))
    axes.grid(False)
    figure.legend(handles=_kind_handles(), loc="outside upper left", ncols=2)
    return figure


def interval_claim(rules: Mapping[str, Law]) -> str:
    """Whether every rule emits the same law, and how much of it was guessed."""
    emitted = [image(law, lambda outcome: outcome[0]) for law in rules.values()]
    same = all(law == emitted[0] for law in emitted)
    accepted = [f"{name} {sum(x for (_, yes), x in law.items() if yes)}" for name, law in rules.items()]
    verb = "has the same total length" if same else "does not have the same total length"
    return f"Every word {verb} in all strips. Accepted: {', '.join(accepted)}."


def _kind_handles() -> list[Patch]:
    looks = {True: ACCEPTED, False: OWN}
    return [Patch(facecolor=looks[x][0], hatch=looks[x][1], edgecolor="white", label=KIND_NAMES[x]) for x in looks]


# --- a law as bars ---------------------------------------------------------------------------------------------------


@styled
def law_bars(target: Law, emitted: Law, words: Sequence[str], title: str) -> Figure:
    """Two bars a word: what the target's law gives it, and what a rule emits."""
    figure = Figure(figsize=(6.6, 2.7), layout="constrained")
    axes = figure.subplots()
    tokens = sorted(target.keys() | emitted.keys())
    sides = ((-0.2, target, SKY, "", "the target's law"), (0.2, emitted, ORANGE, "///", "what the rule emits"))
    for shift, law, colour, hatch, label in sides:
        places, values = (
            [index + shift for index in range(len(tokens))],
            [law.get(token, Fraction(0)) for token in tokens],
        )
        axes.bar(places, [float(x) for x in values], 0.38, color=colour, hatch=hatch, edgecolor="white", label=label)
        for place, value in zip(places, values, strict=True):
            axes.text(place, float(value) + 0.01, f"{float(value):.3f}", ha="center", va="bottom", fontsize=9)
    highest = max(float(x) for law in (target, emitted) for x in law.values())
    axes.set_xticks(range(len(tokens)), [words[token] for token in tokens])
    axes.set(ylabel="probability", ylim=(0, 1.15 * highest), title=f"{title}: {_distance(target, emitted)}")
    axes.legend(loc="upper right")
    return figure


def law_claim(target: Law, emitted: Law, words: Sequence[str]) -> str:
    """The total variation, and which words come too often and too seldom."""
    more = [words[x] for x in sorted(target.keys() | emitted.keys()) if emitted.get(x, 0) > target.get(x, 0)]
    less = [words[x] for x in sorted(target.keys() | emitted.keys()) if emitted.get(x, 0) < target.get(x, 0)]
    if not more:
        return "The two laws are the same: total variation exactly 0."
    return f"Too often: {', '.join(more)}; too seldom: {', '.join(less)}. {_distance(target, emitted).capitalize()}."


def _distance(target: Law, emitted: Law) -> str:
    distance = total_variation(target, emitted)
    return f"total variation {distance}" + (f" = {float(distance):.3f}" if distance else "")


@styled
def margin_bars(distances: Mapping[str, Fraction]) -> Figure:
    """One bar a rule: how far its law is from the target's; a tick at 0 for a lossless rule."""
    figure = Figure(figsize=(7.6, 0.34 * len(distances) + 0.8), layout="constrained")
    axes = figure.subplots()
    for row, distance in enumerate(distances.values()):
        if distance:
            axes.barh(row, float(distance), 0.7, color=VERMILION, hatch="xx", edgecolor="white")
        else:
            axes.plot(0, row, marker="D", color=GREEN, clip_on=False)
        text = f"{distance} = {float(distance):.3f}" if distance else "exactly 0"
        axes.text(float(distance) + (0.006 if distance else 0.012), row, text, va="center")
    axes.set_yticks(range(len(distances)), list(distances))
    axes.set(xlabel="total variation to the target's law", xlim=(0, 1.3 * float(max(distances.values()))))
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", visible=True)
    return figure


def margin_claim(distances: Mapping[str, Fraction]) -> str:
    """How many rules are exactly lossless, and the nearest and farthest of the others."""
    exact = [name for name, distance in distances.items() if not distance]
    broken = {name: distance for name, distance in distances.items() if distance}
    near, far = min(broken, key=broken.__getitem__), max(broken, key=broken.__getitem__)
    return (
        f"Exactly 0: {', '.join(exact)}. Above 0: {len(broken)} rules, "
        f"from {broken[near]} ({near}) to {broken[far]} ({far})."
    )


# --- a walk through a draft tree -------------------------------------------------------------------------------------


@styled
def tree_walk(tree: DraftTree, drawn: Sequence[int], verdict: Verdict, words: Sequence[str]) -> Figure:
    """The draft tree from left to right, the token drawn at each node, and the path that the draws accept."""
    token, parent, depth = tree.token.tolist(), tree.parent.tolist(), tree.depth.tolist()
    row = tree_rows(parent)
    accepted = verdict.path[1 : int(verdict.accepted) + 1].tolist()
    last = accepted[-1] if accepted else 0
    figure = Figure(figsize=(1.6 + 2.0 * (max(depth) + 1), 0.8 + 0.78 * (max(row) + 1)), layout="constrained")
    axes = figure.subplots()
    for node in range(1, len(token)):
        up = parent[node]
        look = (
            {"color": BLUE, "linewidth": 2.5}
            if node in accepted
            else {"color": GREY, "linewidth": 1, "linestyle": "--"}
        )
        axes.plot((depth[up] + 0.2, depth[node] - 0.2), (row[up], row[node]), zorder=1, **look)
    for node, word in enumerate(token):
        face, hatch = ACCEPTED if node in accepted else ("#EEEEEE", "" if node == 0 else "...")
        word_box(axes, depth[node], row[node], words[word], face, hatch)
        axes.text(depth[node], row[node] + 0.36, f"draws {words[drawn[node]]}", ha="center", va="center", fontsize=9)
    axes.plot(
        (depth[last] + 0.2, depth[last] + 0.8), (row[last], row[last] - 0.42), color=BLACK, linewidth=1.5, zorder=1
    )
    word_box(axes, depth[last] + 1, row[last] - 0.42, words[drawn[last]], *OWN)
    axes.set(xlim=(-0.5, max(depth) + 1.5), ylim=(max(row) + 0.6, -0.75))
    axes.axis("off")
    looks = (("the root: text already", "#EEEEEE", ""), ("accepted", *ACCEPTED), ("the bonus token", *OWN))
    looks = (*looks, ("guesses not reached", "#EEEEEE", "..."))
    handles = [Patch(facecolor=face, hatch=hatch, edgecolor=DARK, label=label) for label, face, hatch in looks]
    figure.legend(handles=handles, loc="outside lower left", ncols=4, fontsize=9)
    return figure


def walk_claim(tree: DraftTree, drawn: Sequence[int], verdict: Verdict, words: Sequence[str]) -> str:
    """What the walk accepts and adds."""
    count = int(verdict.accepted)
    emitted = [words[token] for token in verdict.tokens[: count + 1].tolist()]
    path = f"'{' '.join(emitted[:-1])}'" if count else "nothing"
    gain = f"{count + 1} tokens from one pass of the target"
    return f"Of {len(tree) - 1} guesses the walk accepts {path} and adds '{emitted[-1]}': {gain}."


# --- counts against a law --------------------------------------------------------------------------------------------


@styled
def count_panels(counts: Mapping[str, Mapping[int, int]], law: Law, words: Sequence[str]) -> Figure:
    """One panel a rule: how often it emitted each word (bars), and how often the law expects that (marks)."""
    figure = Figure(figsize=(3.8 * len(counts), 2.9), layout="constrained")
    panels = figure.subplots(1, len(counts), sharey=True, squeeze=False)[0]
    hatches = ("", "///", "..", "xx")[: len(counts)]
    for axes, (name, observed), hatch in zip(panels, counts.items(), hatches, strict=True):
        runs, places = sum(observed.values()), range(len(law))
        axes.bar(places, [observed[token] for token in law], 0.7, color=SKY, hatch=hatch, edgecolor="white")
        expected = [runs * float(probability) for probability in law.values()]
        axes.hlines(expected, [x - 0.42 for x in places], [x + 0.42 for x in places], color=BLACK, linewidth=2)
        axes.set_xticks(places, [words[token] for token in law])
        axes.margins(y=0.1)
        axes.set(title=f"{name}: p-value {p_value_words(g_test(observed, law))}", ylabel=f"of {runs} runs")
    counted = tuple(Patch(facecolor=SKY, hatch=hatch, edgecolor="white") for hatch in hatches)  # of every panel
    handles = {"expected": Line2D([], [], color=BLACK, linewidth=2), "counted": counted}
    side_by_side = {tuple: HandlerTuple(ndivide=None, pad=0.4)}
    panels[-1].legend(handles.values(), handles, loc="upper right", handlelength=3, handler_map=side_by_side)
    return figure


def count_claim(counts: Mapping[str, Mapping[int, int]], law: Law) -> str:
    """The p-value of every rule's counts."""
    values = [f"{name}: p-value {p_value_words(g_test(observed, law))}" for name, observed in counts.items()]
    return f"{sum(next(iter(counts.values())).values())} runs each. {'; '.join(values)}."


def p_value_words(value: float) -> str:
    """Two digits; below a millionth nothing but that."""
    return "below 1e-6" if value < 1e-6 else f"{value:.2f}" if value >= 0.01 else f"{value:.1e}"
