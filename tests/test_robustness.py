"""Bad drafts, bad files, bad arguments: the text stays right, or the error says what is wrong."""

import json

import pytest
import torch
from conftest import tiny_draft, tiny_target
from safetensors.torch import load_file, save_file
from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OlmoConfig,
    OlmoForCausalLM,
)

from fspad_ref import (
    Draft,
    DraftConfig,
    SamplingConfig,
    Target,
    autoregressive_generate,
    fspad_generate,
    speculative_generate,
)
from fspad_ref.errors import CheckpointError, ConfigError, InputError, TargetMismatch, UnsupportedTarget
from fspad_ref.generate import Generation, Stop

PROMPT = [2, 7, 5, 11, 3]


@pytest.fixture
def saved(tmp_path):
    """A tiny target in a folder, to be damaged."""
    tiny_target(dtype=torch.float32).model.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("head", [0, 24], ids=["logit head", "aligned head"])
def test_a_draft_full_of_nan_is_useless_but_not_wrong(target, head):
    draft = tiny_draft(target, feature_sampling=True, partial_alignment=True)
    with torch.no_grad():
        draft.layer.down.weight[head, 0] = torch.nan
    for seed in range(10):
        settings = dict(max_new_tokens=15, sampling=SamplingConfig(1.0, seed=seed))
        plain = autoregressive_generate(target, PROMPT, **settings)
        fast = speculative_generate(target, draft, PROMPT, **settings)
        assert fast.tokens == plain.tokens, "law broken: a draft, even one of NaN, never changes the text"


def test_a_token_behind_the_end_of_the_text_is_nobodys_business():
    result = Generation()
    assert Stop(10, 5, None, None).take(result, [3, 5, -1], accepted=2)
    assert result.tokens == [3, 5] and result.accepted == [2]


def test_stop_ends_the_text_inside_a_block(target, draft):
    full = autoregressive_generate(target, PROMPT, max_new_tokens=20).tokens
    for length in range(1, 20):
        cut = speculative_generate(target, draft, PROMPT, max_new_tokens=20, stop=lambda t, n=length: len(t) >= n)
        assert cut.tokens == full[:length], "law broken: a stop condition ends the text inside a block too"


def test_rope_frequencies_keep_their_precision_in_a_half_precision_draft():
    draft = Draft(DraftConfig(), tiny_target(dtype=torch.bfloat16))
    assert draft.rotary.inv_freq.dtype == torch.float32


# --- targets -------------------------------------------------------------------------------------------------------

SIZES = dict(vocab_size=31, hidden_size=24, intermediate_size=40, num_hidden_layers=1, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64)  # fmt: skip
LATENT = dict(kv_lora_rank=8, q_lora_rank=8, qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=6,
              first_k_dense_replace=1, num_key_value_heads=4)  # fmt: skip


@pytest.mark.parametrize(
    "model, message",
    [
        (lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=16)), "sliding_window=16"),
        (lambda: GraniteForCausalLM(GraniteConfig(**SIZES, logits_scaling=8.0)), "logits_scaling=8.0"),
        (lambda: DeepseekV3ForCausalLM(DeepseekV3Config(**SIZES | LATENT)), r"latent attention \(kv_lora_rank=8\)"),
        (lambda: OlmoForCausalLM(OlmoConfig(**SIZES)), "rms_norm_eps, found olmo"),
    ],
    ids=["sliding window", "scaled logits", "latent attention", "another norm"],
)
def test_targets_that_cannot_work_are_refused_by_name(model, message):
    with pytest.raises(UnsupportedTarget, match=message):
        Target(model())


def test_mistral_without_a_sliding_window_works():
    torch.manual_seed(0)
    target = Target(MistralForCausalLM(MistralConfig(**SIZES, sliding_window=None)).double())
    draft = tiny_draft(target)
    plain = autoregressive_generate(target, PROMPT, max_new_tokens=30)
    assert speculative_generate(target, draft, PROMPT, max_new_tokens=30).tokens == plain.tokens


def damage(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_target_with_a_missing_tensor_is_refused(saved):
    damage(saved, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(CheckpointError, match="no tensor for model.layers.1.mlp.up_proj.weight"):
        Target.from_pretrained(str(saved))


def test_a_target_with_nan_is_refused(saved):
    damage(saved, lambda tensors: tensors["model.norm.weight"].fill_(torch.nan))
    with pytest.raises(CheckpointError, match="NaN or infinity in model.norm.weight"):
        Target.from_pretrained(str(saved))


def test_a_truncated_target_is_refused(saved):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="expected a Hugging Face causal LM"):
        Target.from_pretrained(str(saved))


def test_tied_weights_are_not_missing(tmp_path):
    LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True)).save_pretrained(tmp_path)
    target = Target.from_pretrained(str(tmp_path))
    assert target.lm_head.weight is target.embed.weight


def test_an_unknown_dtype_is_refused(saved):
    with pytest.raises(ConfigError, match="found 'float23'"):
        Target.from_pretrained(str(saved), dtype="float23")


# --- drafts --------------------------------------------------------------------------------------------------------


def test_a_draft_survives_its_files(target, draft, tmp_path):
    draft.save_pretrained(tmp_path)
    again = Draft.from_pretrained(tmp_path, target)
    assert again.config == draft.config
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), draft.state_dict().values(), strict=True))


def test_a_draft_refuses_another_target_of_the_same_shape(target, draft, tmp_path):
    draft.save_pretrained(tmp_path)
    with pytest.raises(TargetMismatch, match="embedding_hash"):
        Draft.from_pretrained(tmp_path, tiny_target(seed=1))
    with pytest.raises(TargetMismatch, match=r"hidden_size 24 \(target: 32\)"):
        Draft.from_pretrained(tmp_path, tiny_target(hidden_size=32))


def test_the_precision_of_the_target_does_not_matter(draft, tmp_path):
    target = tiny_target(dtype=torch.bfloat16)
    tiny_draft(target).save_pretrained(tmp_path)
    assert Draft.from_pretrained(tmp_path, tiny_target_as(target, torch.float64)).fuse.weight.dtype == torch.float64


def tiny_target_as(target, dtype):
    model = LlamaForCausalLM(target.config)
    model.load_state_dict(target.model.state_dict())
    return Target(model.to(dtype))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.pop("fuse.weight"), r"missing fuse.weight \(24, 48\)"),
        (lambda t: t.update(extra=torch.zeros(2)), r"unknown extra \(2,\)"),
        (lambda t: t.update({"layer.o.weight": torch.zeros(3, 3)}), r"layer.o.weight is \(3, 3\), expected \(24, 24\)"),
        (lambda t: t["layer.o.weight"].fill_(torch.inf), "NaN or infinity in layer.o.weight"),
    ],
    ids=["missing", "unknown", "mis-shaped", "infinite"],
)
def test_damaged_drafts_are_refused(target, tmp_path, change, message):
    tiny_draft(target).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        Draft.from_pretrained(tmp_path, target)


def test_a_pickle_under_the_name_of_safetensors_is_refused(target, tmp_path):
    tiny_draft(target).save_pretrained(tmp_path)
    torch.save({"fuse.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="found a pickle"):
        Draft.from_pretrained(tmp_path, target)


def test_a_folder_of_another_kind_is_refused(target, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(CheckpointError, match="Draft.from_official"):
        Draft.from_pretrained(tmp_path, target)


# --- model.generate ------------------------------------------------------------------------------------------------


def test_adapter_refuses_another_model(target, draft):
    other = tiny_target(seed=2)
    with pytest.raises(TargetMismatch, match="model that the draft's target wraps"):
        other.model.generate(torch.tensor([PROMPT]), max_new_tokens=3, custom_generate=fspad_generate, draft=draft)


def test_adapter_refuses_padding(target, draft):
    ids, mask = torch.tensor([[0, 0, *PROMPT]]), torch.tensor([[0, 0] + [1] * len(PROMPT)])
    with pytest.raises(InputError, match="without padding"):
        target.model.generate(ids, attention_mask=mask, max_new_tokens=3, custom_generate=fspad_generate, draft=draft)


def test_adapter_honours_stopping_criteria_within_a_block(target, draft):
    def seven(ids, scores, **kwargs):
        return torch.full((ids.shape[0],), ids.shape[1] >= 12, device=ids.device)

    settings = dict(max_new_tokens=20, do_sample=False, eos_token_id=1, stopping_criteria=[seven])
    ids = torch.tensor([PROMPT])
    theirs = target.model.generate(ids, **settings)
    ours = target.model.generate(ids, custom_generate=fspad_generate, draft=draft, **settings)
    assert ours.tolist() == theirs.tolist() and ours.shape[1] <= 12
