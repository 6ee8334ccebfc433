"""How to train a draft: the settings, and the learning rate that they give to each step."""

import math
from dataclasses import dataclass
from typing import Literal

from fspad_ref.errors import ConfigError


@dataclass(frozen=True)
class TrainConfig:
    """How to train. The defaults suit drafts of a small target; the reference trains 7B-scale drafts at 5e-5."""

    steps: int = 2000
    """Optimizer steps."""
    tokens_per_batch: int = 2048
    """Tokens of a batch, padding included. A dialogue that is longer makes a batch of its own."""
    max_length: int = 2048
    """Longer dialogues are cut to this many tokens, or to the target's positions if those are fewer."""
    batches_per_step: int = 1
    """Batches whose gradients make one optimizer step. Processes share them out: a multiple of their number."""
    recompute: bool = False
    """Save memory: forget activations after the forward, and compute them again in the backward."""
    learning_rate: float = 3e-3
    """Peak learning rate of AdamW; the shorter the training, the higher it may be."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay rates of AdamW's moments."""
    weight_decay: float = 0.01
    """AdamW's decoupled weight decay."""
    warmup_steps: int = 100
    """Steps of linear warm-up from zero."""
    decay: Literal["linear", "cosine", "none"] = "cosine"
    """How the learning rate goes to zero after the warm-up."""
    clip: Literal["norm", "value", "none"] = "norm"
    """Clip gradients by their total norm, or each by its value (the reference, at 0.5).

    On small drafts the norm trains slightly better: no single gradient passed 0.1 there, so that clipping by value at
    0.5 never acted, while norms reached 1.5 in the first steps.
    """
    clip_at: float = 0.5
    """The limit of that clipping."""
    noise: float = 0.025
    """Half-width of the uniform noise on input features."""
    feature_weight: float = 1.0
    """Weight of the feature loss."""
    logit_weight: float = 0.1
    """Weight of the logit loss."""
    evaluate_every: int = 250
    """Steps between evaluations of tau (0: only after the last step)."""
    checkpoint_every: int = 250
    """Steps between checkpoints (0: only after the last step)."""
    seed: int = 0
    """Order of the data and noise."""

    def __post_init__(self) -> None:
        for name in ("steps", "tokens_per_batch", "max_length", "batches_per_step", "learning_rate", "clip_at"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"expected {name} above 0, found {getattr(self, name)}; choose a positive value")
        for name in ("warmup_steps", "weight_decay", "noise", "feature_weight", "logit_weight", "evaluate_every",
                     "checkpoint_every"):  # fmt: skip
            if not getattr(self, name) >= 0:
                raise ConfigError(f"expected {name} of at least 0, found {getattr(self, name)}; choose 0 or more")

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        shape = {"linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done)), "none": 1.0}
        return self.learning_rate * shape[self.decay]
