"""Several processes that share a training, as `accelerate launch` starts them: one a GPU, or some on a CPU.

    DDP     every process holds the whole draft; gradients are averaged over the processes
    FSDP    weights, gradients and AdamW's moments are split up among them, and whole only while they are used

accelerate starts the processes, gives each its device, and connects them; DDP and FSDP are torch's own.
"""

import os
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from fspad_ref.errors import ConfigError
from fspad_ref.processes import Moments, Processes

WHOLE = StateDictOptions(full_state_dict=True)
PATIENCE = timedelta(hours=2)  # how long processes wait for one that measures, saves or lets the target answer


class Several(Processes):
    """This process as one of several; torch's default process group has been set up.

    Args:
        device: where this process computes.
        sharded: FSDP instead of DDP.
    """

    def __init__(self, device: str, sharded: bool = False) -> None:
        super().__init__(device)
        self.rank, self.number, self.sharded = dist.get_rank(), dist.get_world_size(), sharded

    def wrap(self, module: nn.Module) -> nn.Module:
        device = torch.device(self.device)
        if self.sharded:
            return fully_shard(module, mesh=init_device_mesh(device.type, (self.number,)))
        ids = [device] if device.type == "cuda" else None
        with warnings.catch_warnings():  # torch 2.13 gives the option another name, which older ones do not know
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
            return DistributedDataParallel(
                module,
                device_ids=ids,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,  # gradients are not held twice
            )

    def exchange(self, module: nn.Module, now: bool) -> AbstractContextManager:
        if not self.sharded:
            return nullcontext() if now else module.no_sync()
        module.set_requires_gradient_sync(now)
        return nullcontext()

    def sum(self, values: Tensor) -> Tensor:
        values = values.clone()
        dist.all_reduce(values)
        return values

    def clip(self, module: nn.Module, limit: float) -> float:
        norm = clip_grad_norm_(module.parameters(), limit)
        return (norm.full_tensor() if self.sharded else norm).item()

    def weights(self, module: nn.Module) -> Mapping[str, Tensor]:
        return get_model_state_dict(module, options=WHOLE)

    def moments(self, module: nn.Module, optimizer: Optimizer) -> Moments:
        return get_optimizer_state_dict(module, optimizer, options=WHOLE)["state"]

    def restore(self, module: nn.Module, optimizer: Optimizer, weights: Mapping[str, Tensor], moments: Moments) -> None:
        set_model_state_dict(module, dict(weights), options=WHOLE)
        whole = get_optimizer_state_dict(module, optimizer, options=WHOLE)
        set_optimizer_state_dict(module, optimizer, {**whole, "state": moments}, options=WHOLE)

    def wait(self) -> None:
        dist.barrier()

    def close(self) -> None:
        dist.destroy_process_group()


def launched(device: str, dtype: str = "float32") -> Processes:
    """The processes of this training, by what `accelerate launch` (or torchrun) has put into the environment.

    device: "cpu" or "cuda", of which each process takes its own; one process alone may also name another.
    dtype: the target's, in which the draft computes.

    Raises ConfigError for what accelerate was set up for and this training cannot do.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes(device)
    ours, prefix = os.environ.items(), "ACCELERATE_"
    settings = {name.removeprefix(prefix).lower(): value.lower() for name, value in ours if name.startswith(prefix)}
    refuse_settings(settings, dtype)
    if device not in ("cpu", "cuda"):
        raise ConfigError(
            f"expected device cpu or cuda in a training of several processes, found {device!r}. Each takes its own."
        )
    from accelerate import PartialState  # only now, as it takes a second to import

    state = PartialState(cpu=device == "cpu", timeout=PATIENCE)
    if state.device.type != device:
        raise ConfigError(
            f"expected a GPU for each of {state.num_processes} processes, found accelerate choosing {state.device}. "
            "Start fewer, or say --device cpu."
        )
    return Several(str(state.device), sharded=settings.get("use_fsdp") == "true")


def refuse_settings(settings: Mapping[str, str], dtype: str) -> None:
    """Raises ConfigError for settings of accelerate that would be passed over without a word."""
    for name in ("use_deepspeed", "use_megatron_lm"):
        if settings.get(name) == "true":
            raise ConfigError(
                f"expected data parallel (DDP) or FSDP, found accelerate's setting {name}. Launch with --multi_gpu or "
                "--use_fsdp."
            )
    precision = settings.get("mixed_precision", "no")
    if precision not in ("no", {"bfloat16": "bf16"}.get(dtype)):
        raise ConfigError(
            f"expected the precision to be chosen by --dtype, found accelerate's mixed_precision {precision!r} and "
            f"--dtype {dtype}. Launch with --mixed_precision no, and say --dtype bfloat16 for a target in bfloat16."
        )
