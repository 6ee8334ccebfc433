"""Every baseline emits the text it should, and counts its rounds."""

import copy
from dataclasses import dataclass, field

import pytest
import torch
from conftest import tiny_draft, tiny_target
from transformers import AutoModelForCausalLM

from fspad_ref import SamplingConfig, TreeConfig, autoregressive_generate, speculative_generate
from fspad_ref.bench.bench import DynamicTree, Plain, Speculative
from fspad_ref.bench.rivals import (
    AssistantConfig,
    MedusaConfig,
    MedusaHeads,
    MedusaTree,
    StaticTree,
    assisted,
    load_assistant,
    new_assistant,
    plain_generate,
    plan_tree,
    prompt_lookup,
    save_assistant,
    static_shape,
    train_assistant,
    weighted_loss,
)
from fspad_ref.errors import InputError, TargetMismatch
from fspad_ref.train import TrainConfig
from fspad_ref.tree import Grower

PROMPT = [2, 7, 5, 11, 3]
SETTINGS = [SamplingConfig(), SamplingConfig(1.0, seed=1), SamplingConfig(1.3, top_p=0.8, seed=3)]
PLAN = plan_tree(static_shape([[0.5, 0.2, 0.1]] * 4, nodes=14))


def growers(target) -> list:
    return [
        StaticTree(tiny_draft(target), PLAN),
        MedusaTree(MedusaHeads(MedusaConfig(heads=4), target), PLAN),
        DynamicTree(tiny_draft(target), TreeConfig(4, 3, 20)),
    ]


@pytest.mark.parametrize("sampling", SETTINGS, ids=str)
def test_every_tree_gives_the_text_of_plain_decoding(target, sampling):
    plain = Plain(target).decode(PROMPT, 24, sampling, None)
    eos = plain.tokens[12]
    cut = plain.tokens[: plain.tokens.index(eos) + 1]
    for grower in growers(target):
        fast = Speculative(grower).decode(PROMPT, 24, sampling)
        assert fast.tokens == plain.tokens
        assert 0 <= sum(fast.accepted) + len(fast.accepted) - (len(fast.tokens) - 1) <= 1
        assert Speculative(grower).decode(PROMPT, 24, sampling, [eos]).tokens == cut  # a second text, the same grower


def test_a_tree_of_all_tokens_always_accepts_one(target):
    plan = plan_tree(tuple((rank,) for rank in range(31)))
    for sampling in SETTINGS[:2]:
        for grower in (StaticTree(tiny_draft(target), plan), MedusaTree(MedusaHeads(MedusaConfig(1), target), plan)):
            assert Speculative(grower).decode(PROMPT, 21, sampling).accepted == [1] * 10


def test_the_loop_is_speculative_generate(target, draft):
    """A draft with a tree's size is EAGLE-2's grower: same tokens, same acceptance, same reports, round by round."""
    tree, rounds, again = TreeConfig(4, 3, 20), [], []
    settings = dict(max_new_tokens=20, sampling=SETTINGS[1], stop=lambda tokens: tokens[-1] == 9)
    one = speculative_generate(target, draft, PROMPT, tree=tree, on_round=lambda *r: rounds.append(r), **settings)
    two = speculative_generate(
        target, DynamicTree(draft, tree), PROMPT, on_round=lambda *r: again.append(r), **settings
    )
    assert (two.tokens, two.accepted, again) == (one.tokens, one.accepted, rounds)


@dataclass(frozen=True)
class Watched(Grower):
    """Another grower, whose calls are noted."""

    real: Grower
    shown: list = field(default_factory=list)

    def start(self, longest):
        grow = self.real.start(longest)

        def noted(features, token_ids):
            self.shown.append((features, token_ids))
            return grow(features, token_ids)

        return noted


def test_a_grower_is_shown_every_token_once(target):
    """First the whole text, then what each round has added; features are one behind tokens."""
    for grower in growers(target):
        watched = Watched(grower.draft, grower.shape, grower)
        shown, result = watched.shown, speculative_generate(target, watched, PROMPT, max_new_tokens=18)
        assert len(shown) == len(result.accepted)
        ids = [shown[0][1][0].tolist(), *(ids[0, 1:].tolist() for _, ids in shown[1:])]
        whole = [*PROMPT, *result.tokens]
        assert sum(ids, []) == whole[: len(sum(ids, []))]
        features = torch.cat([features for features, _ in shown], dim=1)
        expected = target.features(torch.tensor([whole]))[:, : features.shape[1]]
        torch.testing.assert_close(features, expected, rtol=0, atol=1e-10)


def test_growers_are_checked_like_drafts(target):
    grower = growers(target)[0]
    assert (grower.levels, grower.nodes) == (int(PLAN.depth.max()), len(PLAN.depth))
    assert speculative_generate(target, grower, PROMPT, max_new_tokens=0).tokens == []
    with pytest.raises(InputError, match="256 positions"):
        speculative_generate(target, grower, PROMPT, max_new_tokens=252 - grower.levels)
    with pytest.raises(TargetMismatch, match="another Target object"):
        speculative_generate(tiny_target(), grower, PROMPT)


# ---- transformers' own ----


def forwards(model, run):
    """(what `run()` returns, how many forwards the model made)."""
    count = []
    handle = model.register_forward_hook(lambda *_: count.append(1))
    try:
        return run(), len(count)
    finally:
        handle.remove()


def theirs(target) -> dict:
    twin = copy.deepcopy(target.model)
    return {
        "plain": plain_generate(target),
        "lookup": prompt_lookup(target, tokens=5),
        "assisted": assisted(target, new_assistant(target, AssistantConfig(1, 16, 24, 2)).double(), tokens=4),
        "twin": assisted(target, twin, tokens=4, threshold=0.0),
    }


@pytest.mark.parametrize("name", ["plain", "lookup", "assisted", "twin"])
def test_transformers_methods(target, name):
    method = theirs(target)[name]
    prompt = PROMPT * 3 + [0]  # a pattern to look up, and a token that must not be taken for padding
    plain = autoregressive_generate(target, prompt, max_new_tokens=40)
    result, count = forwards(target.model, lambda: method.decode(prompt, 40, SamplingConfig(), None))
    assert result.tokens == plain.tokens
    assert len(result.accepted) == count - 1  # the prefill is no round
    prefill = len(result.tokens) - sum(n + 1 for n in result.accepted)
    assert 1 <= prefill <= 6
    assert result.tau == 39 / (count - 1)
    if name == "plain":
        assert set(result.accepted) == {0}
    if name == "twin":  # it guesses as the target does, four tokens a round
        assert prefill == 5 and result.accepted == [4] * 7
    eos = plain.tokens[20]
    cut = method.decode(prompt, 40, SamplingConfig(), eos)
    assert cut.tokens == plain.tokens[: plain.tokens.index(eos) + 1]
    assert method.decode(prompt, 0, SamplingConfig(), eos).tokens == []


@pytest.mark.parametrize("name", ["plain", "lookup", "twin"])
def test_transformers_sampling_follows_from_the_seed_alone(target, name):
    method = theirs(target)[name]
    before = torch.get_rng_state()
    one, two, other = (method.decode(PROMPT, 30, SamplingConfig(1.0, seed=seed), None) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert one == two and one.tokens != other.tokens
    assert len(one.tokens) == 30


def test_assistant_of_another_vocabulary_is_refused(target):
    with pytest.raises(TargetMismatch, match="31 tokens"):
        assisted(target, tiny_target(vocab_size=30).model)


def test_assistant_learns_and_comes_back(target, tmp_path):
    dialogues = [([(start + i) % 31 for i in range(14)], [i >= 2 for i in range(14)]) for start in range(31)]
    small = new_assistant(target, AssistantConfig(1, 16, 24, 2))
    config = TrainConfig(steps=30, tokens_per_batch=300, warmup_steps=3, learning_rate=0.02)
    losses = train_assistant(target, small, dialogues, config)
    assert len(losses) == 30 and losses[-1] < 0.7 * losses[0]
    save_assistant(small, target, tmp_path)
    again = load_assistant(tmp_path, target)
    ids = torch.tensor([PROMPT])
    torch.testing.assert_close(again(ids).logits.float(), small(ids).logits, atol=1e-5, rtol=1e-5)
    assert again.dtype == target.dtype
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config.vocab_size == 31


def test_weights_of_the_assistants_loss():
    """Uniform logits but one sure token: the loss says which positions counted, and how much."""
    ids = torch.tensor([[5, 6, 7, 8, 0, 0]])
    response = torch.tensor([[False, False, True, True, False, False]])
    logits = torch.zeros(1, 6, 10)
    logits[0, 0, 6] = 50.0  # token 6, of the prompt, is guessed without doubt
    logits[0, 4, 1] = 50.0  # padding, guessed wrongly, does not count
    uniform = torch.tensor(10.0).log()
    torch.testing.assert_close(weighted_loss(logits, ids, response, 0.1), 2 * uniform / 2.1)
    torch.testing.assert_close(weighted_loss(logits, ids, response, 0.0), uniform)
