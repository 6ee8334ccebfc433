"""A target spread over devices by device_map: the same features and text, and nothing on a device where it cannot be.

Without two GPUs, a layer whose weights are on disk stands in for one on another device: accelerate puts the same hooks
in place, and computes for real. What differs with real devices, where results, keys and values lie, is tested by parts.
"""

from types import SimpleNamespace

import pytest
import torch
from conftest import tiny_draft, tiny_target

from fspad_ref import Target, TreeConfig, autoregressive_generate, speculative_generate
from fspad_ref.cache import KVCache
from fspad_ref.errors import UnsupportedTarget
from fspad_ref.support import SpreadCache, come_home, layer_devices

PROMPT = [2, 7, 5, 11, 3]
PARTS = ("model.embed_tokens", "model.rotary_emb", "model.layers.0", "model.layers.1", "model.norm", "lm_head")


def load(folder, **elsewhere) -> Target:
    """The tiny target, everything on the CPU but the parts that are named, dots written as underscores."""
    tiny_target().model.save_pretrained(folder)
    device_map = {name: elsewhere.get(name.replace(".", "_"), "cpu") for name in PARTS}
    return Target.from_pretrained(str(folder), dtype="float64", device_map=device_map, offload_folder=str(folder / "o"))


@pytest.fixture(scope="module")
def spread(tmp_path_factory) -> Target:
    """One layer's weights lie on disk: hooks bring input and weights to where it computes."""
    return load(tmp_path_factory.mktemp("target"), model_layers_0="disk")


def must_behave_alike(spread: Target, whole: Target) -> None:
    """The same text and rounds, and the same draft after training."""
    from fspad_ref.train import TrainConfig, train

    plain = autoregressive_generate(whole, PROMPT, max_new_tokens=12)
    settings = dict(max_new_tokens=12, tree=TreeConfig(top_k=3, depth=2, total_tokens=8))
    texts = [speculative_generate(one, tiny_draft(one), PROMPT, **settings) for one in (spread, whole)]
    assert texts[0].tokens == texts[1].tokens == plain.tokens and texts[0].accepted == texts[1].accepted
    dialogues = [(PROMPT + [4, 9, 8, 2 + i], [False] * 3 + [True] * 6) for i in range(6)]
    ours, theirs = tiny_draft(spread), tiny_draft(whole)
    for one, draft in ((spread, ours), (whole, theirs)):
        train(one, {"d": draft}, dialogues, TrainConfig(steps=3, tokens_per_batch=40, warmup_steps=1))
    for name, weight in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], weight)


def test_a_spread_target_is_that_of_one_device(spread, target):
    assert spread.devices == [torch.device("cpu")] * 2 and not target.devices
    ids = torch.tensor([PROMPT])
    features = spread.features(ids)
    torch.testing.assert_close(features, target.features(ids))
    torch.testing.assert_close(spread.lm_head(features), target.lm_head(features))
    must_behave_alike(spread, target)


@pytest.mark.cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="a target spread over two GPUs needs two")
def test_so_it_is_with_two_gpus(tmp_path):
    split = dict(model_layers_1=1, model_norm=1, lm_head=1, model_embed_tokens=0, model_rotary_emb=0, model_layers_0=0)
    spread = load(tmp_path, **split)
    assert spread.devices == [torch.device("cuda", 0), torch.device("cuda", 1)]
    must_behave_alike(spread, Target.from_pretrained(str(tmp_path), dtype="float64", device="cuda:0"))


@pytest.mark.parametrize("name", ["model_embed_tokens", "lm_head"])
def test_what_a_draft_borrows_may_not_be_offloaded(tmp_path, name):
    with pytest.raises(UnsupportedTarget, match="found it offloaded by device_map.*give it a device"):
        load(tmp_path, **{name: "disk"})


# --- devices that differ: meta is the only other one that every machine has ------------------------------------------


def test_results_come_home():
    lm_head = torch.nn.Linear(3, 5)
    come_home(lm_head, torch.device("meta"))
    assert lm_head(torch.zeros(2, 3)).device.type == "meta"


def test_keys_and_values_stay_beside_their_layer():
    here, there = torch.device("cpu"), torch.device("meta")
    cache = SpreadCache([here, there, there], lambda layers, device: KVCache(layers, 2, 4, 12, device=device))
    assert [(len(part.layers), part.kv.device) for part in cache.parts.values()] == [(1, here), (2, there)]
    for layer, device in zip(cache.layers, (here, there, there), strict=True):
        keys, values = layer.update(*(torch.zeros(1, 2, 3, 4, device=device),) * 2)
        assert keys.device == values.device == device
    cache.keep(1, torch.tensor([1]))  # rows come from where tokens are chosen
    assert cache.length == 2


def test_a_layers_device_is_where_it_computes():
    model = tiny_target().model
    assert layer_devices(model) == []
    model.hf_device_map = {"model.layers.0": 0, "model.layers.1": "disk"}
    model.model.layers[0]._hf_hook = SimpleNamespace(execution_device="cuda:1")
    assert layer_devices(model) == [torch.device("cuda", 1), torch.device("cpu")], "by its hook, else by its weights"


def test_a_spread_cache_does_what_a_whole_one_does():
    """Layers of two places, in any order, written and kept alike. The places are names alone: both lie on the CPU."""
    one, other = torch.device("cpu"), torch.device("meta")
    caches = SpreadCache([one, other, one], lambda layers, device: KVCache(layers, 2, 4, 12)), KVCache(3, 2, 4, 12)
    held = []
    for cache in caches:
        torch.manual_seed(0)
        for _ in range(2):
            for layer in cache.layers:
                layer.update(torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3, 4))
        assert cache.length == 6 and cache.layers[1].get_seq_length() == 6 and cache.capacity == 12
        cache.keep(3, torch.tensor([0, 2]))
        assert cache.length == 5
        cache.truncate(4)
        new = torch.randn(1, 2, 1, 4)
        held.append([part for layer in cache.layers for part in layer.update(new, new)])
    assert all(torch.equal(mine, its) and mine.shape[-2] == 5 for mine, its in zip(*held, strict=True))
