"""Muon: momentum whose update is made orthogonal, for the matrices of a small model on a small budget.

    M <- m M + (1 - m) G,    W <- W - lr sqrt(max(1, rows / columns)) UV^T    with U S V^T the SVD of (1 - m) G + m M

(Jordan et al. 2024.) The polynomial iteration of Newton and Schulz replaces the SVD. `torch.optim.Muon` does the same,
but always in bfloat16, which a CPU without bfloat16 units emulates, many times slower than float32. Matrices of equal
shape share one batched product.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor

# A quintic that lifts every singular value of (0, 1] into about (0.7, 1.2) within five rounds.
A, B, C = 3.4445, -4.7750, 2.0315


def orthogonalize(matrices: Float[Tensor, "n rows cols"], rounds: int = 5) -> Float[Tensor, "n rows cols"]:
    """Replace each matrix U S V^T by nearly U V^T. Works in bfloat16 on a GPU, in the given precision elsewhere."""
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    wide = x.shape[-2] <= x.shape[-1]
    x = x if wide else x.mT  # the Gram matrix is formed on the shorter side
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    for _ in range(rounds):
        gram = x @ x.mT
        x = A * x + (B * gram + C * gram @ gram) @ x
    return (x if wide else x.mT).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay, for 2-D parameters only."""

    def __init__(self, params: Iterable, lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> None:
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            alike = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    alike[p.shape].append(p)
            for (rows, cols), params in alike.items():
                steps = orthogonalize(torch.stack([self._nesterov(p, group["momentum"]) for p in params]))
                scale = group["lr"] * max(1.0, rows / cols) ** 0.5
                for p, direction in zip(params, steps, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-scale)

    def _nesterov(self, p: Tensor, momentum: float) -> Tensor:
        state = self.state[p]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(p)
        state["momentum"].lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(state["momentum"], momentum)
