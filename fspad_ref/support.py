"""Which targets can work, and what is wrong with the others.

The method asks five things of a target: logits = lm_head(feature); keys and values of one size, from which a rejected
branch can be taken out again; attention that takes any mask; rotary positions that mean the same in every forward;
and an embedding and lm_head at hand. What contradicts them is refused by name, before anything is decoded. The
families in TESTED are held to it by tests; other ones have to show on loading that they behave (`refuse_misbehaving`).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from fspad_ref.cache import KVCache
from fspad_ref.errors import UnsupportedTarget

TESTED = ("llama", "mistral", "qwen2", "qwen3", "gemma")


def refuse_unsupported(config: Any) -> None:
    """Raises UnsupportedTarget, naming the reason, for models that trees cannot be verified on or drafts made for."""
    refuse_attention(getattr(config, "_attn_implementation", None))
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    other = sorted(set(getattr(config, "layer_types", None) or []) - {"full_attention"})
    if window or other:
        found = f"sliding_window={window}" if window else f"layers of type {', '.join(other)}"
        raise UnsupportedTarget(
            f"expected a target with full attention in every layer, found {config.model_type} with "
            f"{found}: its cache cannot roll back a rejected branch. Use a full-attention model."
        )
    if getattr(config, "use_bidirectional_attention", None):
        raise UnsupportedTarget(
            f"expected causal attention, found {config.model_type} with use_bidirectional_attention: its features "
            "know the tokens behind them. Use a causal language model."
        )
    for name, neutral in (("logits_scaling", 1), ("logit_scale", 1), ("final_logit_softcapping", None)):
        if getattr(config, name, None) not in (None, neutral):
            raise UnsupportedTarget(
                f"expected logits = lm_head(feature), found {config.model_type} with {name}={getattr(config, name)}, "
                "which changes them afterwards. Use a Llama-like model."
            )
    if latent := getattr(config, "kv_lora_rank", None):
        raise UnsupportedTarget(
            f"expected keys and values of one size, found {config.model_type} with latent attention (kv_lora_rank="
            f"{latent}), whose keys are longer: no slot of the cache fits both. Use a Llama-like model."
        )
    # without the first the cache has no size, without the second the draft's norms no epsilon
    for name in ("num_key_value_heads", "rms_norm_eps"):
        if not getattr(config, name, None):
            raise UnsupportedTarget(
                f"expected a Llama-like config with {name}, found {config.model_type} without. "
                "Supported are Llama, Vicuna, Mistral without sliding window, Qwen2, Qwen3 and Gemma (the first)."
            )
    _refuse_rope(config)


def refuse_attention(name: str | None) -> None:
    """Raises UnsupportedTarget for an implementation of attention other than sdpa and eager."""
    if name not in (None, "sdpa", "eager"):
        raise UnsupportedTarget(
            f"expected attention 'sdpa' or 'eager', found {name!r}, which cannot take a tree "
            "mask. Load the target with attn_implementation='sdpa'."
        )


def _refuse_rope(config: Any) -> None:
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        raise UnsupportedTarget(
            "expected RoPE frequencies that depend on the position alone, found rope_type 'longrope', which "
            "switches them by the longest position of a forward. Use a model with another rope_type."
        )
    if (part := rope.get("partial_rotary_factor") or 1.0) != 1.0:
        raise UnsupportedTarget(
            f"expected RoPE over whole heads, as the draft's layer has it, found {config.model_type} with "
            f"partial_rotary_factor={part}. Use a Llama-like model."
        )


def refuse_model(model: nn.Module) -> None:
    """As refuse_unsupported, and what only the loaded model tells: recurrent layers, offloaded embeddings."""
    refuse_unsupported(model.config)
    if getattr(model, "_is_stateful", False):
        raise UnsupportedTarget(
            f"expected a target whose whole memory is its keys and values, found {model.config.model_type} with a "
            "recurrent state, which cannot forget a rejected branch. Use a full-attention model."
        )
    for name, module in (("embedding", "get_input_embeddings"), ("lm_head", "get_output_embeddings")):
        weight = getattr(getattr(model, module, lambda: None)(), "weight", None)
        if weight is not None and weight.device.type == "meta":
            raise UnsupportedTarget(
                f"expected a target whose {name} is on a device, found it offloaded by device_map. Drafts borrow it: "
                "give it a device in the device_map, or load the target on more or larger ones."
            )


@torch.no_grad()
def refuse_misbehaving(target: Any) -> None:
    """Try a model of an unknown family: raises UnsupportedTarget unless it does what decoding relies on.

    Three tokens, then a root with two children in one tree forward, held against each path alone; and lm_head(feature)
    against the model's own logits. Costs about four plain steps.
    """
    prefix, tree = [1, 2, 3], [4, 5, 6]
    ids = torch.tensor(prefix + tree, device=target.device) % target.vocab_size
    depth, ancestors = torch.tensor([0, 1, 1]), torch.tensor([[1, 0, 0], [1, 1, 0], [1, 0, 1]]).bool()
    try:
        cache = target.new_cache(len(ids))
        target.features(ids[None, :3], cache=cache)
        found = target.tree_features(ids[3:], depth.to(target.device), ancestors.to(target.device), cache)
        first, second = (target.features(torch.cat((ids[:4], ids[child : child + 1]))[None])[0] for child in (4, 5))
        logits = target.model(input_ids=ids[None, :5]).logits[0]
        pairs = {
            "features in a tree like those of each path alone": (found, torch.stack((first[3], first[4], second[4]))),
            "logits = lm_head(feature)": (target.lm_head(first), logits),
        }
    except (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise UnsupportedTarget(
            f"expected a model that takes a tree of tokens, found {target.config.model_type}, which failed: {error}. "
            f"Tested families are {', '.join(TESTED)}."
        ) from error
    allowed = 1e-3 if target.dtype in (torch.float32, torch.float64) else 0.1
    for law, (one, other) in pairs.items():
        if not (one - other).norm() <= allowed * other.norm():
            raise UnsupportedTarget(
                f"expected {law}, found {target.config.model_type}, for which that does not hold. "
                f"Tested families are {', '.join(TESTED)}."
            )



# ---- spread ----
#
# A target that is spread over several devices by `device_map`: where its layers are, and a cache that follows them.
#
# accelerate's hooks carry a layer's input to the layer's device. What they leave to us: results come home to the device
# of the embedding, where the draft is and where tokens are chosen; and keys and values stay beside their layer, since
# moving them would cost more than all else.

def layer_devices(model: nn.Module) -> list[torch.device]:
    """Where each decoder layer computes, in their order; empty for a model on one device."""
    if len(set((getattr(model, "hf_device_map", None) or {}).values())) < 2:
        return []
    return [_device_of(layer) for layer in model.get_decoder().layers]


def _device_of(module: nn.Module) -> torch.device:
    """Where a module computes, which is not where its weights lie if those are offloaded."""
    hook = getattr(module, "_hf_hook", None)
    place = getattr(hook, "execution_device", None)
    return next(module.parameters()).device if place is None else torch.device(place)


def come_home(module: nn.Module, home: torch.device) -> None:
    """From now on the module's output is brought to `home`."""
    module.register_forward_hook(lambda _, inputs, output: output.to(home))


class SpreadCache(KVCache):
    """A KVCache of several parts, one a device, each with the layers of that device.

    Args:
        devices: the device of every layer.
        part: (number of layers, device) -> a KVCache.
    """

    def __init__(self, devices: Sequence[torch.device], part: Callable[[int, torch.device], KVCache]):
        self.parts = {device: part(devices.count(device), device) for device in dict.fromkeys(devices)}
        of_part = {device: iter(one.layers) for device, one in self.parts.items()}
        Cache.__init__(self, layers=[next(of_part[device]) for device in devices])
        self.capacity = next(iter(self.parts.values())).capacity
        self.last = self.parts[devices[-1]]

    @property
    def length(self) -> int:
        """Positions held (the same in all layers between two forwards)."""
        return self.last.length

    def keep(self, start: int, rows: Tensor) -> None:
        """As KVCache.keep, in every part."""
        for part in self.parts.values():
            part.keep(start, rows.to(part.kv.device))

    def truncate(self, length: int) -> None:
        """As KVCache.truncate, in every part."""
        for part in self.parts.values():
            part.truncate(length)


