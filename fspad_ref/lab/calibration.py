"""What a draft's trees are worth: big trees grown along recorded texts, from which smaller ones are cut.

The text of an answer does not depend on the draft. So one big tree is grown at *every* position of it, all scored
nodes are kept with whether they lie on the text, and any smaller setting is then judged without the draft: cut its
tree out of the big one, count the nodes on the text, jump to the root of the next round. Its tau is the real loop's

    exactly        for the big tree's own top_k, with any depth up to its own and any total_tokens
    approximately  for a smaller top_k: its frontier may hold a node that the big tree's frontier, full of children of
                   rank >= top_k, has left out; then that node's children are missing. `exact` is the share of
                   positions where this did not happen, and elsewhere tau is a little too low.

(Up to near-ties below float64: a draft forward of 10 rows rounds otherwise than one of 4.)

*Calibration.* A node's score s = sum log q is the draft's own opinion of exp(s), the probability that the node will be
accepted. Counting over the big trees gives the truth: for each depth and child rank an isotonic regression of
"on the text" on s, never falling, as reranking takes for granted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import isotonic_regression
from torch import Tensor

from fspad_ref.draft import Draft
from fspad_ref.errors import ConfigError
from fspad_ref.lab.many import text_features
from fspad_ref.tree import DraftTree, TreeConfig, grow_tree

RANKS = 3  # child ranks told apart by the calibration: best, second, all others


@dataclass(frozen=True)
class BigTree:
    """All that an expansion scored, root first, in level order; arrays of (nodes,).

    token, parent, depth, score: as in DraftTree. rank: place among its siblings, best 0. on_text: the path from the
    root to here is what the target wrote; at most one node a depth, and nothing beyond the end of the text.
    """

    token: np.ndarray
    parent: np.ndarray
    depth: np.ndarray
    rank: np.ndarray
    score: np.ndarray
    on_text: np.ndarray


@torch.no_grad()
def big_trees(draft: Draft, prompt: Sequence[int], tokens: Sequence[int], top_k: int, depth: int) -> list[BigTree]:
    """A big tree at every position of the text `tokens` that follows `prompt`; its last token is nobody's root."""
    config = full(top_k, depth)
    device = draft.target.device
    text = torch.tensor([*prompt, *tokens], device=device)  # (L,)
    features = text_features(draft.target, text.tolist())[None].to(device)  # (1, L - 1, D)
    drawn = F.pad(text, (0, config.levels), value=-1)  # beyond the end: no token
    cache = draft.new_cache(len(text) + depth * top_k)
    trees, seen = [], 0
    for root in range(len(prompt), len(text) - 1):
        grown = grow_tree(draft, features[:, seen:root], text[None, seen : root + 1], config, cache)
        trees.append(_big(grown, drawn[root + grown.depth], top_k))
        seen = root
    return trees


def full(top_k: int, depth: int) -> TreeConfig:
    """The tree that keeps every scored node."""
    return TreeConfig(top_k, depth, 1 + top_k + depth * top_k**2)


def _big(tree: DraftTree, written: Tensor, top_k: int) -> BigTree:
    """written (nodes,): the token of the text at each node's depth."""
    on_text = ((tree.token == written) | ~tree.ancestors).all(dim=-1)  # it and all above it carry the text's tokens
    rank = np.concatenate(([0], np.arange(len(tree) - 1) % top_k))  # siblings stand together, best first
    tensors = (tree.token, tree.parent, tree.depth, tree.score, on_text)
    token, parent, depth, score, on_text = (part.cpu().numpy() for part in tensors)
    return BigTree(token, parent, depth, rank, score, on_text)


# --- cutting ---------------------------------------------------------------------------------------------------------


def ranked(big: BigTree, top_k: int, depth: int) -> tuple[np.ndarray, bool]:
    """The nodes that a smaller expansion would score, best first, as `rerank` would keep them; and whether exactly.

    By the rule of `expand`: of the frontier's children those of rank < k, and of these the k best are the next
    frontier. False if a frontier node has no children in the big tree.
    """
    found, frontier, exact = [], np.array([0]), True
    for level in range(1, depth + 2):
        children = np.flatnonzero((big.depth == level) & (big.rank < top_k) & np.isin(big.parent, frontier))
        exact = exact and len(children) == top_k * len(frontier)
        found.append(children)
        frontier = children[np.argsort(-big.score[children], kind="stable")][:top_k]
    nodes = np.concatenate(found)
    return nodes[np.argsort(-big.score[nodes], kind="stable")], exact


def cut(big: BigTree, config: TreeConfig) -> tuple[np.ndarray, bool]:
    """The nodes of the tree of that size, root included, in level order; and whether it is exactly that tree."""
    best, exact = ranked(big, config.top_k, config.depth)
    return np.sort(np.concatenate(([0], best[: config.total_tokens - 1]))), exact


@dataclass(frozen=True)
class Forecast:
    """What a tree setting would reach on the recorded texts.

    tau: by walking the rounds. expected_tau: 1 + the calibrated probabilities of its nodes, summed, the mean over all
    positions: smoother, but positions where no round begins count too. exact: share of positions cut exactly.
    """

    tree: TreeConfig
    tau: float
    expected_tau: float
    exact: float


def forecast(
    texts: Sequence[Sequence[BigTree]], settings: Sequence[TreeConfig], calibration: "Calibration"
) -> list[Forecast]:
    """Every setting on every text (its big trees, one a position)."""
    settings = sorted(settings, key=lambda tree: (tree.top_k, tree.depth, tree.total_tokens))
    chances = [[calibration.of_tree(big) for big in text] for text in texts]
    positions = sum(len(text) for text in texts)
    results = []
    for (top_k, depth), group in groupby(settings, key=lambda tree: (tree.top_k, tree.depth)):
        cuts = [[ranked(big, top_k, depth) for big in text] for text in texts]
        exact = sum(is_exact for text in cuts for _, is_exact in text) / positions
        for tree in group:
            accepted, chance = [], []
            for text, its_cuts, its_chances in zip(texts, cuts, chances, strict=True):
                kept = [best[: tree.total_tokens - 1] for best, _ in its_cuts]
                accepted.append([int(big.on_text[nodes].sum()) for big, nodes in zip(text, kept, strict=True)])
                chance += [float(p[nodes].sum()) for p, nodes in zip(its_chances, kept, strict=True)]
            tau = positions / sum(map(rounds, accepted))
            results.append(Forecast(tree, tau, 1 + float(np.mean(chance)), exact))
    return results


def rounds(accepted: Sequence[int]) -> int:
    """Rounds that a text takes when a round begun at position i accepts accepted[i] tokens and adds one."""
    count, place = 0, 0
    while place < len(accepted):
        place += accepted[place] + 1
        count += 1
    return count


# --- calibrating -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Calibration:
    """P(node lies on the text | score, depth, rank), as steps of an isotonic regression.

    steps: (depth, min(rank, 2)) -> (scores ascending, probabilities never falling), straight lines between.
    acceptance (levels, k): of the nodes of that depth and rank whose parent is on the text, the share that is too
    (behind the last token none is); NaN where there are none.
    """

    steps: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]
    acceptance: np.ndarray

    def __call__(self, score: np.ndarray, depth: int, rank: int) -> np.ndarray:
        """The probability of nodes of one depth and rank, by their scores."""
        key = (depth, min(rank, RANKS - 1))
        if key not in self.steps:
            raise ConfigError(
                f"expected a depth and rank that were calibrated, found depth {depth}, rank {rank}. "
                "Calibrate with deeper or wider trees."
            )
        return np.interp(score, *self.steps[key])

    def of_tree(self, big: BigTree) -> np.ndarray:
        """The probability of every node; the root's is 1."""
        chance = np.ones(len(big.score))
        for (depth, rank), steps in self.steps.items():
            nodes = _of(big, depth, rank)
            chance[nodes] = np.interp(big.score[nodes], *steps)
        return chance


def calibrate(texts: Sequence[Sequence[BigTree]]) -> Calibration:
    """Fit on all positions of all texts."""
    trees = [big for text in texts for big in text]
    if not trees:
        raise ConfigError("expected texts of at least two tokens, found none. Give other prompts, or longer texts.")
    levels, top_k = int(trees[0].depth.max()), int(trees[0].rank.max()) + 1
    steps = {}
    for depth in range(1, levels + 1):
        for rank in range(min(RANKS, top_k)):
            chosen = [(big.score[nodes], big.on_text[nodes]) for big in trees for nodes in [_of(big, depth, rank)]]
            steps[depth, rank] = fit_steps(*(np.concatenate(part) for part in zip(*chosen, strict=True)))
    return Calibration(steps, _acceptance(trees, levels, top_k))


def fit_steps(score: np.ndarray, on_text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Isotonic regression of on_text (0 or 1) on the score: the two ends of every step."""
    x, where, count = np.unique(
        np.nan_to_num(score.astype(float), neginf=-1e9), return_inverse=True, return_counts=True
    )
    y = np.bincount(where, weights=on_text) / count
    fitted = isotonic_regression(y, weights=count).x
    ends = np.flatnonzero(np.diff(fitted, prepend=-1, append=2))  # where steps begin, and one past the last
    knots = np.unique(np.concatenate((ends[:-1], ends[1:] - 1)))
    return x[knots], fitted[knots]


def _of(big: BigTree, depth: int, rank: int) -> np.ndarray:
    """Which nodes belong to one step function."""
    return np.flatnonzero((big.depth == depth) & (np.minimum(big.rank, RANKS - 1) == rank))


def _acceptance(trees: Sequence[BigTree], levels: int, top_k: int) -> np.ndarray:
    """(levels, k): accepted over tried, by depth and child rank."""
    accepted, tried = np.zeros((levels, top_k)), np.zeros((levels, top_k))
    for big in trees:
        for counts, chosen in ((tried, big.on_text[big.parent]), (accepted, big.on_text)):
            nodes = np.flatnonzero(chosen)[1:]  # without the root, its own parent
            np.add.at(counts, (big.depth[nodes] - 1, big.rank[nodes]), 1)
    with np.errstate(invalid="ignore"):
        return accepted / tried
