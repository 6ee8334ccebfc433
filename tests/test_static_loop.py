"""Decoding in static shapes: text and counts of the ordinary loop, no look at a number inside a round, CUDA graphs."""

import pytest
import torch
from conftest import tiny_draft, tiny_target
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.overrides import TorchFunctionMode

from fspad_ref import SamplingConfig, TreeConfig, autoregressive_generate, speculative_generate
from fspad_ref.bench.static import (
    PlainStep,
    Round,
    StaticCache,
    aligned,
    capture,
    prefilled,
    prefilled_draft,
    restore,
    static_generate,
)
from fspad_ref.errors import InputError, UnsupportedTarget

PROMPT = [2, 7, 5, 11, 3]
TREES = [TreeConfig(4, 3, 20), TreeConfig(1, 5, 7), TreeConfig(3, 2, 22), TreeConfig(6, 4, 1)]
SAMPLINGS = [SamplingConfig(), SamplingConfig(1.0, seed=1), SamplingConfig(0.7, 0.9, 12, seed=2)]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here: graphs cannot be captured")


def devices():
    return ["cpu", pytest.param("cuda", marks=[pytest.mark.cuda, needs_cuda])]


def pair(device: str, dtype=torch.float64, **booleans):
    target = tiny_target(dtype=dtype)
    target.model.to(device)
    return target, tiny_draft(target, **booleans)


# --- the same text ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize("kind", [(False, False), (True, True)], ids=["eagle", "fspad"])
def test_text_and_counts_are_those_of_the_ordinary_loop(device, kind):
    target, draft = pair(device, feature_sampling=kind[0], partial_alignment=kind[1])
    for sampling in SAMPLINGS:
        for tree in TREES:
            settings = dict(max_new_tokens=24, sampling=sampling, tree=tree)
            expected = speculative_generate(target, draft, PROMPT, **settings)
            found = static_generate(target, draft, PROMPT, **settings)
            assert found == expected, f"law broken: static shapes change neither text nor counts ({sampling}, {tree})"


@pytest.mark.parametrize("device", devices())
def test_plain_decoding_in_static_shapes_is_plain_decoding(device):
    target, _ = pair(device)
    for sampling in SAMPLINGS:
        for eos in (None, 9):
            settings = dict(max_new_tokens=40, sampling=sampling, eos_token_id=eos)  # longer than a block of noise
            assert static_generate(target, None, PROMPT, **settings) == autoregressive_generate(
                target, PROMPT, **settings
            ), "law broken: static shapes change neither text nor counts"


def test_paths_of_several_lengths_are_kept(target):
    """Wide trees at a high temperature: a random draft is right now and then."""
    draft = tiny_draft(target)
    settings = dict(max_new_tokens=60, sampling=SamplingConfig(2.0, seed=5), tree=TreeConfig(8, 4, 200))
    found = static_generate(target, draft, PROMPT, **settings)
    assert found == speculative_generate(target, draft, PROMPT, **settings)
    assert len(set(found.accepted)) >= 3, found.accepted


@pytest.mark.parametrize("length", [0, 1, 2, 5])
def test_short_texts_and_prompts(target, length):
    draft = tiny_draft(target)
    for prompt in (PROMPT, PROMPT[:1]):
        found = static_generate(target, draft, prompt, max_new_tokens=length)
        assert found == speculative_generate(target, draft, prompt, max_new_tokens=length)


def test_what_does_not_fit_is_refused(target):
    with pytest.raises(InputError, match="at most 245"):
        static_generate(target, tiny_draft(target), PROMPT, max_new_tokens=246)


def test_impossible_logits_are_refused_by_the_host(target):
    broken = tiny_target()
    with torch.no_grad():
        broken.lm_head.weight.fill_(torch.nan)
    for draft in (None, tiny_draft(broken)):
        with pytest.raises(InputError, match="NaN or all -inf"):
            static_generate(broken, draft, PROMPT, max_new_tokens=4)


# --- the cache -------------------------------------------------------------------------------------------------------


def test_a_static_cache_keeps_what_an_ordinary_one_keeps(target):
    ids = torch.tensor([PROMPT])
    ordinary, twin = target.new_cache(64), target.new_cache(64)
    for cache in (ordinary, twin):
        target.features(ids, cache=cache)
    static = StaticCache(twin)
    new, path, padded = 6, torch.tensor([0, 2, 5]), torch.tensor([0, 2, 5, 0])
    keys = torch.randn(new, ordinary.kv.shape[-1]).to(ordinary.kv.dtype)
    for layer in range(len(ordinary.length_of)):
        entries = (keys + layer).expand(1, ordinary.kv.shape[3], -1, -1)
        ordinary.write(layer, entries, -entries)
        every_slot, _ = static.write(layer, entries, -entries)
        assert every_slot.shape[-2] == static.capacity
    ordinary.keep(len(PROMPT), path)
    static.keep_padded(padded, torch.tensor(3))
    assert static.held.item() == ordinary.length and static.length == 0
    assert torch.equal(static.kv[..., : ordinary.length, :], ordinary.kv[..., : ordinary.length, :])


def test_a_mask_shows_what_is_held_and_of_the_rest_what_it_is_told():
    static = StaticCache(tiny_target().new_cache(8))
    static.held.fill_(3)
    own = torch.tensor([[True, False], [True, True]])
    expected = [[1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0, 0, 0]]
    assert static.visible(own)[0, 0].int().tolist() == expected
    added = static.additive(own)
    assert added.dtype == torch.float64 and ((added == 0) == static.visible(own)).all()
    assert added.min() == torch.finfo(torch.float64).min


def test_a_cache_on_several_devices_is_refused(target):
    spread = target.new_cache(8)
    del spread.kv
    with pytest.raises(UnsupportedTarget, match="expected a cache on one device"):
        StaticCache(spread)


def test_capacities_are_round():
    assert [aligned(slots) for slots in (1, 64, 65)] == [64, 64, 128]


# --- requirements of a graph -----------------------------------------------------------------------------------------


def a_round(target, draft, sampling, tree=TREES[0]) -> Round:
    text = torch.tensor([[*PROMPT, 4]], device=target.device)
    cache, features = prefilled(target, text[:, :-1], 40, tree.total_tokens)
    made = Round(target, draft, tree, sampling, cache, prefilled_draft(draft, features, text, 40, tree),
                 features[0, -1], 4)  # fmt: skip
    made.noise.prepare(text.shape[1])
    return made


@pytest.mark.parametrize("sampling", SAMPLINGS[:2], ids=["greedy", "sampled"])
def test_a_round_never_looks_at_a_number(sampling):
    target = tiny_target()
    draft = tiny_draft(target)
    with FakeTensorMode(allow_non_fake_inputs=True):
        made = a_round(target, draft, sampling)
        try:
            first, second = made.run(), made.run()
        except (DataDependentOutputException, DynamicOutputShapeException) as look:
            raise AssertionError(f"law broken: a round never waits for a number ({look})") from look
        assert first.shape == second.shape == (TREES[0].levels + 2,)


def test_a_round_keeps_its_addresses_and_leaves_the_host_as_it_was(target):
    made = a_round(target, tiny_draft(target), SAMPLINGS[1])
    where = [tensor.data_ptr() for tensor in made.state] + [made.cache.kv.data_ptr(), made.draft_cache.kv.data_ptr()]
    shapes = [tensor.shape for tensor in made.state]
    for _ in range(3):
        made.run()
        assert made.cache.length == made.draft_cache.length == 0, "law broken: Python holds no length of the text"
    assert where[:-2] == [tensor.data_ptr() for tensor in made.state], "law broken: state stays where it is"
    assert where[-2:] == [made.cache.kv.data_ptr(), made.draft_cache.kv.data_ptr()]
    assert shapes == [tensor.shape for tensor in made.state]


def test_a_round_rewound_gives_the_same_again(target):
    """What `capture` does around its trial runs: the state is all that a round depends on."""
    made = a_round(target, tiny_draft(target), SAMPLINGS[1])
    kept = [tensor.clone() for tensor in made.state]
    first = made.run().clone()
    made.run()
    restore(made.state, kept)
    assert torch.equal(made.run(), first), "law broken: a round depends on its state alone"


LOOKS = {"item", "tolist", "__int__", "__bool__", "__float__", "__index__", "nonzero", "cpu", "numpy"}


class Looks(TorchFunctionMode):
    """Notes every call by which Python gets to see numbers of a tensor."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if (name := getattr(function, "__name__", "")) in LOOKS:
            self.seen.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("decode", [speculative_generate, static_generate])
@pytest.mark.parametrize("sampling", SAMPLINGS[:2], ids=["greedy", "sampled"])
def test_one_copy_to_the_host_a_round(target, decode, sampling):
    """Both loops; before the rounds, the prompt's ids are checked (two looks) and the first token is read."""
    draft = tiny_draft(target)
    with Looks() as looks:
        result = decode(target, draft, PROMPT, max_new_tokens=20, sampling=sampling, tree=TREES[0])
    before = ["__int__"] * 3
    assert looks.seen == before + ["tolist"] * len(result.accepted), "law broken: one copy to the host a round"


def test_on_a_cpu_there_is_nothing_to_capture():
    def run():
        raise AssertionError("nobody asked for a run")

    assert capture(run, [], torch.device("cpu")) is run


# --- on a GPU --------------------------------------------------------------------------------------------------------


@pytest.mark.cuda
@needs_cuda
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_a_replayed_round_does_what_the_round_does(sampling):
    target, draft = pair("cuda")
    replayed, run = (a_round(target, draft, sampling) for _ in range(2))
    replay = capture(replayed.run, replayed.state, target.device)
    for _ in range(5):
        assert torch.equal(replay(), run.run()), "law broken: a graph computes what was captured"


@pytest.mark.cuda
@needs_cuda
def test_the_gpu_never_waits_in_a_replay_nor_in_a_round():
    target, draft = pair("cuda")
    made = a_round(target, draft, SAMPLINGS[1])
    made.run()
    replay = capture(made.run, made.state, target.device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        made.run()
        replay()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.cuda
@needs_cuda
def test_a_plain_step_is_captured_too():
    target, _ = pair("cuda")
    cache, _ = prefilled(target, torch.tensor([PROMPT], device="cuda"), 40, 1)
    step = PlainStep(target, SamplingConfig(), cache, 4)
    kept = [tensor.clone() for tensor in step.state]
    replay = capture(step.run, step.state, target.device)
    captured = [replay().tolist() for _ in range(4)]
    restore(step.state, kept)
    assert [step.run().tolist() for _ in range(4)] == captured
