"""Drafts from elsewhere and for elsewhere: published layouts, the Hub, and engines that serve EAGLE."""

import json
import shutil
import warnings
from types import SimpleNamespace

import pytest
import torch
from conftest import GOLDEN, tiny_draft, tiny_target
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, GemmaConfig, GemmaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

from fspad_ref import Draft, DraftConfig, Target, TreeConfig, autoregressive_generate, hub, speculative_generate
from fspad_ref.errors import CheckpointError, ConfigError, TargetMismatch
from fspad_ref.official import EAGLE_NAMES

PLAIN = dict(feature_sampling=False, partial_alignment=False)
# As on the Hub, for the tiny target: no rope_theta, as for Vicuna, whose value is Llama's default.
CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 24, "intermediate_size": 40,
          "max_position_embeddings": 2048, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 1,
          "rms_norm_eps": 1e-06, "vocab_size": 31, "hidden_act": "silu"}  # fmt: skip


@pytest.fixture(scope="module")
def target() -> Target:
    return tiny_target()


def same(one: Draft, other: Draft) -> bool:
    ids = torch.arange(9)[None]
    features = one.target.features(ids[:, :-1])
    with torch.no_grad():
        pairs = zip(one(features, ids[:, 1:]), other(features, ids[:, 1:]), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def publish(draft: Draft, folder, changes: dict | None = None, extra: dict | None = None):
    """A plain EAGLE draft as it stands on the Hub: a pickle, its config, the embedding among the tensors."""
    folder.mkdir(exist_ok=True)
    tensors = {EAGLE_NAMES[name]: tensor for name, tensor in draft.state_dict().items()}
    tensors["embed_tokens.weight"] = draft.target.embed.weight.detach()
    torch.save(tensors | (extra or {}), folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(CONFIG | (changes or {})))
    return folder


# --- reading -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fuse_bias", [True, False], ids=["with fc.bias", "without fc.bias"])
def test_a_published_draft_loads_from_its_folder(target, tmp_path, fuse_bias):
    torch.manual_seed(1)
    draft = Draft(DraftConfig(**PLAIN, fuse_bias=fuse_bias), target).eval()
    loaded = Draft.from_official(publish(draft, tmp_path, {} if fuse_bias else {"bias": False}), target)
    assert loaded.config == draft.config and same(loaded, draft)
    assert "embed_tokens.weight" not in loaded.state_dict()
    again = Draft.from_official(str(tmp_path / "pytorch_model.bin"), target)  # the file alone, as before
    assert again.config.kind == "eagle" and same(again, draft)


def test_a_published_epsilon_is_the_drafts_own(target, tmp_path):
    loaded = Draft.from_official(publish(tiny_draft(target, **PLAIN), tmp_path, {"rms_norm_eps": 1e-3}), target)
    assert loaded.layer.norm.eps == 1e-3 and target.config.rms_norm_eps != 1e-3


@pytest.mark.parametrize(
    "changes, found",
    [
        ({"vocab_size": 37}, r"vocab_size 37 \(target: 31\)"),
        ({"num_attention_heads": 2}, r"head_dim 12 \(target: 6\)"),
        ({"rope_theta": 500000.0}, r"rope .*500000.*\(target: "),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, r"rope .*linear.*\(target: "),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_a_published_config_of_another_target_is_refused(target, tmp_path, changes, found):
    with pytest.raises(TargetMismatch, match=f"expected a draft made for this target, found .*{found}"):
        Draft.from_official(publish(tiny_draft(target, **PLAIN), tmp_path, changes), target)


def test_a_draft_with_biases_of_queries_keys_and_values_loads(target, tmp_path):
    """As published for Qwen2."""
    torch.manual_seed(1)
    draft = Draft(DraftConfig(**PLAIN, qkv_bias=True), target).eval()
    loaded = Draft.from_official(publish(draft, tmp_path, {"qkv_bias": True}), target)
    assert loaded.config.qkv_bias and same(loaded, draft) and not same(loaded, tiny_draft(target, seed=1, **PLAIN))


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("kind", ["eagle", "wopad", "wofs", "fspad"])
def test_a_training_state_of_the_reference_loads_from_its_folder(golden_target, tmp_path, kind, prefix):
    """What `accelerator.save_state` writes: weights without a config, beside the states of optimizer and generators."""
    tensors = load_file(GOLDEN / f"draft_{kind}.safetensors")
    save_file({prefix + name: tensor for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    (tmp_path / "optimizer.bin").write_bytes(b"not read")
    whole = Draft.from_official(GOLDEN / f"draft_{kind}.safetensors", golden_target)
    assert same(Draft.from_official(tmp_path, golden_target), whole)


def test_what_is_no_published_draft_is_named(target, tmp_path):
    tensors = {"midlayer.hidden_norm.weight": torch.ones(24), "fc.weight": torch.ones(24, 72), "d2t": torch.ones(3)}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="EAGLE, EAGLE-2 or FSPAD .*found one of EAGLE-3"):
        Draft.from_official(tmp_path, target)
    tiny_draft(target).save_pretrained(tmp_path / "ours")
    with pytest.raises(CheckpointError, match="use Draft.from_pretrained"):
        Draft.from_official(tmp_path / "ours", target)
    with pytest.raises(CheckpointError, match="expected a file at .*absent, found none"):
        Draft.from_official(tmp_path / "absent", target)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="expected a file at .*empty/model.safetensors, found none"):
        Draft.from_official(tmp_path / "empty", target)


def test_a_copy_of_lm_head_is_dropped_and_another_refused(target, tmp_path):
    draft = tiny_draft(target, **PLAIN)
    own = {"lm_head.weight": target.lm_head.weight.detach()}
    assert same(Draft.from_official(publish(draft, tmp_path, extra=own), target), draft)
    other = {"lm_head.weight": 2 * own["lm_head.weight"]}
    with pytest.raises(TargetMismatch, match="expected lm_head.weight .*to equal the target's, found another"):
        Draft.from_official(publish(draft, tmp_path, extra=other), target)


def test_a_published_draft_comes_from_the_hub_by_its_id(target, tmp_path, monkeypatch):
    draft, asked = tiny_draft(target, **PLAIN), []

    def download(repo_id, **options):
        asked.append((repo_id, options["revision"], options["allow_patterns"]))
        return str(publish(draft, tmp_path / "snapshot"))

    monkeypatch.setattr(hub, "snapshot_download", download)
    assert same(Draft.from_official("someone/EAGLE-tiny", target, revision="v1"), draft)
    assert asked == [("someone/EAGLE-tiny", "v1", ["config.json", "*.safetensors", "*.bin"])]

    def refuse(repo_id, **options):
        raise OSError("offline")

    monkeypatch.setattr(hub, "snapshot_download", refuse)
    with pytest.raises(CheckpointError, match="'someone/EAGLE-tiny' to be .*found neither: offline.*the network"):
        Draft.from_official("someone/EAGLE-tiny", target)


# --- the Hub, both ways ----------------------------------------------------------------------------------------------


class FakeHub:
    """huggingface_hub's API as the mixin calls it, and the download of single files, in a folder."""

    def __init__(self, folder):
        self.folder, self.pushed = folder, {}

    def __call__(self, token=None):
        return self

    def create_repo(self, repo_id, private=None, exist_ok=False):
        return SimpleNamespace(repo_id=repo_id)

    def upload_folder(self, repo_id, folder_path, commit_message, revision, **rest):
        shutil.copytree(folder_path, self.folder / repo_id)
        self.pushed = {"message": commit_message, "revision": revision}
        return f"https://hub/{repo_id}/commit"

    def download(self, repo_id, name, **options):
        path = self.folder / repo_id / name
        if not path.exists():
            raise OSError(f"404 for {repo_id}/{name}")
        return str(path)


@pytest.fixture
def online(tmp_path, monkeypatch) -> FakeHub:
    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", fake)
    monkeypatch.setattr(hub, "hf_hub_download", fake.download)
    return fake


def test_a_pushed_draft_comes_back_by_its_id(target, online):
    draft = tiny_draft(target)
    url = draft.push_to_hub("someone/fspad-tiny", branch="dev", commit_message="first")
    assert url == "https://hub/someone/fspad-tiny/commit" and online.pushed == {"message": "first", "revision": "dev"}
    files = {file.name for file in (online.folder / "someone/fspad-tiny").iterdir()}
    assert files == {"README.md", "config.json", "model.safetensors"}
    card = (online.folder / "someone/fspad-tiny/README.md").read_text()
    assert 'Draft.from_pretrained("someone/fspad-tiny", target)' in card and "(fspad)" in card and "2408.15562" in card
    loaded = Draft.from_pretrained("someone/fspad-tiny", target)
    assert loaded.config == draft.config and same(loaded, draft)
    with pytest.raises(TargetMismatch, match="embedding_hash"):
        Draft.from_pretrained("someone/fspad-tiny", tiny_target(seed=1))
    with pytest.raises(CheckpointError, match="found neither: 404.*Check the path, or the id and the network"):
        Draft.from_pretrained("someone/absent", target)


def test_saving_may_push_and_without_it_writes_two_files(target, online, tmp_path):
    draft = tiny_draft(target)
    draft.save_pretrained(tmp_path / "fspad-tiny")
    assert {file.name for file in (tmp_path / "fspad-tiny").iterdir()} == {"config.json", "model.safetensors"}
    assert not online.pushed
    assert (
        draft.save_pretrained(tmp_path / "fspad-tiny", push_to_hub=True, branch="b") == "https://hub/fspad-tiny/commit"
    )
    assert same(Draft.from_pretrained(online.folder / "fspad-tiny", target), draft)
    with pytest.raises(ConfigError, match="only with push_to_hub=True, found branch"):
        draft.save_pretrained(tmp_path, branch="b")
    with pytest.raises(ConfigError, match="no config to save with a draft"):
        draft.save_pretrained(tmp_path, config={"hidden_size": 1})


# --- writing for engines that serve EAGLE --------------------------------------------------------------------------

PUBLISHED = {
    "embed_tokens.weight", "fc.weight", "fc.bias", "layers.0.post_attention_layernorm.weight",
    *(f"layers.0.self_attn.{part}_proj.weight" for part in "qkvo"),
    *(f"layers.0.mlp.{part}_proj.weight" for part in ("gate", "up", "down")),
}  # fmt: skip


def as_an_engine_reads(folder, target, features, next_token_ids):
    """fc, then transformers' own Llama layer without its first norm: config.json and names as an engine takes them."""
    config, tensors = AutoConfig.from_pretrained(folder), load_file(folder / "model.safetensors")
    config._attn_implementation = "sdpa"
    layer = LlamaDecoderLayer(config, layer_idx=0).to(features.dtype)
    layer.input_layernorm = torch.nn.Identity()
    prefix = "layers.0."
    layer.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    embedding = torch.nn.functional.embedding(next_token_ids, tensors["embed_tokens.weight"])
    fused = torch.cat((embedding, features), -1) @ tensors["fc.weight"].T + tensors["fc.bias"]
    positions = torch.arange(features.shape[1])[None]
    rotation = LlamaRotaryEmbedding(config)(fused, positions)
    out = layer(fused, attention_mask=None, position_ids=positions, position_embeddings=rotation)
    return out[0] if isinstance(out, tuple) else out


ROPES = {
    "plain": None,
    "llama3": {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
               "high_freq_factor": 4.0, "original_max_position_embeddings": 32},
}  # fmt: skip


@pytest.mark.parametrize("fuse_bias", [True, False], ids=["with bias", "without bias"])
@pytest.mark.parametrize("rope", ROPES)
def test_an_exported_draft_is_the_same_to_an_engine_and_comes_back(tmp_path, rope, fuse_bias):
    target = tiny_target(**({"rope_parameters": ROPES[rope]} if ROPES[rope] else {}))
    torch.manual_seed(1)
    draft = Draft(DraftConfig(**PLAIN, fuse_bias=fuse_bias, intermediate_size=32, num_kv_heads=4), target).eval()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        draft.to_official(tmp_path)
    assert any("vLLM's EAGLE model has no fc.bias" in str(one.message) for one in caught) == fuse_bias
    assert load_file(tmp_path / "model.safetensors").keys() == PUBLISHED
    ids = torch.arange(12)[None]
    features = target.features(ids[:, :-1])
    with torch.no_grad():
        theirs, ours = as_an_engine_reads(tmp_path, target, features, ids[:, 1:]), draft(features, ids[:, 1:])
    torch.testing.assert_close(theirs, ours.logit_feature, rtol=1e-6, atol=1e-6)  # their cosines are float32
    back = Draft.from_official(tmp_path, target)
    assert same(back, draft) and back.config.kind == "eagle"
    text = autoregressive_generate(target, [2, 7, 5], max_new_tokens=12).tokens
    assert speculative_generate(target, back, [2, 7, 5], max_new_tokens=12, tree=TreeConfig(3, 2, 8)).tokens == text


def test_the_config_names_the_engines_class(target, tmp_path):
    torch.manual_seed(1)
    draft = Draft(DraftConfig(**PLAIN, fuse_bias=False), target)
    draft.to_official(tmp_path, architecture="LlamaForCausalLMEagle")
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLMEagle"] and config["model_type"] == "llama"
    assert config["num_hidden_layers"] == 1 and config["rope_theta"] == 10000.0 and config["rope_scaling"] is None
    assert "bias" not in config, "EAGLE's reference reads it as a bias of fc, vLLM as biases of the attention"
    assert config["eos_token_id"] == target.config.eos_token_id and config["torch_dtype"] == "float64"


@pytest.mark.parametrize("parts", [(True, False), (False, True), (True, True)], ids=["fs", "pad", "fspad"])
def test_what_engines_cannot_express_is_refused(target, tmp_path, parts):
    draft = tiny_draft(target, feature_sampling=parts[0], partial_alignment=parts[1])
    with pytest.raises(ConfigError, match="expected a plain EAGLE draft to export, found .*gate.*second head.*Train"):
        draft.to_official(tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_embedding_that_is_no_plain_table_is_refused(tmp_path):
    sizes = dict(vocab_size=31, hidden_size=24, intermediate_size=40, num_hidden_layers=1, num_attention_heads=4)
    gemma = Target(GemmaForCausalLM(GemmaConfig(**sizes, num_key_value_heads=1, head_dim=6)))
    with pytest.raises(ConfigError, match="embedding is a plain table, found Gemma"):
        tiny_draft(gemma, **PLAIN).to_official(tmp_path)
