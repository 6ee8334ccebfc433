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
from fspad_ref.errors import ConfigError, UnsupportedTarget
from fspad_ref.processes import Processes
from fspad_ref.support import SpreadCache, come_home, layer_devices
from fspad_ref.train import TrainConfig, train

PROMPT = [2, 7, 5, 11, 3]
PARTS = ("model.embed_tokens", "model.rotary_emb", "model.layers.0", "model.layers.1", "model.norm", "lm_head")


def place(**elsewhere: str) -> dict[str, str]:
    """A device_map: everything on the CPU but what is named, dots written as underscores."""
    return {name: elsewhere.get(name.replace(".", "_"), "cpu") for name in PARTS}


@pytest.fixture(scope="module")
def spread(tmp_path_factory) -> Target:
    """One layer's weights lie on disk: hooks bring input and weights to where it computes."""
    folder = tmp_path_factory.mktemp("target")
    tiny_target().model.save_pretrained(folder)
    return Target.from_pretrained(str(folder), dtype="float64", device_map=place(model_layers_0="disk"),
                                  offload_folder=str(folder / "offloaded"))  # fmt: skip


def test_features_and_logits_are_those_of_one_device(spread, target):
    assert spread.devices == [torch.device("cpu")] * 2 and not target.devices
    ids = torch.tensor([PROMPT])
    features = spread.features(ids)
    torch.testing.assert_close(features, target.features(ids))
    torch.testing.assert_close(spread.lm_head(features), target.lm_head(features))
    torch.testing.assert_close(spread.model(input_ids=ids).logits, target.model(input_ids=ids).logits)


def test_the_text_is_that_of_one_device(spread, target):
    plain = autoregressive_generate(target, PROMPT, max_new_tokens=8)
    tree = TreeConfig(top_k=3, depth=2, total_tokens=8)
    fast = speculative_generate(spread, tiny_draft(spread), PROMPT, max_new_tokens=8, tree=tree)
    alone = speculative_generate(target, tiny_draft(target), PROMPT, max_new_tokens=8, tree=tree)
    assert fast.tokens == plain.tokens == alone.tokens and fast.accepted == alone.accepted


def test_drafts_train_on_a_spread_target(spread, target):
    dialogues = [(PROMPT + [4, 9, 8, 2 + i], [False] * 3 + [True] * 6) for i in range(6)]
    config = TrainConfig(steps=3, tokens_per_batch=40, warmup_steps=1)
    ours, theirs = tiny_draft(spread), tiny_draft(target)
    train(spread, {"d": ours}, dialogues, config)
    train(target, {"d": theirs}, dialogues, config)
    for name, weight in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], weight)


def test_several_processes_want_the_target_on_one_device_each(spread):
    two = Processes()
    two.number = 2
    with pytest.raises(ConfigError, match="2 processes to hold the target on one device, found it spread"):
        train(spread, {"d": tiny_draft(spread)}, [], TrainConfig(batches_per_step=2), processes=two)


@pytest.mark.parametrize("name", ["embed_tokens", "lm_head"])
def test_what_a_draft_borrows_may_not_be_offloaded(tmp_path, name):
    tiny_target().model.save_pretrained(tmp_path)
    offloaded = place(**{"lm_head" if name == "lm_head" else "model_embed_tokens": "disk"})
    with pytest.raises(UnsupportedTarget, match="found it offloaded by device_map.*give it a device"):
        Target.from_pretrained(str(tmp_path), device_map=offloaded, offload_folder=str(tmp_path / "offloaded"))


# --- devices that differ ---------------------------------------------------------------------------------------------


def test_results_come_home():
    """meta stands for the embedding's device: the only other one that every machine has."""
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


@pytest.mark.cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="a target spread over two GPUs needs two")
def test_two_gpus_write_the_text_of_one_and_train_the_same_draft(tmp_path, target):
    target.model.save_pretrained(tmp_path)
    whole = Target.from_pretrained(str(tmp_path), dtype="float64", device="cuda:0")
    split = place() | {name: 1 for name in ("model.layers.1", "model.norm", "lm_head")}
    split |= {name: 0 for name in split if split[name] == "cpu"}
    spread = Target.from_pretrained(str(tmp_path), dtype="float64", device_map=split)
    assert spread.devices == [torch.device("cuda", 0), torch.device("cuda", 1)]
    texts = [speculative_generate(one, tiny_draft(one), PROMPT, max_new_tokens=20).tokens for one in (spread, whole)]
    assert texts[0] == texts[1] == autoregressive_generate(spread, PROMPT, max_new_tokens=20).tokens
    dialogues = [(PROMPT + [4, 9, 8, 2 + i], [False] * 3 + [True] * 6) for i in range(6)]
    ours, theirs = tiny_draft(spread), tiny_draft(whole)
    for one, draft in ((spread, ours), (whole, theirs)):
        train(one, {"d": draft}, dialogues, TrainConfig(steps=3, tokens_per_batch=40, warmup_steps=1))
    for name, weight in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], weight)


# --- the cache -------------------------------------------------------------------------------------------------------


def test_a_spread_cache_does_what_a_whole_one_does():
    """Layers of two places, in any order, written and kept alike."""

    def part(layers: int, device: torch.device) -> KVCache:
        return KVCache(layers, 2, 4, 12, device="cpu")

    one, other = torch.device("cpu"), torch.device("meta")  # names alone: both parts lie on the CPU
    spread, whole = SpreadCache([one, other, one], part), KVCache(3, 2, 4, 12)
    for cache in (spread, whole):
        torch.manual_seed(0)
        for _ in range(2):
            for layer in cache.layers:
                layer.update(torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3, 4))
        assert cache.length == 6 and cache.layers[1].get_seq_length() == 6
        cache.keep(3, torch.tensor([0, 2]))
        assert cache.length == 5
        cache.truncate(4)
    assert spread.length == 4 and spread.capacity == 12
    for ours, theirs in zip(spread.layers, whole.layers, strict=True):
        torch.manual_seed(1)
        new = torch.randn(1, 2, 1, 4)
        for mine, its in zip(ours.update(new, new), theirs.update(new, new), strict=True):
            assert torch.equal(mine, its) and mine.shape[-2] == 5
