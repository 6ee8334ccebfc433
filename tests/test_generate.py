"""Speculative decoding emits the very tokens of plain decoding, at every setting, and stops where it stops."""

import math

import pytest
import torch
from conftest import tiny_draft, tiny_target
from transformers import RepetitionPenaltyLogitsProcessor

from fspad_ref import SamplingConfig, TreeConfig, autoregressive_generate, fspad_generate, speculative_generate
from fspad_ref.errors import InputError, TargetMismatch
from fspad_ref.generate import Generation, Stop

PROMPT = [2, 7, 5, 11, 3]
SETTINGS = [
    SamplingConfig(),
    SamplingConfig(1.0, seed=1),
    SamplingConfig(0.5, seed=2),
    SamplingConfig(1.3, top_p=0.8, seed=3),
    SamplingConfig(1.0, top_k=5, seed=4),
    SamplingConfig(2.0, top_p=0.9, top_k=12, seed=5),
]
TREES = [TreeConfig(4, 3, 20), TreeConfig(1, 5, 7), TreeConfig(6, 1, 1), TreeConfig(3, 2, 22)]


@pytest.mark.parametrize("sampling", SETTINGS, ids=str)
@pytest.mark.parametrize("tree", TREES, ids=str)
def test_same_tokens_with_and_without_a_draft(target, draft, sampling, tree):
    plain = autoregressive_generate(target, PROMPT, max_new_tokens=40, sampling=sampling)
    fast = speculative_generate(target, draft, PROMPT, max_new_tokens=40, sampling=sampling, tree=tree)
    assert fast.tokens == plain.tokens, "law broken: for one seed the text is that of plain decoding"
    assert plain.tau == 1.0 and fast.tau >= 1.0
    # the length cap may cut the last round short
    extra = sum(fast.accepted) + len(fast.accepted) - (len(fast.tokens) - 1)
    assert 0 <= extra <= 1, "law broken: a round emits its accepted tokens and one more, the bonus token"


def test_greedy_equals_transformers_own_generate(target, draft):
    ids = torch.tensor([PROMPT])
    theirs = target.model.generate(ids, max_new_tokens=30, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert speculative_generate(target, draft, PROMPT, max_new_tokens=30).tokens == theirs[0, len(PROMPT) :].tolist()


@pytest.mark.parametrize("sampling", SETTINGS[:3], ids=str)
def test_stopping_is_truncation(target, sampling):
    """A third of the tokens of a text, taken as EOS, at every second length cap: the text ends alike."""
    draft = tiny_draft(target)
    full = autoregressive_generate(target, PROMPT, max_new_tokens=14, sampling=sampling).tokens
    for eos in sorted(set(full))[::3]:
        for cap in range(0, 15, 2):
            expected = full[:cap]
            if eos in expected:
                expected = expected[: expected.index(eos) + 1]
            result = speculative_generate(
                target, draft, PROMPT, max_new_tokens=cap, eos_token_id=[eos], sampling=sampling, tree=TREES[0]
            )
            assert result.tokens == expected, f"law broken: stopping is truncation (EOS {eos}, cap {cap})"
            assert sum(result.accepted) <= max(len(expected) - 1, 0)


@pytest.mark.parametrize("place", range(4))
def test_an_end_token_cuts_a_block_wherever_it_stands(place):
    """Blocks of four tokens, three of them drafted: longer than a random draft's above."""
    block = [5 if i == place else 9 for i in range(4)]
    result = Generation()
    assert Stop(10, 5, None, None).take(result, block, accepted=3), "law broken: the text ends with the first EOS"
    assert result.tokens == block[: place + 1], "law broken: nothing stands behind the first EOS"
    assert result.accepted == [min(3, place + 1)], "law broken: drafted tokens that are cut off do not count"


@pytest.mark.parametrize("room", range(1, 5))
def test_the_length_cap_cuts_a_block_wherever_it_falls(room):
    result = Generation()
    ended = Stop(room, None, None, None).take(result, [9, 8, 7, 6], accepted=3)
    assert ended, "law broken: the text ends at max_new_tokens"
    assert result.tokens == [9, 8, 7, 6][:room], "law broken: max_new_tokens is honoured within a block too"
    assert result.accepted == [min(3, room)], "law broken: drafted tokens that are cut off do not count"


def test_counts_of_the_shortest_texts(target, draft):
    nothing, one = (speculative_generate(target, draft, PROMPT, max_new_tokens=n) for n in (0, 1))
    assert nothing.tokens == [] and nothing.accepted == [] and math.isnan(nothing.tau)
    assert len(one.tokens) == 1 and one.accepted == [] and math.isnan(one.tau)


def test_on_round_reports_every_token_once(target, draft):
    seen = []
    result = speculative_generate(
        target, draft, PROMPT, max_new_tokens=25, on_round=lambda tokens, n: seen.append((tokens, n))
    )
    assert sum((tokens for tokens, _ in seen), []) == result.tokens
    assert [n for _, n in seen][1:] == result.accepted


def test_path_dependent_processors_see_each_nodes_own_text(target, draft):
    processors = [RepetitionPenaltyLogitsProcessor(1.8)]
    for sampling in SETTINGS[:2]:
        plain = autoregressive_generate(target, PROMPT, max_new_tokens=30, sampling=sampling, processors=processors)
        fast = speculative_generate(target, draft, PROMPT, max_new_tokens=30, sampling=sampling, processors=processors)
        assert fast.tokens == plain.tokens, "law broken: processors see every node with that node's own text"
    without = autoregressive_generate(target, PROMPT, max_new_tokens=30)
    assert without.tokens != autoregressive_generate(target, PROMPT, max_new_tokens=30, processors=processors).tokens


@pytest.mark.parametrize("settings", [dict(do_sample=False), dict(do_sample=True, temperature=0.8, top_p=0.9, top_k=7)])
def test_adapter_for_model_generate(target, draft, settings):
    ids = torch.tensor([PROMPT])
    torch.manual_seed(5)
    out = target.model.generate(
        ids, max_new_tokens=20, custom_generate=fspad_generate, draft=draft, eos_token_id=1, **settings
    )
    torch.manual_seed(5)
    seed = int(torch.randint(2**62, ())) if settings["do_sample"] else 0
    sampling = SamplingConfig(
        settings.get("temperature", 0.0), settings.get("top_p", 1.0), settings.get("top_k", 0), seed
    )
    plain = autoregressive_generate(target, PROMPT, max_new_tokens=20, eos_token_id=1, sampling=sampling)
    assert out[0].tolist() == PROMPT + plain.tokens, (
        "law broken: temperature, top-k and top-p mean what they mean in model.generate"
    )


@pytest.mark.parametrize(
    "prompt, message",
    [
        ([], "at least one token"),
        ([-1], r"found -1"),
        ([31], r"\[0, 31\), found 31"),
        (torch.tensor([[1], [2]]), "one prompt"),
    ],
)
def test_bad_prompts_are_refused(target, draft, prompt, message):
    with pytest.raises(InputError, match=message):
        speculative_generate(target, draft, prompt)


def test_texts_beyond_the_targets_positions_are_refused_with_the_largest_that_fits(target):
    draft = tiny_draft(target)
    with pytest.raises(InputError, match="at most 245") as error:
        speculative_generate(target, draft, PROMPT, max_new_tokens=246)
    assert "256 positions" in str(error.value)
    # 5 prompt tokens, 245 new ones, 6 levels of the default tree: just fits
    assert len(speculative_generate(target, draft, PROMPT, max_new_tokens=245).tokens) == 245


def test_logits_without_a_possible_token_are_refused(target, draft):
    def forbid_everything(ids, scores):
        return scores.fill_(-math.inf)

    with pytest.raises(InputError, match="NaN or all -inf"):
        speculative_generate(target, draft, PROMPT, processors=[forbid_everything])


def test_a_draft_of_another_target_is_refused(draft):
    with pytest.raises(TargetMismatch, match="another Target object"):
        speculative_generate(tiny_target(), draft, PROMPT)
