"""A draft in training: what learns in its place, the optimizer, and the best weights so far.

In float32 on one process the draft itself learns. Something else does, and the draft gets its weights when they are
needed, where

    the target is in bfloat16     in which small updates would round to nothing: a copy keeps *master weights* in
                                  float32, and computes in bfloat16 (torch.autocast)
    the draft is sharded (FSDP)   each process's copy holds a part of the weights

To save memory, activations may be *recomputed*: forgotten after the forward, and computed again in the backward.
"""

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

from fspad_ref.draft import Draft, DraftOutput
from fspad_ref.loss import DraftLoss, partial_alignment_loss
from fspad_ref.processes import Processes
from fspad_ref.resume import DraftState
from fspad_ref.sampling import at_least_float32

again = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)  # nothing in a draft is random


class Learner:
    """A draft and all that its training needs.

    Args:
        draft: bound to the target whose features it learns from, and in its precision.
        optimizer: parameters -> what updates them.
        processes: those that share the training.
        recompute: whether to recompute activations.
    """

    def __init__(
        self,
        draft: Draft,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        processes: Processes,
        recompute: bool = False,
    ):
        self.draft, self.processes = draft, processes
        half = draft.fuse.weight.dtype == torch.bfloat16
        self.apart = half or processes.sharded
        learning = _copy(draft) if self.apart else draft
        learning = learning.float() if half else learning
        self.precision = partial(_in_bfloat16, draft.fuse.weight.device.type) if half else nullcontext
        self.recomputed = [part for part in (learning.layer, learning.sampler) if recompute and part is not None]
        for part in self.recomputed:
            part.forward = partial(again, part.forward)
        self.module = processes.wrap(learning)
        self.optimizer = optimizer(self.module.parameters())
        self.best: dict[str, Tensor] = {}

    def __call__(
        self, features: Float[Tensor, "batch seq hidden"], next_token_ids: Int[Tensor, "batch seq"]
    ) -> DraftOutput:
        """The draft's guesses, in float32 or better: losses are sums over thousands of positions."""
        with self.precision():
            output = self.module.train()(features, next_token_ids)
        return DraftOutput(*map(at_least_float32, output))

    def lm_head(self, features: Tensor) -> Tensor:
        """The target's, in its own precision."""
        return self.draft.lm_head(features.to(self.draft.target.dtype))

    # ---- weights ----

    def publish(self) -> None:
        """Give the draft what has been learnt so far."""
        if self.apart:
            self.draft.load_state_dict(self.processes.weights(self.module))

    def keep(self) -> None:
        """Remember the draft's present weights as the best ones."""
        self.best = {name: value.detach().cpu().clone() for name, value in self.draft.state_dict().items()}

    def finish(self) -> None:
        """Give the draft its best weights; without any, the last ones."""
        self.publish()
        if self.best:
            self.draft.load_state_dict(self.best)
        self.draft.eval()

    def release(self) -> None:
        """Let the draft's parts compute as before."""
        for part in self.recomputed:
            part.__dict__.pop("forward", None)

    def state(self) -> DraftState:
        """What a checkpoint holds of this draft."""
        weights = self.processes.weights(self.module)
        return DraftState(weights, self.processes.moments(self.module, self.optimizer), self.best)

    def restore(self, state: DraftState) -> None:
        """Go on from a checkpoint."""
        self.processes.restore(self.module, self.optimizer, state.weights, state.moments)
        self.best = dict(state.best)


@contextmanager
def _in_bfloat16(device: str) -> Iterator[None]:
    """torch.autocast, without its word about RMSNorm, whose float32 weights keep it from the fused kernel."""
    with torch.autocast(device, torch.bfloat16), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")
        yield


def _copy(draft: Draft) -> Draft:
    """A draft of its own, for the same target: which is not copied."""
    return copy.deepcopy(draft, {id(draft._target): draft._target})


def loss_by_rows(
    output: DraftOutput,
    target_features: Float[Tensor, "batch seq hidden"],
    lm_head: Callable[[Tensor], Tensor],
    mask: Bool[Tensor, "batch seq"],
    feature_weight: float,
    logit_weight: float,
) -> DraftLoss:
    """`partial_alignment_loss`, one dialogue after the other, and recomputed in the backward.

    At a vocabulary of 128,000 the logits of a batch take more memory than all else; here only one row's are held.
    """
    shares = mask.sum(dim=1) / mask.sum()  # (B, T) -> (B,)
    rows = []
    for row in range(len(mask)):
        one = slice(row, row + 1)
        guess = DraftOutput(output.logit_feature[one], output.aligned_feature[one])
        settings = mask[one], feature_weight, logit_weight
        loss = again(partial_alignment_loss, guess, target_features[one], lm_head, *settings)
        rows.append(shares[row] * torch.stack(loss))
    return DraftLoss(*torch.stack(rows).sum(dim=0))  # (B, 3) -> three scalars
