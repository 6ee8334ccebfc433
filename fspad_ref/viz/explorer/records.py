"""One round of the package's own loop, recorded.

The loop asks whoever grows its trees for a tree, and the target for a pass over it. A `Recorder` grows them as
`tree.grow_tree` does and keeps what was scored on the way; a `Watched` target keeps what its passes returned. Nothing
is computed for the record while the clock runs: p, draws and walks are worked out afterwards, by the loop's functions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fspad_ref.generate import Chooser, Generation
from fspad_ref.sampling import SamplingConfig
from fspad_ref.target import Target
from fspad_ref.tree import DraftTree, DynamicTree, Grow, expand, rerank
from fspad_ref.verify import verify
from fspad_ref.viz.explorer.laws import law


@dataclass(frozen=True)
class Round:
    """One round. N nodes of the tree, S scored ones before reranking (root left out), all in level order.

    prefix: cache slots that the target held before; the tree takes N more, and path of them stay. scored: token,
    parent, depth, score, (S,) each. tree: the N that were kept. features (N, D): the target's, one a node. q, p (N,):
    the draft's and the target's probability of a node's token at its parent, NaN at the root. drawn (N,): y_v.
    matches, reached (N,) as in `verify`. path: the nodes walked, the root first. tokens: accepted ones, then the bonus
    token. kept: how many of them stayed in the text, fewer than all where it ends.
    """

    prefix: int
    scored: tuple[Tensor, Tensor, Tensor, Tensor]
    tree: DraftTree
    features: Tensor
    q: tuple[float, ...]
    p: tuple[float, ...]
    drawn: tuple[int, ...]
    matches: tuple[bool, ...]
    reached: tuple[bool, ...]
    path: tuple[int, ...]
    tokens: tuple[int, ...]
    kept: int

    def children(self, node: int) -> list[int]:
        """Numbers of the nodes below `node`."""
        return [child for child, up in enumerate(self.tree.parent.tolist()) if up == node and child]

    def expected(self, node: int) -> float:
        """The probability that the walk goes on from `node`: the sum of p over its children."""
        return sum(self.p[child] for child in self.children(node))

    @property
    def slots(self) -> tuple[int, int, int]:
        """Cache slots in use: before the pass, during it, and after the rejected nodes are forgotten."""
        return self.prefix, self.prefix + len(self.tree), self.prefix + len(self.path)


class Watched(Target):
    """The target itself, keeping what its passes over trees returned: (cache slots before, features (N, D))."""

    def __init__(self, target: Target):
        self.__dict__ |= vars(target)
        self.passes: list[tuple[int, Tensor]] = []

    def tree_features(self, tokens, depth, ancestors, cache) -> Tensor:
        prefix = cache.length
        features = super().tree_features(tokens, depth, ancestors, cache)
        self.passes.append((prefix, features))
        return features


@dataclass(frozen=True)
class Recorder(DynamicTree):
    """Grows the trees of `DynamicTree` and keeps all scored nodes beside each tree: grown[i] = (scored, tree)."""

    watched: Watched | None = None
    grown: list[tuple[tuple[Tensor, ...], DraftTree]] = field(default_factory=list)

    @property
    def target(self) -> Target:
        return self.watched or self.draft.target

    def start(self, longest: int) -> Grow:
        draft, config = self.draft, self.shape
        cache = draft.new_cache(longest + config.depth * config.top_k)

        @torch.no_grad()
        def grow(features: Tensor, token_ids: Tensor) -> DraftTree:
            # the lines of tree.grow_tree, with what they pass on kept
            out = draft(features, token_ids[:, 1:], cache=cache)
            prefix = cache.length
            scored = expand(draft, out.logit_feature[0, -1], out.aligned_feature[0, -1], config, cache)
            cache.truncate(prefix)
            tree = rerank(token_ids[0, -1], *scored, config)
            self.grown.append((scored, tree))
            return tree

        return grow


@torch.no_grad()
def rounds_of(
    target: Target, prompt: Sequence[int], sampling: SamplingConfig, result: Generation, recorder: Recorder
) -> tuple[Round, ...]:
    """The rounds, worked out from what was kept. The text so far is the prompt and what earlier rounds emitted."""
    chooser, grown, passes = Chooser(sampling, target), recorder.grown, recorder.watched.passes
    text, rounds, left = [*prompt, *result.tokens[:1]], [], len(result.tokens) - 1
    for (scored, tree), (prefix, features) in zip(grown, passes, strict=True):
        logits = target.lm_head(features)  # (N, D) -> (N, V)
        drawn = chooser.every_node(logits, tree, torch.tensor([text], device=target.device), recorder.levels)  # (N,)
        path, _, tokens = verify(tree, drawn, recorder.levels).read()
        p = law(logits, sampling)[tree.parent, tree.token]  # (N, V) -> (N,)
        q = (tree.score - tree.score[tree.parent]).exp()
        matches = tree.token == drawn[tree.parent]
        reached = torch.isin(torch.arange(len(tree), device=path.device), path)
        numbers = [tuple(column.tolist()) for column in (q, p, drawn, matches, reached, path)]
        nan, (q, p, drawn, matches, reached, path) = (float("nan"),), numbers
        kept = min(len(tokens), left)
        q, p, matches = nan + q[1:], nan + p[1:], (True, *matches[1:])
        rounds.append(Round(prefix, scored, tree, features, q, p, drawn, matches, reached, path, tuple(tokens), kept))
        text, left = text + tokens, left - kept
    return tuple(rounds)
