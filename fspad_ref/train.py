"""The draft's training loop, with the hyper-parameters of FSPAD's reference code where they carry over.

The frozen target runs inside the loop ("online"): each batch of dialogues goes through it once, and any number of
drafts learn from the same features. So the four drafts of the ablation cost one target, see equal data in equal order
and equal noise, and each comes out as if it had been trained alone.

For a dialogue with tokens x_0 .. x_{T-1} and features f_0 .. f_{T-1}:

    input    f_0  x_1 | f_1  x_2 | ... | f_{T-2}  x_{T-1}      (f with a little noise)
    teacher  f_1      | f_2      | ... | f_{T-1}

Nothing random is carried from step to step: the order of batches follows from (seed, epoch), the noise from
(seed, step). A resumed training is therefore bitwise the uninterrupted one on a CPU.
"""

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from fspad_ref.batches import Batch, Encoded, batches, trained_positions
from fspad_ref.checkpoint import save_json
from fspad_ref.corpus import Dialogue
from fspad_ref.draft import Draft
from fspad_ref.errors import ConfigError, InputError, NonFiniteLoss
from fspad_ref.generate import speculative_generate
from fspad_ref.loss import partial_alignment_loss
from fspad_ref.resume import TrainRecord, load_training, save_training
from fspad_ref.target import Target
from fspad_ref.tree import TreeConfig


@dataclass(frozen=True)
class TrainConfig:
    """How to train. The defaults suit drafts of a small target; the reference trains 7B-scale drafts at 5e-5."""

    steps: int = 2000
    """Optimizer steps."""
    tokens_per_batch: int = 2048
    """Tokens of a batch, padding included. A dialogue that is longer makes a batch of its own."""
    max_length: int = 2048
    """Longer dialogues are cut to this many tokens, or to the target's positions if those are fewer."""
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
        for name in ("steps", "tokens_per_batch", "max_length", "learning_rate", "clip_at"):
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


def train(
    target: Target,
    drafts: Mapping[str, Draft],
    dialogues: Sequence[Dialogue | Encoded],
    config: TrainConfig,
    on_step: Callable[[TrainRecord], None] | None = None,
    *,
    evaluate: Callable[[Draft], float] | None = None,
    prompts: Sequence[Sequence[int]] = (),
    out: str | Path | None = None,
    resume: bool = False,
) -> TrainRecord:
    """Train several drafts on the same batches of the same frozen target.

    dialogues: `Dialogue`s, or (token ids, response mask) pairs; only indexed, so any lazy sequence will do.
    on_step: called with the record after every step, for a progress bar.
    evaluate: draft -> tau. By default the acceptance length on `prompts`; without either, the last weights are kept.
    out: folder for checkpoints, and at the end for one folder a draft; None keeps everything in memory.
    resume: go on from the checkpoint in `out`, if there is one.

    On return every draft holds the weights with its best tau. Raises NonFiniteLoss (nothing of that step is applied),
    CheckpointError for a checkpoint of another training, SaveError if one cannot be written, InputError for dialogues
    that cannot be used.
    """
    if target.dtype not in (torch.float32, torch.float64):
        raise ConfigError(f"expected float32 or float64 weights to train, found {target.dtype}, in which small updates "
                          "round to nothing. Load the target with dtype='float32'.")  # fmt: skip
    if evaluate is None and prompts:
        evaluate = acceptance_on(target, prompts)
    run = _Run(target, dict(drafts), config, len(dialogues), Path(out) if out else None)
    ends = repr((dialogues[0], dialogues[len(dialogues) - 1])) if len(dialogues) else ""
    run.record.data_hash = hashlib.sha256(ends.encode()).hexdigest()[:16]
    if out:
        run.record = load_training(out, run.record, run.drafts, run.optimizers, run.best, resume)
    record, run.saved = run.record, run.record.step
    limit = min(config.max_length, target.max_positions)
    data = batches(dialogues, target.tokenizer, config.tokens_per_batch, limit, target.vocab_size, config.seed,
                   record.place)
    while record.step < config.steps:
        run.step(next(data))
        last = record.step == config.steps
        if evaluate and (last or _due(record.step, config.evaluate_every)):
            run.evaluate(evaluate)
        if out and (last or _due(record.step, config.checkpoint_every)):
            save_training(out, record, run.drafts, run.optimizers, run.best)
            run.saved = record.step
        if on_step:
            on_step(record)
    run.finish()
    return record


def acceptance_on(
    target: Target,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int = 64,
    tree: TreeConfig | None = None,
) -> Callable[[Draft], float]:
    """A measure draft -> tau: greedy decoding of some prompts, tokens over rounds."""
    eos = target.tokenizer.eos_token_id if target.tokenizer else None

    def tau(draft: Draft) -> float:
        tokens = rounds = 0
        for prompt in prompts:
            ids = torch.tensor([list(prompt)], device=target.device)  # (1, T)
            result = speculative_generate(
                target, draft, ids, max_new_tokens=max_new_tokens, eos_token_id=eos, tree=tree or TreeConfig()
            )
            tokens, rounds = tokens + len(result.tokens) - 1, rounds + len(result.accepted)
        return tokens / rounds if rounds else math.nan

    return tau


@dataclass
class _Run:
    """All that a training carries from step to step, and that a checkpoint therefore holds."""

    target: Target
    drafts: dict[str, Draft]
    config: TrainConfig
    dialogues: int
    out: Path | None
    best: dict[str, dict[str, Tensor]] = field(default_factory=dict)  # name -> weights of the best evaluation
    saved: int = 0  # step of the last checkpoint

    def __post_init__(self) -> None:
        self.record = TrainRecord.begin(self.config, self.drafts, self.dialogues)
        adamw = partial(torch.optim.AdamW, lr=0.0, betas=self.config.betas, weight_decay=self.config.weight_decay)
        self.optimizers = {name: adamw(draft.parameters()) for name, draft in self.drafts.items()}

    # ---- one step ----

    def step(self, batch: Batch) -> None:
        """One optimizer step of every draft on one batch. All or nothing: a non-finite loss changes no weight."""
        record, device = self.record, self.target.device
        began = time.perf_counter()
        ids, mask = batch.input_ids.to(device), trained_positions(batch.response).to(device)  # (B, T), (B, T-1)
        # Padding stands on the right, where causal attention hides it: neither target nor draft needs a mask for it.
        features = self.target.features(ids)  # (B, T) -> (B, T, D)
        self.target.synchronize()
        record.target_seconds += time.perf_counter() - began

        noisy = features[:, :-1] + self._noise(features[:, :-1])
        for name, draft in self.drafts.items():
            output = draft.train()(noisy, ids[:, 1:])  # (B, T-1, D), (B, T-1) -> two of (B, T-1, D)
            weights = self.config.feature_weight, self.config.logit_weight
            loss = partial_alignment_loss(output, features[:, 1:], self.target.lm_head, mask, *weights)
            self._check(name, "loss", loss.total.item(), batch)
            loss.total.backward()
            self._clip(name, draft, batch)
            record.loss[name].append(loss.total.item())
            record.feature_loss[name].append(loss.feature.item())
            record.logit_loss[name].append(loss.logit.item())
        for optimizer in self.optimizers.values():  # only now: every loss and gradient of this batch was finite
            optimizer.param_groups[0]["lr"] = self.config.learning_rate_at(record.step)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.target.synchronize()

        record.step, record.place = record.step + 1, batch.following
        record.tokens, record.positions = record.tokens + batch.tokens, record.positions + int(mask.sum())
        record.seconds += time.perf_counter() - began

    def _noise(self, features: Tensor) -> Tensor:
        """Uniform noise that follows from (seed, step), so that a resumed training meets the same."""
        generator = torch.Generator(features.device).manual_seed(self.config.seed * 1_000_003 + self.record.step)
        noise = torch.rand(features.shape, generator=generator, device=features.device, dtype=features.dtype)
        return (2.0 * noise - 1.0) * self.config.noise

    def _clip(self, name: str, draft: Draft, batch: Batch) -> None:
        limit = self.config.clip_at if self.config.clip == "norm" else math.inf
        norm = clip_grad_norm_(draft.parameters(), limit)  # the norm before clipping
        self._check(name, "gradient", norm.item(), batch)
        if self.config.clip == "value":
            clip_grad_value_(draft.parameters(), self.config.clip_at)

    def _check(self, name: str, what: str, value: float, batch: Batch) -> None:
        if not math.isfinite(value):
            good = f"step {self.saved} in {self.out}" if self.saved else "none"
            raise NonFiniteLoss(
                f"expected a finite {what} for draft '{name}', found {value} at step {self.record.step} (epoch, pool, "
                f"batch: {batch.place}); last good checkpoint: {good}. Lower the learning rate, and resume from there."
            )

    # ---- evaluation ----

    def evaluate(self, measure: Callable[[Draft], float]) -> None:
        """Measure tau of every draft, and keep a copy of the weights of those that are better than ever."""
        began = time.perf_counter()
        for name, draft in self.drafts.items():
            with torch.no_grad():
                tau = float(measure(draft.eval()))
            if not math.isfinite(tau):
                raise InputError(f"expected a finite tau for draft '{name}', found {tau}; give prompts whose answers "
                                 "have at least two tokens")  # fmt: skip
            self.record.tau[name].append((self.record.step, tau))
            if name not in self.record.best or tau > self.record.best[name][1]:
                self.record.best[name] = (self.record.step, tau)
                self.best[name] = {key: value.detach().cpu().clone() for key, value in draft.state_dict().items()}
        self.record.evaluation_seconds += time.perf_counter() - began

    def finish(self) -> None:
        """Give every draft its best weights, and save it with its part of the record."""
        for name, draft in self.drafts.items():
            if name in self.best:
                draft.load_state_dict(self.best[name])
            draft.eval()
            if self.out:
                draft.save_pretrained(self.out / name)
                save_json(self.out / name / "training.json", self.record.of(name))


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
