"""What a picture of a draft tree shows, at any stage of its growth, as words and plain numbers.

    stage      an expansion after any number of levels, its frontier marked
    reranked   the same nodes, marked as kept or dropped
    folded     the dropped nodes left out and counted
    view       a finished tree

`tree_plots` draws them.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor

from figures.style_old import BLACK, DARK, GREY, SKY, YELLOW
from fspad_ref.tree import DraftTree

Words = Callable[[int], str]  # token id -> its text


class Role(NamedTuple):
    """A look, and what it means. Roles differ by colour, and by hatch, shape or edge as well."""

    fill: str
    hatch: str
    corner: str
    edge: tuple[str, str, float]  # colour, style, width
    marker: str
    label: str


ROLES = {
    "root": Role("#EEEEEE", "", "square", (DARK, "-", 0.8), "s", "the root: text already"),
    "scored": Role("white", "", "round", (DARK, "-", 0.8), "o", "scored"),
    "grown": Role("white", "", "round", (BLACK, "-", 2.0), "o", "scored, has grown"),
    "frontier": Role(YELLOW, "///", "round", (BLACK, "-", 1.2), "D", "the frontier: grows next"),
    "kept": Role("#9ED8C8", "", "round", (DARK, "-", 0.8), "o", "a guess, kept"),  # a tint of Okabe and Ito's green
    "dropped": Role("white", "", "square", (GREY, ":", 1.0), "x", "a guess, dropped"),
    "text": Role(SKY, "", "round", (BLACK, "-", 2.0), "D", "kept, and what the target writes"),
}


@dataclass(frozen=True)
class TreeView:
    """One entry a node, the root first, parents before children.

    text: the words on the boxes. parent (0 for the root), depth, score (sum of log q along the path): as in DraftTree.
    role: keys of ROLES. left_out: how many children of a node are not shown.
    """

    text: tuple[str, ...]
    parent: tuple[int, ...]
    depth: tuple[int, ...]
    score: tuple[float, ...]
    role: tuple[str, ...]
    left_out: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.text)

    @property
    def levels(self) -> int:
        return max(self.depth)


# --- making views -----------------------------------------------------------------------------------------------------


def view(tree: DraftTree, words: Words, on_text: Sequence[bool] = ()) -> TreeView:
    """A finished tree. on_text: for every node, whether the target writes the path to it; () marks none."""
    role = ["kept"] * len(tree)
    for node, written in enumerate(on_text):
        role[node] = "text" if written else "kept"
    text = tuple(words(token) for token in tree.token.tolist())
    parent, depth, score = (tuple(part.tolist()) for part in (tree.parent, tree.depth, tree.score))
    return TreeView(text, parent, depth, score, ("root", *role[1:]), (0,) * len(tree))


def stage(root: int, scored: Sequence[Tensor], words: Words, top_k: int, level: int) -> TreeView:
    """An expansion after `level` levels, its frontier marked; after the last level there is none.

    Args:
        root: the token at the root.
        scored: token, parent, depth, score of all scored nodes, as `tree.expand` returns them.
        words: token id -> text.
        top_k: of the newest level, so many of the best are the frontier.
        level: how many levels to show, from 1 on.
    """
    token, parent, depth, score = (part.tolist() for part in scored)
    grows = top_k if level < max(depth) else 0
    count = 1 + sum(d <= level for d in depth)
    parent, depth, score = (0, *parent)[:count], (0, *depth)[:count], (0.0, *score)[:count]
    newest = [node for node in range(1, count) if depth[node] == level]
    frontier = set(sorted(newest, key=lambda node: -score[node])[:grows])
    grown = set(parent)
    role = ["frontier" if v in frontier else "grown" if v in grown else "scored" for v in range(1, count)]
    text = tuple(words(t) for t in (root, *token))[:count]
    return TreeView(text, parent, depth, score, ("root", *role), (0,) * count)


def reranked(scored: TreeView, total_tokens: int) -> TreeView:
    """The same nodes, marked as kept or dropped by reranking: the root and the total_tokens - 1 best, early ones first
    where scores are equal."""
    best = set(sorted(range(1, len(scored)), key=lambda node: -scored.score[node])[: total_tokens - 1])
    role = ["kept" if node in best else "dropped" for node in range(1, len(scored))]
    return replace(scored, role=("root", *role))


def folded(marked: TreeView) -> TreeView:
    """Without the dropped nodes, which are counted at their parents instead; a dropped node's children are dropped."""
    shown = [node for node in range(len(marked)) if marked.role[node] != "dropped"]
    number = {node: place for place, node in enumerate(shown)}
    lost = Counter(marked.parent[node] for node in range(1, len(marked)) if node not in number)
    columns = (marked.text, marked.depth, marked.score, marked.role)
    text, depth, score, role = (tuple(column[node] for node in shown) for column in columns)
    parent = tuple(number[marked.parent[node]] for node in shown)
    return TreeView(text, parent, depth, score, role, tuple(lost[node] for node in shown))


def probability(chance: float) -> str:
    """Two digits without the leading zero; what rounds to 0 or 1 is told from 0 and 1."""
    return "1" if chance == 1 else ">.99" if chance >= 0.995 else "<.01" if chance < 0.005 else f"{chance:.2f}"[1:]


def short(text: str, longest: int = 10) -> str:
    """A token that fits a box: blanks made visible, long ones cut."""
    shown = text.replace(" ", "␣").replace("\n", "⏎").replace("\t", "→") or "∅"
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"
