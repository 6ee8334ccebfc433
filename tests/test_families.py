"""What decoding asks of a target holds for every supported family, and on several devices; others are refused."""

from types import SimpleNamespace

import pytest
import torch
import transformers as hf
from conftest import tiny_draft, tiny_target
from transformers import LlamaConfig

from fspad_ref import SamplingConfig, Target, TreeConfig, autoregressive_generate, speculative_generate
from fspad_ref.cache import KVCache
from fspad_ref.errors import ConfigError, UnsupportedTarget
from fspad_ref.support import TESTED, SpreadCache, come_home, layer_devices, refuse_unsupported
from fspad_ref.tree import ancestors

SIZES = dict(vocab_size=31, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
             max_position_embeddings=128, initializer_range=0.25, eos_token_id=1, pad_token_id=0)  # fmt: skip
GROUPED = dict(SIZES, num_key_value_heads=2)
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}  # fmt: skip
EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, decoder_sparse_step=1)
FAMILIES = {
    "Llama, Llama 2, Vicuna": LlamaConfig(**SIZES, num_key_value_heads=4),
    "LLaMA-3": LlamaConfig(**GROUPED, rope_parameters={"rope_type": "default", "rope_theta": 5e5}),
    "LLaMA-3.1": LlamaConfig(**GROUPED, rope_parameters=LLAMA3),
    "LLaMA-3.2, SmolLM2": LlamaConfig(**GROUPED, rope_parameters=LLAMA3, tie_word_embeddings=True),
    "Mistral": hf.MistralConfig(**GROUPED, sliding_window=None),
    "Mixtral": hf.MixtralConfig(**GROUPED, num_local_experts=4),
    "Qwen2": hf.Qwen2Config(**GROUPED, tie_word_embeddings=True),
    "Qwen3": hf.Qwen3Config(**GROUPED, head_dim=8),
    "Qwen3 MoE": hf.Qwen3MoeConfig(**GROUPED, **EXPERTS, head_dim=8),
    "Gemma": hf.GemmaConfig(**SIZES, num_key_value_heads=1, head_dim=8),
    "OLMo 2": hf.Olmo2Config(**GROUPED),
}
PROMPT = [2, 7, 5, 11, 3]


def save(config, folder):
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(config, dtype=torch.float64)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("norm.weight", "bias")):  # ones and zeros would hide what is left out
                weight += 0.3 * torch.randn_like(weight)
    model.save_pretrained(folder)
    return model


def test_every_family_that_is_let_in_is_tested_here():
    assert {config.model_type for config in FAMILIES.values()} == set(TESTED)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory) -> Target:
    """The model, saved and loaded again."""
    folder = tmp_path_factory.mktemp("target")
    save(FAMILIES[request.param], folder)
    options = {"experts_implementation": "eager"} if request.param in ("Mixtral", "Qwen3 MoE") else {}
    return Target.from_pretrained(str(folder), dtype="float64", **options)  # the faster ones of experts lack float64


def test_a_tree_forward_equals_one_forward_per_path_and_gives_the_models_logits(family):
    token, parent, depth = [4, 9, 9, 6, 8, 4, 1], [0, 0, 0, 1, 1, 2, 5], [0, 1, 1, 2, 2, 2, 3]
    above = ancestors(torch.tensor(parent), 3)
    cache = family.new_cache(len(PROMPT) + len(token))
    family.features(torch.tensor([PROMPT]), cache=cache)
    found = family.tree_features(torch.tensor(token), torch.tensor(depth), above, cache)
    for node in range(len(token)):
        path = [token[one] for one in above[node].nonzero().flatten().tolist()]
        alone, logits = family.features(ids := torch.tensor([PROMPT + path])), family.model(input_ids=ids).logits
        torch.testing.assert_close(found[node], alone[0, -1], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(family.lm_head(alone), logits, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("sampling", [SamplingConfig(), SamplingConfig(1.0, seed=3)], ids=["greedy", "T=1"])
def test_the_text_is_that_of_plain_decoding(family, sampling):
    draft = tiny_draft(family)
    plain = autoregressive_generate(family, PROMPT, max_new_tokens=25, sampling=sampling)
    fast = speculative_generate(family, draft, PROMPT, max_new_tokens=25, sampling=sampling, tree=TreeConfig(4, 3, 20))
    assert fast.tokens == plain.tokens, "a draft never changes the text"
    if sampling.greedy:
        theirs = family.model.generate(torch.tensor([PROMPT]), max_new_tokens=25, min_new_tokens=25, do_sample=False)
        forbid_end = [lambda ids, scores: scores.index_fill(1, torch.tensor([1]), -torch.inf)]
        without_end = autoregressive_generate(family, PROMPT, max_new_tokens=25, processors=forbid_end)
        assert theirs[0, len(PROMPT) :].tolist() == without_end.tokens


def test_the_older_format_of_the_files_gives_the_same_target(tmp_path):
    model = save(FAMILIES["Qwen2"], tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    loaded = Target.from_pretrained(str(tmp_path), dtype="float64", local_files_only=True)
    assert all(torch.equal(weight, loaded.model.state_dict()[name]) for name, weight in model.state_dict().items())
    half = Target.from_pretrained(str(tmp_path), dtype="bfloat16", device_map="cpu", device="cuda:7")
    assert half.dtype == torch.bfloat16 and half.device.type == "cpu" and half.lm_head.weight is half.embed.weight
    with pytest.raises(ConfigError, match="expected a tokenizer to give the chat format 'vicuna' to, found none"):
        Target.from_pretrained(str(tmp_path), chat_format="vicuna")


# --- several devices ----------------------------------------------------------------------------------------------
# A layer whose weights are on disk stands in for one on another device: accelerate puts the same hooks in place, and
# computes for real. What differs with real devices, where results, keys and values lie, is tested by parts.

PARTS = ("model.embed_tokens", "model.rotary_emb", "model.layers.0", "model.layers.1", "model.norm", "lm_head")


def spread(folder, offloaded: str) -> Target:
    """The tiny target, one part on disk, the others on the CPU."""
    tiny_target().model.save_pretrained(folder)
    options = {"device_map": dict.fromkeys(PARTS, "cpu") | {offloaded: "disk"}, "offload_folder": str(folder / "off")}
    return Target.from_pretrained(str(folder), dtype="float64", **options)


def test_a_target_on_several_devices_is_that_of_one(tmp_path, target):
    several, ids = spread(tmp_path, "model.layers.0"), torch.tensor([PROMPT])
    assert several.devices == [torch.device("cpu")] * 2 and not target.devices
    features = several.features(ids)
    torch.testing.assert_close(features, target.features(ids))
    torch.testing.assert_close(several.lm_head(features), target.lm_head(features))
    settings = dict(max_new_tokens=12, tree=TreeConfig(top_k=3, depth=2, total_tokens=8))
    one, other = (speculative_generate(one, tiny_draft(one), PROMPT, **settings) for one in (several, target))
    assert one == other and one.tokens == autoregressive_generate(target, PROMPT, max_new_tokens=12).tokens
    for borrowed in ("model.embed_tokens", "lm_head"):
        with pytest.raises(UnsupportedTarget, match="found it offloaded by device_map.*give it a device"):
            spread(tmp_path, borrowed)


def test_a_layers_device_is_where_it_computes_and_results_come_home():
    """meta is the only device besides the CPU that every machine has."""
    come_home(lm_head := torch.nn.Linear(3, 5), torch.device("meta"))
    assert lm_head(torch.zeros(2, 3)).device.type == "meta"
    model = tiny_target().model
    assert layer_devices(model) == []
    model.hf_device_map = {"model.layers.0": 0, "model.layers.1": "disk"}
    model.model.layers[0]._hf_hook = SimpleNamespace(execution_device="cuda:1")
    assert layer_devices(model) == [torch.device("cuda", 1), torch.device("cpu")], "by its hook, else by its weights"


def test_a_spread_cache_does_what_a_whole_one_does_beside_its_layers():
    here, there = torch.device("cpu"), torch.device("meta")
    parts = SpreadCache([here, there, here], lambda layers, device: KVCache(layers, 2, 4, 12, device=device))
    assert [(len(part.layers), part.kv.device) for part in parts.parts.values()] == [(2, here), (1, there)]
    whole, old, new = KVCache(2, 2, 4, 12), torch.randn(1, 2, 6, 4), torch.randn(1, 2, 1, 4)
    for cache in (parts, whole):
        for layer in cache.layers:
            layer.update(old, old)
        cache.keep(3, torch.tensor([0, 2]))  # rows come from where tokens are chosen
        cache.truncate(4)
        assert cache.length == 4 and cache.capacity == 12
    for mine, its in ((0, 0), (2, 1)):
        pairs = zip(parts.layers[mine].update(new, new), whole.layers[its].update(new, new), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)
    assert [part.device for part in parts.layers[1].update(new, new)] == [there] * 2 and parts.length == 5


# --- those that cannot work ----------------------------------------------------------------------------------------

FULL = "full attention in every layer, found {} with {}.*cannot roll back"
LONG = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 3, "long_factor": [2.0] * 3, "factor": 2.0}

HALF = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}


@pytest.mark.parametrize(
    "config, found",
    [
        (hf.MistralConfig(**GROUPED, sliding_window=16), FULL.format("mistral", "sliding_window=16")),
        (hf.Qwen2Config(use_sliding_window=True, max_window_layers=4), FULL.format("qwen2", "sliding_window=4096")),
        (hf.Llama4TextConfig(), FULL.format("llama4_text", "layers of chunked_attention")),
        (hf.MambaConfig(), FULL.format("mamba", "layers of linear_attention")),
        (hf.GemmaConfig(use_bidirectional_attention=True), "causal attention, found gemma with use_bidirectional"),
        (LlamaConfig(**GROUPED, rope_parameters=LONG), "RoPE of the position alone, found llama with longrope"),
        (LlamaConfig(**GROUPED, rope_parameters=HALF), "RoPE over whole heads.*llama with partial_rotary_factor=0.5"),
        *((config(), f"a family that is tested .*found {config.model_type} with another architecture")
          for config in (hf.CohereConfig, hf.DeepseekV3Config, hf.GPT2Config, hf.GraniteConfig, hf.OlmoConfig)),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)  # fmt: skip
def test_targets_that_cannot_work_are_refused_by_name(config, found):
    with pytest.raises(UnsupportedTarget, match=f"expected a target with .*{found}.*Use a Llama-like model"):
        refuse_unsupported(config)


def test_refusals_come_before_anything_is_loaded_or_decoded(tmp_path):
    with pytest.raises(UnsupportedTarget, match="found 'flash_attention_2'.*attn_implementation='sdpa'"):
        Target.from_pretrained(str(tmp_path / "nothing here"), attn_implementation="flash_attention_2")
    save(hf.MistralConfig(**GROUPED, sliding_window=16), tmp_path)
    with pytest.raises(UnsupportedTarget, match="sliding_window=16"):
        Target.from_pretrained(str(tmp_path))
    refuse_unsupported(hf.Qwen2Config(use_sliding_window=False))  # a Qwen without its window is welcome
