"""Growing the tree: its shape, its order, its scores, and that ties never break it."""

import pytest
import torch
from conftest import tiny_draft, tiny_target
from hypothesis import given, settings
from hypothesis import strategies as st

from fspad_ref import DraftTree, TreeConfig, grow_tree
from fspad_ref.sampling import GumbelNoise
from fspad_ref.tree import rerank

NOISY = [TreeConfig(4, 3, 25, noise_weight=0.7, noise_scale=0.5), TreeConfig(4, 3, 25, noise_scale=2.0)]

def grow(target, draft, config, length=9):
    ids = torch.arange(2, 3 + length)[None] % target.vocab_size
    noise = 0.8 * GumbelNoise(3, target.vocab_size).rows(length + 1, config.levels)
    return grow_tree(draft, target.features(ids[:, :-1]), ids, config, noise=noise)


def assert_well_formed(tree: DraftTree, config: TreeConfig):
    parent = tree.parent.tolist()
    assert len(tree) == config.total_tokens and parent[0] == 0, f"N nodes, root first; found {parent}"
    assert all(parent[v] < v for v in range(1, len(tree))), f"parents precede children; found {parent}"
    depth, above = [0], [{0}]  # one node after another; the root is its own parent
    for v in range(1, len(tree)):
        depth.append(depth[parent[v]] + 1)
        above.append(above[parent[v]] | {v})
    assert tree.depth.tolist() == depth and max(depth) <= config.levels
    assert [set(row.nonzero().flatten().tolist()) for row in tree.ancestors] == above
    assert (tree.score[1:] <= tree.score[tree.parent[1:]]).all(), "no child outscores its parent"
    siblings = list(zip(parent[1:], tree.token[1:].tolist(), strict=True))
    assert len(set(siblings)) == len(siblings), f"siblings are distinct; (parent, token) are {siblings}"


def test_tree_is_well_formed(target, draft):
    for config in (TreeConfig(), TreeConfig(4, 3, 30), TreeConfig(1, 5, 7), TreeConfig(3, 1, 1), *NOISY):
        assert_well_formed(grow(target, draft, config), config)


@pytest.mark.parametrize("config", [TreeConfig(4, 3, 25), *NOISY], ids=str)
def test_scores_are_sums_of_log_probabilities_along_the_path(target, draft, config):
    """Every node's score, recomputed by running its path as a plain chain through the draft."""
    ids, noise = torch.arange(3, 12)[None], GumbelNoise(1, 31).rows(9, 4)
    features = target.features(ids[:, :-1])
    tree = grow_tree(draft, features, ids, config, noise=noise)
    for v in range(1, len(tree)):
        path = [w for w in range(1, len(tree)) if tree.ancestors[v, w]]
        fed, tokens, score = features, ids, 0.0
        for w in path:
            out = draft(fed, tokens[:, 1:])
            logits = target.lm_head(out.logit_feature[0, -1]) + config.noise_weight * noise[tree.depth[w] - 1]
            score += torch.log_softmax(logits / config.noise_scale, -1)[tree.token[w]].item()
            fed = torch.cat((fed, out.aligned_feature[:, -1:]), dim=1)
            tokens = torch.cat((tokens, tree.token[w][None, None]), dim=1)
        assert tree.score[v].item() == pytest.approx(score, abs=1e-9), f"node {v}, path {path}"


def test_without_weight_and_scale_or_without_noise_the_tree_is_eagle_2s(target, draft):
    ids = torch.arange(3, 12)[None]
    features, noise = target.features(ids[:, :-1]), GumbelNoise(1, 31).rows(9, 4)
    trees = [grow_tree(draft, features, ids, TreeConfig(4, 3, 25)), grow_tree(draft, features, ids, NOISY[0]),
             grow_tree(draft, features, ids, TreeConfig(4, 3, 25), noise=noise)]  # fmt: skip
    for name in ("token", "parent", "score"):
        assert all(torch.equal(getattr(tree, name), getattr(trees[0], name)) for tree in trees)


def test_cached_growth_equals_growth_from_scratch(target, draft):
    ids = torch.arange(2, 20)[None]
    features, config = target.features(ids[:, :-1]), TreeConfig(4, 3, 25)
    cache = draft.new_cache(64)
    grow_tree(draft, features[:, :10], ids[:, :11], config, cache)
    assert cache.length == 10, "the draft's cache holds the prefix and nothing of the tree"
    tree = grow_tree(draft, features[:, 10:], ids[:, 10:], config, cache)
    fresh = grow_tree(draft, features, ids, config)
    assert torch.equal(tree.token, fresh.token) and torch.equal(tree.parent, fresh.parent)
    assert tree.score.allclose(fresh.score)


def test_saturated_probabilities_never_break_the_tree():
    """With one token at probability 1 (log q exactly 0) children equal their parents in score."""
    target = tiny_target(seed=3)
    draft = tiny_draft(target)
    for scale in (1e4, 1e3):
        with torch.no_grad():
            target.lm_head.weight.mul_(scale)
        for config in (TreeConfig(5, 4, 12), TreeConfig(5, 4, 40), TreeConfig(10, 5, 60)):
            tree = grow(target, draft, config)
            assert (tree.score == 0).sum() > 2  # the case is really met
            assert_well_formed(tree, config)


@given(st.integers(2, 5), st.integers(1, 4), st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_rerank_keeps_a_connected_tree_under_ties(k, depth, random):
    """Random expansions whose log-probabilities are drawn from few values, 0 among them."""
    parent, level, score = [0] * k, [1] * k, [-float(random.randint(0, 1)) for _ in range(k)]
    frontier = list(range(1, k + 1))
    for d in range(depth):
        scored = [(score[v - 1] - random.randint(0, 1), v) for v in frontier for _ in range(k)]
        first = len(parent) + 1
        parent += [v for _, v in scored]
        level += [d + 2] * len(scored)
        score += [s for s, _ in scored]
        frontier = [first + i for i in sorted(range(len(scored)), key=lambda i: -scored[i][0])[:k]]
    config = TreeConfig(k, depth, random.randint(1, 1 + len(parent)))
    token = torch.arange(1, len(parent) + 1)  # all distinct: a node's number is its token
    tree = rerank(torch.tensor(0), token, torch.tensor(parent), torch.tensor(level), torch.tensor(score), config)
    assert_well_formed(tree, config)
    scored_under = [parent[token - 1] for token in tree.token[1:].tolist()]
    assert tree.token[tree.parent[1:]].tolist() == scored_under, "every node keeps its parent"
    dropped = set(token.tolist()) - set(tree.token.tolist())
    assert max((score[v - 1] for v in dropped), default=-9e9) <= tree.score.min(), "the best stay"
