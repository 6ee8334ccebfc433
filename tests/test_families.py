"""Targets of every supported family, tiny and random, through a folder: what decoding asks of them holds for each.

And those that cannot work are refused by name; and prompts get the format that their model was trained on.
"""

import copy
import json
import socket

import pytest
import torch
import transformers as hf
from conftest import tiny_draft, tiny_target
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GemmaConfig, LlamaConfig, MistralConfig, Olmo2Config, Qwen2Config, Qwen3Config

from fspad_ref import SamplingConfig, Target, TreeConfig, autoregressive_generate, speculative_generate
from fspad_ref.data import Dialogue, encode, prompt_ids
from fspad_ref.errors import CheckpointError, ConfigError, InputError, UnsupportedTarget
from fspad_ref.support import TESTED, refuse_misbehaving
from fspad_ref.tree import ancestors

SIZES = dict(vocab_size=31, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
             max_position_embeddings=128, initializer_range=0.25, bos_token_id=0, eos_token_id=1,
             pad_token_id=0)  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}  # fmt: skip
FAMILIES = {
    "Llama, Llama 2, Vicuna": LlamaConfig(**SIZES, num_key_value_heads=4),
    "LLaMA-3": LlamaConfig(**SIZES, num_key_value_heads=2, rope_parameters={"rope_type": "default", "rope_theta": 5e5}),
    "LLaMA-3.1": LlamaConfig(**SIZES, num_key_value_heads=2, rope_parameters=LLAMA3),
    "LLaMA-3.2": LlamaConfig(**SIZES, num_key_value_heads=2, rope_parameters=LLAMA3, tie_word_embeddings=True),
    "Mistral": MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=None),
    "Qwen2": Qwen2Config(**SIZES, num_key_value_heads=2, tie_word_embeddings=True),
    "Qwen3": Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=8),
    "Gemma": GemmaConfig(**SIZES, num_key_value_heads=1, head_dim=8),
    "OLMo 2, which is not on the list": Olmo2Config(**SIZES, num_key_value_heads=2),
}
PROMPT = [2, 7, 5, 11, 3]


def save(config, folder, **options):
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(config, dtype=torch.float64)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("norm.weight", "bias")):  # ones and zeros would hide what is left out
                weight += 0.3 * torch.randn_like(weight)
    model.save_pretrained(folder, **options)
    return model


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory) -> Target:
    """The model, saved and loaded again."""
    folder = tmp_path_factory.mktemp("target")
    save(FAMILIES[request.param], folder)
    return Target.from_pretrained(str(folder), dtype="float64")


def test_logits_are_lm_head_of_features(family):
    ids = torch.tensor([PROMPT])
    logits = family.model(input_ids=ids).logits
    torch.testing.assert_close(family.lm_head(family.features(ids)), logits, rtol=1e-10, atol=1e-10)


def test_a_tree_forward_equals_one_forward_a_path(family):
    token, parent, depth = [4, 9, 9, 6, 8, 4, 1], [0, 0, 0, 1, 1, 2, 5], [0, 1, 1, 2, 2, 2, 3]
    above = ancestors(torch.tensor(parent), 3)
    cache = family.new_cache(len(PROMPT) + len(token))
    family.features(torch.tensor([PROMPT]), cache=cache)
    found = family.tree_features(torch.tensor(token), torch.tensor(depth), above, cache)
    for node in range(len(token)):
        path = [token[one] for one in above[node].nonzero().flatten().tolist()]
        alone = family.features(torch.tensor([PROMPT + path]))[0, -1]
        torch.testing.assert_close(found[node], alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sampling", [SamplingConfig(), SamplingConfig(1.0, seed=3)], ids=["greedy", "T=1"])
def test_the_text_is_that_of_plain_decoding(family, sampling):
    draft = tiny_draft(family)
    plain = autoregressive_generate(family, PROMPT, max_new_tokens=25, sampling=sampling)
    fast = speculative_generate(family, draft, PROMPT, max_new_tokens=25, sampling=sampling, tree=TreeConfig(4, 3, 20))
    assert fast.tokens == plain.tokens, "law broken: a draft never changes the text"
    if sampling.greedy:
        ids = torch.tensor([PROMPT])
        theirs = family.model.generate(ids, max_new_tokens=25, min_new_tokens=25, do_sample=False)
        without_end = autoregressive_generate(family, PROMPT, max_new_tokens=25, processors=[forbid_end]).tokens
        assert theirs[0, len(PROMPT) :].tolist() == without_end


def forbid_end(ids, scores):
    scores = scores.clone()
    scores[:, 1] = -torch.inf
    return scores


# --- files ---------------------------------------------------------------------------------------------------------


def as_bin(folder, model, shards):
    """The older format: pickled tensors, one file or several with an index."""
    (folder / "model.safetensors").unlink()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if shards == 1:
        return torch.save(state, folder / "pytorch_model.bin")
    files = [f"pytorch_model-{i + 1:05}-of-{shards:05}.bin" for i in range(shards)]
    place = {name: files[i % shards] for i, name in enumerate(state)}
    for file in files:
        torch.save({name: state[name] for name in state if place[name] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": place}))


@pytest.mark.parametrize("kind", ["safetensors", "sharded safetensors", "bin", "sharded bin"])
def test_every_format_of_the_files_gives_the_same_target(tmp_path, kind):
    model = save(FAMILIES["LLaMA-3"], tmp_path, **({"max_shard_size": "20KB"} if kind == "sharded safetensors" else {}))
    if kind.endswith("bin"):
        as_bin(tmp_path, model, shards=2 if kind == "sharded bin" else 1)
    assert len(list(tmp_path.glob("*model*.safetensors"))) == {"safetensors": 1, "bin": 0, "sharded bin": 0}.get(
        kind, len(list(tmp_path.glob("model-*.safetensors")))
    )
    loaded = Target.from_pretrained(str(tmp_path), dtype="float64")
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, loaded.model.state_dict()[name]), name


def test_dtype_and_device_map_are_honoured(tmp_path):
    save(FAMILIES["LLaMA-3"], tmp_path)
    target = Target.from_pretrained(str(tmp_path), dtype="bfloat16", device_map="cpu", device="cuda:7")
    assert target.dtype == torch.bfloat16 and target.device.type == "cpu"


def test_offline_a_downloaded_model_loads_and_an_absent_one_is_named(tmp_path, monkeypatch):
    """A download as the Hub's cache holds it. No connection may be tried."""
    downloaded = tmp_path / "models--someone--tiny"
    (downloaded / "refs").mkdir(parents=True)
    (downloaded / "refs" / "main").write_text("0" * 40)
    save(FAMILIES["Qwen2"], downloaded / "snapshots" / ("0" * 40))

    def connect(*args):
        raise AssertionError("law broken: offline means that no connection is tried")

    monkeypatch.setattr(socket.socket, "connect", connect)
    options = dict(cache_dir=str(tmp_path), local_files_only=True)
    assert Target.from_pretrained("someone/tiny", **options).config.model_type == "qwen2"
    with pytest.raises(CheckpointError, match="expected a Hugging Face causal LM at 'someone/absent'"):
        Target.from_pretrained("someone/absent", **options)


# --- those that cannot work ----------------------------------------------------------------------------------------


class Unbuilt(torch.nn.Module):
    """What a refusal looks at: a model's config, without its weights."""

    def __init__(self, config):
        super().__init__()
        self.config = config


@pytest.mark.parametrize(
    "config, found",
    [
        (hf.Gemma2Config(), "gemma2 with sliding_window"),
        (hf.Gemma3TextConfig(), "gemma3_text with sliding_window"),
        (hf.Llama4TextConfig(), "llama4_text with layers of type chunked_attention"),
        (hf.RecurrentGemmaConfig(), "recurrent_gemma with"),
        (hf.JambaConfig(), "jamba with layers of type"),
        (hf.FalconH1Config(), "falcon_h1 with"),
        (hf.Lfm2Config(), "found lfm2 without"),
        (hf.CohereConfig(), "cohere with logit_scale"),
        (hf.GlmConfig(), "glm with partial_rotary_factor=0.5"),
        (GemmaConfig(use_bidirectional_attention=True), "gemma with use_bidirectional_attention"),
        (hf.DeepseekV3Config(), r"deepseek_v3 with latent attention \(kv_lora_rank=512\)"),
        (hf.OPTConfig(), "found opt without"),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_families_that_cannot_work_are_refused_by_name(config, found):
    with pytest.raises(UnsupportedTarget, match=rf"(?s)expected .*{found}.*Use |{found}.*Supported are"):
        Target(Unbuilt(config))


def test_a_recurrent_state_is_refused_even_if_the_config_is_silent():
    model = Unbuilt(LlamaConfig(**SIZES))
    model._is_stateful = True
    with pytest.raises(UnsupportedTarget, match="found llama with a recurrent state"):
        Target(model)


def test_flash_attention_is_refused_before_anything_is_loaded(tmp_path):
    with pytest.raises(UnsupportedTarget, match="found 'flash_attention_2'.*attn_implementation='sdpa'"):
        Target.from_pretrained(str(tmp_path / "nothing here"), attn_implementation="flash_attention_2")


def test_a_family_off_the_list_has_to_behave(monkeypatch):
    assert Olmo2Config.model_type not in TESTED
    target = tiny_target()
    refuse_misbehaving(target)
    with monkeypatch.context() as patch:
        patch.setattr(target, "_additive", lambda visible, held: None)
        with pytest.raises(UnsupportedTarget, match="features in a tree like those of each path alone, found llama"):
            refuse_misbehaving(target)
    with monkeypatch.context() as patch:
        twice = copy.deepcopy(target.lm_head)
        twice.weight.data *= 2
        patch.setattr(target, "lm_head", twice)
        with pytest.raises(UnsupportedTarget, match=r"logits = lm_head\(feature\), found llama"):
            refuse_misbehaving(target)
    with monkeypatch.context() as patch:
        patch.setattr(target, "new_cache", lambda capacity: "no cache")
        with pytest.raises(UnsupportedTarget, match="takes a tree of tokens, found llama, which failed"):
            refuse_misbehaving(target)


# --- prompt formats ------------------------------------------------------------------------------------------------

WORDS = "<unk> <s> </s> one two three four USER: ASSISTANT:".split()
LLAMA3_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m.role + '|> ' + m.content + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|> ' }}{% endif %}"
)
PREAMBLE = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


def with_tokenizer(folder, template: str | None = None):
    """A tiny target and a tokenizer of nine words, in a folder."""
    save(FAMILIES["Llama, Llama 2, Vicuna"], folder)
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", bos_token="<s>", eos_token="</s>", chat_template=template
    )
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_vicunas_own_format(tmp_path):
    tokenizer = Target.from_pretrained(with_tokenizer(tmp_path), chat_format="vicuna").tokenizer
    messages = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two three"},
        {"role": "user", "content": "four"},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == f"<s>{PREAMBLE} USER: one ASSISTANT: two three</s>USER: four ASSISTANT:"
    system = [{"role": "system", "content": "Be brief."}, *messages[:1]]
    text = tokenizer.apply_chat_template(system, tokenize=False, add_generation_prompt=True)
    assert text == "<s>Be brief. USER: one ASSISTANT:"
    ids, mask = encode(Dialogue((("one", "two three"), ("four", "one"))), tokenizer)
    assert [WORDS[i] for i, own in zip(ids, mask, strict=True) if own] == ["two", "three", "</s>", "one", "</s>"]
    assert prompt_ids(tokenizer, [("one", "two three")], "four") == ids[: len(ids) - 2]


def test_a_models_own_template_is_used_as_it_is(tmp_path):
    tokenizer = Target.from_pretrained(with_tokenizer(tmp_path, LLAMA3_TEMPLATE)).tokenizer
    assert tokenizer.chat_template == LLAMA3_TEMPLATE
    ids, mask = encode(Dialogue((("one", "two three"),)), tokenizer)
    assert [WORDS[i] for i, own in zip(ids, mask, strict=True) if own] == ["two", "three", "</s>"]


def test_a_format_is_never_guessed(tmp_path):
    (tmp_path / "vicuna-tiny").mkdir()
    target = Target.from_pretrained(with_tokenizer(tmp_path / "vicuna-tiny"))
    with pytest.raises(
        InputError, match="(?s)chat template, found none.*vicuna-tiny.*choose it with chat_format='vicuna'"
    ):
        prompt_ids(target.tokenizer, (), "one")
    with pytest.raises(ConfigError, match="expected chat_format to be one of vicuna, found 'alpaca'"):
        Target.from_pretrained(str(tmp_path / "vicuna-tiny"), chat_format="alpaca")


def test_a_format_needs_a_tokenizer(tmp_path):
    save(FAMILIES["Llama, Llama 2, Vicuna"], tmp_path)
    with pytest.raises(ConfigError, match="expected a tokenizer to give the chat format 'vicuna' to, found none"):
        Target.from_pretrained(str(tmp_path), chat_format="vicuna")
