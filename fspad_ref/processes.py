"""The processes that share a training: what a training asks of them, and the answers where there is only one.

All processes read the same data in the same order. So each knows every batch of a step, which of them are its own and
how many positions they train together, and nothing about data is ever sent. What passes between them is gradients and
a few sums. Every method here is called by all of them, in the same order, or they would wait for each other for ever.

parallel.py has the answers of several processes.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

Moments = Mapping[str, Mapping[str, Tensor]]  # parameter -> AdamW's state of it


class Processes:
    """One process: there is nobody to share with, and so nothing to do."""

    rank, number = 0, 1
    sharded = False

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    @property
    def main(self) -> bool:
        """Whether this is the process that prints and writes files."""
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module whose gradients, after `backward`, are the means over all processes."""
        return module

    def exchange(self, module: nn.Module, now: bool) -> AbstractContextManager:
        """For one forward and backward; without `now` their gradients stay here, to be added to by the next ones."""
        return nullcontext()

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        return values

    def clip(self, module: nn.Module, limit: float) -> float:
        """Scale the gradients to a total norm of at most `limit`; returns the norm before that."""
        return clip_grad_norm_(module.parameters(), limit).item()

    def weights(self, module: nn.Module) -> Mapping[str, Tensor]:
        """The whole weights, under the names that the module had before it was wrapped."""
        return module.state_dict()

    def moments(self, module: nn.Module, optimizer: Optimizer) -> Moments:
        """The optimizer's whole state, by parameter."""
        return {name: optimizer.state[parameter] for name, parameter in module.named_parameters()}

    def restore(self, module: nn.Module, optimizer: Optimizer, weights: Mapping[str, Tensor], moments: Moments) -> None:
        """Put back what `weights` and `moments` gave."""
        module.load_state_dict(weights)
        state = {number: dict(moments[name]) for number, (name, _) in enumerate(module.named_parameters())}
        optimizer.load_state_dict(optimizer.state_dict() | {"state": state})

    def wait(self) -> None:
        """Until all processes have come here."""

    def close(self) -> None:
        """When the work is done."""
