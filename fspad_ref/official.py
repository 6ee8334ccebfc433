"""Drafts in the published layouts: read those that others trained, write ours for engines that serve EAGLE.

Two layouts differ in names only: that of EAGLE and EAGLE-2 (`fc.` is one linear map; on the Hub as pytorch_model.bin
with a config.json beside it) and that of FSPAD's reference code, whose training states hold the feature sampler under
`fc.` and a down-projection of twice the height.

What engines lack for drafts of other kinds than EAGLE's: between fc and the layer, the gated MLP that reads the token's
embedding (feature sampling); and a down-projection of 2 D outputs over a duplicated residual, of which one half goes
through lm_head and the other is fed back (partial alignment). Neither can be folded into the tensors that they read.
"""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig

from fspad_ref.errors import CheckpointError, ConfigError, TargetMismatch, require
from fspad_ref.files import load_json, load_tensors, save_atomic, save_json, save_tensors
from fspad_ref.target import Target, head_dim

# Their names -> ours. `fc.` is a plain linear map without feature sampling and a module with it.
OFFICIAL_NAMES = {
    "fc.weight": "fuse.weight",
    "fc.bias": "fuse.bias",
    "fc.fc.weight": "fuse.weight",
    "fc.fc.bias": "fuse.bias",
    "fc.post_attention_layernorm.weight": "sampler.norm.weight",
    **{f"fc.mlp.{part}_proj.weight": f"sampler.{part}.weight" for part in ("gate", "up", "down")},
    **{f"layers.0.self_attn.{part}_proj.weight": f"layer.{part}.weight" for part in "qkvo"},
    **{f"layers.0.self_attn.{part}_proj.bias": f"layer.{part}.bias" for part in "qkv"},
    "layers.0.post_attention_layernorm.weight": "layer.norm.weight",
    **{f"layers.0.mlp.{part}_proj.weight": f"layer.{part}.weight" for part in ("gate", "up", "down")},
}
# The same, read backwards, for a plain EAGLE draft.
EAGLE_NAMES = {ours: theirs for theirs, ours in OFFICIAL_NAMES.items() if not theirs.startswith(("fc.fc", "fc.mlp"))}
NEEDED = ("fuse.weight", "layer.q.weight", "layer.k.weight", "layer.gate.weight", "layer.down.weight")


def read_official(path: Path, target: Target) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The settings of DraftConfig that the files imply, and the tensors under our names.

    Kind, head counts and widths are read off the shapes. A folder may hold a config.json beside the weights: what it
    says of the model that the draft was made for is then held against the target, and its norm's epsilon is used.

    Raises CheckpointError for files of another kind, and TargetMismatch for a draft that brings an embedding or lm_head
    other than the target's.
    """
    stated = _read_config(path / "config.json") if (path / "config.json").is_file() else {}
    if path.is_dir():
        pickled = path / "pytorch_model.bin"
        path = pickled if pickled.is_file() else path / "model.safetensors"
    # "module." is what torch's wrapper for several processes puts before every name
    found = {name.removeprefix("module."): tensor for name, tensor in load_tensors(path).items()}
    tensors = {ours: found.pop(theirs) for theirs, ours in OFFICIAL_NAMES.items() if theirs in found}
    eagle3 = "d2t" in found or any(name.startswith("midlayer.") for name in found)
    missing = ", ".join(needed for needed in NEEDED if needed not in tensors)
    found_instead = "an EAGLE-3 draft, which is a different model" if eagle3 else f"no tensor for our {missing}"
    expected = f"a draft of EAGLE, EAGLE-2 or FSPAD in {path}"
    require(not missing, CheckpointError, expected, found_instead, "Give the file of such a draft.")
    for name, own in (("embed_tokens.weight", target.embed.weight), ("lm_head.weight", target.lm_head.weight)):
        own = own.detach().cpu()
        copy = found.pop(name, own)  # published drafts carry copies, which ours borrow
        same = copy.shape == own.shape and torch.equal(copy.to(own), own.to(copy).to(own))
        advice = "Load the target that the draft was trained on."
        require(same, TargetMismatch, f"{name} in {path} to equal the target's", "another", advice)
    fuse, q, k, gate, down = (tensors[needed].shape[0] for needed in NEEDED)  # all heights of weights
    settings = {
        "feature_sampling": "sampler.gate.weight" in tensors,
        "partial_alignment": down == 2 * fuse,
        "intermediate_size": gate,
        "num_heads": q // head_dim(target.config),
        "num_kv_heads": k // head_dim(target.config),
        "fuse_bias": "fuse.bias" in tensors,
        "qkv_bias": "layer.q.bias" in tensors,
        "hidden_size": fuse,
    }
    return settings | stated, tensors | found  # what has no translation is refused when the names are compared


def _read_config(path: Path) -> dict[str, Any]:
    """What a published config.json says of the target: DraftConfig refuses another. Its length limit says nothing."""
    config = load_json(path)
    published = isinstance(config, dict) and config.get("model_type") != "fspad_ref"
    advice = "For drafts saved by save_pretrained use Draft.from_pretrained."
    require(published, CheckpointError, f"the config of a published draft in {path}", "another kind", advice)
    # in today's spelling of RoPE, whatever that of the file, and with Llama's own defaults where it says nothing
    config = LlamaConfig.from_dict(config | {"model_type": "llama"})
    names = ("hidden_size", "vocab_size", "rms_norm_eps", "head_dim")
    return {"rope": dict(config.rope_parameters), **{name: getattr(config, name) for name in names}}


def write_official(draft: Any, folder: str | Path, architecture: str) -> None:
    """See Draft.to_official. A draft without a bias of the fusing map gets zeros, since SGLang always makes one."""
    config, embed, dtype = draft.config, draft.target.embed, draft.fuse.weight.dtype
    advice = "Train a draft with feature_sampling=False and partial_alignment=False, or decode this one here."
    require(config.kind == "eagle", ConfigError, "a plain EAGLE draft to export", repr(config.kind), advice)
    plain, found = type(embed) is nn.Embedding, type(embed).__name__
    require(plain, ConfigError, "a target whose embedding is a plain table", found, "Decode this draft here.")
    tensors = {EAGLE_NAMES[name]: tensor for name, tensor in draft.state_dict().items()}
    if config.fuse_bias and tensors["fc.bias"].any():
        warnings.warn(
            "vLLM's EAGLE model has no fc.bias and ignores the one in this file: the text stays right, fewer drafted "
            "tokens are accepted. Train with fuse_bias=False for it.",
            stacklevel=3,
        )
    tensors.setdefault("fc.bias", torch.zeros(config.hidden_size, dtype=dtype))
    tensors["embed_tokens.weight"] = embed.weight.to(dtype)
    save_tensors(Path(folder) / "model.safetensors", tensors)
    # A Llama of one layer, in the older spelling of RoPE that all engines read. Without "bias": the reference takes its
    # absence for a bias of fc, which there is; vLLM would take its presence for biases of the attention.
    same = ("hidden_size", "intermediate_size", "head_dim", "vocab_size", "rms_norm_eps", "qkv_bias")
    ends = ("bos_token_id", "eos_token_id", "pad_token_id")
    scaling = {name: value for name, value in config.rope.items() if name != "rope_theta"}
    settings = {
        "architectures": [architecture], "model_type": "llama", "num_hidden_layers": 1, "hidden_act": "silu",
        "attention_bias": False, "eagle_fc_bias": True, "tie_word_embeddings": False,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "max_position_embeddings": config.max_positions,
        "rope_theta": config.rope["rope_theta"],
        "rope_scaling": None if scaling.get("rope_type", "default") == "default" else scaling,
        "torch_dtype": str(dtype).removeprefix("torch."),
        **{name: getattr(config, name) for name in same},
        **{name: getattr(draft.target.config, name, None) for name in ends},
    }  # fmt: skip
    save_json(Path(folder) / "config.json", settings)
    if draft.vocabulary is not None:  # for SGLang's --speculative-token-map
        save_atomic(Path(folder) / "token_map.pt", lambda partial: torch.save(draft.vocabulary.cpu(), partial))
