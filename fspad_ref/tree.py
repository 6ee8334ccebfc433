"""The draft tree of EAGLE-2, used unchanged by FSPAD: expand, then rerank.

    expand   depth + 1 levels: score every node by the sum of log q along its path; at each level the k best nodes
             grow k children each, in one draft forward under a tree mask
    rerank   of all nodes ever scored keep the best total_tokens - 1; with the root that makes N

No Python loop runs over nodes, and no number is copied to the host: the tree's shape is fixed by its settings, only
its contents depend on the data. It is a deterministic function of the draft, which is what makes reranking lossless.

*Trees that look at the noise.* After a text x of i tokens the target will draw y = argmax_w( log p(w|x) / T + G_i(w) ),
and row G_i is known before the target runs (sampling.py). So the draft can add it, too. With q at temperature 1,

    score of child w, token number i  =  log softmax_w( (log q(w) + noise_weight T G_i(w)) / noise_scale )

summed along the path; all else stays. If q = p and noise_weight = 1, the best child of any node is the target's token.
The text stays the same, as y does not look at the tree. But two things hold only for trees that do not look at the
noise: E[accepted] = sum over nodes of p(path), and that the next token is independent of the accepted length.

Trees may be grown otherwise, in another shape or from other guesses: all that the decoding loop asks for is a `Grower`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fspad_ref.cache import KVCache
from fspad_ref.draft import Draft
from fspad_ref.errors import ConfigError, require
from fspad_ref.sampling import at_least_float32
from fspad_ref.target import Target


@dataclass(frozen=True)
class TreeConfig:
    """The size of a draft tree (EAGLE-2, appendix A), and how far it looks at the noise (not at all, by default).

    Args:
        top_k: k, frontier nodes per level and children per node.
        depth: draft forwards after the first; the tree has depth + 1 levels below the root.
        total_tokens: N, nodes kept, root included: the tokens that one target forward verifies.
        noise_weight: how much of the noise the draft adds (see above), where T > 0. Below 1 it sharpens q: the best
            child is a draw from q^(1 / (noise_weight T)), normalised. Top-k, top-p and processors act on the target
            alone: q's cut would be another one than p's, and a guess that p has cut off costs a node, never the text.
        noise_scale: below 1 the tree is narrower and deeper, above 1 wider and shallower.

    Raises ConfigError for values outside their range, and for more nodes than the expansion scores.
    """

    top_k: int = 10
    depth: int = 5
    total_tokens: int = 60
    noise_weight: float = 0.0
    noise_scale: float = 1.0

    def __post_init__(self):
        for name in ("top_k", "depth", "total_tokens"):
            value = getattr(self, name)
            whole = isinstance(value, int) and value >= 1
            require(whole, ConfigError, f"{name} to be a whole number >= 1", repr(value), "Set it to at least 1.")
        most = f"total_tokens <= {self.capacity}, the nodes that top_k={self.top_k} and depth={self.depth} can score"
        fits, advice = self.total_tokens <= self.capacity, "Lower total_tokens, or raise top_k or depth."
        require(fits, ConfigError, most, self.total_tokens, advice)
        found, advice = (self.noise_weight, self.noise_scale), "Set them to 0 and 1 for EAGLE-2's trees."
        right = 0 <= self.noise_weight < math.inf and 0 < self.noise_scale < math.inf
        require(right, ConfigError, "noise_weight >= 0 and noise_scale > 0, both finite", found, advice)

    @property
    def capacity(self) -> int:
        """Nodes that the expansion scores, root included: 1 + k + depth k^2."""
        return 1 + self.top_k + self.depth * self.top_k**2

    @property
    def levels(self) -> int:
        """Levels below the root: the most draft tokens one round can accept."""
        return self.depth + 1

    @property
    def looks_at_noise(self) -> bool:
        return (self.noise_weight, self.noise_scale) != (0, 1)


@dataclass(frozen=True)
class DraftTree:
    """N nodes, root first and parents before children.

    token (N,); parent (N,) with parent[0] = 0; depth (N,), root 0; score (N,), root 0, the path's sum of log q, or
    of what the noise makes of it; ancestors (N, N), True where column is row itself or above it: verification's mask.
    """

    token: Int[Tensor, "nodes"]
    parent: Int[Tensor, "nodes"]
    depth: Int[Tensor, "nodes"]
    score: Float[Tensor, "nodes"]
    ancestors: Bool[Tensor, "nodes nodes"]

    def __len__(self) -> int:
        return self.token.shape[0]


@torch.no_grad()
def grow_tree(
    draft: Draft, features: Float[Tensor, "1 seq hidden"], token_ids: Int[Tensor, "1 seq_plus_1"],
    config: TreeConfig, cache: KVCache | None = None, noise: Float[Tensor, "levels vocab"] | None = None,
) -> DraftTree:  # fmt: skip
    """The draft tree that continues `token_ids`.

    Args:
        features: f_0 .. f_{T-1} of the prefix.
        token_ids: the prefix's tokens and the one just sampled, T + 1 of them: pair t is (f_t, token t+1).
        config: the tree's size.
        cache: the draft's keys and values of *earlier* pairs; then features and token_ids hold only the new ones
            (token_ids still one more). On return it holds all pairs on true features, and nothing of the tree.
        noise: T G_i for the positions i of the levels, the first being the number of tokens so far; None if T = 0.
    """
    V = len(draft.config.vocabulary or range(draft.config.vocab_size))
    require(config.top_k <= V, ConfigError, f"top_k <= {V}, the vocabulary's size", config.top_k, "Lower top_k.")
    if cache is None:
        cache = draft.new_cache(features.shape[1] + config.depth * config.top_k)
    out = draft(features, token_ids[:, 1:], cache=cache)
    prefix = cache.length
    nodes = expand(draft, out.logit_feature[0, -1], out.aligned_feature[0, -1], config, cache, noise)
    cache.truncate(prefix)  # the tree's own entries stand on guessed features
    return rerank(token_ids[0, -1], *nodes, config)


def expand(
    draft: Draft, logit_feature: Float[Tensor, "hidden"], aligned_feature: Float[Tensor, "hidden"],
    config: TreeConfig, cache: KVCache, noise: Float[Tensor, "levels vocab"] | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Score k + depth k^2 nodes, level by level: (token, parent, depth, score), each (capacity - 1,), level order.

    Parents count the root as 0 and the first scored node as 1.
    """
    k, prefix, device = config.top_k, cache.length, logit_feature.device
    noise, scale = weighted_noise(draft, noise, config), config.noise_scale
    scores, tokens = top_children(draft, logit_feature, k, noise[0], scale)  # (k,): level 1, the first frontier
    levels = [(tokens, torch.zeros_like(tokens), scores)]
    index = torch.arange(1, k + 1, device=device)  # where the frontier stands among all nodes
    feature = aligned_feature.expand(1, k, -1)  # (1, k, D)
    itself = torch.eye(k, dtype=torch.bool, device=device)
    visible = itself  # (k, entries): what of the tree each frontier node sees
    for step in range(config.depth):
        mask = F.pad(visible, (prefix, 0), value=True)[None, None]  # and all of the prefix
        positions = torch.full((1, k), prefix + step, device=device)
        out = draft(feature, tokens[None], mask, positions=positions, cache=cache)
        log_q, token = top_children(draft, out.logit_feature[0], k, noise[step + 1], scale)  # (k, k)
        candidates = (scores[:, None] + log_q).flatten()  # (k * k,) path scores
        levels.append((token.flatten(), index[:, None].expand(k, k).flatten(), candidates))
        # the next frontier: the k best of the k * k, and what each inherits from its parent
        scores, best = candidates.sort(descending=True, stable=True)
        scores, best = scores[:k], best[:k]
        tokens, came_from = token.flatten()[best], best // k
        feature = out.aligned_feature[:, came_from]
        visible = torch.cat((visible[came_from], itself), dim=1)
        index = 1 + k + step * k**2 + best
    token, parent, score = (torch.cat(part) for part in zip(*levels, strict=True))
    depth = torch.ones(k, dtype=torch.long, device=device)
    later = torch.arange(2, config.levels + 1, device=device).repeat_interleave(k**2)
    return token, parent, torch.cat((depth, later)), score


def weighted_noise(draft: Draft, noise: Tensor | None, config: TreeConfig) -> Tensor | list[None]:
    """noise_weight T G for every level, of the tokens that the draft can say; Nones for a tree that does not look."""
    if noise is None or not config.looks_at_noise:
        return [None] * config.levels
    words = noise if draft.vocabulary is None else noise[..., draft.vocabulary]  # (levels, ..., V) -> (levels, ..., V')
    return config.noise_weight * words


def top_children(
    draft: Draft, logit_feature: Float[Tensor, "*rows hidden"], k: int, noise: Tensor | None = None, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Score and token of the k best children, (..., k) each, from the *logit* feature u: log q and the most probable.

    noise: of `weighted_noise`, the row of the children's level. Then the score is log softmax((log q + noise) / scale).
    """
    logits = at_least_float32(draft.lm_head(logit_feature))  # (..., D) -> (..., V)
    if noise is not None:
        logits = (logits + noise.to(logits.dtype)) / scale
    log_q, index = most_probable(logits, k)
    return log_q, draft.tokens(index)


def most_probable(logits: Float[Tensor, "*rows vocab"], k: int) -> tuple[Tensor, Tensor]:
    """log q and token of the k most probable tokens, (..., k) each, best first."""
    logits = at_least_float32(logits)  # half precision would tie many path scores
    log_q, token = logits.log_softmax(dim=-1).topk(k, dim=-1)  # (..., V) -> (..., k)
    # NaN (an overflow in half precision) sorts above everything and would tear the tree apart: a bad draft may be
    # useless, it must not be wrong. Clamped, since a rounding upwards would let a child outscore its parent.
    return log_q.masked_fill(log_q.isnan(), -torch.inf).clamp(max=0.0), token


def rerank(
    root: Int[Tensor, ""], token: Int[Tensor, "scored"], parent: Int[Tensor, "scored"],
    depth: Int[Tensor, "scored"], score: Float[Tensor, "scored"], config: TreeConfig,
) -> DraftTree:  # fmt: skip
    """Keep the total_tokens - 1 best of all scored nodes and put the root in front.

    A child never outscores its parent, so the best nodes are connected. But it can *equal* it: a log-probability of 0,
    or one lost in rounding. The sort is stable and parents come earlier, so of equals the parent wins.
    """
    best = score.sort(descending=True, stable=True).indices[: config.total_tokens - 1]
    kept = best.sort().values  # back to level order: parents before children
    # node 0 is the root; a kept node's new number is its place in `kept`, plus one
    new_parent = torch.searchsorted(kept + 1, parent[kept]) + (parent[kept] > 0)
    zero = root.new_zeros(1)
    parent = torch.cat((zero, new_parent))
    return DraftTree(
        token=torch.cat((root[None], token[kept])),
        parent=parent,
        depth=torch.cat((zero, depth[kept])),
        score=torch.cat((score.new_zeros(1), score[kept])),
        ancestors=ancestors(parent, config.levels),
    )


def ancestors(parent: Int[Tensor, "nodes"], levels: int) -> Bool[Tensor, "nodes nodes"]:
    """ancestors[v, w]: w is v or above it. Walks all nodes up together, `levels` times."""
    node = torch.arange(parent.shape[0], device=parent.device)
    above, reached = node, node[:, None] == node  # (N,), (N, N)
    for _ in range(levels):
        above = parent[above]
        reached = reached | (above[:, None] == node)
    return reached


# --- what grows the trees, as the decoding loop sees it --------------------------------------------------------------

Grow = Callable[..., DraftTree]  # (features (1, new, D), token_ids (1, new + 1)[, noise]), as for grow_tree


@dataclass(frozen=True)
class Grower(ABC):
    """Grows the draft trees of one text after another: all that the decoding loop needs of a draft.

    Args:
        draft: what guesses, a Draft or Medusa's heads; has the attribute `target`.
        shape: how large its trees are; has `levels` (below the root) and `total_tokens` (root included), as TreeConfig.
    """

    draft: nn.Module
    shape: Any
    looks_at_noise = False  # if True, and T > 0, its trees are grown from grow_tree's noise, too

    @abstractmethod
    def start(self, longest: int) -> Grow:
        """Begin a new text, prompt and answer of at most `longest` tokens; returns the function that grows its trees.

        The loop calls it once per round with what the text has gained since the last round (in the first round, with
        all of it): features and token ids such that (features[t], token_ids[t + 1]) are the new pairs. The last token
        is the tree's root.
        """

    @property
    def target(self) -> Target:
        return self.draft.target

    @property
    def levels(self) -> int:
        return self.shape.levels

    @property
    def nodes(self) -> int:
        return self.shape.total_tokens


@dataclass(frozen=True)
class DynamicTree(Grower):
    """EAGLE-2's trees, from a Draft of any kind; shape is a TreeConfig."""

    shape: TreeConfig = field(default_factory=TreeConfig)

    def start(self, longest: int) -> Grow:
        cache = self.draft.new_cache(longest + self.shape.depth * self.shape.top_k)
        return lambda features, token_ids, *noise: grow_tree(self.draft, features, token_ids, self.shape, cache, *noise)

    @property
    def looks_at_noise(self) -> bool:
        return self.shape.looks_at_noise
