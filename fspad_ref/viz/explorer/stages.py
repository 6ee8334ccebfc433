"""A recorded round at one stage, as words and plain numbers: what `stage_plots` draws and the stepper tells.

    level 1 .. level L   what has been scored so far, the frontier marked
    rerank               what is kept of it
    verify               the kept tree, and the token drawn at every node
    accept               the walk, the rejected guesses, the bonus token

From rerank on, node numbers are those of the tree, of its ancestor mask and of its slots in the cache.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

from fspad_ref.teaching.exercises import token_kinds
from fspad_ref.viz.explorer.records import Round
from fspad_ref.viz.explorer.runs import Run
from fspad_ref.viz.style import BLUE, ORANGE, SKY, VERMILION, token_claim
from fspad_ref.viz.tree_views import ROLES, Role, TreeView, folded, probability, reranked, short, stage, view

Words = Callable[[int], str]
NEAR_TIE = 1e-3  # of scores, in float32
MOST = 72  # of larger expansions only the frontier, what has grown, and the best of the newest level are shown

LOOKS = ROLES | {
    "guess": Role("white", "", "round", ("#555555", "-", 0.8), "o", "a guess"),
    "match": Role("#D6ECF8", "", "round", (BLUE, "-", 1.4), "P", "its token was drawn at its parent"),
    "accepted": Role(SKY, "", "round", (BLUE, "-", 2.4), "D", "accepted"),
    "rejected": Role("#F4F4F4", "", "square", ("#999999", ":", 1.0), "X", "rejected"),
    "bonus": Role(ORANGE, "///", "square", ("#000000", "-", 1.6), "*", "the bonus token"),
    "beyond": Role("white", "xx", "square", (VERMILION, "--", 1.2), "v", "beyond the end of the text"),
}
SIGNS = {"match": "✓", "accepted": "✓", "rejected": "✗", "bonus": "★", "beyond": "✂", "dropped": "✗", "frontier": "▸"}


@dataclass(frozen=True)
class StageView(TreeView):
    """A `TreeView` with a second line a box. name: the stage. slots: see `Round.slots`. kept: nodes whose slots stay,
    in order; empty before the walk. room: parents of places to be left free. written: whether the tree has its slots.
    extra: 1 if the last entry is the bonus token, which is no node. scored:
    guesses scored so far, shown or not.
    """

    under: tuple[str, ...]
    name: str
    slots: tuple[int, int, int]
    kept: tuple[int, ...] = ()
    room: tuple[int, ...] = ()
    written: bool = False
    extra: int = 0
    scored: int = 0

    @property
    def nodes(self) -> int:
        """Nodes of the tree, the bonus token left out."""
        return len(self) - self.extra

    @property
    def numbered(self) -> bool:
        """Whether its node numbers are the tree's, those of the mask and of the cache."""
        return self.written or bool(self.room)


def stage_names(levels: int) -> list[str]:
    """All stages of a round, in order."""
    return [*(f"level {level}" for level in range(1, levels + 1)), "rerank", "verify", "accept"]


def stage_view(run: Run, number: int, name: str, words: Words) -> StageView:
    """Round `number` (from 0) of a run at the stage `name`."""
    one, config = run.rounds[number], run.settings.tree
    if name == "verify":
        return _verify(one, words)
    if name == "accept":
        return _accept(one, words)
    level = config.levels if name == "rerank" else int(name.removeprefix("level "))
    scored = stage(int(one.tree.token[0]), one.scored, words, config.top_k, level)
    if name == "rerank":
        small = reranked(scored, config.total_tokens)
        if len(small) > MOST:
            return _with(folded(small), one, name, room=(one.path[-1],), scored=len(scored) - 1)
        return _with(small, one, name, scored=len(scored) - 1)
    shown = scored if len(scored) <= MOST else folded(_thinned(scored, config.top_k, level))
    return _with(shown, one, name, scored=len(scored) - 1)


def _thinned(scored: TreeView, top_k: int, level: int) -> TreeView:
    """Marked as dropped: what has not grown, is not in the frontier, and not among the newest level's best."""
    newest = [node for node in range(len(scored)) if scored.depth[node] == level]
    best = set(sorted(newest, key=lambda node: -scored.score[node])[:top_k])
    keep = {"root", "grown", "frontier"}
    role = [r if r in keep or node in best else "dropped" for node, r in enumerate(scored.role)]
    return TreeView(scored.text, scored.parent, scored.depth, scored.score, tuple(role), scored.left_out)


def _with(one: TreeView, of: Round, name: str, under: tuple[str, ...] = (), **more) -> StageView:
    """The view with its second lines; without any given, the draft's probability of the token itself."""
    steps = zip(one.score, one.parent, strict=True)
    q = tuple(f"q {probability(math.exp(score - one.score[up]))}" if math.isfinite(score) else "q 0"
              for score, up in steps)  # fmt: skip
    columns = {part.name: getattr(one, part.name) for part in fields(TreeView)}
    return StageView(**columns, under=under or ("", *q[1:]), name=name, slots=of.slots, **more)


def _lines(one: Round, words: Words) -> tuple[str, ...]:
    """The second line of every node: q, p, and the token that the target draws there."""
    drawn = [f"→ {short(words(token))}" for token in one.drawn]
    rest = [
        f"q {probability(q)} p {probability(p)} {d}" for q, p, d in zip(one.q[1:], one.p[1:], drawn[1:], strict=True)
    ]
    return (drawn[0], *rest)


def _verify(one: Round, words: Words) -> StageView:
    base = view(one.tree, words)
    role = tuple("match" if hit else "guess" for hit in one.matches)
    base = TreeView(base.text, base.parent, base.depth, base.score, ("root", *role[1:]), base.left_out)
    return _with(base, one, "verify", _lines(one, words), room=(one.path[-1],), written=True)


def _accept(one: Round, words: Words) -> StageView:
    """The tree with one node more, the bonus token, below the node where the walk ends."""
    base, bonus = view(one.tree, words), len(one.path) == one.kept
    place = {node: step for step, node in enumerate(one.path)}
    role = [
        "rejected" if v not in place else "accepted" if place[v] <= one.kept else "beyond" for v in range(len(base))
    ]
    end = one.path[-1]
    base = TreeView(
        (*base.text, words(one.tokens[-1])),
        (*base.parent, end),
        (*base.depth, base.depth[end] + 1),
        (*base.score, base.score[end]),
        ("root", *role[1:], "bonus" if bonus else "beyond"),
        (*base.left_out, 0),
    )
    under = (*_lines(one, words), f"drawn at {end}")
    return _with(base, one, "accept", under, kept=one.path, written=True, extra=1)


# --- in words --------------------------------------------------------------------------------------------------------


def stage_claim(one: StageView) -> str:
    """One sentence about the stage."""
    guesses, count = one.nodes - 1, one.role.count
    if one.name.startswith("level"):
        shown = f"{one.scored} guesses scored on {one.levels} level{'s' * (one.levels > 1)}"
        grows = f"{count('frontier')} of them grow next" if count("frontier") else "none of them grows any more"
        return f"{one.name.capitalize()}: {shown}, {grows}."
    if one.name == "rerank":
        kept = count("kept")
        return f"Rerank: {kept} of {one.scored} guesses are kept, with the root {kept + 1} nodes."
    if one.name == "verify":
        before, during, _ = one.slots
        return (
            f"Verify: one pass over {one.nodes} nodes behind {before} cached tokens; {count('match')} of {guesses} "
            f"guesses carry the token drawn at their parent."
        )
    accepted = len(one.kept) - 1
    lost = count("beyond")
    end = f" {lost} of these tokens lie beyond the end of the text." if lost else ""
    return (
        f"Accept: {accepted} of {guesses} guesses and the bonus token; of {one.slots[1]} cache slots {one.slots[2]} "
        f"stay.{end}"
    )


def run_claim(run: Run) -> str:
    """What the run shows that does not depend on the clock."""
    kinds = token_kinds(len(run.tokens), run.accepted)
    return f"{token_claim(kinds)} {same_text(run)}"


def same_text(run: Run) -> str:
    """Whether the text is plain decoding's; checked, not assumed."""
    if run.parted is None:
        return "The text is plain decoding's, token by token (checked)."
    place, margin = run.parted
    close = "so close that rounding can swap them" if margin < NEAR_TIE else "more than rounding in float32 explains"
    return (
        f"The text differs from plain decoding's from token {place + 1} on, where the best two scores are {margin:.1e} "
        f"apart: {close} (chapter 01, section 8)."
    )


def node_numbers(run: Run, number: int, node: int, words: Words) -> dict[str, str]:
    """All that is recorded of one node of the kept tree, by name, as text."""
    one, path = run.rounds[number], []
    token, parent, up = one.tree.token.tolist(), one.tree.parent.tolist(), node
    while up:
        path.append(up)
        up = parent[up]
    return {
        "node": str(node),
        "token": f"{short(words(token[node]))} (id {token[node]})",
        "path": "root" + "".join(f" › {v} {short(words(token[v]))}" for v in reversed(path)),
        "q, the draft's probability": "-" if node == 0 else f"{one.q[node]:.4f}",
        "path score, sum of log q": f"{float(one.tree.score[node]):.4f}",
        "p, the target's probability": "-" if node == 0 else f"{one.p[node]:.4f}",
        "drawn at its parent": "-" if node == 0 else short(words(one.drawn[parent[node]])),
        "drawn at this node": short(words(one.drawn[node])),
        "its token was drawn": "-" if node == 0 else "yes" if one.matches[node] else "no",
        "reached by the walk": "yes" if one.reached[node] else "no",
        "expected acceptance, sum of p over its children": f"{one.expected(node):.4f}",
        "cache slot during the pass": str(one.slots[0] + node),
        "cache slot afterwards": str(one.slots[0] + one.path.index(node)) if node in one.path else "forgotten",
    }


def tips(run: Run, number: int, one: StageView, words: Words) -> list[str]:
    """One text a node of the view, several lines each: all its numbers, or before reranking what the draft knows."""
    if one.numbered:
        every = (node_numbers(run, number, node, words) for node in range(one.nodes))
        told = ["\n".join(f"{name}: {value}" for name, value in numbers.items()) for numbers in every]
        return told + [f"the bonus token: {short(one.text[-1])}, {one.under[-1]}"] * one.extra
    rows = zip(one.text, one.under, one.score, strict=True)
    return [f"{short(text)}\n{under}\npath score, sum of log q: {score:.4f}" for text, under, score in rows]
