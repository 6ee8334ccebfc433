"""Drafts in the published layouts: read those that others trained, write ours for engines that serve EAGLE.

Two layouts differ in names only: that of EAGLE and EAGLE-2 (`fc.` is one linear map; on the Hub as pytorch_model.bin
with a config.json beside it) and that of FSPAD's reference code, whose training states hold the feature sampler under
`fc.` and a down-projection of twice the height.
"""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig

from fspad_ref.errors import CheckpointError, ConfigError, TargetMismatch
from fspad_ref.files import load_json, load_tensors, save_json, save_tensors
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
WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def read_official(path: str | Path, target: Target) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The settings of DraftConfig that the files imply, and the tensors under our names.

    Kind, head counts and widths are read off the shapes. A folder may hold a config.json beside the weights: what it
    says of the model that the draft was made for is then held against the target, and its norm's epsilon is used.

    Raises CheckpointError for files of another kind, and TargetMismatch for a draft that brings an embedding or lm_head
    other than the target's.
    """
    path = Path(path)
    told = _read_config(path / "config.json") if (path / "config.json").is_file() else {}
    if path.is_dir():
        path = next((path / name for name in WEIGHTS if (path / name).is_file()), path / WEIGHTS[0])
    found = load_tensors(path)
    if all(name.startswith("module.") for name in found):  # as torch's wrapper for several processes saves it
        found = {name.removeprefix("module."): tensor for name, tensor in found.items()}
    names = sorted(found)
    tensors = {ours: found.pop(theirs) for theirs, ours in OFFICIAL_NAMES.items() if theirs in found}
    if any(name.startswith("midlayer.") or name == "d2t" for name in names):
        raise CheckpointError(
            f"expected a draft of EAGLE, EAGLE-2 or FSPAD in {path}, found one of EAGLE-3, which reads three features "
            "of the target at once and is another model. Give the file of a trained EAGLE or FSPAD draft."
        )
    if missing := [needed for needed in NEEDED if needed not in tensors]:
        raise CheckpointError(
            f"expected a draft in the reference layout in {path}, found no tensor for our {', '.join(missing)} among "
            f"{len(names)}: {', '.join(names[:4])}. Give the file of a trained EAGLE or FSPAD draft."
        )
    _drop_copies(found, target, path)
    dim, hidden = head_dim(target.config), tensors["fuse.weight"].shape[0]
    settings = {
        "feature_sampling": "sampler.gate.weight" in tensors,
        "partial_alignment": tensors["layer.down.weight"].shape[0] == 2 * hidden,
        "intermediate_size": tensors["layer.gate.weight"].shape[0],
        "num_heads": tensors["layer.q.weight"].shape[0] // dim,
        "num_kv_heads": tensors["layer.k.weight"].shape[0] // dim,
        "fuse_bias": "fuse.bias" in tensors,
        "qkv_bias": "layer.q.bias" in tensors,
        "hidden_size": hidden,
    }
    # what has no translation will show up as unknown when the names are compared
    return settings | told, tensors | found


def _read_config(path: Path) -> dict[str, Any]:
    """What a published config.json says of the target: DraftConfig refuses another. Its length limit says nothing."""
    config = load_json(path)
    if not isinstance(config, dict) or config.get("model_type") == "fspad_ref":
        raise CheckpointError(
            f"expected the config of a published draft in {path}, found another kind. For drafts saved by "
            "save_pretrained use Draft.from_pretrained."
        )
    told = {name: config[name] for name in ("hidden_size", "vocab_size", "rms_norm_eps", "head_dim") if name in config}
    if "num_attention_heads" in config and "hidden_size" in config:
        told.setdefault("head_dim", config["hidden_size"] // config["num_attention_heads"])
    # in today's spelling, whatever that of the file, and with Llama's own defaults where it is silent
    rope = {name: config[name] for name in ("rope_theta", "rope_scaling", "rope_parameters") if config.get(name)}
    return told | {"rope": dict(LlamaConfig(**rope).rope_parameters)}


def _drop_copies(tensors: dict[str, Tensor], target: Target, source: str | Path) -> None:
    """Published drafts carry a copy of the target's embedding, converted ones of its lm_head too; ours borrow them."""
    for name, own in (("embed_tokens.weight", target.embed.weight), ("lm_head.weight", target.lm_head.weight)):
        copy = tensors.pop(name, None)
        if copy is None:
            continue
        own = own.detach().cpu()
        if copy.shape != own.shape or not torch.equal(copy.to(own.dtype), own.to(copy.dtype).to(own.dtype)):
            raise TargetMismatch(
                f"expected {name} in {source} to equal the target's, found another. "
                "Load the target that the draft was trained on."
            )


def write_official(draft: Any, folder: str | Path, architecture: str) -> None:
    """See Draft.to_official."""
    config, target = draft.config, draft.target
    if config.kind != "eagle":
        raise ConfigError(
            f"expected a plain EAGLE draft to export, found {config.kind!r}: engines that serve EAGLE have neither the "
            "gate of feature sampling between fc and the layer, nor a second head for partial alignment. Train a draft "
            "with feature_sampling=False and partial_alignment=False, or decode this one here."
        )
    if type(target.embed) is not nn.Embedding:
        raise ConfigError(
            f"expected a target whose embedding is a plain table, found {type(target.embed).__name__}, which the "
            "layout cannot express. Decode this draft here."
        )
    tensors = {EAGLE_NAMES[name]: tensor for name, tensor in draft.state_dict().items()}
    if config.fuse_bias and tensors["fc.bias"].any():
        warnings.warn(
            "vLLM's EAGLE model has no fc.bias and ignores the one in this file: the text stays right, fewer drafted "
            "tokens are accepted. Train with fuse_bias=False for it.",
            stacklevel=3,
        )
    tensors.setdefault("fc.bias", torch.zeros(config.hidden_size, dtype=draft.fuse.weight.dtype))
    tensors["embed_tokens.weight"] = target.embed.weight.to(draft.fuse.weight.dtype)
    folder = Path(folder)
    save_tensors(folder / "model.safetensors", tensors, metadata={"format": "pt"})
    save_json(folder / "config.json", _published_config(draft, architecture))


def _published_config(draft: Any, architecture: str) -> dict[str, Any]:
    """A Llama of one layer, in the older spelling of RoPE that all engines read.

    Not written: "bias". The reference takes its absence for a bias of fc, which there is; vLLM would take its presence
    for biases of the attention.
    """
    config, target = draft.config, draft.target.config
    scaling = {name: value for name, value in config.rope.items() if name != "rope_theta"}
    return {
        "architectures": [architecture],
        "model_type": "llama",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": 1,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope["rope_theta"],
        "rope_scaling": None if scaling.get("rope_type", "default") == "default" else scaling,
        "hidden_act": "silu",
        "attention_bias": False,
        "qkv_bias": config.qkv_bias,
        "eagle_fc_bias": True,
        "tie_word_embeddings": False,
        **{name: getattr(target, name, None) for name in ("bos_token_id", "eos_token_id", "pad_token_id")},
        "torch_dtype": str(draft.fuse.weight.dtype).removeprefix("torch."),
    }
