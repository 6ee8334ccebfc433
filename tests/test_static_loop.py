"""Decoding in static shapes: text and counts of the ordinary loop, no look at a number inside a round, CUDA graphs."""

import pytest
import torch
from conftest import tiny_draft, tiny_target
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from fspad_ref import SamplingConfig, TreeConfig, autoregressive_generate, speculative_generate
from fspad_ref.bench.static import capture, first_step, restore, static_generate
from fspad_ref.errors import InputError

PROMPT = [2, 7, 5, 11, 3]
TREES = [TreeConfig(4, 3, 20), TreeConfig(1, 5, 7), TreeConfig(3, 2, 22, noise_weight=0.7), TreeConfig(6, 4, 1)]
SAMPLINGS = [SamplingConfig(), SamplingConfig(1.0, seed=1), SamplingConfig(0.7, 0.9, 12, seed=2)]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here: graphs cannot be captured")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.cuda, needs_cuda])]


def pair(device: str, **booleans):
    target = tiny_target()
    target.model.to(device)
    return target, tiny_draft(target, **booleans)


def a_step(target, draft, sampling):
    """A step that is ready to run, behind the prompt."""
    step, _ = first_step(target, draft, torch.tensor([PROMPT], device=target.device), sampling, TREES[0], 40)
    step.prepare(len(PROMPT) + 1)
    return step


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", [(False, False), (True, True)], ids=["eagle", "fspad"])
def test_text_and_counts_are_those_of_the_ordinary_loop(device, kind):
    target, draft = pair(device, feature_sampling=kind[0], partial_alignment=kind[1])
    for sampling in SAMPLINGS:
        for tree in TREES:
            settings = dict(max_new_tokens=24, sampling=sampling, tree=tree)
            expected = speculative_generate(target, draft, PROMPT, **settings)
            assert static_generate(target, draft, PROMPT, **settings) == expected, f"{sampling}, {tree}"


@pytest.mark.parametrize("device", DEVICES)
def test_plain_decoding_in_static_shapes_is_plain_decoding(device):
    target, _ = pair(device)
    for sampling in SAMPLINGS:
        for eos in (None, 9):
            settings = dict(max_new_tokens=40, sampling=sampling, eos_token_id=eos)  # longer than a block of noise
            expected = autoregressive_generate(target, PROMPT, **settings)
            assert static_generate(target, None, PROMPT, **settings) == expected


def test_paths_of_several_lengths_are_kept(target):
    """Wide trees at a high temperature: a random draft is right now and then."""
    draft = tiny_draft(target)
    settings = dict(max_new_tokens=60, sampling=SamplingConfig(2.0, seed=5), tree=TreeConfig(8, 4, 200))
    found = static_generate(target, draft, PROMPT, **settings)
    assert found == speculative_generate(target, draft, PROMPT, **settings)
    assert len(set(found.accepted)) >= 3, found.accepted


@pytest.mark.parametrize("length", [0, 1, 2, 5])
def test_short_texts_and_prompts(target, draft, length):
    for prompt in (PROMPT, PROMPT[:1]):
        found = static_generate(target, draft, prompt, max_new_tokens=length)
        assert found == speculative_generate(target, draft, prompt, max_new_tokens=length)


def test_what_cannot_be_decoded_is_refused(target):
    with pytest.raises(InputError, match="at most 245"):
        static_generate(target, tiny_draft(target), PROMPT, max_new_tokens=246)
    broken = tiny_target()
    with torch.no_grad():
        broken.lm_head.weight.fill_(torch.nan)
    for draft in (None, tiny_draft(broken)):
        with pytest.raises(InputError, match="NaN or all -inf"):
            static_generate(broken, draft, PROMPT, max_new_tokens=4)


@pytest.mark.parametrize("sampling", SAMPLINGS[:2], ids=["greedy", "sampled"])
@pytest.mark.parametrize("plain", [True, False])
def test_a_step_never_looks_at_a_number(target, sampling, plain):
    step = a_step(target, None if plain else tiny_draft(target), sampling)
    with FakeTensorMode(allow_non_fake_inputs=True):  # tensors without numbers
        try:
            first, second = step.run(), step.run()
        except (DataDependentOutputException, DynamicOutputShapeException) as look:
            raise AssertionError(f"a step waits for a number ({look})") from look
    assert first.shape == second.shape == (2 if plain else TREES[0].levels + 2,)


@pytest.mark.parametrize("plain", [True, False])
def test_a_step_depends_on_its_state_alone(target, plain):
    """What `capture` does around its trial runs; and what a replay, without Python, needs."""
    step = a_step(target, None if plain else tiny_draft(target), SAMPLINGS[1])
    kept, caches = [tensor.clone() for tensor in step.state], [step.cache, getattr(step, "draft_cache", step.cache)]
    where = [cache.kv.data_ptr() for cache in caches]
    first = step.run().clone()
    assert not torch.equal(step.run(), first)
    restore(step.state, kept)
    assert torch.equal(step.run(), first)
    assert [cache.length for cache in caches] == [0, 0], "Python holds no length of the text"
    assert [cache.kv.data_ptr() for cache in caches] == where


@pytest.mark.cuda
@needs_cuda
@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_a_replay_does_what_the_step_does_and_never_waits(sampling, plain):
    target, draft = pair("cuda")
    replayed, run = (a_step(target, None if plain else draft, sampling) for _ in range(2))
    replay = capture(replayed.run, replayed.state, target.device)
    for _ in range(5):
        torch.cuda.set_sync_debug_mode("error")
        try:
            found, expected = replay(), run.run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert torch.equal(found, expected)
