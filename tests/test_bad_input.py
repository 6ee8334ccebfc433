"""Every input that cannot work gets an error that says, in this order: what was expected, what was found, what to do.

The table names the error's type and a piece of each of the three. A bad draft is no bad input: the text stays right.
For data, files, families, training and model.generate see their own tests.
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

from fspad_ref import Draft, SamplingConfig, Target, TreeConfig, autoregressive_generate, speculative_generate
from fspad_ref.commands.generate import read_prompt
from fspad_ref.errors import CheckpointError, ConfigError, FspadError, InputError, TargetMismatch
from fspad_ref.files import load_tensors
from fspad_ref.tree import DynamicTree

PROMPT = [2, 7, 5, 11, 3]


@pytest.fixture
def at(target, tmp_path):
    """A target, a draft of it, and the draft's folder, to be damaged."""
    named = Target(target.model, SimpleNamespace(get_vocab=lambda: {"a": 0}))
    draft = tiny_draft(named)
    draft.save_pretrained(tmp_path)
    return SimpleNamespace(target=named, draft=draft, folder=tmp_path)


# --- ways to go wrong ------------------------------------------------------------------------------------------------


def load_for(at, tokenizer=None, **sizes):
    """The saved draft, with a target that differs in one thing."""
    Draft.from_pretrained(at.folder, Target(tiny_target(**sizes).model if sizes else at.target.model, tokenizer))


def load_changed(at, tensors=lambda t: None, target=False, **files):
    """The saved draft, or a saved target, with its tensors changed, or files replaced."""
    if target:
        tiny_target(dtype=torch.float32).model.save_pretrained(at.folder)
    weights = at.folder / "model.safetensors"
    tensors(changed := load_file(weights))
    save_file(changed, weights, metadata={"format": "pt"})
    for name, data in files.items():
        path = at.folder / name.replace("_", ".")
        path.write_bytes(data(path.read_bytes()) if callable(data) else data)
    Target.from_pretrained(str(at.folder)) if target else Draft.from_pretrained(at.folder, at.target)


def load_bin(at, data):
    (at.folder / "a.bin").write_bytes(data)
    load_tensors(at.folder / "a.bin")


def generate(at, prompt=PROMPT, plain=False, spoilt=(), **settings):
    """Without the type checks that only tests have: what a user meets. spoilt: (length of a text, all its logits)."""
    if spoilt:
        settings["processors"] = [lambda ids, scores: scores.fill_(spoilt[1]) if ids.shape[1] == spoilt[0] else scores]
    who = (at.target,) if plain else (at.target, at.draft)
    inspect.unwrap(autoregressive_generate if plain else speculative_generate)(*who, prompt, **settings)


def sample(at, **settings):
    SamplingConfig(**settings)


def grow(at, **sizes):
    generate(at, tree=TreeConfig(**sizes))


def misuse(at, target=None, **settings):
    speculative_generate(target or at.target, DynamicTree(at.draft), PROMPT, **settings)


def read(at, given=None, data=b"", errors="strict"):
    """errors: how Python reads standard input, which depends on the locale."""
    read_prompt(given, io.TextIOWrapper(io.BytesIO(data), "utf-8", errors))


CODE = pickle.dumps(print)  # a pickle that names something to call
LAYER, NORM = "model.layers.1.mlp.up_proj.weight", "model.norm.weight"
TREE, OTHER = TreeConfig(2, 3, 8), tiny_target()
NONE = "logits that are NaN or all -inf after the processors"

TABLE = [  # how, error, expected, what to do, {found: arguments}
    (load_for, TargetMismatch, "a draft made for this target", "Load the target that the draft was trained on", {
        "vocab_size 31 (target: 37)": dict(vocab_size=37),
        "tokenizer_hash": dict(tokenizer=SimpleNamespace(get_vocab=lambda: {"b": 0})),
        "hidden_size 24 (target: 32)": dict(hidden_size=32),
        "head_dim 6 (target: 12)": dict(num_attention_heads=2),
        "rope {": dict(rope_parameters={"rope_type": "default", "rope_theta": 5e5}),
        "max_positions 256 (target: 128)": dict(max_position_embeddings=128),
        "embedding_hash": dict(seed=1),
    }),
    (misuse, TargetMismatch, "the target that the draft was loaded for", "Load", {"another": dict(target=OTHER)}),
    (misuse, ConfigError, "no tree size beside a grower", "Leave tree at None", {"TreeConfig(": dict(tree=TREE)}),
    (load_changed, CheckpointError, "the tensors of this model", "Check that the file and the config belong together", {
        "fuse.weight none instead of (24, 48)": dict(tensors=lambda t: t.pop("fuse.weight")),
        "extra (2,) instead of none": dict(tensors=lambda t: t.update(extra=torch.zeros(2))),
        "fuse.bias (3,) instead of (24,)": dict(tensors=lambda t: t.update({"fuse.bias": torch.zeros(3)})),
    }),
    (load_changed, CheckpointError, "finite weights", "use an earlier checkpoint", {
        "NaN or infinity in fuse.bias": dict(tensors=lambda t: t["fuse.bias"].fill_(math.nan)),
        "NaN or infinity in fuse.weight": dict(tensors=lambda t: t["fuse.weight"].fill_(math.inf)),
        f"NaN or infinity in {NORM}": dict(tensors=lambda t: t[NORM].fill_(math.nan), target=True),
    }),
    (load_changed, CheckpointError, "all weights of", "Get the files again", {
        f"none for {LAYER}": dict(tensors=lambda t: t.pop(LAYER), target=True)}),
    (load_changed, CheckpointError, "safetensors", "save it again", {
        "a damaged or truncated file (SafetensorError": dict(model_safetensors=lambda data: data[:-100]),
        "a damaged or truncated file": dict(model_safetensors=b""),
        "a pickle": dict(model_safetensors=CODE),
    }),
    (load_changed, CheckpointError, "a Hugging Face causal LM", "Give a folder with config.json", {
        "": dict(model_safetensors=lambda data: data[:-100], target=True)}),
    (load_bin, CheckpointError, "a file named .bin a pickle of tensors alone", "save it again, as safetensors", {
        "a pickle (UnpicklingError": dict(data=CODE), "a pickle": dict(data=b"PK\x03\x04")}),
    (load_changed, CheckpointError, "JSON", "Restore it", {"a file that does not parse": dict(config_json=b"{")}),
    (load_changed, CheckpointError, "model_type 'fspad_ref' and its settings", "Give the folder of a saved draft", {
        "model_type 'fspad_ref', layers": dict(config_json=b'{"model_type": "fspad_ref", "layers": 2}'),
        "model_type 'llama'": dict(config_json=b'{"model_type": "llama"}'),
    }),
    (lambda at: Draft.from_pretrained("nothing here", at.target), CheckpointError, "a file at", "Check", {"none": {}}),
    (lambda at: Target.from_pretrained("", dtype="x"), ConfigError, "a dtype of float64", "Choose one", {"'x'": {}}),
    (lambda at: Target.from_pretrained("x/data/target"), CheckpointError, "the built-in target in x/data/target",
     "Run `python -m fspad_ref fetch`", {"no such folder": {}}),
    (read, InputError, "a prompt", "Give it as an argument or on standard input", {"none": dict(data=b" \n")}),
    (read, InputError, "a prompt in UTF-8", "Convert it", {
        "can't decode byte 0xe9": dict(data=b"caf\xe9"), "surrogates": dict(data=b"caf\xe9", errors="surrogateescape"),
        "surrogates not allowed": dict(given="caf\udce9")}),
    *((generate, InputError, "at least one possible next token", "Check the weights and the logits processors", {
        NONE: dict(spoilt=(length, value), **settings)}) for length in (5, 7) for value in (-math.inf, math.nan)
      for settings in ({}, dict(plain=True), dict(sampling=SamplingConfig(1.0, top_p=0.9)))),  # 7: inside a tree
    (sample, ConfigError, "temperature >= 0", "Set", {
        str(value): {"temperature": value} for value in (-0.1, math.inf, math.nan)}),
    (sample, ConfigError, "top_p in (0, 1]", "Set", {str(value): {"top_p": value} for value in (0.0, 1.01, math.nan)}),
    (sample, ConfigError, "top_k a whole number >= 0", "Set top_k", {"-1": {"top_k": -1}}),
    (sample, ConfigError, "seed a whole number in [0, 2**63)", "Set", {"9223": {"seed": 2**63}, "-1": {"seed": -1}}),
    *((grow, ConfigError, f"{name} to be a whole number >= 1", "Set it to at least 1", {
        "0": {name: 0}, "-1": {name: -1}}) for name in ("top_k", "depth", "total_tokens")),
    (grow, ConfigError, "noise_weight >= 0 and noise_scale > 0", "Set them to 0 and 1", {str((w, s)): dict(
        noise_weight=w, noise_scale=s) for w, s in ((-0.5, 1.0), (math.nan, 1.0), (math.inf, 1.0), (0.7, 0.0),
                                                    (0.0, -1.0), (0.0, math.nan))}),
    (grow, ConfigError, "top_k <= 31", "Lower top_k", {"32": {"top_k": 32}}),
    (grow, ConfigError, "total_tokens <= 7", "Lower total_tokens", {"8": {"top_k": 2, "depth": 1, "total_tokens": 8}}),
    (generate, InputError, "a prompt of at least one token", "Give the model some text", {"empty": dict(prompt=[])}),
    (generate, InputError, "token ids in [0, 31)", "Encode the prompt with this target's own tokenizer", {
        "-1": dict(prompt=[3, -1]), "31": dict(prompt=[31], plain=True)}),
    (generate, InputError, "one prompt of token ids", "Encode text with target.tokenizer", {
        "torch.int64 of shape (2, 5)": dict(prompt=torch.tensor([PROMPT, PROMPT])),
        "torch.float32": dict(prompt=[2.0, 7.5]),
        "torch.bool": dict(prompt=torch.tensor([[True]])),
        "str 'Hello'": dict(prompt="Hello"),
        "list ['a', 'b']": dict(prompt=["a", "b"], plain=True),
        "dict": dict(prompt={"input_ids": [PROMPT]}),
    }),
    (generate, InputError, "within the target's 256 positions", "Set max_new_tokens to at most 2", {
        "5 + 250 + 4": dict(max_new_tokens=250, tree=TREE), "5 + 252 + 0": dict(max_new_tokens=252, plain=True)}),
    (generate, InputError, "within the target's 256 positions", "Shorten the prompt", {
        "256 + 1 + 6": dict(prompt=[3] * 256, max_new_tokens=1)}),
    (generate, InputError, "max_new_tokens to be a whole number >= 0", "Set it", {"-1": dict(max_new_tokens=-1)}),
]  # fmt: skip
CASES = [(*row, found, arguments) for *row, cases in TABLE for found, arguments in cases.items()]


@pytest.mark.parametrize("how, kind, expected, advice, found, arguments", CASES)
def test_the_error_says_what_was_expected_found_and_what_to_do(at, how, kind, expected, advice, found, arguments):
    with pytest.raises(kind) as error:
        how(at, **arguments)
    assert isinstance(error.value, FspadError)
    in_this_order = ".*".join(map(re.escape, ("expected ", expected, "found", found, advice)))
    assert re.search(in_this_order, str(error.value), re.DOTALL), str(error.value)


# --- what is bad, but no error ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [0, 24], ids=["logit head", "aligned head"])
def test_a_draft_full_of_nan_is_useless_but_not_wrong(target, head):
    draft = tiny_draft(target)
    with torch.no_grad():
        draft.layer.down.weight[head, 0] = torch.nan
    for seed in range(10):
        settings = dict(max_new_tokens=15, sampling=SamplingConfig(1.0, seed=seed))
        plain = autoregressive_generate(target, PROMPT, **settings)
        assert speculative_generate(target, draft, PROMPT, **settings).tokens == plain.tokens


