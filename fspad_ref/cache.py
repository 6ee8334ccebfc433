"""A preallocated key/value cache that can keep any subset of its newest entries.

Speculative decoding writes the keys and values of a whole draft *tree* and then keeps those of one path:

    before   [ prefix ........ | root  a  b  c  d  e  f ]      N new entries
    keep     [ prefix ........ | root  b  e ]                  rows (0, 2, 5), gathered to the front

`transformers`' own caches can only be cut at the end, so this one sits under their interface
(`transformers.Cache`) and adds `keep`. All layers live in one tensor, so keeping a path is one indexed copy.
"""

import torch
from jaxtyping import Int
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from fspad_ref.errors import InputError, require


class _LayerView(CacheLayerMixin):
    """One layer of a `KVCache`, in the shape that `transformers` models talk to."""

    is_sliding = False

    def __init__(self, owner: "KVCache", index: int):
        super().__init__()
        self.owner, self.index = owner, index
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the storage exists from the start."""

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        return self.owner.write(self.index, key_states, value_states)

    def get_seq_length(self, *args, **kwargs) -> int:
        return self.owner.length_of[self.index]

    def get_mask_sizes(self, query_length, *args, **kwargs) -> tuple[int, int]:
        # Older transformers pass the positions themselves, newer ones their number.
        new = query_length if isinstance(query_length, int) else query_length.shape[0]
        return self.get_seq_length() + new, 0

    def get_max_length(self) -> int:
        return self.owner.capacity

    get_max_cache_shape = get_max_length  # the name before transformers 5.20


class KVCache(Cache):
    """Keys and values of all layers, `(layers, 2, batch, kv_heads, capacity, head_dim)`.

    Args:
        layers, kv_heads, head_dim: sizes of the model that writes here.
        capacity: the most positions it can hold, draft tree included.
        batch: sequences; speculative decoding here is batch 1.

    Raises InputError on a write beyond `capacity`.
    """

    def __init__(self, layers: int, kv_heads: int, head_dim: int, capacity: int, *, batch: int = 1,
                 dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"):  # fmt: skip
        super().__init__(layers=[_LayerView(self, index) for index in range(layers)])
        self.capacity = capacity
        # Zeros, not empty: a masked slot is multiplied by weight 0, and 0 * NaN would be NaN.
        self.kv = torch.zeros(layers, 2, batch, kv_heads, capacity, head_dim, dtype=dtype, device=device)
        self.length_of = [0] * layers

    @property
    def length(self) -> int:
        """Positions held (the same in all layers between two forwards)."""
        return self.length_of[-1]

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append `(B, H, n, D)` keys and values to one layer; returns views of all that the layer holds."""
        start = self.length_of[layer]
        end = start + keys.shape[-2]
        require(end <= self.capacity, InputError, f"at most {self.capacity} positions", end, "Make a larger cache.")
        self.kv[layer, 0, :, :, start:end] = keys
        self.kv[layer, 1, :, :, start:end] = values
        self.length_of[layer] = end
        return self.kv[layer, 0, :, :, :end], self.kv[layer, 1, :, :, :end]

    def keep(self, start: int, rows: Int[Tensor, "kept"]) -> None:
        """Of the entries from `start` on keep only `rows` (offsets from `start`, ascending), moved to the front.

        The indexed read makes a copy before the write, so overlapping source and destination are safe.
        """
        end = start + rows.shape[0]
        self.kv[..., start:end, :] = self.kv[..., start + rows, :]
        self.truncate(end)

    def truncate(self, length: int) -> None:
        """Forget everything from position `length` on (the storage stays)."""
        self.length_of = [length] * len(self.length_of)
