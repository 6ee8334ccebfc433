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


def must_behave_alike(spread: Target, whole: Target) -> None:
    ids = torch.tensor([PROMPT])
    features = spread.features(ids)
    torch.testing.assert_close(features, whole.features(ids))
    torch.testing.assert_close(spread.lm_head(features), whole.lm_head(features))
    plain = autoregressive_generate(whole, PROMPT, max_new_tokens=12)
    settings = dict(max_new_tokens=12, tree=TreeConfig(top_k=3, depth=2, total_tokens=8))
    texts = [speculative_generate(one, tiny_draft(one), PROMPT, **settings) for one in (spread, whole)]
    assert texts[0].tokens == texts[1].tokens == plain.tokens and texts[0].accepted == texts[1].accepted


def test_a_spread_target_is_that_of_one_device(tmp_path, target):
    spread = load(tmp_path, model_layers_0="disk")  # hooks bring input and weights to where it computes
    assert spread.devices == [torch.device("cpu")] * 2 and not target.devices
    must_behave_alike(spread, target)


@pytest.mark.cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="a target spread over two GPUs needs two")
def test_so_it_is_with_two_gpus(tmp_path):
    split = dict(model_layers_1=1, model_norm=1, lm_head=1, model_embed_tokens=0, model_rotary_emb=0, model_layers_0=0)
    spread = load(tmp_path, **split)
    assert spread.devices == [torch.device("cuda", 0), torch.device("cuda", 1)]
    must_behave_alike(spread, Target.from_pretrained(str(tmp_path), dtype="float64", device="cuda:0"))


def test_what_a_draft_borrows_may_not_be_offloaded(tmp_path):
    for name in ("model_embed_tokens", "lm_head"):
        with pytest.raises(UnsupportedTarget, match="found it offloaded by device_map.*give it a device"):
            load(tmp_path, **{name: "disk"})


# --- devices that differ: meta is the only other one that every machine has ------------------------------------------


def test_a_layers_device_is_where_it_computes_and_results_come_home():
    come_home(lm_head := torch.nn.Linear(3, 5), torch.device("meta"))
    assert lm_head(torch.zeros(2, 3)).device.type == "meta"
    model = tiny_target().model
    assert layer_devices(model) == []
    model.hf_device_map = {"model.layers.0": 0, "model.layers.1": "disk"}
    model.model.layers[0]._hf_hook = SimpleNamespace(execution_device="cuda:1")
    assert layer_devices(model) == [torch.device("cuda", 1), torch.device("cpu")], "by its hook, else by its weights"


def test_a_spread_cache_does_what_a_whole_one_does_beside_its_layers():
    here, there = torch.device("cpu"), torch.device("meta")
    places = [here, there, here]
    spread = SpreadCache(places, lambda layers, device: KVCache(layers, 2, 4, 12, device=device))
    assert [(len(part.layers), part.kv.device) for part in spread.parts.values()] == [(2, here), (1, there)]
    held = []
    for cache in (spread, KVCache(3, 2, 4, 12)):
        for new in (torch.randn(1, 2, 6, 4, generator=torch.Generator().manual_seed(0)), torch.ones(1, 2, 1, 4)):
            on = places if cache is spread else [here] * 3
            parts = [layer.update(*[new.to(device)] * 2) for layer, device in zip(cache.layers, on, strict=True)]
            assert cache.length == cache.layers[1].get_seq_length() == parts[1][0].shape[-2] and cache.capacity == 12
            if cache.length == 6:
                cache.keep(3, torch.tensor([0, 2]))  # rows come from where tokens are chosen
                cache.truncate(4)
        assert cache.length == 5
        held.append([part for layer in (0, 2) for part in parts[layer]])
        assert cache is not spread or parts[1][0].device == parts[1][1].device == there
    assert all(torch.equal(mine, its) for mine, its in zip(*held, strict=True))
