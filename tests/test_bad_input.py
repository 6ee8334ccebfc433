"""Every input that cannot work gets an error that says, in this order: what was expected, what was found, what to do.

The table names the error's type and a piece of each of the three. Each error derives from FspadError and from the
built-in exception that one would guess. For training and files see test_training_survives.py and test_files.py.
"""

import inspect
import math
import pickle
import re
from types import SimpleNamespace

import pytest
import torch
from conftest import GOLDEN, tiny_draft, tiny_target
from safetensors.torch import load_file, save_file
from transformers import (
    DeepseekV2Config,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    PhiConfig,
    Qwen2Config,
    Qwen3NextConfig,
)

from fspad_ref import (
    Draft,
    SamplingConfig,
    Target,
    TreeConfig,
    autoregressive_generate,
    grow_tree,
    speculative_generate,
)
from fspad_ref.errors import CheckpointError, ConfigError, FspadError, InputError, TargetMismatch, UnsupportedTarget
from fspad_ref.files import load_tensors
from fspad_ref.support import refuse_unsupported
from fspad_ref.train import TrainConfig, train
from fspad_ref.tree import DynamicTree

PROMPT = [2, 7, 5, 11, 3]


@pytest.fixture
def at(target, tmp_path):
    """A target, a draft of it, and both in folders, to be damaged."""
    named = Target(target.model, SimpleNamespace(get_vocab=lambda: {"a": 0}))
    draft = tiny_draft(named)
    draft.save_pretrained(tmp_path / "draft")
    return SimpleNamespace(target=named, draft=draft, folder=tmp_path / "draft", path=tmp_path)


# --- ways to go wrong ------------------------------------------------------------------------------------------------


def load_for(at, tokenizer=None, **sizes):
    """The saved draft, with a target that differs in one thing."""
    model = tiny_target(**sizes).model if sizes else at.target.model
    Draft.from_pretrained(at.folder, Target(model, tokenizer))


def load_changed(at, change):
    """The saved draft, its tensors changed."""
    file = at.folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    Draft.from_pretrained(at.folder, at.target)


def load_bytes(at, name, data):
    """The saved draft, one of its files replaced."""
    (at.folder / name).write_bytes(data)
    Draft.from_pretrained(at.folder, at.target)


def load_file_of_weights(at, name, data):
    (at.path / name).write_bytes(data)
    load_tensors(at.path / name)


def whole(at) -> bytes:
    return (at.folder / "model.safetensors").read_bytes()


def generate(at, prompt=PROMPT, **settings):
    """Without the type checks that only tests have: what a user meets."""
    inspect.unwrap(speculative_generate)(at.target, at.draft, prompt, **settings)


def plain(at, prompt=PROMPT, **settings):
    inspect.unwrap(autoregressive_generate)(at.target, prompt, **settings)


def only_at_length(length, value):
    """A logits processor that spoils the logits of one position alone, in whatever row it stands."""

    def spoil(ids, scores):
        return torch.full_like(scores, value) if ids.shape[1] == length else scores

    return [spoil]


class Unbuilt(torch.nn.Module):
    """What a refusal looks at: a model's config, without its weights."""

    def __init__(self, config, **attributes):
        super().__init__()
        self.config = config
        vars(self).update(attributes)


def target_with(config, **changes):
    for name, value in changes.items():
        setattr(config, name, value)
    Target(Unbuilt(config))


def foreign_embedding(at):
    tensors = load_file(GOLDEN / "draft_eagle.safetensors")
    tensors["embed_tokens.weight"] = torch.ones(31, 24)
    save_file(tensors, at.path / "official.safetensors")
    Draft.from_official(at.path / "official.safetensors", at.target)


def grow(at, config):
    ids = torch.tensor([PROMPT])
    grow_tree(at.draft, at.target.features(ids[:, :-1]), ids, config)


CODE = pickle.dumps(print)  # a pickle that names something to call
FITS = "Load the target that the draft was trained on"
NEXT = "expected at least one possible next token"
NONE = "found logits that are NaN or all -inf"
FULL = "expected a target with full attention in every layer"
TENSORS, TOGETHER = "expected the tensors of this model", "Check that the file and the config belong together"
FINITE, EARLIER = "expected finite weights", "use an earlier checkpoint"

TABLE = {
    # a draft and a target that do not belong together
    "vocabulary": (lambda at: load_for(at, vocab_size=37), TargetMismatch, "made for this target",
                   "vocab_size 31 (target: 37)", FITS),
    "tokenizer": (lambda at: load_for(at, SimpleNamespace(get_vocab=lambda: {"b": 0})), TargetMismatch,
                  "made for this target", "tokenizer_hash", FITS),
    "hidden size": (lambda at: load_for(at, hidden_size=32), TargetMismatch, "made for this target",
                    "hidden_size 24 (target: 32)", FITS),
    "head size": (lambda at: load_for(at, num_attention_heads=2), TargetMismatch, "made for this target",
                  "head_dim 6 (target: 12)", FITS),
    "RoPE": (lambda at: load_for(at, rope_parameters={"rope_type": "default", "rope_theta": 5e5}), TargetMismatch,
             "made for this target", "rope {", FITS),
    "positions": (lambda at: load_for(at, max_position_embeddings=128), TargetMismatch, "made for this target",
                  "max_positions 256 (target: 128)", FITS),
    "embedding": (lambda at: load_for(at, seed=1), TargetMismatch, "made for this target", "embedding_hash", FITS),
    "other object": (lambda at: speculative_generate(tiny_target(), at.draft, PROMPT), TargetMismatch,
                     "expected the target that the draft was loaded for", "found another Target", "Load the draft"),
    # files of weights
    "missing tensor": (lambda at: load_changed(at, lambda t: t.pop("fuse.weight")), CheckpointError, TENSORS,
                       "missing fuse.weight (24, 48)", TOGETHER),
    "extra tensor": (lambda at: load_changed(at, lambda t: t.update(extra=torch.zeros(2))), CheckpointError, TENSORS,
                     "unknown extra (2,)", TOGETHER),
    "mis-shaped tensor": (lambda at: load_changed(at, lambda t: t.update({"fuse.bias": torch.zeros(3)})),
                          CheckpointError, TENSORS, "fuse.bias is (3,), expected (24,)", TOGETHER),
    "foreign embed_tokens": (foreign_embedding, TargetMismatch, "expected embed_tokens.weight", "found another",
                             FITS),
    "truncated": (lambda at: load_bytes(at, "model.safetensors", whole(at)[:-100]), CheckpointError,
                  "expected safetensors", "found a damaged or truncated file", "save it again"),
    "empty file": (lambda at: load_bytes(at, "model.safetensors", b""), CheckpointError, "expected safetensors",
                   "found a damaged or truncated file", "save it again"),
    "pickle": (lambda at: load_bytes(at, "model.safetensors", CODE), CheckpointError, "expected safetensors",
               "found a pickle", "must be named .bin"),
    "pickle of code": (lambda at: load_file_of_weights(at, "pytorch_model.bin", CODE), CheckpointError,
                       "expected a file of tensors that torch.load(weights_only=True) accepts", "found UnpicklingError",
                       "Convert it to safetensors"),
    "truncated .bin": (lambda at: load_file_of_weights(at, "pytorch_model.bin", b"PK\x03\x04"), CheckpointError,
                       "expected a file of tensors", "found ", "Convert it to safetensors"),
    "no file": (lambda at: Draft.from_pretrained(at.path / "nothing", at.target), CheckpointError, "expected a file at",
                "found none", "Check the path"),
    "config that is no JSON": (lambda at: load_bytes(at, "config.json", b"{"), CheckpointError, "expected JSON",
                               "found a file that does not parse", "Restore the file"),
    "unknown setting": (lambda at: load_bytes(at, "config.json", b'{"model_type": "fspad_ref", "layers": 2}'),
                        ConfigError, "expected the settings of DraftConfig", "found also layers", "Remove them"),
    "config of another model": (lambda at: load_bytes(at, "config.json", b'{"model_type": "llama"}'), CheckpointError,
                                "expected model_type 'fspad_ref'", "found 'llama'", "use Draft.from_official"),
    "config that is a list": (lambda at: load_bytes(at, "config.json", b"[]"), CheckpointError,
                              "expected model_type 'fspad_ref'", "found None", "Give the folder of a saved draft"),
    "no draft": (lambda at: Draft.from_official(GOLDEN / "target.safetensors", at.target), CheckpointError,
                 "expected a draft in the reference layout", "found no tensor for our fuse.weight", "Give the file"),
    "NaN weight": (lambda at: load_changed(at, lambda t: t["fuse.bias"].fill_(math.nan)), CheckpointError, FINITE,
                   "found NaN or infinity in fuse.bias", EARLIER),
    "infinite weight": (lambda at: load_changed(at, lambda t: t["fuse.bias"].fill_(math.inf)), CheckpointError, FINITE,
                        "found NaN or infinity in fuse.bias", EARLIER),
    # logits, at the prompt's end, and behind it inside a tree
    "no next token": (lambda at: generate(at, processors=only_at_length(5, -math.inf)), InputError, NEXT, NONE,
                      "Check the weights and the logits processors"),
    "NaN logits": (lambda at: generate(at, processors=only_at_length(5, math.nan)), InputError, NEXT, NONE, "Check"),
    "no next token in a tree": (lambda at: generate(at, processors=only_at_length(7, -math.inf)), InputError, NEXT,
                                NONE, "Check"),
    "NaN logits in a tree": (lambda at: generate(at, processors=only_at_length(7, math.nan)), InputError, NEXT, NONE,
                             "Check"),
    "NaN logits, sampled": (lambda at: generate(at, processors=only_at_length(7, math.nan),
                                                sampling=SamplingConfig(1.0, top_p=0.9)), InputError, NEXT, NONE,
                            "Check"),
    "NaN logits in plain decoding": (lambda at: plain(at, processors=only_at_length(7, math.nan)), InputError, NEXT,
                                     NONE, "Check"),
    # settings
    "T < 0": (lambda at: SamplingConfig(-0.1), ConfigError, "expected temperature >= 0", "found -0.1",
              "Set temperature"),
    "T NaN": (lambda at: SamplingConfig(math.nan), ConfigError, "expected temperature >= 0", "found nan",
              "Set temperature"),
    "top_p 0": (lambda at: SamplingConfig(1.0, 0.0), ConfigError, "expected top_p in (0, 1]", "found 0.0", "Set top_p"),
    "top_p > 1": (lambda at: SamplingConfig(1.0, 1.01), ConfigError, "expected top_p in (0, 1]", "found 1.01",
                  "Set top_p"),
    "top_p NaN": (lambda at: SamplingConfig(1.0, math.nan), ConfigError, "expected top_p in (0, 1]", "found nan",
                  "Set top_p"),
    "top_k < 0": (lambda at: SamplingConfig(1.0, 1.0, -1), ConfigError, "expected top_k a whole number >= 0",
                  "found -1", "Set top_k"),
    "k 0": (lambda at: TreeConfig(top_k=0), ConfigError, "expected top_k to be a whole number >= 1", "found 0",
            "Set it to at least 1"),
    "depth 0": (lambda at: TreeConfig(depth=0), ConfigError, "expected depth to be a whole number >= 1", "found 0",
                "Set it to at least 1"),
    "no nodes": (lambda at: TreeConfig(total_tokens=-1), ConfigError, "expected total_tokens to be a whole number >= 1",
                 "found -1", "Set it to at least 1"),
    "k > V": (lambda at: generate(at, tree=TreeConfig(top_k=32)), ConfigError, "expected top_k <= 31", "found 32",
              "Lower top_k"),
    "more nodes than scored": (lambda at: TreeConfig(2, 1, 8), ConfigError, "expected total_tokens <= 7", "found 8",
                               "Lower total_tokens, or raise top_k or depth"),
    "training in half precision": (lambda at: train(tiny_target(dtype=torch.float16), {}, [], TrainConfig()),
                                   ConfigError, "expected a target in float32, float64 or bfloat16",
                                   "found torch.float16", "dtype='bfloat16'"),
    # prompts and lengths
    "empty prompt": (lambda at: generate(at, []), InputError, "expected a prompt of at least one token",
                     "found an empty one", "Give the model some text"),
    "id < 0": (lambda at: generate(at, [3, -1]), InputError, "expected token ids in [0, 31)", "found -1",
               "Encode the prompt"),
    "id >= V": (lambda at: plain(at, [31]), InputError, "expected token ids in [0, 31)", "found 31",
                "Encode the prompt"),
    "two prompts": (lambda at: generate(at, torch.tensor([PROMPT, PROMPT])), InputError, "expected one prompt",
                    "found shape (2, 5)", "Decode one at a time"),
    "too long": (lambda at: generate(at, max_new_tokens=250, tree=TreeConfig(2, 3, 8)), InputError,
                 "within the target's 256 positions", "found 5 + 250 + 4", "Set max_new_tokens to at most 247"),
    "too long, plain": (lambda at: plain(at, max_new_tokens=252), InputError, "within the target's 256 positions",
                        "found 5 + 252 + 0", "Set max_new_tokens to at most 251"),
    "prompt too long": (lambda at: generate(at, [3] * 256, max_new_tokens=1), InputError,
                        "within the target's 256 positions", "found 256 + 1 + 6", "Shorten the prompt"),
    "max_new_tokens < 0": (lambda at: generate(at, max_new_tokens=-1), InputError, "expected max_new_tokens",
                           "found -1", "Set it to 0 or more"),
    "text for a prompt": (lambda at: generate(at, "Hello"), InputError, "expected a prompt of token ids",
                          "found str 'Hello'", "Encode text with target.tokenizer"),
    "texts, plain": (lambda at: plain(at, ["a", "b"]), InputError, "expected a prompt of token ids",
                     "found list ['a', 'b']", "Encode text with target.tokenizer"),
    "all that a tokenizer returns": (lambda at: generate(at, {"input_ids": [PROMPT]}), InputError,
                                     "expected a prompt of token ids", "found dict", "give the input_ids"),
    "fractions": (lambda at: generate(at, [2.0, 7.5]), InputError, "expected a prompt of whole numbers",
                  "found torch.float32", "Give token ids"),
    "a mask": (lambda at: plain(at, torch.tensor([[True]])), InputError, "expected a prompt of whole numbers",
               "found torch.bool", "Give token ids"),
    "a tree's size beside a grower": (lambda at: speculative_generate(at.target, DynamicTree(at.draft), PROMPT,
                                                                      tree=TreeConfig(2, 3, 8)), ConfigError,
                                      "expected no tree size", "found TreeConfig(top_k=2", "Leave tree at None"),
    # targets on which a tree cannot be verified, or for which no draft can be made
    "sliding window": (lambda at: target_with(MistralConfig(sliding_window=16)), UnsupportedTarget, FULL,
                       "mistral with sliding_window=16", "Use a full-attention model"),
    "sliding window, Qwen": (lambda at: target_with(Qwen2Config(use_sliding_window=True, max_window_layers=4)),
                             UnsupportedTarget, FULL, "qwen2 with sliding_window=4096", "Use a full-attention model"),
    "sliding layers": (lambda at: target_with(LlamaConfig(), layer_types=["full_attention", "sliding_attention"]),
                       UnsupportedTarget, FULL, "layers of type sliding_attention", "Use a full-attention model"),
    "recurrent layers": (lambda at: target_with(Qwen3NextConfig()), UnsupportedTarget, FULL,
                         "qwen3_next with layers of type linear_attention", "Use a full-attention model"),
    "recurrent state": (lambda at: target_with(MambaConfig()), UnsupportedTarget, FULL,
                        "mamba with layers of type linear_attention", "Use a full-attention model"),
    "unknown attention": (lambda at: target_with(GPT2Config()), UnsupportedTarget,
                          "expected a Llama-like config with num_key_value_heads", "found gpt2", "Supported are"),
    "latent attention": (lambda at: target_with(DeepseekV2Config()), UnsupportedTarget,
                         "expected keys and values of one size", "deepseek_v2 with latent attention (kv_lora_rank=512)",
                         "Use a Llama-like model"),
    "layer norm": (lambda at: target_with(PhiConfig()), UnsupportedTarget,
                   "expected a Llama-like config with rms_norm_eps", "found phi", "Supported are"),
    "flash attention": (lambda at: target_with(LlamaConfig(), _attn_implementation="flash_attention_2"),
                        UnsupportedTarget, "expected attention 'sdpa' or 'eager'", "found 'flash_attention_2'",
                        "attn_implementation='sdpa'"),
    "offloaded embedding": (lambda at: Target(tiny_target().model.to("meta")), UnsupportedTarget,
                            "expected a target whose embedding is on a device", "found it offloaded by device_map",
                            "give it a device"),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_the_error_says_what_was_expected_what_was_found_and_what_to_do(at, name):
    do, kind, *parts = TABLE[name]
    with pytest.raises(kind) as error:
        do(at)
    assert isinstance(error.value, FspadError)
    in_this_order = ".*".join(map(re.escape, parts))
    assert re.search(in_this_order, str(error.value), re.DOTALL), f"expected {parts}, found: {error.value}"


# --- what is harmless is let through ---------------------------------------------------------------------------------


def test_an_embedding_equal_to_the_targets_is_dropped(golden_target, tmp_path):
    """Published drafts carry a copy of it."""
    tensors = load_file(GOLDEN / "draft_eagle.safetensors")
    tensors["embed_tokens.weight"] = golden_target.embed.weight.clone()
    save_file(tensors, tmp_path / "official.safetensors")
    loaded = Draft.from_official(tmp_path / "official.safetensors", golden_target)
    bare = Draft.from_official(GOLDEN / "draft_eagle.safetensors", golden_target).state_dict()
    assert loaded.state_dict().keys() == bare.keys()
    assert all(torch.equal(weight, bare[name]) for name, weight in loaded.state_dict().items())


def test_a_qwen_without_its_window_is_welcome():
    refuse_unsupported(Qwen2Config(use_sliding_window=False))
