"""A target that is spread over several devices by `device_map`: where its layers are, and a cache that follows them.

accelerate's hooks carry a layer's input to the layer's device. What they leave to us: results come home to the device
of the embedding, where the draft is and where tokens are chosen; and keys and values stay beside their layer, since
moving them would cost more than all else.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from fspad_ref.cache import KVCache


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
