"""CUDA graphs: a row of kernels recorded once and started by one call, and the cache that makes decoding fit for it.

A step of a large model is hundreds of kernels of some microseconds each; started one by one from Python they wait for
Python. A recorded graph starts them all at once, but it is a recording: it replays the same kernels, on the same
addresses, with the same shapes and the same numbers from the host. So whatever is captured must

    1. have shapes that never change: a path of a tokens is padded to the longest there can be
    2. read what changes from tensors that stay where they are, and write its results into such tensors, in place
    3. take no number from the host that changes: no Python integer for the length of the text, above all
    4. look at no number: no .item(), no branch on data, no copy between host and device
    5. leave the host as it found it: Python does not run again when the graph is replayed

`tree.expand`, `tree.rerank` and `verify` obey 1, 3 and 4 as they stand. What breaks 3 is the cache, which keeps its
length in Python and hands out slices: `StaticCache` keeps it on the device and hands out all slots, and the attention
mask says which of them count. On a CPU there is nothing to record: the same functions run as they are.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from fspad_ref.cache import KVCache
from fspad_ref.errors import UnsupportedTarget

Result = TypeVar("Result")
WARM_UP = 3  # runs before a capture: libraries make their handles and workspaces in them
ALIGNED = 64  # slots: kernels for masked attention want a mask's rows at round addresses


def capture(run: Callable[[], Result], state: Sequence[Tensor], device: torch.device) -> Callable[[], Result]:
    """`run` as one CUDA graph; on any other device `run` itself.

    Args:
        run: keeps to the five requirements above. What it returns are tensors, overwritten by every later call.
        state: the tensors that `run` changes and reads again; warming up leaves them as they were. Slots of a cache
            beyond its length need not be among them.
        device: where `run` computes.

    Raises RuntimeError, from CUDA, for a `run` that looks at a number. The graph keeps its own memory as long as the
    function that is returned lives. (PyTorch: notes on CUDA graphs, "whole-network capture".)
    """
    if device.type != "cuda":
        return run
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()  # the default stream cannot be captured
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            kept = [tensor.clone() for tensor in state]
            for _ in range(WARM_UP):
                run()
                restore(state, kept)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):  # records, does not compute: nothing to restore
            result = run()

    def replay() -> Result:
        graph.replay()
        return result

    return replay


def restore(state: Sequence[Tensor], kept: Sequence[Tensor]) -> None:
    """Put the kept values back, in place."""
    for tensor, value in zip(state, kept, strict=True):
        tensor.copy_(value)


def aligned(slots: int) -> int:
    """The next multiple of ALIGNED."""
    return -(-slots // ALIGNED) * ALIGNED


class StaticCache(KVCache):
    """A KVCache whose length is a number on the device; takes over the storage of one that was filled as usual.

    held (): entries that stay. `length`, on the host, counts only what was written after them, the rows of one round,
    so it goes through the same values in every round. Attention sees all slots: give it `visible` as its mask.

    The host no longer knows the length, so nobody refuses a write beyond the capacity (on a GPU it ends in a device
    assertion): whoever makes the cache has to make it large enough.

    Raises UnsupportedTarget for a cache that is spread over several devices: a graph is recorded on one.
    """

    def __init__(self, filled: KVCache):
        if not hasattr(filled, "kv"):
            raise UnsupportedTarget(
                f"expected a cache on one device, found a {type(filled).__name__}, whose layers are on several. Load "
                "the target on one device, or decode with speculative_generate."
            )
        layers, _, batch, heads, capacity, width = filled.kv.shape
        super().__init__(layers, heads, width, 0, batch=batch, dtype=filled.kv.dtype, device=filled.kv.device)
        self.kv, self.capacity = filled.kv, capacity
        self.held = torch.full((), filled.length, dtype=torch.long, device=filled.kv.device)
        self._slots = torch.empty(0, dtype=torch.long, device=filled.kv.device)

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write `(B, H, n, D)` keys and values behind what is there; returns all slots of that layer."""
        start, new = self.length_of[layer], keys.shape[-2]
        if layer == 0:  # the other layers of this forward write to the same slots
            self._slots = self.held + start + torch.arange(new, device=keys.device)
        self.kv[layer, 0].index_copy_(-2, self._slots, keys)
        self.kv[layer, 1].index_copy_(-2, self._slots, values)
        self.length_of[layer] = start + new
        return self.kv[layer, 0], self.kv[layer, 1]

    def visible(self, own: Bool[Tensor, "rows entries"]) -> Bool[Tensor, "1 1 rows capacity"]:
        """A mask over all slots: all that is held, and of the entries written after it what `own` says."""
        entry = torch.arange(self.capacity, device=own.device) - self.held  # a slot's number among the new entries
        inside = (entry >= 0) & (entry < own.shape[1])
        of_own = own[:, entry.clamp(0, own.shape[1] - 1)] & inside  # (rows, capacity)
        return (of_own | (entry < 0))[None, None]

    def additive(self, own: Bool[Tensor, "rows entries"]) -> Tensor:
        """The same as numbers to add to the scores: 0 where a row may look, else the least there is."""
        mask = torch.zeros(1, 1, own.shape[0], self.capacity, dtype=self.kv.dtype, device=own.device)
        return mask.masked_fill_(~self.visible(own), torch.finfo(self.kv.dtype).min)

    def keep_padded(self, path: Int[Tensor, "rows"], count: Int[Tensor, ""]) -> None:
        """`keep` with a fixed number of rows: of the new entries keep the first `count` that `path` names.

        path is padded with any rows; what they bring ends up beyond `held`, where nobody looks and others write next.
        """
        to = self.held + torch.arange(path.shape[0], device=path.device)
        self.kv.index_copy_(-2, to, self.kv.index_select(-2, self.held + path))
        self.hold(count)

    def hold(self, count: Int[Tensor, ""]) -> None:
        """Of the new entries the first `count` stay, the others are forgotten."""
        self.held.add_(count)
        self.truncate(0)
