"""EAGLE with its static tree (EAGLE-1, arXiv 2401.15077): the same draft, but the tree's shape is fixed in advance.

A *shape* is a set of paths of child ranks: (0,) is the draft's best guess after the root, (0, 1) the second best guess
after that one. EAGLE-1 and Medusa ship such a table by hand; ours is computed. If rates[d - 1, r] is the probability
that a node of depth d and rank r is accepted once its parent is, and ranks are independent, then

    P(node accepted) = product of the rates along its path        E[accepted] = sum of P over the nodes

so the best shape of N nodes is the N - 1 nodes of largest P: no child has more than its parent, hence they hang
together (Medusa, arXiv 2401.10774, section 2.3.3; cf. Sequoia, arXiv 2402.12374). What a static tree cannot do is look
at the draft's actual confidence, which is EAGLE-2's whole point.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fspad_ref.cache import KVCache
from fspad_ref.draft import Draft
from fspad_ref.errors import ConfigError
from fspad_ref.tree import DraftTree, Grow, Grower, ancestors, top_children

Shape = tuple[tuple[int, ...], ...]  # paths of child ranks, the root's empty path left out


def static_shape(rates: Float[Tensor, "levels ranks"] | Sequence[Sequence[float]], nodes: int) -> Shape:
    """The shape of `nodes` nodes, root included, with the largest expected number of accepted tokens.

    Args:
        rates: rates[d - 1, r], acceptance of a node of depth d and rank r given its parent's, in [0, 1];
            `lab.rates.acceptance_rates` measures them.
        nodes: N, at most 1 + R + R^2 + ... for a table of R ranks.

    Returns the paths, parents before children. Raises ConfigError for rates outside [0, 1] or too many nodes.

    >>> static_shape([[0.6, 0.3], [0.5, 0.1]], nodes=4)
    ((0,), (1,), (0, 0))
    """
    table = torch.as_tensor(rates, dtype=torch.float64)
    if table.dim() != 2 or not bool(((table >= 0) & (table <= 1)).all()):
        raise ConfigError(
            f"expected a table (levels, ranks) of rates in [0, 1], found shape {tuple(table.shape)} with values from "
            f"{table.min():.3g} to {table.max():.3g}. Measure it with acceptance_rates."
        )
    levels, ranks = table.shape
    capacity = sum(ranks**depth for depth in range(levels + 1))
    if not 1 < nodes <= capacity:
        raise ConfigError(
            f"expected 2 to {capacity} nodes, which {levels} levels of {ranks} ranks can hold, found {nodes}. "
            "Change the number of nodes, or measure more levels or ranks."
        )
    rows = table.tolist()
    # (-P, depth, path): of equal nodes the shallower first, so that a parent always comes before its children
    frontier = [(-p, 1, (rank,)) for rank, p in enumerate(rows[0])]
    heapq.heapify(frontier)
    chosen = []
    while len(chosen) < nodes - 1:
        p, depth, path = heapq.heappop(frontier)
        chosen.append(path)
        for rank, rate in enumerate(rows[depth] if depth < levels else ()):
            heapq.heappush(frontier, (p * rate, depth + 1, (*path, rank)))
    return tuple(sorted(chosen, key=lambda path: (len(path), path)))


@dataclass(frozen=True)
class Level:
    """The n nodes of one depth, in terms of the forward that guesses them.

    row (n,): the parent's row in that forward, which holds only nodes that have children.
    rank (n,): which of the parent's guesses a node is.
    ranks: the most guesses that any parent of this level needs.
    inner (m,): the places, within this level, of the nodes that have children: the rows of the next forward.
    visible (m, entries): what each of those sees of the tree entries in the draft's cache, itself included.
    """

    row: Int[Tensor, "n"]
    rank: Int[Tensor, "n"]
    ranks: int
    inner: Int[Tensor, "rows"]
    visible: Bool[Tensor, "rows entries"]


@dataclass(frozen=True)
class TreePlan:
    """A shape as index tensors, made once: growing a tree then needs no loop over nodes.

    rank, parent, depth (N,) and ancestors (N, N) are those of the nodes in level order, the root (all 0) first.
    by_level: one Level for each depth, from 1 on.
    """

    rank: Int[Tensor, "nodes"]
    parent: Int[Tensor, "nodes"]
    depth: Int[Tensor, "nodes"]
    ancestors: Bool[Tensor, "nodes nodes"]
    by_level: tuple[Level, ...]

    @property
    def levels(self) -> int:
        """Levels below the root."""
        return len(self.by_level)

    @property
    def total_tokens(self) -> int:
        """N, root included."""
        return self.rank.shape[0]

    @property
    def ranks(self) -> int:
        """The most guesses that any node needs."""
        return max(level.ranks for level in self.by_level)

    @property
    def inner(self) -> int:
        """Nodes with children, the root not counted: what the tree adds to the draft's cache while it grows."""
        return sum(level.inner.shape[0] for level in self.by_level)

    def tree(self, token: Int[Tensor, "nodes"], log_q: Float[Tensor, "nodes"]) -> DraftTree:
        """The tree of this shape with these tokens; log_q is each node's own, 0 at the root."""
        score = torch.where(self.ancestors, log_q, 0.0).sum(dim=-1)  # (N, N) -> (N,): sum along the path
        return DraftTree(token, self.parent, self.depth, score, self.ancestors)


def plan_tree(shape: Shape, device: torch.device | str = "cpu") -> TreePlan:
    """Index tensors for a shape. Raises ConfigError for a shape that is empty, repeats a path or lacks a parent."""
    paths = [(), *sorted(shape, key=lambda path: (len(path), path))]
    number = {path: i for i, path in enumerate(paths)}
    orphans = [path for path in paths[1:] if not path or path[:-1] not in number or path[-1] < 0]
    if len(paths) < 2 or len(number) < len(paths) or orphans:
        raise ConfigError(
            f"expected a shape of distinct paths of child ranks, each with its parent, found {len(shape)} paths, "
            f"{len(paths) - len(number)} repeated, without parent: {orphans[:3]}. Make it with static_shape."
        )
    depth = torch.tensor([len(path) for path in paths])
    parent = torch.tensor([number[path[:-1]] for path in paths])
    rank = torch.tensor([path[-1] if path else 0 for path in paths])
    above = ancestors(parent, int(depth.max()))  # (N, N)
    has_children = torch.zeros(len(paths), dtype=torch.bool)
    has_children[parent[1:]] = True
    levels, rows = [], torch.tensor([0])  # rows: the nodes of the forward that guesses the level; first, the root
    for d in range(1, int(depth.max()) + 1):
        nodes = (depth == d).nonzero()[:, 0]
        inner = has_children[nodes].nonzero()[:, 0]
        entries = (has_children & (depth >= 1) & (depth <= d)).nonzero()[:, 0]  # in the cache after the next forward
        levels.append(
            Level(
                row=torch.searchsorted(rows, parent[nodes]).to(device),
                rank=rank[nodes].to(device),
                ranks=int(rank[nodes].max()) + 1,
                inner=inner.to(device),
                visible=above[nodes[inner]][:, entries].to(device),
            )
        )
        rows = nodes[inner]
    return TreePlan(rank.to(device), parent.to(device), depth.to(device), above.to(device), tuple(levels))


@torch.no_grad()
def grow_static_tree(
    draft: Draft,
    features: Float[Tensor, "1 seq hidden"],
    token_ids: Int[Tensor, "1 seq_plus_1"],
    plan: TreePlan,
    cache: KVCache | None = None,
) -> DraftTree:
    """The draft tree of a fixed shape that continues `token_ids`; arguments and result as in `tree.grow_tree`.

    One draft forward a level, over the nodes that have children; no number travels to the host.
    """
    if plan.ranks > draft.config.vocab_size:
        raise ConfigError(
            f"expected child ranks below {draft.config.vocab_size}, the size of the vocabulary, found "
            f"{plan.ranks - 1}. Use a table of rates with fewer ranks."
        )
    if cache is None:
        cache = draft.new_cache(features.shape[1] + plan.inner)
    out = draft(features, token_ids[:, 1:], cache=cache)
    prefix = cache.length
    u, g = out.logit_feature[0, -1:], out.aligned_feature[:, -1:]  # (1, D), (1, 1, D): the root's row
    tokens, log_qs = [token_ids[0, -1:]], []
    for step, level in enumerate(plan.by_level):
        log_q, guess = top_children(draft, u, level.ranks)  # (rows, D) -> two of (rows, ranks)
        tokens.append(guess[level.row, level.rank])
        log_qs.append(log_q[level.row, level.rank])
        if step + 1 == plan.levels:
            break
        mask = F.pad(level.visible, (prefix, 0), value=True)[None, None]  # the tree entries, and all of the prefix
        positions = torch.full((1, level.inner.shape[0]), prefix + step, device=u.device)
        out = draft(g[:, level.row[level.inner]], tokens[-1][None, level.inner], mask, positions=positions, cache=cache)
        u, g = out.logit_feature[0], out.aligned_feature
    cache.truncate(prefix)  # the tree's own entries stand on guessed features
    return plan.tree(torch.cat(tokens), torch.cat((log_qs[0].new_zeros(1), *log_qs)))


@dataclass(frozen=True)
class StaticTree(Grower):
    """Grows trees of a fixed shape, from a Draft of any kind, for `generate.speculative_generate`."""

    shape: TreePlan

    def start(self, longest: int) -> Grow:
        cache = self.draft.new_cache(longest + self.shape.inner)
        return lambda features, token_ids: grow_static_tree(self.draft, features, token_ids, self.shape, cache)
