"""The other methods: each writes the text that it should, and counts its rounds; what they learn, and their trees."""

import copy
from dataclasses import dataclass, field
from itertools import combinations, cycle
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_draft, tiny_target

from fspad_ref import SamplingConfig, TreeConfig, autoregressive_generate, speculative_generate
from fspad_ref.bench import rivals as module
from fspad_ref.bench.bench import Speculative
from fspad_ref.bench.replay import acceptance_rates, draft_guesses
from fspad_ref.bench.rivals import (
    Medusa,
    MedusaTree,
    StaticTree,
    TransformersGenerate,
    assistant_loss,
    assisted,
    fit,
    grow_static_tree,
    medusa_loss,
    new_assistant,
    plan_tree,
    prompt_lookup,
    rivals,
    static_shape,
)
from fspad_ref.errors import ConfigError, InputError, TargetMismatch
from fspad_ref.tree import DynamicTree, Grower

PROMPT = [2, 7, 5, 11, 3]
SETTINGS = [SamplingConfig(), SamplingConfig(1.0, seed=1), SamplingConfig(1.3, top_p=0.8, seed=3)]
PLAN = plan_tree(static_shape([[0.5, 0.2, 0.1]] * 4, nodes=14))
SHAPE = ((0,), (1,), (2,), (0, 0), (0, 2), (2, 1), (0, 0, 0), (0, 0, 1), (2, 1, 0), (0, 0, 1, 0))
# texts that count upwards: token t + 1 + i follows from token t
COUNTING = [([(start + i) % 31 for i in range(14)], [i >= 2 for i in range(14)]) for start in range(31)]


def random_medusa(target, heads: int = 4) -> Medusa:
    medusa = Medusa(target, heads)
    torch.manual_seed(3)
    for weight in medusa.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return medusa


def growers(target) -> list[Grower]:
    return [StaticTree(tiny_draft(target), PLAN), MedusaTree(random_medusa(target), PLAN),
            DynamicTree(tiny_draft(target), TreeConfig(4, 3, 20))]  # fmt: skip


def batches():
    """The same batch again and again, as training wants them."""
    ids, response = (torch.tensor([text[i] for text in COUNTING]) for i in (0, 1))
    return cycle([SimpleNamespace(input_ids=ids, response=response)])


# --- the loop --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", SETTINGS, ids=str)
def test_every_tree_gives_the_text_of_plain_decoding(target, sampling):
    plain = autoregressive_generate(target, PROMPT, max_new_tokens=24, sampling=sampling)
    eos = plain.tokens[12]
    for grower in growers(target):
        fast = Speculative(grower).decode(PROMPT, 24, sampling)
        assert fast.tokens == plain.tokens
        assert 0 <= sum(fast.accepted) + len(fast.accepted) - (len(fast.tokens) - 1) <= 1
        cut = Speculative(grower).decode(PROMPT, 24, sampling, [eos])  # a second text, the same grower
        assert cut.tokens == plain.tokens[: plain.tokens.index(eos) + 1]


def test_a_tree_of_all_tokens_always_accepts_one(target):
    plan = plan_tree(tuple((rank,) for rank in range(31)))
    for sampling in SETTINGS[:2]:
        for grower in (StaticTree(tiny_draft(target), plan), MedusaTree(random_medusa(target, 1), plan)):
            assert Speculative(grower).decode(PROMPT, 21, sampling).accepted == [1] * 10


@dataclass(frozen=True)
class Watched(Grower):
    """Another grower, whose calls are noted."""

    real: Grower
    calls: list = field(default_factory=list)

    def start(self, longest):
        grow = self.real.start(longest)
        return lambda *given: self.calls.append(given) or grow(*given)


def test_a_grower_is_given_every_token_once(target):
    """First the whole text, then what each round has added; features are one behind tokens."""
    for grower in growers(target):
        watched = Watched(grower.draft, grower.shape, grower)
        result = speculative_generate(target, watched, PROMPT, max_new_tokens=18)
        assert len(watched.calls) == len(result.accepted)
        given = [PROMPT[0], *(token for _, ids in watched.calls for token in ids[0, 1:].tolist())]
        whole = [*PROMPT, *result.tokens]
        assert given == whole[: len(given)]
        features = torch.cat([features for features, _ in watched.calls], dim=1)
        expected = target.features(torch.tensor([whole]))[:, : features.shape[1]]
        torch.testing.assert_close(features, expected, rtol=0, atol=1e-10)


def test_growers_are_checked_like_drafts(target):
    grower = growers(target)[0]
    with pytest.raises(InputError, match="256 positions"):
        speculative_generate(target, grower, PROMPT, max_new_tokens=252 - grower.levels)
    with pytest.raises(TargetMismatch, match="another Target object"):
        speculative_generate(tiny_target(), grower, PROMPT)


# --- transformers' own -----------------------------------------------------------------------------------------------


def theirs(target, name: str) -> TransformersGenerate:
    twin = copy.deepcopy(target.model)
    twin.generation_config.num_assistant_tokens, twin.generation_config.assistant_confidence_threshold = 4, 0.0
    return {"plain": TransformersGenerate(target), "lookup": prompt_lookup(target, tokens=5),
            "assisted": assisted(target, new_assistant(target).double()), "twin": assisted(target, twin)}[name]  # fmt: skip


@pytest.mark.parametrize("name", ["plain", "lookup", "assisted", "twin"])
def test_transformers_methods_count_forwards_of_the_target(target, name):
    method, forwards = theirs(target, name), []
    prompt = PROMPT * 3 + [0]  # a pattern to look up, and a token that must not be taken for padding
    plain = autoregressive_generate(target, prompt, max_new_tokens=40)
    handle = target.model.register_forward_hook(lambda *_: forwards.append(1))
    result = method.decode(prompt, 40, SamplingConfig(), None)
    handle.remove()
    assert result.tokens == plain.tokens
    assert len(result.accepted) == len(forwards) - 1  # the prefill is no round
    prefill = len(result.tokens) - sum(n + 1 for n in result.accepted)
    if name == "plain":
        assert prefill == 1 and set(result.accepted) == {0}
    if name == "twin":  # it guesses as the target does, four tokens per round
        assert prefill == 5 and result.accepted == [4] * 7
    eos = plain.tokens[20]
    cut = method.decode(prompt, 40, SamplingConfig(), eos)
    assert cut.tokens == plain.tokens[: plain.tokens.index(eos) + 1]
    assert method.decode(prompt, 0, SamplingConfig(), eos).tokens == []


@pytest.mark.parametrize("name", ["plain", "lookup", "twin"])
def test_transformers_sampling_follows_from_the_seed_alone(target, name):
    method, before = theirs(target, name), torch.get_rng_state()
    one, two, other = (method.decode(PROMPT, 30, SamplingConfig(1.0, seed=seed), None) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert one == two and one.tokens != other.tokens and len(one.tokens) == 30


def test_an_assistant_of_another_vocabulary_is_refused(target):
    with pytest.raises(TargetMismatch, match="31 tokens"):
        assisted(target, tiny_target(vocab_size=30).model)


# --- what they learn -------------------------------------------------------------------------------------------------


def test_heads_are_residual_blocks_that_begin_as_the_targets_own_guess(target):
    x, medusa = target.features(torch.tensor([PROMPT]))[0], random_medusa(target, 2)
    assert torch.equal(Medusa(target, 2)(x), x.expand(2, -1, -1))
    for k in range(2):
        torch.testing.assert_close(medusa(x)[k], x + F.silu(x @ medusa.weight[k] + medusa.bias[k]))
    assert {name for name, _ in medusa.named_parameters()} == {"weight", "bias"}, "the target's weights stay its own"


def test_losses_by_hand(target):
    """Position by position: head i is asked only where tokens t+1 .. t+1+i are all response."""
    ids = torch.tensor([[2, 9, 4, 17, 5, 23, 8, 1], [1, 8, 23, 5, 17, 4, 9, 2]])
    response = torch.tensor([[0, 0, 1, 1, 1, 0, 1, 1], [0, 1, 1, 1, 0, 0, 0, 0]]).bool()
    medusa, features, expected = random_medusa(target, 3), target.features(ids), 0.0
    for i in (1, 2, 3):
        asked = [(row, t) for row in range(2) for t in range(7 - i) if response[row, t + 1 : t + 2 + i].all()]
        losses = [F.cross_entropy(target.lm_head(medusa(features[row])[i - 1, t]), ids[row, t + 1 + i])
                  for row, t in asked]  # fmt: skip
        expected += 0.8**i * sum(losses) / max(1, len(losses))
    assert not losses  # three response tokens in a row, never four
    torch.testing.assert_close(medusa_loss(medusa, ids, response), expected)
    log_q = target.model(ids).logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
    torch.testing.assert_close(assistant_loss(target.model, ids, response), -log_q[response[:, 1:]].mean())


def test_rivals_are_trained_once_and_then_loaded(tmp_path, monkeypatch):
    target = tiny_target(dtype=torch.float32)
    losses = []
    monkeypatch.setattr(module, "fit", lambda *given: losses.append(fit(*given)))
    first = rivals(tiny_draft(target), tmp_path, batches, 30, COUNTING, 14)
    assert len(losses) == 2 and all(len(of) == 30 and of[-1] < of[0] for of in losses)
    again = rivals(tiny_draft(target), tmp_path, batches, 30, COUNTING, 14)
    assert len(losses) == 2, "a folder that exists is a trained rival"
    assert list(first) == ["generate", "prompt_lookup", "assisted", "medusa", "eagle_static"]
    plain = autoregressive_generate(target, PROMPT, max_new_tokens=20).tokens
    for name, method in first.items():
        found = method.decode(PROMPT, 20, SamplingConfig(), None)
        assert found == again[name].decode(PROMPT, 20, SamplingConfig(), None) and found.tokens == plain


def test_training_teaches_the_heads_to_look_ahead():
    target = tiny_target(dtype=torch.float32)
    medusa, frozen = Medusa(target, 2), [weight.clone() for weight in target.model.parameters()]
    losses = fit(medusa, medusa_loss, batches(), 60, 0.03)
    assert len(losses) == 60 and losses[-1] < 0.5 * losses[0]
    assert all(map(torch.equal, frozen, target.model.parameters()))
    assert (acceptance_rates(target, medusa.guesses, COUNTING, levels=2, ranks=3)[:, 0] > 0.3).all()  # chance: 1 / 31


def test_training_refuses_what_cannot_work(target):
    medusa = random_medusa(target)
    with torch.no_grad():
        medusa.bias[0, 0, 0] = torch.inf
    with pytest.raises(RuntimeError, match="non-finite"):
        fit(medusa, medusa_loss, batches(), 1, 1e-3)
    with pytest.raises(ConfigError, match="half precision"):
        fit(Medusa(tiny_target(dtype=torch.bfloat16)), medusa_loss, batches(), 1, 1e-3)


# --- static trees ----------------------------------------------------------------------------------------------------


def test_a_shape_is_the_best_of_all_shapes():
    """Against every subset of the nodes that hangs together; rates need not fall with rank."""
    generator = torch.Generator().manual_seed(0)
    paths = [(a,) for a in range(2)] + [(a, b) for a in range(2) for b in range(2)] + [(0, 0, 0), (1, 1, 1)]
    for nodes in (2, 4, 6):
        rates = torch.rand(3, 2, generator=generator, dtype=torch.float64)

        def expected(shape, rates=rates) -> float:
            return sum(torch.stack([rates[d, rank] for d, rank in enumerate(path)]).prod().item() for path in shape)

        found = static_shape(rates, nodes)
        others = [set(s) for s in combinations(paths, nodes - 1)]
        best = max(expected(s) for s in others if all(p[:-1] in s | {()} for p in s))
        assert len(set(found)) == nodes - 1 and all(p[:-1] in {(), *found[:i]} for i, p in enumerate(found))
        assert expected(found) >= best - 1e-12
    assert static_shape([[1.0], [1.0], [1.0]], 4) == ((0,), (0, 0), (0, 0, 0))
    assert len(static_shape([[0.0, 0.0], [0.0, 0.0]], 7)) == 6


@pytest.mark.parametrize("rates, nodes", [([[0.5, 1.2]], 2), ([[0.5, -0.1]], 2), ([[0.5, 0.2]], 4), ([[0.5, 0.2]], 1)])
def test_impossible_shapes_are_refused(rates, nodes):
    with pytest.raises(ConfigError):
        static_shape(rates, nodes)


def path_of(plan, v: int) -> tuple[int, ...]:
    return (*path_of(plan, int(plan.parent[v])), int(plan.rank[v])) if v else ()


def check_plan(tree, plan) -> None:
    """The tree has the plan's shape, parents before children, and every node sees what is on its path."""
    paths = [path_of(plan, v) for v in range(len(tree))]
    assert paths[0] == () and {*paths[1:]} == {*SHAPE} and tree.depth.tolist() == [len(path) for path in paths]
    for v, path in enumerate(paths):
        above = {w for w in range(len(paths)) if paths[w] == path[: len(paths[w])]}
        assert set(tree.ancestors[v].nonzero()[:, 0].tolist()) == above and max(above) == v


def test_every_node_is_the_guess_of_its_rank_after_its_path(target, draft):
    """Tokens and scores, recomputed by running each path as a plain chain through the draft."""
    ids, plan = torch.arange(3, 12)[None], plan_tree(SHAPE)
    features = target.features(ids[:, :-1])
    tree = grow_static_tree(draft, features, ids, plan)
    check_plan(tree, plan)
    for v in range(len(tree)):
        fed, tokens, score = features, ids, 0.0
        for rank in path_of(plan, v):
            out = draft(fed, tokens[:, 1:])
            log_q, guess = torch.log_softmax(target.lm_head(out.logit_feature[0, -1]), -1).sort(descending=True)
            score += log_q[rank].item()
            fed = torch.cat((fed, out.aligned_feature[:, -1:]), dim=1)
            tokens = torch.cat((tokens, guess[rank][None, None]), dim=1)
        assert tree.token[v] == tokens[0, -1] and tree.score[v].item() == pytest.approx(score, abs=1e-9)


def test_every_node_of_medusas_tree_is_its_heads_guess(target):
    medusa, plan, features = random_medusa(target), plan_tree(SHAPE), target.features(torch.tensor([PROMPT]))
    tree = MedusaTree(medusa, plan).start(99)(features, torch.tensor([[*PROMPT, 6]]))
    check_plan(tree, plan)
    log_q, guess = torch.log_softmax(target.lm_head(medusa(features[0, -1:])[:, 0]), -1).sort(-1, descending=True)
    for v in range(len(tree)):
        path = path_of(plan, v)
        assert tree.token[v] == (guess[len(path) - 1, path[-1]] if path else 6)
        score = sum(log_q[d, rank].item() for d, rank in enumerate(path))
        assert tree.score[v].item() == pytest.approx(score, abs=1e-9)


def test_cached_growth_equals_growth_from_scratch(target):
    draft, plan, ids = tiny_draft(target), plan_tree(SHAPE), torch.arange(2, 20)[None]
    features, cache = target.features(ids[:, :-1]), draft.new_cache(17 + plan.total_tokens)
    grow_static_tree(draft, features[:, :10], ids[:, :11], plan, cache)
    assert cache.length == 10
    tree = grow_static_tree(draft, features[:, 10:], ids[:, 10:], plan, cache)
    fresh = grow_static_tree(draft, features, ids, plan)
    assert torch.equal(tree.token, fresh.token)
    torch.testing.assert_close(tree.score, fresh.score)


# --- the rates that shapes are made from -----------------------------------------------------------------------------


def test_rates_by_hand(target):
    """A guesser that always ranks tokens 7, 8, 9 in this order, on a text that we can count."""

    def guess(features, ids):
        logits = torch.zeros(ids.shape[1], 31)
        logits[:, 7], logits[:, 8], logits[:, 9] = 3.0, 2.0, 1.0
        for depth in (1, 2):
            yield logits[: ids.shape[1] - 1 - depth]

    text = [5, 5, 7, 8, 5, 7, 7]
    # roots at 1 .. 5, then wanted at depth 1: 7 8 5 7 7; at depth 2, where 7 or 8 came before: 8 after 7, 5 after 8,
    # 7 after 7 (the last 7 has nothing after it)
    rates = acceptance_rates(target, guess, [(text, [False] + [True] * 6)], levels=3, ranks=2)
    torch.testing.assert_close(rates, torch.tensor([[3 / 5, 1 / 5], [1 / 3, 1 / 3], [0, 0]], dtype=torch.float64))
    with pytest.raises(InputError, match="two response tokens"):
        acceptance_rates(target, guess, [(text, [False] * 7)])


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
