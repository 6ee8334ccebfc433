"""Static trees: the best shape, its growth node by node, and the rates it is made from."""

from itertools import combinations

import pytest
import torch
from conftest import tiny_draft

from fspad_ref.bench.replay import Recording, acceptance_rates, draft_guesses, n_alpha
from fspad_ref.bench.rivals import grow_static_tree, plan_tree, static_shape
from fspad_ref.errors import ConfigError, InputError

SHAPE = ((0,), (1,), (2,), (0, 0), (0, 2), (2, 1), (0, 0, 0), (0, 0, 1), (2, 1, 0), (0, 0, 1, 0))


def expected_acceptance(shape, rates) -> float:
    return sum(torch.tensor([rates[d][rank] for d, rank in enumerate(path)]).prod().item() for path in shape)


def test_shape_is_the_best_of_all_shapes():
    """Against every subset of the nodes that hangs together; rates need not fall with rank."""
    generator = torch.Generator().manual_seed(0)
    paths = [(a,) for a in range(2)] + [(a, b) for a in range(2) for b in range(2)] + [(0, 0, 0), (1, 1, 1)]
    for nodes in (2, 4, 6):
        rates = torch.rand(3, 2, generator=generator, dtype=torch.float64)
        found = static_shape(rates, nodes)
        others = [set(s) for s in combinations(paths, nodes - 1)]
        best = max(expected_acceptance(s, rates) for s in others if all(p[:-1] in s | {()} for p in s))
        assert len(set(found)) == nodes - 1 and all(p[:-1] in {(), *found} for p in found)
        assert expected_acceptance(found, rates) >= best - 1e-12


def test_equal_probabilities_keep_parents_first():
    assert static_shape([[0.6, 0.3], [0.5, 0.1]], 4) == ((0,), (1,), (0, 0))
    assert static_shape([[1.0], [1.0], [1.0]], 4) == ((0,), (0, 0), (0, 0, 0))
    assert len(static_shape([[0.0, 0.0], [0.0, 0.0]], 7)) == 6


@pytest.mark.parametrize("rates, nodes", [([[0.5, 1.2]], 2), ([[0.5, -0.1]], 2), ([[0.5, 0.2]], 4), ([[0.5, 0.2]], 1)])
def test_impossible_shapes_are_refused(rates, nodes):
    with pytest.raises(ConfigError):
        static_shape(rates, nodes)


@pytest.mark.parametrize("shape", [(), ((0, 0),), ((0,), (0,)), ((0,), (-1,)), ((),)])
def test_shapes_that_are_no_trees_are_refused(shape):
    with pytest.raises(ConfigError):
        plan_tree(shape)


def test_every_node_is_the_guess_of_its_rank_after_its_path(target, draft):
    """Tokens and scores, recomputed by running each path as a plain chain through the draft."""
    ids = torch.arange(3, 12)[None]
    features = target.features(ids[:, :-1])
    tree = grow_static_tree(draft, features, ids, plan_tree(SHAPE))
    paths = [(), *SHAPE]
    assert tree.depth.tolist() == [len(path) for path in paths]
    assert [paths[v] for v in tree.parent.tolist()] == [path[:-1] for path in paths]
    assert tree.token[0] == ids[0, -1] and tree.score[0] == 0
    for v, path in enumerate(paths):
        fed, tokens, score = features, ids, 0.0
        for rank in path:
            out = draft(fed, tokens[:, 1:])
            log_q, guess = torch.log_softmax(target.lm_head(out.logit_feature[0, -1]), -1).sort(descending=True)
            score += log_q[rank].item()
            fed = torch.cat((fed, out.aligned_feature[:, -1:]), dim=1)
            tokens = torch.cat((tokens, guess[rank][None, None]), dim=1)
        assert tree.token[v] == tokens[0, -1]
        assert tree.score[v].item() == pytest.approx(score, abs=1e-9)
        above = {v} | {w for w in range(len(paths)) if paths[w] == path[: len(paths[w])]}
        assert set(tree.ancestors[v].nonzero()[:, 0].tolist()) == above


def test_cached_growth_equals_growth_from_scratch(target):
    draft, plan = tiny_draft(target), plan_tree(SHAPE)
    ids = torch.arange(2, 20)[None]
    features = target.features(ids[:, :-1])
    cache = draft.new_cache(17 + plan.inner)  # not one entry more than needed
    grow_static_tree(draft, features[:, :10], ids[:, :11], plan, cache)
    assert cache.length == 10
    tree = grow_static_tree(draft, features[:, 10:], ids[:, 10:], plan, cache)
    fresh = grow_static_tree(draft, features, ids, plan)
    assert torch.equal(tree.token, fresh.token)
    torch.testing.assert_close(tree.score, fresh.score)


def test_ranks_beyond_the_vocabulary_are_refused(target):
    ids = torch.tensor([[2, 3]])
    with pytest.raises(ConfigError, match="below 31"):
        grow_static_tree(tiny_draft(target), target.features(ids[:, :1]), ids, plan_tree(((31,),)))


# ---- rates ----


def test_rates_by_hand(target):
    """A guesser that always ranks tokens 7, 8, 9 in this order, on a text that we can count."""

    def guess(features, ids):
        logits = torch.zeros(ids.shape[1], 31)
        logits[:, 7], logits[:, 8], logits[:, 9] = 3.0, 2.0, 1.0
        for depth in (1, 2):
            yield logits[: ids.shape[1] - 1 - depth]

    text = [5, 5, 7, 8, 5, 7, 7]
    response = [False, True, True, True, True, True, True]
    # roots at 1 .. 5, then wanted at depth 1: 7 8 5 7 7; at depth 2, where 7 or 8 came before: 8 after 7, 5 after 8,
    # 7 after 7 (the last 7 has nothing after it)
    rates = acceptance_rates(target, guess, [(text, response)], levels=3, ranks=2)
    expected = [[3 / 5, 1 / 5], [1 / 3, 1 / 3], [0, 0]]
    torch.testing.assert_close(rates, torch.tensor(expected, dtype=torch.float64))
    with pytest.raises(InputError, match="two response tokens"):
        acceptance_rates(target, guess, [(text, [False] * 7)])


def test_one_rank_gives_n_alpha(target, draft):
    """Two ways to EAGLE's n-alpha: from this table, and from a recording of the same text."""
    prompt, tokens = [2, 9, 4], [17, 5, 23, 8, 1, 17, 5, 23, 8, 1, 30, 2]
    for i in (2, 3, 6, 9):  # let the draft be right now and then
        ids = torch.tensor([prompt + tokens[:i]])
        tokens[i] = int(draft.lm_head(draft(target.features(ids[:, :-1]), ids[:, 1:]).logit_feature[0, -1]).argmax())
    ids, response = prompt + tokens, [False] * len(prompt) + [True] * len(tokens)
    text = Recording(0, "qa", 0, 0.0, prompt, tokens, target.features(torch.tensor([ids[:-1]]))[0])
    right, tried = n_alpha(draft, text, 2).double().unbind(dim=1)
    rates = acceptance_rates(target, draft_guesses(draft, 3), [(ids, response)], levels=3, ranks=1)
    assert right[0] >= 4
    torch.testing.assert_close(rates[:, 0], right / tried.clamp(min=1))


def test_guesses_along_a_text_are_those_of_chains(target, draft):
    """Every place at once gives what a chain through the draft gives at each place."""
    ids = torch.tensor([[2, 9, 4, 17, 5, 23, 8, 1]])
    features, T = target.features(ids), ids.shape[1]
    for d, logits in enumerate(draft_guesses(draft, levels=4)(features, ids), start=1):
        assert logits.shape == (T - 1 - d, 31)
        for t in range(T - 1 - d):
            fed = features[:, : t + 1]
            for step in range(1, d + 1):
                out = draft(fed, ids[:, 1 : t + step + 1])
                fed = torch.cat((fed, out.aligned_feature[:, -1:]), dim=1)
            torch.testing.assert_close(logits[t], target.lm_head(out.logit_feature[0, -1]))
    assert d == 4
