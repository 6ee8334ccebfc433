"""The other methods: each writes the text that it should, and counts its rounds; what they learn, and their trees."""

import copy
from itertools import combinations, cycle
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_draft, tiny_target

from fspad_ref import SamplingConfig, TreeConfig, autoregressive_generate
from fspad_ref.bench import rivals
from fspad_ref.bench.bench import Speculative
from fspad_ref.bench.replay import acceptance_rates
from fspad_ref.errors import ConfigError
from fspad_ref.tree import DynamicTree, Grower

PROMPT = [2, 7, 5, 11, 3]
SETTINGS = [SamplingConfig(), SamplingConfig(1.0, seed=1), SamplingConfig(1.3, top_p=0.8, seed=3)]
PLAN = rivals.plan_tree(rivals.static_shape([[0.5, 0.2, 0.1]] * 4, nodes=14))
SHAPE = ((0,), (1,), (2,), (0, 0), (0, 2), (2, 1), (0, 0, 0), (0, 0, 1), (2, 1, 0), (0, 0, 1, 0))
# texts that count upwards: token t + 1 + i follows from token t
COUNTING = [([(start + i) % 31 for i in range(14)], [i >= 2 for i in range(14)]) for start in range(31)]


def random_medusa(target, heads: int = 4) -> rivals.Medusa:
    medusa = rivals.Medusa(target, heads)
    torch.manual_seed(3)
    for weight in medusa.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return medusa


def growers(target) -> list[Grower]:
    return [rivals.StaticTree(tiny_draft(target), PLAN), rivals.MedusaTree(random_medusa(target), PLAN),
            DynamicTree(tiny_draft(target), TreeConfig(4, 3, 20))]  # fmt: skip


def batches():
    """The same batch again and again, as training wants them."""
    ids, response = map(torch.tensor, zip(*COUNTING, strict=True))
    return cycle([SimpleNamespace(input_ids=ids, response=response)])


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


@pytest.mark.parametrize("name", ["plain", "lookup", "twin"])
def test_transformers_methods_count_forwards_of_the_target(target, name):
    settings, forwards = {"prompt_lookup_num_tokens": 5} if name == "lookup" else {}, []
    if name == "twin":
        settings["assistant_model"] = assistant = copy.deepcopy(target.model)
        assistant.generation_config.num_assistant_tokens = 4
        assistant.generation_config.assistant_confidence_threshold = 0.0
    method = rivals.TransformersGenerate(target, settings)
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
    before = torch.get_rng_state()
    one, two, other = (method.decode(PROMPT, 30, SamplingConfig(1.0, seed=seed), None) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert one == two and one.tokens != other.tokens and len(one.tokens) == 30, "the seed alone decides"


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
    torch.testing.assert_close(rivals.medusa_loss(medusa, ids, response), expected)
    log_q = target.model(ids).logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0][response[:, 1:]]
    assert rivals.assistant_loss(target.model, ids, response).item() == pytest.approx(-log_q.mean().item(), abs=1e-5)


def test_rivals_are_trained_once_and_then_loaded(tmp_path, monkeypatch):
    target = tiny_target(dtype=torch.float32)
    losses, fit = [], rivals.fit
    monkeypatch.setattr(rivals, "fit", lambda *given: losses.append(fit(*given)))
    first = rivals.rivals(tiny_draft(target), tmp_path, batches, 30, COUNTING, 14)
    assert len(losses) == 2 and all(len(of) == 30 and of[-1] < of[0] for of in losses)
    again = rivals.rivals(tiny_draft(target), tmp_path, batches, 30, COUNTING, 14)
    assert len(losses) == 2, "a folder that exists is a trained rival"
    assert list(first) == ["generate", "prompt_lookup", "assisted", "medusa", "eagle_static"]
    plain = autoregressive_generate(target, PROMPT, max_new_tokens=20).tokens
    for name, method in first.items():
        found = method.decode(PROMPT, 20, SamplingConfig(), None)
        assert found == again[name].decode(PROMPT, 20, SamplingConfig(), None) and found.tokens == plain


def test_training_teaches_the_heads_to_look_ahead():
    target = tiny_target(dtype=torch.float32)
    medusa, frozen = rivals.Medusa(target, 2), [weight.clone() for weight in target.model.parameters()]
    losses = rivals.fit(medusa, rivals.medusa_loss, batches(), 60, 0.03)
    assert len(losses) == 60 and losses[-1] < 0.5 * losses[0]
    assert all(map(torch.equal, frozen, target.model.parameters()))
    assert (acceptance_rates(target, medusa.guesses, COUNTING, levels=2, ranks=3)[:, 0] > 0.3).all()  # chance: 1 / 31


def test_a_shape_is_the_best_of_all_shapes():
    """Against every subset of the nodes that hangs together; rates need not fall with rank."""
    generator = torch.Generator().manual_seed(0)
    paths = [(a,) for a in range(2)] + [(a, b) for a in range(2) for b in range(2)] + [(0, 0, 0), (1, 1, 1)]
    for nodes in (2, 4, 6):
        rates = torch.rand(3, 2, generator=generator, dtype=torch.float64)

        def expected(shape, rates=rates) -> float:
            return sum(torch.stack([rates[d, rank] for d, rank in enumerate(path)]).prod().item() for path in shape)

        found = rivals.static_shape(rates, nodes)
        others = [set(s) for s in combinations(paths, nodes - 1)]
        best = max(expected(s) for s in others if all(p[:-1] in s | {()} for p in s))
        assert len(set(found)) == nodes - 1 and all(p[:-1] in {(), *found[:i]} for i, p in enumerate(found))
        assert expected(found) >= best - 1e-12
    assert rivals.static_shape([[1.0], [1.0], [1.0]], 4) == ((0,), (0, 0), (0, 0, 0))
    assert len(rivals.static_shape([[0.0, 0.0], [0.0, 0.0]], 7)) == 6
    for rates, nodes in (([[0.5, 1.2]], 2), ([[0.5, -0.1]], 2), ([[0.5, 0.2]], 4), ([[0.5, 0.2]], 1)):
        with pytest.raises(ConfigError):
            rivals.static_shape(rates, nodes)


def check_tree(tree, plan, guesses) -> None:
    """Every node is the guess of its rank after its path, and sees that path. guesses(path): log q and tokens."""
    paths = [()]
    for v in range(1, len(tree)):
        paths.append((*paths[int(tree.parent[v])], int(plan.rank[v])))
    assert {*paths[1:]} == {*SHAPE} and len(tree) == len(SHAPE) + 1 and tree.depth.tolist() == [*map(len, paths)]
    for v, path in enumerate(paths):
        above = [w for w in range(v + 1) if paths[w] == path[: len(paths[w])]]
        assert tree.ancestors[v].nonzero()[:, 0].tolist() == above
        score = sum(guesses(path[:d])[0][rank].item() for d, rank in enumerate(path))
        assert tree.score[v].item() == pytest.approx(score, abs=1e-9)
        assert not path or tree.token[v] == guesses(path[:-1])[1][path[-1]]


def test_every_node_is_the_guess_of_its_rank_after_its_path(target, draft):
    """Recomputed by running each path as a plain chain through the draft; the tree is grown over a cache."""
    ids, plan = torch.arange(2, 20)[None], rivals.plan_tree(SHAPE)
    features, grow = target.features(ids[:, :-1]), rivals.StaticTree(draft, plan).start(17)
    grow(features[:, :10], ids[:, :11])
    tree = grow(features[:, 10:], ids[:, 10:])

    def guesses(path):
        fed, tokens = features, ids
        for rank in (*path, 0):
            out = draft(fed, tokens[:, 1:])
            best = torch.log_softmax(target.lm_head(out.logit_feature[0, -1]), -1).sort(descending=True)
            fed = torch.cat((fed, out.aligned_feature[:, -1:]), dim=1)
            tokens = torch.cat((tokens, best.indices[rank][None, None]), dim=1)
        return best

    check_tree(tree, plan, guesses)
    assert tree.token[0] == 19


def test_every_node_of_medusas_tree_is_its_heads_guess(target):
    medusa, plan, features = random_medusa(target), rivals.plan_tree(SHAPE), target.features(torch.tensor([PROMPT]))
    tree = rivals.MedusaTree(medusa, plan).start(99)(features, torch.tensor([[*PROMPT, 6]]))
    log_q = torch.log_softmax(target.lm_head(medusa(features[0, -1:])[:, 0]), -1)
    check_tree(tree, plan, lambda path: log_q[len(path)].sort(descending=True))
    assert tree.token[0] == 6


def test_rates_by_hand(target):
    """A guesser that always ranks tokens 7, 8, 9 in this order, on a text that we can count."""

    def guess(features, ids, ranks):
        for depth in (1, 2):
            yield torch.tensor([7, 8, 9])[:ranks].repeat(ids.shape[1] - 1 - depth, 1)

    text = [5, 5, 7, 8, 5, 7, 7]
    # roots at 1 .. 5, then wanted at depth 1: 7 8 5 7 7; at depth 2, where 7 or 8 came before: 8 after 7, 5 after 8,
    # 7 after 7 (the last 7 has nothing after it)
    rates = acceptance_rates(target, guess, [(text, [False] + [True] * 6)], levels=3, ranks=2)
    torch.testing.assert_close(rates, torch.tensor([[3 / 5, 1 / 5], [1 / 3, 1 / 3], [0, 0]], dtype=torch.float64))
