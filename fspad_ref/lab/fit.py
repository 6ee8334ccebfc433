"""One plain training loop for what the baselines learn: Medusa's heads, the small model of assisted generation.

The batches are those of the drafts' own training: for the same seed, `tokens_per_batch` and `max_length` they hold the
same dialogues in the same order, so that methods can be compared at equal data and equal steps.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from fspad_ref.batches import Batch, Encoded, batches
from fspad_ref.corpus import Dialogue
from fspad_ref.errors import ConfigError, NonFiniteLoss
from fspad_ref.target import Target
from fspad_ref.train import TrainConfig

OnStep = Callable[[int, float], None]


def fit(
    model: nn.Module,
    loss_of: Callable[[Batch], Tensor],
    target: Target,
    dialogues: Sequence[Dialogue | Encoded],
    config: TrainConfig,
    on_step: OnStep | None = None,
) -> list[float]:
    """Minimise `loss_of(batch)` over the model's weights with AdamW; returns the loss of every step.

    Of `config` it takes steps, batch size, learning rate and its schedule, weight decay, clipping and seed; noise, loss
    weights, evaluation and checkpoints belong to drafts. on_step: called with (steps done, loss).

    Raises ConfigError for half-precision weights, NonFiniteLoss (nothing of that step is applied), InputError for
    dialogues that cannot be used.
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    if any(weight.dtype not in (torch.float32, torch.float64) for weight in weights):
        raise ConfigError("expected float32 or float64 weights to train, found half precision, in which small updates "
                          "round to nothing. Load the target with dtype='float32'.")  # fmt: skip
    optimizer = torch.optim.AdamW(weights, lr=0.0, betas=config.betas, weight_decay=config.weight_decay)
    limit = min(config.max_length, target.max_positions)
    data = batches(dialogues, target.tokenizer, config.tokens_per_batch, limit, target.vocab_size, config.seed)
    losses = []
    model.train()
    for step in range(config.steps):
        loss = loss_of(next(data))
        loss.backward()
        norm = clip_grad_norm_(weights, config.clip_at if config.clip == "norm" else math.inf)
        if not (loss.isfinite() and norm.isfinite()):
            raise NonFiniteLoss(f"expected a finite loss and gradient, found {loss.item()} and norm {norm.item()} at "
                                f"step {step}. Lower the learning rate, and train again.")  # fmt: skip
        if config.clip == "value":
            clip_grad_value_(weights, config.clip_at)
        optimizer.param_groups[0]["lr"] = config.learning_rate_at(step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if on_step:
            on_step(step + 1, losses[-1])
    model.eval()
    return losses
