"""Reading drafts that others trained: the layout of FSPAD's reference code and of published EAGLE drafts."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fspad_ref.checkpoint import load_tensors
from fspad_ref.errors import CheckpointError, TargetMismatch
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
    "layers.0.post_attention_layernorm.weight": "layer.norm.weight",
    **{f"layers.0.mlp.{part}_proj.weight": f"layer.{part}.weight" for part in ("gate", "up", "down")},
}
NEEDED = ("fuse.weight", "layer.q.weight", "layer.k.weight", "layer.gate.weight", "layer.down.weight")


def read_official(path: str | Path, target: Target) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The settings of DraftConfig that the tensors imply, and the tensors under our names.

    Kind, head counts and widths are read off the shapes. Raises CheckpointError for a file of another kind, and
    TargetMismatch for a draft that brings an embedding other than the target's.
    """
    found = load_tensors(path)
    _drop_embedding(found, target, path)
    tensors = {ours: found.pop(theirs) for theirs, ours in OFFICIAL_NAMES.items() if theirs in found}
    for needed in NEEDED:
        if needed not in tensors:
            raise CheckpointError(
                f"expected a draft in the reference layout in {path}, no tensor for our {needed}. "
                "Give the file of a trained EAGLE or FSPAD draft."
            )
    dim, hidden = head_dim(target.config), tensors["fuse.weight"].shape[0]
    settings = {
        "feature_sampling": "sampler.gate.weight" in tensors,
        "partial_alignment": tensors["layer.down.weight"].shape[0] == 2 * hidden,
        "intermediate_size": tensors["layer.gate.weight"].shape[0],
        "num_heads": tensors["layer.q.weight"].shape[0] // dim,
        "num_kv_heads": tensors["layer.k.weight"].shape[0] // dim,
        "fuse_bias": "fuse.bias" in tensors,
        "hidden_size": hidden,
    }
    return settings, tensors | found  # what has no translation will show up as unknown when the names are compared


def _drop_embedding(found: dict[str, Tensor], target: Target, path) -> None:
    """Published drafts carry a copy of their target's embedding."""
    embedding = found.pop("embed_tokens.weight", None)
    if embedding is None:
        return
    own = target.embed.weight
    if embedding.shape != own.shape or not torch.equal(embedding.to(own), own):
        raise TargetMismatch(
            f"expected embed_tokens.weight in {path} to equal the target's embedding, found another. "
            "Load the target that the draft was trained on."
        )
