"""Every input that cannot work gets an error that says, in this order: what was expected, what was found, what to do.

The table names the error's type and a piece of each of the three. Each error derives from FspadError and from the
built-in exception that one would guess. A bad draft is no bad input: the text stays right. For training, files, chat
templates, families and model.generate see their own tests.
"""

import inspect
import io
import math
import pickle
import re
from types import SimpleNamespace

import pytest
import torch
from conftest import tiny_draft, tiny_target
from safetensors.torch import load_file, save_file

from fspad_ref import (
    Draft,
    DraftConfig,
    SamplingConfig,
    Target,
    TreeConfig,
    autoregressive_generate,
    speculative_generate,
)
from fspad_ref.errors import CheckpointError, ConfigError, FspadError, InputError, TargetMismatch, UnsupportedTarget
from fspad_ref.files import load_tensors
from fspad_ref.generate import Generation, Stop
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


def change(folder, how):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    how(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def load_changed(at, how):
    """The saved draft, its tensors changed."""
    change(at.folder, how)
    Draft.from_pretrained(at.folder, at.target)


def load_bytes(at, name, data):
    """The saved draft, one of its files replaced."""
    (at.folder / name).write_bytes(data)
    Draft.from_pretrained(at.folder, at.target)


def load_file_of_weights(at, name, data):
    (at.path / name).write_bytes(data)
    load_tensors(at.path / name)


def load_target(at, how, **options):
    """A saved target, its tensors changed."""
    tiny_target(dtype=torch.float32).model.save_pretrained(at.path)
    change(at.path, how)
    Target.from_pretrained(str(at.path), **options)


def torch_saved(value) -> bytes:
    torch.save(value, file := io.BytesIO())
    return file.getvalue()


def whole(folder) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def generate(at, prompt=PROMPT, **settings):
    """Without the type checks that only tests have: what a user meets."""
    inspect.unwrap(speculative_generate)(at.target, at.draft, prompt, **settings)


def plain(at, prompt=PROMPT, **settings):
    inspect.unwrap(autoregressive_generate)(at.target, prompt, **settings)


def spoilt(length, value):
    """A logits processor that spoils the logits of one position alone, in whatever row it stands."""
    return [lambda ids, scores: torch.full_like(scores, value) if ids.shape[1] == length else scores]


def half_precision(at):
    from fspad_ref.train import TrainConfig, train

    train(tiny_target(dtype=torch.float16), {}, [], TrainConfig())


CODE = pickle.dumps(print)  # a pickle that names something to call
OURS, FITS = "made for this target", "Load the target that the draft was trained on"
NEXT, NONE = "expected at least one possible next token", "found logits that are NaN or all -inf"
TENSORS, TOGETHER = "expected the tensors of this model", "Check that the file and the config belong together"
FINITE, EARLIER = "expected finite weights", "use an earlier checkpoint"
FILE, DAMAGED, AGAIN = "expected safetensors", "found a damaged or truncated file", "save it again"
DRAFT, SAVED = "expected model_type 'fspad_ref'", "Give the folder of a saved draft"
IDS, V, FIT = "expected one prompt of token ids", "expected token ids in [0, 31)", "within the target's 256 positions"
WHOLE = "to be a whole number >= 1"

TABLE = {
    # a draft and a target that do not belong together
    "vocabulary": (lambda at: load_for(at, vocab_size=37), TargetMismatch, OURS, "vocab_size 31 (target: 37)", FITS),
    "tokenizer": (lambda at: load_for(at, SimpleNamespace(get_vocab=lambda: {"b": 0})), TargetMismatch, OURS,
                  "tokenizer_hash", FITS),
    "hidden size": (lambda at: load_for(at, hidden_size=32), TargetMismatch, OURS, "hidden_size 24 (target: 32)", FITS),
    "head size": (lambda at: load_for(at, num_attention_heads=2), TargetMismatch, OURS, "head_dim 6", FITS),
    "RoPE": (lambda at: load_for(at, rope_parameters={"rope_type": "default", "rope_theta": 5e5}), TargetMismatch, OURS,
             "rope {", FITS),
    "positions": (lambda at: load_for(at, max_position_embeddings=128), TargetMismatch, OURS,
                  "max_positions 256 (target: 128)", FITS),
    "embedding": (lambda at: load_for(at, seed=1), TargetMismatch, OURS, "embedding_hash", FITS),
    "other object": (lambda at: speculative_generate(tiny_target(), at.draft, PROMPT), TargetMismatch,
                     "expected the target that the draft was loaded for", "found another Target", "Load the draft"),
    # files of weights
    "missing tensor": (lambda at: load_changed(at, lambda t: t.pop("fuse.weight")), CheckpointError, TENSORS,
                       "fuse.weight none instead of (24, 48)", TOGETHER),
    "extra tensor": (lambda at: load_changed(at, lambda t: t.update(extra=torch.zeros(2))), CheckpointError, TENSORS,
                     "extra (2,) instead of none", TOGETHER),
    "mis-shaped tensor": (lambda at: load_changed(at, lambda t: t.update({"fuse.bias": torch.zeros(3)})),
                          CheckpointError, TENSORS, "fuse.bias (3,) instead of (24,)", TOGETHER),
    "truncated": (lambda at: load_bytes(at, "model.safetensors", whole(at.folder)[:-100]), CheckpointError, FILE,
                  DAMAGED, AGAIN),
    "empty file": (lambda at: load_bytes(at, "model.safetensors", b""), CheckpointError, FILE, DAMAGED, AGAIN),
    "pickle": (lambda at: load_bytes(at, "model.safetensors", CODE), CheckpointError, FILE, "found a pickle", AGAIN),
    "pickle of code": (lambda at: load_file_of_weights(at, "pytorch_model.bin", CODE), CheckpointError,
                       "named .bin a pickle of tensors alone", "found a pickle (UnpicklingError", AGAIN),
    "pickle of numbers": (lambda at: load_file_of_weights(at, "a.bin", torch_saved({"a": 1})), CheckpointError,
                          "named .bin a pickle of tensors alone", "found a pickle (ValueError", AGAIN),
    "truncated .bin": (lambda at: load_file_of_weights(at, "pytorch_model.bin", b"PK\x03\x04"), CheckpointError, FILE,
                       "found a pickle (", AGAIN),
    "no file": (lambda at: Draft.from_pretrained(at.path / "nothing", at.target), CheckpointError, "expected a file at",
                "found none", "Check the path"),
    "config that is no JSON": (lambda at: load_bytes(at, "config.json", b"{"), CheckpointError, "expected JSON",
                               "found a file that does not parse", "Restore it"),
    "unknown setting": (lambda at: load_bytes(at, "config.json", b'{"model_type": "fspad_ref", "layers": 2}'),
                        CheckpointError, DRAFT, "found model_type 'fspad_ref', layers", SAVED),
    "config of another model": (lambda at: load_bytes(at, "config.json", b'{"model_type": "llama"}'), CheckpointError,
                                DRAFT, "found model_type 'llama'", "use Draft.from_official"),
    "config that is a list": (lambda at: load_bytes(at, "config.json", b"[]"), CheckpointError, DRAFT,
                              "found model_type None", SAVED),
    "NaN weight": (lambda at: load_changed(at, lambda t: t["fuse.bias"].fill_(math.nan)), CheckpointError, FINITE,
                   "found NaN or infinity in fuse.bias", EARLIER),
    "infinite weight": (lambda at: load_changed(at, lambda t: t["fuse.bias"].fill_(math.inf)), CheckpointError, FINITE,
                        "found NaN or infinity in fuse.bias", EARLIER),
    "target's missing tensor": (lambda at: load_target(at, lambda t: t.pop("model.layers.1.mlp.up_proj.weight")),
                                CheckpointError, "expected all weights", "found none for model.layers.1.mlp.up_proj",
                                "Get the files again"),
    "target's NaN": (lambda at: load_target(at, lambda t: t["model.norm.weight"].fill_(math.nan)), CheckpointError,
                     FINITE, "found NaN or infinity in model.norm.weight", "Get the file again"),
    "no target": (lambda at: Target.from_pretrained(str(at.folder)), CheckpointError,
                  "expected a Hugging Face causal LM", "found: ", "Give a folder with config.json"),
    "dtype": (lambda at: load_target(at, len, dtype="float23"), ConfigError, "expected a dtype of float64",
              "found 'float23'", "Choose one"),
    "offloaded embedding": (lambda at: Target(tiny_target().model.to("meta")), UnsupportedTarget,
                            "expected a target whose embedding is on a device", "found it offloaded", "give it"),
    # logits, at the prompt's end, and behind it inside a tree
    "no next token": (lambda at: generate(at, processors=spoilt(5, -math.inf)), InputError, NEXT, NONE,
                      "Check the weights and the logits processors"),
    "NaN logits": (lambda at: generate(at, processors=spoilt(5, math.nan)), InputError, NEXT, NONE, "Check"),
    "no token in a tree": (lambda at: generate(at, processors=spoilt(7, -math.inf)), InputError, NEXT, NONE, "Check"),
    "NaN in a tree": (lambda at: generate(at, processors=spoilt(7, math.nan)), InputError, NEXT, NONE, "Check"),
    "NaN logits, sampled": (lambda at: generate(at, processors=spoilt(7, math.nan), sampling=SamplingConfig(1.0, 0.9)),
                            InputError, NEXT, NONE, "Check"),
    "NaN in plain decoding": (lambda at: plain(at, processors=spoilt(7, math.nan)), InputError, NEXT, NONE, "Check"),
    # settings
    "T < 0": (lambda at: SamplingConfig(-0.1), ConfigError, "expected temperature >= 0", "found -0.1", "Set"),
    "T NaN": (lambda at: SamplingConfig(math.nan), ConfigError, "expected temperature >= 0", "found nan", "Set"),
    "top_p 0": (lambda at: SamplingConfig(1.0, 0.0), ConfigError, "expected top_p in (0, 1]", "found 0.0", "Set top_p"),
    "top_p > 1": (lambda at: SamplingConfig(1.0, 1.01), ConfigError, "expected top_p in (0, 1]", "found 1.01", "Set"),
    "top_p NaN": (lambda at: SamplingConfig(1, math.nan), ConfigError, "expected top_p in (0, 1]", "found nan", "Set"),
    "top_k < 0": (lambda at: SamplingConfig(1.0, 1.0, -1), ConfigError, "expected top_k a whole", "found -1", "Set"),
    "seed": (lambda at: SamplingConfig(seed=2**63), ConfigError, "expected seed a whole number", "found 92233", "Set"),
    "k 0": (lambda at: TreeConfig(top_k=0), ConfigError, f"expected top_k {WHOLE}", "found 0", "Set it"),
    "depth 0": (lambda at: TreeConfig(depth=0), ConfigError, f"expected depth {WHOLE}", "found 0", "Set it"),
    "no nodes": (lambda at: TreeConfig(total_tokens=-1), ConfigError, f"total_tokens {WHOLE}", "found -1", "Set it"),
    "k > V": (lambda at: generate(at, tree=TreeConfig(top_k=32)), ConfigError, "expected top_k <= 31", "found 32",
              "Lower top_k"),
    "more nodes than scored": (lambda at: TreeConfig(2, 1, 8), ConfigError, "expected total_tokens <= 7", "found 8",
                               "Lower total_tokens, or raise top_k or depth"),
    "training in half precision": (half_precision, ConfigError, "expected a target in bfloat16, float32 or float64",
                                   "found float16", "dtype='bfloat16'"),
    "a tree's size beside a grower": (lambda at: speculative_generate(at.target, DynamicTree(at.draft), PROMPT,
                                                                      tree=TreeConfig(2, 3, 8)), ConfigError,
                                      "expected no tree size", "found TreeConfig(top_k=2", "Leave tree at None"),
    # prompts and lengths
    "empty prompt": (lambda at: generate(at, []), InputError, "expected a prompt of at least one token",
                     "found an empty one", "Give the model some text"),
    "id < 0": (lambda at: generate(at, [3, -1]), InputError, V, "found -1", "Encode the prompt"),
    "id >= V": (lambda at: plain(at, [31]), InputError, V, "found 31", "Encode the prompt"),
    "two prompts": (lambda at: generate(at, torch.tensor([PROMPT, PROMPT])), InputError, IDS, "of shape (2, 5)",
                    "one prompt at a time"),
    "too long": (lambda at: generate(at, max_new_tokens=250, tree=TreeConfig(2, 3, 8)), InputError, FIT,
                 "found 5 + 250 + 4", "Set max_new_tokens to at most 247"),
    "too long, plain": (lambda at: plain(at, max_new_tokens=252), InputError, FIT, "found 5 + 252 + 0", "at most 251"),
    "prompt too long": (lambda at: generate(at, [3] * 256, max_new_tokens=1), InputError, FIT, "found 256 + 1 + 6",
                        "Shorten the prompt"),
    "max_new_tokens < 0": (lambda at: generate(at, max_new_tokens=-1), InputError, "expected max_new_tokens",
                           "found -1", "Set it to 0 or more"),
    "text": (lambda at: generate(at, "Hello"), InputError, IDS, "found str 'Hello'", "Encode text with target.token"),
    "texts, plain": (lambda at: plain(at, ["a", "b"]), InputError, IDS, "found list ['a', 'b']", "Encode text"),
    "a dict": (lambda at: generate(at, {"input_ids": [PROMPT]}), InputError, IDS, "found dict", "give the input_ids"),
    "fractions": (lambda at: generate(at, [2.0, 7.5]), InputError, IDS, "found torch.float32", "give the input_ids"),
    "a mask": (lambda at: plain(at, torch.tensor([[True]])), InputError, IDS, "found torch.bool", "give the input_ids"),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_the_error_says_what_was_expected_what_was_found_and_what_to_do(at, name):
    do, kind, *parts = TABLE[name]
    with pytest.raises(kind) as error:
        do(at)
    assert isinstance(error.value, FspadError)
    in_this_order = ".*".join(map(re.escape, parts))
    assert re.search(in_this_order, str(error.value), re.DOTALL), f"expected {parts}, found: {error.value}"


# --- what is bad, but no error ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [0, 24], ids=["logit head", "aligned head"])
def test_a_draft_full_of_nan_is_useless_but_not_wrong(target, head):
    draft = tiny_draft(target)
    with torch.no_grad():
        draft.layer.down.weight[head, 0] = torch.nan
    for seed in range(10):
        settings = dict(max_new_tokens=15, sampling=SamplingConfig(1.0, seed=seed))
        plain = autoregressive_generate(target, PROMPT, **settings)
        fast = speculative_generate(target, draft, PROMPT, **settings)
        assert fast.tokens == plain.tokens, "a draft, even one of NaN, never changes the text"


def test_an_impossible_token_behind_the_end_of_the_text_is_no_error():
    result = Generation()
    assert Stop(10, 5, None, None).take(result, [3, 5, -1], accepted=2)
    assert result.tokens == [3, 5] and result.accepted == [2]


def test_rope_frequencies_keep_their_precision_in_a_half_precision_draft():
    draft = Draft(DraftConfig(), tiny_target(dtype=torch.bfloat16))
    assert draft.rotary.inv_freq.dtype == torch.float32
