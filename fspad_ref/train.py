"""The draft's training loop, with the hyper-parameters of FSPAD's reference code where they carry over.

The frozen target runs inside the loop ("online"): each batch of dialogues goes through it once, and any number of
drafts learn from the same features. So the four drafts of the ablation cost one target, see equal data in equal order
and equal noise, and each comes out as if it had been trained alone.

For a dialogue with tokens x_0 .. x_{T-1} and features f_0 .. f_{T-1}:

    input    f_0  x_1 | f_1  x_2 | ... | f_{T-2}  x_{T-1}      (f with a little noise)
    teacher  f_1      | f_2      | ... | f_{T-1}

Nothing random is carried from step to step: the order of batches follows from (seed, epoch), the noise from
(seed, batch). A resumed training is therefore bitwise the uninterrupted one on a CPU.

A step may take several batches, whose gradients are added up, and several processes may share them out. Both only
change the order of sums: a loss is always the mean over all positions that the step trains.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_value_

from fspad_ref.data import Batch, Dialogue, Encoded, batches, data_hash, trained_positions
from fspad_ref.draft import Draft
from fspad_ref.errors import ConfigError, InputError, NonFiniteLoss
from fspad_ref.files import save_json
from fspad_ref.generate import speculative_generate
from fspad_ref.learner import Learner, loss_by_rows
from fspad_ref.loss import partial_alignment_loss
from fspad_ref.processes import Processes
from fspad_ref.recipe import TrainConfig
from fspad_ref.resume import TrainRecord, load_training, save_training
from fspad_ref.sampling import at_least_float32
from fspad_ref.target import Target
from fspad_ref.tree import TreeConfig


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
    processes: Processes | None = None,
) -> TrainRecord:
    """Train several drafts on the same batches of the same frozen target.

    dialogues: `Dialogue`s, or (token ids, response mask) pairs; only indexed, so any lazy sequence will do.
    on_step: called with the record after every step, for a progress bar.
    evaluate: draft -> tau. By default the acceptance length on `prompts`; without either, the last weights are kept.
    out: folder for checkpoints, and at the end for one folder a draft; None keeps everything in memory.
    resume: go on from the checkpoint in `out`, if there is one.
    processes: those that share the work, see parallel.py; None: this one does it all.

    On return every draft holds the weights with its best tau. Raises NonFiniteLoss (nothing of that step is applied),
    CheckpointError for a checkpoint of another training, SaveError if one cannot be written, InputError for dialogues
    that cannot be used.
    """
    processes = processes or Processes()
    _refuse(target, config, processes)
    if evaluate is None and prompts:
        evaluate = acceptance_on(target, prompts)
    run = _Run(target, dict(drafts), config, len(dialogues), Path(out) if out else None, processes)
    run.record.data_hash = data_hash(dialogues)
    try:
        run.restore(resume)
        record, limit = run.record, min(config.max_length, target.max_positions)
        data = batches(dialogues, target.tokenizer, config.tokens_per_batch, limit, target.vocab_size, config.seed,
                       record.place)  # fmt: skip
        while record.step < config.steps:
            run.step([next(data) for _ in range(config.batches_per_step)])
            last = record.step == config.steps
            if evaluate and (last or _due(record.step, config.evaluate_every)):
                run.evaluate(evaluate)
            if last or _due(record.step, config.checkpoint_every):
                run.save()
            if on_step:
                on_step(record)
        run.finish()
        return record
    finally:
        run.release()


def _refuse(target: Target, config: TrainConfig, processes: Processes) -> None:
    """Raises ConfigError for what cannot be trained, or not together."""
    if target.dtype not in (torch.float32, torch.float64, torch.bfloat16):
        raise ConfigError(f"expected a target in float32, float64 or bfloat16 to train drafts for, found {target.dtype}"
                          ", in which small gradients vanish. Load it with dtype='bfloat16'.")  # fmt: skip
    if config.batches_per_step % processes.number:
        raise ConfigError(
            f"expected batches_per_step to be a multiple of the {processes.number} processes that share a step, found "
            f"{config.batches_per_step}. Choose {processes.number} for one batch each."
        )
    if processes.number > 1 and target.devices:
        raise ConfigError(
            f"expected each of {processes.number} processes to hold the target on one device, found it spread over "
            "several. Train in one process, or without a device_map."
        )


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
    processes: Processes
    saved: int = 0  # step of the last checkpoint

    def __post_init__(self) -> None:
        config = self.config
        self.record = TrainRecord.begin(config, self.drafts, self.dialogues)
        self.loss = loss_by_rows if config.recompute else partial_alignment_loss
        adamw = partial(torch.optim.AdamW, lr=0.0, betas=config.betas, weight_decay=config.weight_decay)
        self.learners = {
            name: Learner(draft, adamw, self.processes, config.recompute) for name, draft in self.drafts.items()
        }

    # ---- one step ----

    def step(self, together: Sequence[Batch]) -> None:
        """One optimizer step of every draft on some batches. All or nothing: a non-finite loss changes no weight."""
        record, processes, began = self.record, self.processes, time.perf_counter()
        positions = [int(trained_positions(batch.response).sum()) for batch in together]
        shares = [count / sum(positions) for count in positions]
        mine = range(processes.rank, len(together), processes.number)
        parts = [self._gradients(together[i], i, shares[i], last=i == mine[-1]) for i in mine]
        losses = processes.sum(torch.stack(parts).sum(dim=0)).tolist()  # (batches, drafts, 3) -> (drafts, 3)
        for name, (total, _, _) in zip(self.learners, losses, strict=True):
            self._check(name, "loss", total, together)
        for name, learner in self.learners.items():
            self._clip(name, learner, together)
        for learner in self.learners.values():  # only now: every loss and gradient of this step was finite
            learner.optimizer.param_groups[0]["lr"] = self.config.learning_rate_at(record.step)
            learner.optimizer.step()
            learner.optimizer.zero_grad(set_to_none=True)
        self.target.synchronize()

        for name, values in zip(self.learners, losses, strict=True):
            for curve, value in zip((record.loss, record.feature_loss, record.logit_loss), values, strict=True):
                curve[name].append(value)
        record.step, record.place = record.step + 1, together[-1].following
        record.tokens, record.positions = (
            record.tokens + sum(b.tokens for b in together),
            record.positions + sum(positions),
        )
        record.seconds += time.perf_counter() - began

    def _gradients(self, batch: Batch, number: int, share: float, last: bool) -> Tensor:
        """Add the gradients of a batch to those of every draft, by its share of the step's trained positions.

        Returns the batch's part of the losses: total, feature and logit for each draft.
        """
        device, began = self.target.device, time.perf_counter()
        ids, mask = batch.input_ids.to(device), trained_positions(batch.response).to(device)  # (B, T), (B, T-1)
        # Padding stands on the right, where causal attention hides it: neither target nor draft needs a mask for it.
        features = self.target.features(ids)  # (B, T) -> (B, T, D)
        self.target.synchronize()
        self.record.target_seconds += time.perf_counter() - began

        noisy, teacher = features[:, :-1] + self._noise(features[:, :-1], number), at_least_float32(features[:, 1:])
        losses = []
        for learner in self.learners.values():
            with self.processes.exchange(learner.module, now=last):
                output = learner(noisy, ids[:, 1:])  # (B, T-1, D), (B, T-1) -> two of (B, T-1, D)
                weights = self.config.feature_weight, self.config.logit_weight
                loss = self.loss(output, teacher, learner.lm_head, mask, *weights)
                (loss.total * (share * self.processes.number)).backward()  # of several processes the mean is taken
            losses.append(torch.stack(loss).detach() * share)
        return torch.stack(losses)  # (drafts, 3)

    def _noise(self, features: Tensor, number: int) -> Tensor:
        """Uniform noise that follows from (seed, batch), so that a resumed training meets the same."""
        batch = self.record.step * self.config.batches_per_step + number
        generator = torch.Generator(features.device).manual_seed(self.config.seed * 1_000_003 + batch)
        noise = torch.rand(features.shape, generator=generator, device=features.device, dtype=features.dtype)
        return (2.0 * noise - 1.0) * self.config.noise

    def _clip(self, name: str, learner: Learner, together: Sequence[Batch]) -> None:
        limit = self.config.clip_at if self.config.clip == "norm" else math.inf
        self._check(name, "gradient", self.processes.clip(learner.module, limit), together)
        if self.config.clip == "value":
            clip_grad_value_(learner.module.parameters(), self.config.clip_at)

    def _check(self, name: str, what: str, value: float, together: Sequence[Batch]) -> None:
        if not math.isfinite(value):
            good = f"step {self.saved} in {self.out}" if self.saved else "none"
            places = ", ".join(str(batch.place) for batch in together)
            raise NonFiniteLoss(
                f"expected a finite {what} for draft '{name}', found {value} at step {self.record.step} (epoch, pool, "
                f"batch: {places}); last good checkpoint: {good}. Lower the learning rate, and resume from there."
            )

    # ---- evaluation ----

    def evaluate(self, measure: Callable[[Draft], float]) -> None:
        """Measure tau of every draft, and keep a copy of the weights of those that are better than ever."""
        began = time.perf_counter()
        for name, learner in self.learners.items():
            learner.publish()
            tau = self._measured(measure, learner.draft.eval())
            if not math.isfinite(tau):
                raise InputError(f"expected a finite tau for draft '{name}', found {tau}; give prompts whose answers "
                                 "have at least two tokens")  # fmt: skip
            self.record.tau[name].append((self.record.step, tau))
            if name not in self.record.best or tau > self.record.best[name][1]:
                self.record.best[name] = (self.record.step, tau)
                learner.keep()
        self.record.evaluation_seconds += time.perf_counter() - began

    @torch.no_grad()
    def _measured(self, measure: Callable[[Draft], float], draft: Draft) -> float:
        """By one process, and told to the others."""
        tau = float(measure(draft)) if self.processes.main else 0.0
        return self.processes.sum(torch.tensor(tau, dtype=torch.float64, device=self.target.device)).item()

    # ---- files ----

    def restore(self, resume: bool) -> None:
        """Take everything from the checkpoint, if there is one."""
        if self.out:
            self.record, states = load_training(self.out, self.record, self.drafts, resume)
            for name, state in states.items():
                self.learners[name].restore(state)
        self.saved = self.record.step

    def save(self) -> None:
        """Write a checkpoint, if there is a folder for it."""
        if self.out:
            states = {name: learner.state() for name, learner in self.learners.items()}  # gathered from all processes
            if self.processes.main:
                save_training(self.out, self.record, states)
            self.saved = self.record.step

    def finish(self) -> None:
        """Give every draft its best weights, and save it with its part of the record."""
        for name, learner in self.learners.items():
            learner.finish()
            if self.out and self.processes.main:
                learner.draft.save_pretrained(self.out / name)
                save_json(self.out / name / "training.json", self.record.of(name))
        self.processes.wait()

    def release(self) -> None:
        """Let the drafts compute as before."""
        for learner in self.learners.values():
            learner.release()


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
