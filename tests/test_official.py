"""Drafts from elsewhere and for elsewhere: published layouts, and engines that serve EAGLE."""

import json
import warnings

import pytest
import torch
from conftest import GOLDEN, tiny_draft, tiny_target
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, GemmaConfig, GemmaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

from fspad_ref import Draft, Target
from fspad_ref.draft import KINDS
from fspad_ref.errors import CheckpointError, ConfigError, TargetMismatch
from fspad_ref.official import EAGLE_NAMES

PLAIN = dict(feature_sampling=False, partial_alignment=False)
# As on the Hub, for the tiny target: no rope_theta, as for Vicuna, whose value is Llama's default.
CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 24, "num_attention_heads": 4,
          "max_position_embeddings": 2048, "num_hidden_layers": 1, "rms_norm_eps": 1e-06, "vocab_size": 31}  # fmt: skip


def same(one: Draft, other: Draft) -> bool:
    ids = torch.arange(9)[None]
    features = one.target.features(ids[:, :-1])
    outputs = zip(one(features, ids[:, 1:]), other(features, ids[:, 1:]), strict=True)
    return all(torch.equal(a, b) for a, b in outputs)


def publish(draft: Draft, folder, changes: dict | None = None, extra: dict | None = None):
    """A plain EAGLE draft as it stands on the Hub: a pickle, its config, the embedding among the tensors."""
    tensors = {EAGLE_NAMES[name]: tensor for name, tensor in draft.state_dict().items()}
    tensors["embed_tokens.weight"] = draft.target.embed.weight.detach()
    torch.save(tensors | (extra or {}), folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(CONFIG | (changes or {})))
    return folder


@pytest.mark.parametrize("ours", [{}, {"fuse_bias": False}, {"qkv_bias": True}, {"rms_norm_eps": 1e-3}], ids=str)
def test_a_published_draft_loads_from_its_folder(target, tmp_path, ours):
    """With fc.bias or without, with biases of the attention as for Qwen2, with an epsilon of its own."""
    draft = tiny_draft(target, seed=1, **PLAIN, **ours)
    loaded = Draft.from_official(publish(draft, tmp_path, ours), target)
    assert loaded.config == draft.config and same(loaded, draft)
    assert same(loaded, tiny_draft(target, seed=1, **PLAIN)) == (not ours)
    if "rms_norm_eps" not in ours:  # which the config alone tells
        again = Draft.from_official(str(tmp_path / "pytorch_model.bin"), target)
        assert again.config.kind == "eagle" and same(again, draft)


@pytest.mark.parametrize("kind", ["eagle", "wopad", "wofs", "fspad"])
def test_a_training_state_of_the_reference_loads_from_its_folder(golden_target, tmp_path, kind):
    """What `accelerator.save_state` writes: weights without a config, beside the states of optimizer and generators."""
    file, whole = tmp_path / "model.safetensors", GOLDEN / f"draft_{kind}.safetensors"
    (tmp_path / "optimizer.bin").write_bytes(b"not read")
    for prefix in ("", "module."):
        save_file({prefix + name: tensor for name, tensor in load_file(whole).items()}, file)
        assert same(Draft.from_official(tmp_path, golden_target), Draft.from_official(whole, golden_target))


def test_a_published_config_of_another_target_is_refused(target, tmp_path):
    for changes, found in (
        ({"vocab_size": 37}, r"vocab_size 37 \(target: 31\)"),
        ({"num_attention_heads": 2}, r"head_dim 12 \(target: 6\)"),
        ({"rope_theta": 500000.0}, r"rope .*500000.*\(target: "),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, r"rope .*linear.*\(target: "),
    ):
        with pytest.raises(TargetMismatch, match=f"expected a draft made for this target, found .*{found}"):
            Draft.from_official(publish(tiny_draft(target, **PLAIN), tmp_path, changes), target)


@pytest.mark.parametrize("name", ["embed_tokens.weight", "lm_head.weight"])
def test_a_copy_of_what_is_the_targets_is_dropped_and_another_refused(target, tmp_path, name):
    draft = tiny_draft(target, **PLAIN)
    own = {"lm_head.weight": target.lm_head.weight, "embed_tokens.weight": target.embed.weight}[name].detach()
    loaded = Draft.from_official(publish(draft, tmp_path, extra={name: own}), target)
    assert same(loaded, draft) and name not in loaded.state_dict()
    with pytest.raises(TargetMismatch, match=f"expected {name} .*to equal the target's, found another.*Load"):
        Draft.from_official(publish(draft, tmp_path, extra={name: 2 * own}), target)


def test_what_is_no_published_draft_is_named(target, tmp_path):
    save_file({"midlayer.hidden_norm.weight": torch.ones(24)}, tmp_path / "eagle3.safetensors")
    tiny_draft(target).save_pretrained(tmp_path / "ours")
    (tmp_path / "empty").mkdir()
    for path, message in (
        (tmp_path / "eagle3.safetensors", "EAGLE, EAGLE-2 or FSPAD .*found an EAGLE-3"),
        (tmp_path / "ours", "use Draft.from_pretrained"),
        (tmp_path / "absent", "expected a file at .*absent, found none"),
        (tmp_path / "empty", "expected a file at .*empty/model.safetensors, found none"),
        (GOLDEN / "target.safetensors", "EAGLE, EAGLE-2 or FSPAD .*found no tensor for our fuse.weight.*Give the file"),
    ):
        with pytest.raises(CheckpointError, match=message):
            Draft.from_official(path, target)


LAYER = "post_attention_layernorm self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj".split()
LAYER += "mlp.gate_proj mlp.up_proj mlp.down_proj".split()
PUBLISHED = {"embed_tokens.weight", "fc.weight", "fc.bias", *(f"layers.0.{part}.weight" for part in LAYER)}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}  # fmt: skip


def as_an_engine_reads(folder, features, next_token_ids):
    """fc, then transformers' own Llama layer without its first norm: config.json and names as an engine takes them."""
    config, tensors = AutoConfig.from_pretrained(folder), load_file(folder / "model.safetensors")
    config._attn_implementation = "sdpa"
    layer = LlamaDecoderLayer(config, layer_idx=0).to(features.dtype)
    layer.input_layernorm = torch.nn.Identity()
    layer.load_state_dict({f"{part}.weight": tensors[f"layers.0.{part}.weight"] for part in LAYER})
    pairs = torch.cat((tensors["embed_tokens.weight"][next_token_ids], features), -1)
    fused = pairs @ tensors["fc.weight"].T + tensors["fc.bias"]
    positions = torch.arange(features.shape[1])[None]
    rotation = LlamaRotaryEmbedding(config)(fused, positions)
    return layer(fused, attention_mask=None, position_ids=positions, position_embeddings=rotation)


@pytest.mark.parametrize("fuse_bias", [True, False], ids=["with bias", "without bias"])
@pytest.mark.parametrize("rope", [{}, {"rope_parameters": LLAMA3}], ids=["plain", "llama3"])
def test_an_exported_draft_is_the_same_to_an_engine_and_comes_back(tmp_path, rope, fuse_bias):
    target = tiny_target(**rope)
    draft = tiny_draft(target, seed=1, **PLAIN, fuse_bias=fuse_bias, intermediate_size=32, num_kv_heads=4)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        draft.to_official(tmp_path, architecture="LlamaForCausalLMEagle")
    assert any("vLLM's EAGLE model has no fc.bias" in str(one.message) for one in caught) == fuse_bias
    assert load_file(tmp_path / "model.safetensors").keys() == PUBLISHED
    ids = torch.arange(12)[None]
    features = target.features(ids[:, :-1])
    with torch.no_grad():
        theirs, ours = as_an_engine_reads(tmp_path, features, ids[:, 1:]), draft(features, ids[:, 1:])
    torch.testing.assert_close(theirs, ours.logit_feature, rtol=1e-6, atol=1e-6)  # their cosines are float32
    back = Draft.from_official(tmp_path, target)
    assert same(back, draft) and back.config.kind == "eagle"
    config = json.loads((tmp_path / "config.json").read_text())  # with RoPE in the older spelling
    assert config["architectures"] == ["LlamaForCausalLMEagle"] and config["num_hidden_layers"] == 1
    assert config["rope_theta"] == (5e5 if rope else 1e4) and bool(config["rope_scaling"]) == bool(rope)
    assert config["eos_token_id"] == target.config.eos_token_id and config["torch_dtype"] == "float64"
    assert "bias" not in config, "EAGLE's reference reads it as a bias of fc, vLLM as biases of the attention"


def test_what_engines_cannot_express_is_refused(target, tmp_path):
    for kind, (sampling, alignment) in list(KINDS.items())[1:]:
        with pytest.raises(ConfigError, match=f"a plain EAGLE draft to export, found '{kind}'.*Train"):
            tiny_draft(target, feature_sampling=sampling, partial_alignment=alignment).to_official(tmp_path)
    sizes = dict(vocab_size=31, hidden_size=24, intermediate_size=40, num_hidden_layers=1, num_attention_heads=4)
    gemma = Target(GemmaForCausalLM(GemmaConfig(**sizes, num_key_value_heads=1, head_dim=6)))
    with pytest.raises(ConfigError, match="embedding is a plain table, found Gemma"):
        tiny_draft(gemma, **PLAIN).to_official(tmp_path)
    assert not list(tmp_path.iterdir())
