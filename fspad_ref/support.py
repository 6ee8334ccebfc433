"""Which targets can work, what is wrong with the others, and targets that lie on several devices.

The method asks five things of a target: logits = lm_head(feature); keys and values of one size, from which a rejected
branch can be taken out again; attention that takes any mask; rotary positions that mean the same in every forward pass;
and an embedding and lm_head at hand. Some families fail silently, so only families that the tests cover are accepted.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from fspad_ref.cache import KVCache
from fspad_ref.errors import UnsupportedTarget, require

# To add a family, put a tiny config of it into tests/test_families.py, and see whether it passes.
TESTED = ("llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "gemma", "olmo2")


def refuse_unsupported(config: Any) -> None:
    """Raises UnsupportedTarget, naming the reason, for models that trees cannot be verified on or drafts made for."""
    refuse_attention(getattr(config, "_attn_implementation", None))
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    layers = sorted(set(getattr(config, "layer_types", None) or []) - {"full_attention"})
    rope = getattr(config, "rope_parameters", None) or {}
    part = rope.get("partial_rotary_factor") or 1.0
    for wrong, expected, found in (
        (window, "full attention in every layer", f"sliding_window={window}: its cache cannot roll back"),
        (layers, "full attention in every layer", f"layers of {', '.join(layers)}: their cache cannot roll back"),
        (config.model_type not in TESTED, f"a family that is tested ({', '.join(TESTED)})", "another architecture"),
        (getattr(config, "use_bidirectional_attention", None), "causal attention", "use_bidirectional_attention"),
        (rope.get("rope_type") == "longrope", "RoPE of the position alone", "longrope, which depends on the longest"),
        (part != 1.0, "RoPE over whole heads, as the draft has it", f"partial_rotary_factor={part}"),
    ):
        found = f"{config.model_type} with {found}"
        require(not wrong, UnsupportedTarget, f"a target with {expected}", found, "Use a Llama-like model.")


def refuse_attention(name: str | None) -> None:
    """Raises UnsupportedTarget for an implementation of attention other than sdpa and eager."""
    found, advice = f"{name!r}, which cannot take a tree mask", "Load the target with attn_implementation='sdpa'."
    require(name in (None, "sdpa", "eager"), UnsupportedTarget, "attention 'sdpa' or 'eager'", found, advice)


def refuse_model(model: nn.Module) -> None:
    """As refuse_unsupported; and UnsupportedTarget for an embedding or lm_head that is offloaded."""
    refuse_unsupported(model.config)
    for name, module in (("embedding", model.get_input_embeddings()), ("lm_head", model.get_output_embeddings())):
        found, advice = "it offloaded by device_map", "Drafts borrow it: give it a device in the device_map."
        require(not module.weight.is_meta, UnsupportedTarget, f"a target whose {name} is on a device", found, advice)


# --- targets that device_map spreads over several devices ------------------------------------------------------------
# accelerate's hooks carry a layer's input to the layer's device. What they leave to us: results come home to the device
# of the embedding, where the draft is; keys and values stay beside their layer, since moving them would cost most.


def layer_devices(model: nn.Module) -> list[torch.device]:
    """Where each decoder layer computes, in their order; empty for a model on one device."""
    if len(set((getattr(model, "hf_device_map", None) or {}).values())) < 2:
        return []
    return [_device_of(layer) for layer in model.get_decoder().layers]


def _device_of(module: nn.Module) -> torch.device:
    """Where a module computes, which is not where its weights lie if those are offloaded."""
    place = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
    return next(module.parameters()).device if place is None else torch.device(place)


def come_home(module: nn.Module, home: torch.device) -> None:
    """From now on the module's output is brought to `home`."""
    module.register_forward_hook(lambda _, inputs, output: output.to(home))


class SpreadCache(KVCache):
    """A KVCache of several parts, one per device, each with the layers of that device.

    devices: the device of every layer. part: (number of layers, device) -> a KVCache.
    """

    def __init__(self, devices: Sequence[torch.device], part: Callable[[int, torch.device], KVCache]):
        self.parts = {device: part(devices.count(device), device) for device in dict.fromkeys(devices)}
        of_part = {device: iter(one.layers) for device, one in self.parts.items()}
        Cache.__init__(self, layers=[next(of_part[device]) for device in devices])
        self.capacity = self.parts[devices[0]].capacity

    @property
    def length(self) -> int:
        return list(self.parts.values())[-1].length

    def keep(self, start: int, rows: Tensor) -> None:
        for part in self.parts.values():
            part.keep(start, rows.to(part.kv.device))

    def truncate(self, length: int) -> None:
        for part in self.parts.values():
            part.truncate(length)
