"""Pictures of chapter 00: a round in three steps, what rounds gain, passes against tokens,
and FSPAD's two ideas.

As in `plots`: numbers -> Figure, and beside it the same numbers -> one line of text.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Patch
from torch import Tensor

from fspad_ref.errors import InputError
from fspad_ref.generate import Generation
from fspad_ref.tree import DraftTree
from fspad_ref.verify import Verdict
from fspad_ref.viz.style import BLACK, BLUE, CYCLE, GREY, MARKERS, TOKEN_KINDS, VERMILION, styled

ACCEPTED, OWN = TOKEN_KINDS["draft"][:2], TOKEN_KINDS["target"][:2]  # (fill, hatch)
TEXT, GUESS, PLAIN = ("#EEEEEE", ""), ("white", ""), ("white", "")
MISSED = ("#EEEEEE", "...")
DARK = "#555555"
DASHED = {"color": GREY, "linewidth": 1, "linestyle": "--"}
TAKEN = {"color": BLUE, "linewidth": 2.5}
SHOWN = 24  # directions of the gate in a picture


# --- a round, step by step -------------------------------------------------------------------------------------------


@styled
def round_steps(tree: DraftTree, drawn: Tensor, verdict: Verdict, words: Sequence[str]) -> Figure:
    """One round from top to bottom: the draft's tree, what the target writes after each node, what stays.

    drawn (N,): the target's token at each node. words: token id -> its text; spaces are drawn as dots.
    """
    rows = rows_of(tree.parent.tolist())
    height, width = max(rows) + 1, int(tree.depth.max()) + 2
    figure = Figure(figsize=(7.8, 0.95 * height + 1.9), layout="constrained")
    guess, look, keep = figure.subplots(3, 1, height_ratios=(0.75 * height, height, 0.8))
    _draw_tree(guess, tree, rows, words)
    _draw_tree(look, tree, rows, words, drawn.tolist(), _path(verdict)[1:])
    last = int(verdict.accepted) + 1
    text = [int(tree.token[0]), *verdict.tokens[:last].tolist()]
    for place, token in enumerate(text):
        box(keep, place, 0, _word(words, token), *(TEXT if place == 0 else OWN if place == last else ACCEPTED))
    guess.set_title(f"1 · The draft guesses: {len(tree) - 1} nodes below the last token of the text")
    look.set_title("2 · The target looks at all nodes in one pass: what it writes after each")
    keep.set_title("3 · What stays: the path on which both agree, and the target's token at its end")
    for axes, bottom in ((guess, height - 0.5), (look, height - 0.35), (keep, 0.5)):
        axes.set(xlim=(-0.5, width - 0.5), ylim=(bottom, -0.5))
        axes.axis("off")
    looks = {"text already": TEXT, "accepted": ACCEPTED, "the target's own": OWN, "guessed in vain": MISSED}.items()
    handles = [Patch(facecolor=fill, hatch=hatch, edgecolor=DARK, label=label) for label, (fill, hatch) in looks]
    figure.legend(handles=handles, loc="outside lower left", ncols=4, fontsize=9)
    return figure


def round_claim(tree: DraftTree, verdict: Verdict, words: Sequence[str]) -> str:
    """What the round guesses, accepts and adds."""
    count = int(verdict.accepted)
    accepted = "".join(words[token] for token in verdict.tokens[:count].tolist())
    stays = f"accepts {count}, '{accepted}'," if count else "accepts none"
    bonus = words[int(verdict.tokens[count])]
    gain = f"{count + 1} token{'s' if count else ''}"
    return f"Of {len(tree) - 1} guesses the target {stays} and adds '{bonus}': {gain} from one pass."


def rows_of(parent: Sequence[int]) -> list[float]:
    """The height of every node: leaves one below the other, a parent halfway between its first and last child.

    >>> rows_of([0, 0, 0, 1])
    [0.5, 0.0, 1.0, 0.0]
    """
    children: list[list[int]] = [[] for _ in parent]
    for node, up in enumerate(parent[1:], start=1):
        children[up].append(node)
    rows, order, stack = [0.0] * len(parent), [], [0]
    while stack:
        order.append(node := stack.pop())
        stack += reversed(children[node])
    for place, leaf in enumerate(node for node in order if not children[node]):
        rows[leaf] = float(place)
    for node in reversed(order):
        if below := children[node]:
            rows[node] = (rows[below[0]] + rows[below[-1]]) / 2
    return rows


def _draw_tree(axes, tree: DraftTree, rows, words, drawn: Sequence[int] = (), path: Sequence[int] = ()) -> None:
    """Boxes and lines; with `drawn`, the target's token under each box, and the nodes of `path` marked as accepted."""
    depth, parent = tree.depth.tolist(), tree.parent.tolist()
    for node, token in enumerate(tree.token.tolist()):
        if node:
            ends = (depth[parent[node]] + 0.31, depth[node] - 0.31), (rows[parent[node]], rows[node])
            axes.plot(*ends, zorder=1, **(TAKEN if node in path else DASHED))
        look = TEXT if node == 0 else ACCEPTED if node in path else MISSED if drawn else GUESS
        box(axes, depth[node], rows[node], _word(words, token), *look)
        if drawn:
            axes.text(depth[node], rows[node] + 0.36, f"then {_word(words, drawn[node])}", **_small())


def _path(verdict: Verdict) -> list[int]:
    return verdict.path[: int(verdict.accepted) + 1].tolist()


def _word(words: Sequence[str], token: int) -> str:
    return _visible(words[token])


def _visible(text: str) -> str:
    return text.replace(" ", "·").replace("\n", "⏎") or "∅"


# --- what rounds gain, and how many passes that takes ----------------------------------------------------------------


def gains(result: Generation) -> list[tuple[int, int]]:
    """(accepted guesses, tokens of the target's own) of every round: one each, but for a text that ends with a guess.

    Raises InputError if the rounds do not add up to the text.
    """
    own = [1] * len(result.accepted)
    over = 1 + sum(result.accepted) + len(own) - len(result.tokens)
    if over not in (0, 1) or (over and not own):
        raise InputError(f"expected {len(own)} rounds to make {len(result.tokens)} tokens, found {over} too many")
    own[-1:] = [1 - over] if own else []
    return list(zip(result.accepted, own, strict=True))


@styled
def gain_bars(results: Mapping[str, Generation]) -> Figure:
    """One panel a draft, one bar a round: the accepted guesses and the target's own token; dashed: tau, their mean."""
    figure = Figure(figsize=(7.8, 2.1 * len(results) + 0.6), layout="constrained")
    panels = figure.subplots(len(results), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, (name, result) in zip(panels, results.items(), strict=True):
        accepted, own = zip(*gains(result), strict=True)
        places = range(1, len(accepted) + 1)
        for values, bottom, (fill, hatch), label in (
            (accepted, 0, ACCEPTED, "guessed by the draft, accepted"),
            (own, accepted, OWN, "the target's own"),
        ):
            axes.bar(places, values, 0.8, bottom, color=fill, hatch=hatch, edgecolor="white", label=label)
        axes.axhline(result.tau, color=BLACK, linestyle="--", linewidth=1.2, label="tau, the mean height")
        axes.set(title=f"{name}: {len(accepted)} rounds", ylabel="tokens")
        axes.yaxis.get_major_locator().set_params(integer=True)
    longest = max(len(result.accepted) for result in results.values())
    panels[-1].set(xlabel="round", xlim=(0.3, longest + 0.7))
    panels[-1].set_xticks(range(1, longest + 1, 1 + longest // 25))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left", ncols=3)
    return figure


def gain_claim(results: Mapping[str, Generation]) -> str:
    """Rounds of every draft, and the smallest and largest gain."""
    parts = []
    for name, result in results.items():
        heights = [sum(pair) for pair in gains(result)]
        parts.append(f"{name} needs {len(heights)} rounds of {min(heights)} to {max(heights)} tokens")
    return "; ".join(parts) + "."


@styled
def pass_steps(tokens_per_pass: Mapping[str, Sequence[int]]) -> Figure:
    """Tokens written against forward passes of the target, one line a method; the mean slope after pass 1 is tau."""
    figure = Figure(figsize=(7.8, 3.4), layout="constrained")
    axes = figure.subplots()
    for index, (name, tokens) in enumerate(tokens_per_pass.items()):
        written = list(accumulate(tokens))
        look = {"color": (GREY, *CYCLE)[index], "marker": MARKERS[index], "markersize": 4}
        label = f"{name}: {len(written)} passes"
        axes.plot(range(1, len(written) + 1), written, drawstyle="steps-post", label=label, **look)
    axes.set(xlabel="forward passes of the target", ylabel="tokens written", xlim=(0, None), ylim=(0, None))
    axes.legend(loc="lower right")
    return figure


def pass_claim(tokens_per_pass: Mapping[str, Sequence[int]]) -> str:
    """How many tokens from how many passes, a method at a time."""
    parts = [f"{name} {sum(tokens)} tokens in {len(tokens)} passes" for name, tokens in tokens_per_pass.items()]
    return f"{', '.join(parts)}."


# --- FSPAD's two ideas -----------------------------------------------------------------------------------------------


@styled
def sampling_idea(gates: Mapping[str, Sequence[float]]) -> Figure:
    """How a feature and a token are mixed without and with feature sampling, and what two tokens' gates let through.

    gates: token's text -> its gate, silu(W_gate e), (F,); drawn are the directions on which two tokens differ most.
    """
    figure = Figure(figsize=(8.6, 3.5), layout="constrained")
    layout = [["eagle", "fspad", "one"], ["eagle", "fspad", "other"]]
    panels = figure.subplot_mosaic(layout, width_ratios=(1, 1, 1.05))
    _mixing(panels["eagle"], "EAGLE: mixed", gated=False)
    _mixing(panels["fspad"], "FSPAD: mixed, then gated", gated=True)
    one, other = gates.values()
    chosen = sorted(range(len(one)), key=lambda place: -abs(one[place] - other[place]))[:SHOWN]
    chosen.sort(key=lambda place: other[place] - one[place])
    for name, word, (fill, hatch) in zip(("one", "other"), gates, (ACCEPTED, OWN), strict=True):
        values = [gates[word][place] for place in chosen]
        panels[name].bar(range(len(chosen)), values, 0.8, color=fill, hatch=hatch, edgecolor=DARK, linewidth=0.4)
        panels[name].set(title=f"Gate of '{_visible(word)}'", xticks=[])
    panels["one"].sharey(panels["other"])
    panels["other"].set_xlabel(f"{len(chosen)} of {len(one)} directions")
    return figure


def sampling_claim(gates: Mapping[str, Sequence[float]]) -> str:
    """How many directions the two tokens open differently."""
    one, other = gates
    differ = sum((a > 0) != (b > 0) for a, b in zip(*gates.values(), strict=True))
    return (
        "With feature sampling the token gates the mixed feature: "
        f"'{one}' and '{other}' have gates of opposite sign in {differ} of {len(gates[one])} directions."
    )


def _mixing(axes: Axes, title: str, gated: bool) -> None:
    box(axes, 0.25, 0, "token", *ACCEPTED, width=0.4)
    box(axes, 0.75, 0, "feature", *TEXT, width=0.4)
    box(axes, 0.5, 1, "linear map", *PLAIN, width=0.5)
    box(axes, 0.5, 3, "the draft's layer", *PLAIN, width=0.7)
    for start in (0.3, 0.7):
        _arrow(axes, (start, 0.26), (0.5 + (start - 0.5) / 3, 0.74))
    for bottom, top in ((1.26, 1.74), (2.26, 2.74)) if gated else ((1.26, 2.74),):
        _arrow(axes, (0.5, bottom), (0.5, top))
    if gated:
        box(axes, 0.5, 2, "gate", *OWN, width=0.5)
        _arrow(axes, (0.12, 0.26), (0.24, 2), "angle,angleA=90,angleB=180", color=VERMILION)
        axes.plot((0.76, 0.94, 0.94), (1, 1, 3), color=DARK, linewidth=1.6)  # what the gate lets through is added to h
        _arrow(axes, (0.95, 3), (0.86, 3))
    _diagram(axes, title, top=3.4)


@styled
def alignment_idea() -> Figure:
    """One output vector with two jobs, and two output vectors with one job each."""
    figure = Figure(figsize=(7.8, 3.2), layout="constrained")
    eagle, fspad = figure.subplots(1, 2)
    for axes in (eagle, fspad):
        box(axes, 0.5, 0, "the draft's layer", *PLAIN, width=0.5)
        box(axes, 0.22, 2.2, "lm_head:\nwhich token?", *TEXT, width=0.4, height=0.7)
        box(axes, 0.78, 2.2, "input of the\nnext step", *TEXT, width=0.4, height=0.7)
    box(eagle, 0.5, 1.05, "one vector", *ACCEPTED, width=0.4)
    _arrow(eagle, (0.5, 0.26), (0.5, 0.79))
    for place, fill, text in ((0.22, ACCEPTED, "u"), (0.78, OWN, "g")):
        _arrow(eagle, (0.5 + (place - 0.5) / 2, 1.31), (place, 1.83))
        box(fspad, place, 1.05, text, *fill, width=0.24)
        _arrow(fspad, (0.5 + (place - 0.5) / 2, 0.26), (place, 0.79))
        _arrow(fspad, (place, 1.31), (place, 1.83))
    _diagram(eagle, "EAGLE: one vector, two jobs", top=2.7)
    _diagram(fspad, "Partial alignment: one job each", top=2.7)
    return figure


def alignment_claim() -> str:
    """What `alignment_idea` shows; it has no data."""
    return (
        "Without partial alignment one vector names the token and is fed back as the next input; with it the vector u "
        "names the token and the vector g is fed back."
    )


# --- boxes and arrows ------------------------------------------------------------------------------------------------


def box(axes: Axes, x: float, y: float, text: str, fill: str, hatch: str, width=0.62, height=0.46) -> None:
    """A box with its middle at (x, y), in the units of `axes`; where it is hatched, the text stands on white."""
    shape = {"boxstyle": "square,pad=0", "edgecolor": DARK, "hatch": hatch, "zorder": 2}
    axes.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height, facecolor=fill, **shape))
    under = {"boxstyle": "round,pad=0.12", "facecolor": "white", "edgecolor": "none", "alpha": 0.85 if hatch else 0}
    axes.text(x, y, text, ha="center", va="center", zorder=3, fontsize=9, bbox=under, parse_math=False)


def _arrow(axes: Axes, start: tuple, end: tuple, connection: str = "arc3", color: str = DARK) -> None:
    style = {"arrowstyle": "-|>", "color": color, "linewidth": 1.6, "connectionstyle": connection}
    axes.annotate("", xy=end, xytext=start, arrowprops=style)


def _diagram(axes: Axes, title: str, top: float) -> None:
    axes.set(xlim=(0, 1), ylim=(-0.4, top), title=title)
    axes.axis("off")


def _small() -> dict:
    return {"ha": "center", "va": "center", "fontsize": 8.5, "parse_math": False}
