"""Training drafts for a frozen target: settings, loop and checkpoints.

    python -m fspad_ref train ...                                            one process, on a CPU or a GPU
    accelerate launch --multi_gpu -m fspad_ref train ...                     one process per GPU (DDP)
    accelerate launch --use_fsdp --fsdp_version 2 -m fspad_ref train ...     drafts sharded over the GPUs (FSDP)

For a dialogue with tokens x_0 .. x_{T-1} and target features f_0 .. f_{T-1}:

    input    f_0  x_1 | f_1  x_2 | ... | f_{T-2}  x_{T-1}      (f with a little noise)
    teacher  f_1      | f_2      | ... | f_{T-1}

With steps_ahead > 1 a draft also learns from its own g, which is its input while a tree grows: see own_steps.
Any number of drafts learn from the same features, each as if it were trained alone. The loss of a step is the mean
over all positions that it trains, however many batches and processes share them. Batches and noise follow from the
seed and the number of the batch, so on a CPU a training that is resumed is bitwise the uninterrupted one.
"""

import copy
import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from accelerate import Accelerator, DistributedType
from accelerate.utils import broadcast_object_list
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributed.checkpoint import state_dict as states
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from fspad_ref.cache import KVCache
from fspad_ref.data import Batch, Dialogue, Encoded, batches, trained_positions
from fspad_ref.draft import KINDS, Draft, DraftConfig, DraftOutput
from fspad_ref.errors import CheckpointError, ConfigError, NonFiniteLoss, require
from fspad_ref.files import load_tensors, save_json, save_tensors
from fspad_ref.loss import partial_alignment_loss
from fspad_ref.target import Target

Kind = Literal["eagle", "fs", "pad", "fspad", "eagle_wide"]
POSITIVE = ("steps", "tokens_per_batch", "max_length", "batches_per_step", "learning_rate", "clip_at", "steps_ahead")
WHOLE = states.StateDictOptions(full_state_dict=True)  # gathered from all processes


@dataclass(frozen=True)
class TrainConfig:
    """How to train. The defaults suit drafts of a small target; the reference trains 7B-scale drafts at 5e-5."""

    steps: int = 2000  # optimizer steps
    tokens_per_batch: int = 2048  # padding included; a longer dialogue is a batch of its own. Lower it to save memory
    max_length: int = 2048  # longer dialogues are cut to this many tokens, or to the target's positions if fewer
    batches_per_step: int = 1  # gradient accumulation; a multiple of the number of processes
    learning_rate: float = 3e-3  # peak of AdamW's; the shorter the training, the higher it may be
    betas: tuple[float, float] = (0.9, 0.95)  # decay rates of AdamW's moments
    weight_decay: float = 0.01  # AdamW's, decoupled
    warmup_steps: int = 100  # of linear warm-up from zero
    decay: Literal["linear", "cosine", "none"] = "cosine"  # how the learning rate goes to zero
    decay_steps: int | None = None  # over the last so many steps; None: over all after the warm-up
    clip: Literal["norm", "value", "none"] = "norm"  # gradients by their total norm, or each (the reference, at 0.5)
    clip_at: float = 0.5  # the limit of that clipping
    noise: float = 0.025  # half-width of the uniform noise on input features
    feature_weight: float = 1.0  # of the feature loss
    logit_weight: float = 0.1  # of the logit loss
    steps_ahead: int = 1  # J passes, all but the first on the draft's own features (own_steps); HASS takes 3
    step_weight: float = 0.8  # beta: the loss of pass j counts beta^(j-1) times, as in EAGLE-3's code
    evaluate_every: int = 250  # steps between evaluations of tau (0: only after the last step)
    checkpoint_every: int = 250  # steps between checkpoints (0: only after the last step)
    seed: int = 0  # order of the data, and noise

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, int | float):
                least = "above" if name in POSITIVE else "of at least"
                right = value > 0 if name in POSITIVE else value >= 0  # NaN is neither
                require(right, ConfigError, f"{name} {least} 0", value, "Raise it.")
        require(type(self.steps_ahead) is int, ConfigError, "a whole steps_ahead", self.steps_ahead, "Round it.")

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        first = self.warmup_steps if self.decay_steps is None else self.steps - self.decay_steps
        done = max(0.0, (step - first) / max(1, self.steps - first))
        shape = {"linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done)), "none": 1.0}
        return self.learning_rate * shape[self.decay]


@dataclass
class TrainRecord:
    """What happened, as plain data: every checkpoint holds it, and the folder of each trained draft its part."""

    config: dict[str, Any]  # TrainConfig's fields, dialogues, data_hash, and NAME.FIELD of every draft's DraftConfig
    loss: dict[str, list[float]]  # name -> total loss of each step
    feature_loss: dict[str, list[float]]
    logit_loss: dict[str, list[float]]
    tau: dict[str, list[list]]  # name -> [step, tau] of each evaluation
    best: dict[str, list]  # name -> [step, tau] of the weights kept, [] without evaluations
    step: int = 0
    tokens: int = 0  # through the target, padding not counted
    seconds: float = 0.0  # training, without evaluation and saving
    target_seconds: float = 0.0  # of them in the frozen target
    evaluation_seconds: float = 0.0

    def of(self, name: str) -> dict[str, Any]:
        """What concerns one draft."""
        return {key: {name: value[name]} if key in ("loss", "feature_loss", "logit_loss", "tau", "best") else value
                for key, value in asdict(self).items()}  # fmt: skip


def new_draft(
    kind: Kind, target: Target, seed: int = 0, vocabulary: tuple[int, ...] | None = None, width: int | None = None
) -> Draft:
    """An untrained draft; equal seeds start the parts that kinds share from the same distribution.

    width: F, of the MLP and the sampler; None: the target's. eagle_wide, EAGLE with as many parameters as FSPAD,
    tells size from method: FSPAD's layer has 4 D F weights in its MLP, its sampler 3 D F and a norm of D; EAGLE's MLP
    has 3 D F':  F' = (7 F + 1) / 3.
    """
    width = width or target.config.intermediate_size
    width = round((7 * width + 1) / 3) if kind == "eagle_wide" else width
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts = KINDS[kind.removesuffix("_wide")]
        return Draft(DraftConfig(*parts, intermediate_size=width, vocabulary=vocabulary), target)


class KeysOfPasses(KVCache):
    """Keys and values of the draft's layer, pass behind pass; concatenated, so that gradients flow through them."""

    def __init__(self) -> None:
        self.length_of = [0]

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        if self.length:  # those of j - 1 passes, (B, H, (j-1) T, d), and (B, H, T, d) new ones
            keys, values = torch.cat((self.keys, keys), dim=2), torch.cat((self.values, values), dim=2)
        self.keys, self.values, self.length_of = keys, values, [keys.shape[2]]
        return keys, values


def own_steps(model: Callable[..., DraftOutput], features: Float[Tensor, "batch seq hidden"],
              next_token_ids: Int[Tensor, "batch seq"], steps: int) -> list[DraftOutput]:  # fmt: skip
    """The passes of training on the draft's own steps (HASS, arXiv 2408.15766; with g and u: GRIFFIN, 2502.11018).

        pass 1        (f_t, e_{t+1})
        pass j > 1    (g_{t-1}, e_{t+1}),  g of pass j-1, without its gradient

    Pass j at position t is step j of a chain whose last true feature is f_{t-j+1}. It sees what such a chain has
    cached: the keys of pass 1 up to position t-j+1, then one of each later pass. Where t < j-1 there is no chain.

        position                   ...   t-3   t-2   t-1    t
        pass of its key (j = 3)     1     1     1     2     3
    """
    cache, position = KeysOfPasses(), torch.arange(features.shape[1], device=features.device)
    outputs = [model(features, next_token_ids, cache=cache)]
    for j in range(2, steps + 1):
        previous = F.pad(outputs[-1].aligned_feature.detach(), (0, 0, 1, -1))  # (B, T, D), moved on by a position
        behind = position[:, None] - position  # (T, T): how many positions a key lies behind a query
        seen = [behind >= j - 1] + [behind == j - k for k in range(2, j + 1)]  # keys of pass 1, and of passes k
        mask = torch.cat(seen, dim=1)[None, None]  # (1, 1, T, j T)
        outputs.append(model(previous, next_token_ids, mask, positions=position[None], cache=cache))
    return outputs


def train(
    target: Target, drafts: Mapping[str, Draft], dialogues: Sequence[Dialogue | Encoded], config: TrainConfig,
    on_step: Callable[[TrainRecord], None] | None = None, *, evaluate: Callable[[Draft], float] | None = None,
    features_of: Callable[[Batch], Any] | None = None, out: str | Path | None = None, resume: bool = False,
    start: str | Path | None = None, accelerator: Accelerator | None = None,
) -> TrainRecord:  # fmt: skip
    """Train several drafts on the same batches, features and noise.

    dialogues: `Dialogue`s, or (token ids, response mask) pairs; any lazy sequence will do.
    on_step: called with the record after every step, for a progress bar.
    evaluate: draft -> tau. The weights with the best tau are kept; without it, the last ones.
    features_of: batch -> the target's features (B, T, D), or a pair of them and loss.py's log_partition (B, T).
    out: folder for the checkpoint, and at the end one folder per draft; None keeps everything in memory. With
        decay_steps, trunk.safetensors is the checkpoint from before the decay.
    resume: go on from the checkpoint in `out`, if there is one.
    start: the trunk.safetensors of a shorter training, to go on from until `out` has a checkpoint.
    accelerator: of the processes that share the training, made with device_placement=False; default: accelerate's own.

    Raises NonFiniteLoss (nothing of that step is applied), CheckpointError for a checkpoint of another training,
    SaveError if one cannot be written (the one before is untouched), InputError for unusable dialogues.
    """
    accelerator = accelerator or Accelerator(cpu=not torch.accelerator.is_available(), device_placement=False)
    rank, processes, per_step = accelerator.process_index, accelerator.num_processes, config.batches_per_step
    device, half = target.device, target.dtype == torch.bfloat16
    require(target.dtype != torch.float16, ConfigError, "a target in bfloat16, float32 or float64",
            "float16, in which small gradients vanish", "Load it with dtype='bfloat16'.")  # fmt: skip
    expected = f"batches_per_step to be a multiple of {processes} processes, each with the whole target on its device"
    right = processes == 1 or not per_step % processes and not target.devices
    require(right, ConfigError, expected, f"{per_step}, on {target.devices or device}", "Or use one process.")
    features_of = features_of or (lambda batch: target.features(batch.input_ids.to(device)))
    models, optimizers, best = {}, {}, {name: {} for name in drafts}
    for name, draft in drafts.items():
        model = draft
        if half or accelerator.distributed_type == DistributedType.FSDP:  # a copy learns, in float32 or in shards
            model = copy.deepcopy(draft, {id(draft._target): draft._target}).to(torch.float32 if half else target.dtype)
        optimizer = torch.optim.AdamW(model.parameters(), betas=config.betas, weight_decay=config.weight_decay)
        models[name], optimizers[name] = accelerator.prepare(model, optimizer)
    settings = {f"{name}.{key}": value for name, draft in drafts.items() for key, value in asdict(draft.config).items()}
    settings |= {key: value and hashlib.sha256(repr(value).encode()).hexdigest()[:16]
                 for key, value in settings.items() if key.endswith(".vocabulary")}  # fmt: skip
    some = repr([dialogues[i] for i in range(0, len(dialogues), len(dialogues) // 1000 + 1)]).encode()
    settings |= {**asdict(config), "dialogues": len(dialogues), "data_hash": hashlib.sha256(some).hexdigest()[:16]}
    record = TrainRecord(json.loads(json.dumps(settings)), *({name: [] for name in drafts} for _ in range(5)))
    file = Path(out) / "checkpoint.safetensors" if out else None
    begun = file if file and file.exists() else start and Path(start)
    if begun:
        require(resume or start, CheckpointError, f"no {file} yet", "one", "Resume it, or choose another folder.")
        record, best = load_checkpoint(begun, record, models, optimizers)
    saved, longest = record.step, min(config.max_length, target.max_positions)
    data = batches(dialogues, target.tokenizer, config.tokens_per_batch, longest, target.vocab_size, config.seed,
                   start=record.step * per_step)  # fmt: skip
    passes = range(1, config.steps_ahead + 1)
    beta = torch.tensor([config.step_weight ** (j - 1) for j in passes], dtype=torch.float64)  # (J,)

    while record.step < config.steps:
        step, began = [next(data) for _ in range(per_step)], time.perf_counter()  # all batches, in every process
        masks = [torch.stack([trained_positions(batch.response, j) for j in passes]) for batch in step]  # (J, B, T-1)
        count = torch.stack([mask.sum((1, 2)) for mask in masks]).double()  # (batches, J)
        shares = beta * count / count.sum(dim=0).clamp(min=1)  # (batches, J), each pass sums to its beta
        losses = torch.zeros(len(drafts), 3, dtype=torch.float64, device=device)
        for i in range(rank, per_step, processes):  # the batches of this process
            ids, mask, asked = step[i].input_ids.to(device), masks[i].to(device), time.perf_counter()
            # Padding stands on the right, where causal attention hides it: neither target nor draft needs a mask.
            found = features_of(step[i])
            features, partition = found if isinstance(found, tuple) else (found, None)
            features = features.to(torch.float32 if half else target.dtype)  # (B, T, D)
            target.synchronize()
            record.target_seconds += time.perf_counter() - asked
            inputs, teacher = features[:, :-1], features[:, 1:]  # (B, T-1, D) each
            random = torch.Generator(device).manual_seed(config.seed * 1_000_003 + record.step * per_step + i)
            noise = torch.rand(inputs.shape, generator=random, device=device, dtype=inputs.dtype)
            inputs = inputs + config.noise * (2.0 * noise - 1.0)
            partition = None if partition is None else partition[:, 1:]  # (B, T-1)
            for (name, model), sums in zip(models.items(), losses, strict=True):
                with nullcontext() if i + processes >= per_step else accelerator.no_sync(model):
                    total = 0.0
                    with torch.autocast(device.type, torch.bfloat16, enabled=half):
                        outputs = own_steps(model, inputs, ids[:, 1:], config.steps_ahead)  # u and g, (B, T-1, D) each
                        for output, where, share in zip(outputs, mask, shares[i].tolist(), strict=True):
                            loss = partial_alignment_loss(output, teacher, target.lm_head, where, config.feature_weight,
                                                          config.logit_weight, drafts[name], partition)  # fmt: skip
                            total = total + loss.total * share
                            sums += share * torch.stack(loss).detach()
                    (total * processes).backward()  # DDP and FSDP take the mean over the processes
        losses = accelerator.reduce(losses, "sum").tolist()
        for (name, model), (loss, _, _) in zip(models.items(), losses, strict=True):
            norm = clip_grad_norm_(model.parameters(), config.clip_at if config.clip == "norm" else math.inf)
            norm = (norm.full_tensor() if hasattr(norm, "full_tensor") else norm).item()
            if config.clip == "value":
                clip_grad_value_(model.parameters(), config.clip_at)
            good = f"step {saved} in {out}" if file and saved else "none"
            found = f"{loss} and norm {norm} at step {record.step}; last good checkpoint: {good}"
            expected = f"a finite loss and gradient for draft '{name}'"
            require(math.isfinite(loss + norm), NonFiniteLoss, expected, found, "Lower the learning rate and resume.")
        for (name, optimizer), values in zip(optimizers.items(), losses, strict=True):  # only now: all were finite
            optimizer.param_groups[0]["lr"] = config.learning_rate_at(record.step)
            optimizer.step()
            optimizer.zero_grad()
            for curve, value in zip((record.loss, record.feature_loss, record.logit_loss), values, strict=True):
                curve[name].append(value)
        target.synchronize()
        record.step += 1
        record.tokens += sum(batch.tokens for batch in step)
        record.seconds += time.perf_counter() - began

        last, began = record.step == config.steps, time.perf_counter()
        if evaluate and (last or config.evaluate_every and record.step % config.evaluate_every == 0):
            for name, draft in drafts.items():
                draft.eval().load_state_dict(states.get_model_state_dict(models[name], options=WHOLE))
                tau = broadcast_object_list([float(evaluate(draft)) if rank == 0 else None])[0]
                record.tau[name].append([record.step, tau])
                if tau > (record.best[name] or [0, -math.inf])[1]:
                    record.best[name] = [record.step, tau]
                    best[name] = {key: value.cpu().clone() for key, value in draft.state_dict().items()}
            record.evaluation_seconds += time.perf_counter() - began
        if file and (last or config.checkpoint_every and record.step % config.checkpoint_every == 0):
            save_checkpoint(file, record, models, optimizers, best, write=rank == 0)
            saved = record.step
        if file and config.decay_steps and record.step == config.steps - config.decay_steps:
            save_checkpoint(file.with_name("trunk.safetensors"), record, models, optimizers, best, write=rank == 0)
        if on_step:
            on_step(record)

    for name, draft in drafts.items():
        draft.eval().load_state_dict(best[name] or states.get_model_state_dict(models[name], options=WHOLE))
        if out and rank == 0:
            draft.save_pretrained(Path(out) / name)
            save_json(Path(out) / name / "training.json", record.of(name))
    accelerator.wait_for_everyone()
    return record


def save_checkpoint(file: Path, record: TrainRecord, models: dict, optimizers: dict, best: dict, write: bool) -> None:
    """Replace the checkpoint, a single file. All processes take part, as each may hold shards; one writes."""
    tensors = {"record": torch.tensor(list(json.dumps(asdict(record)).encode()), dtype=torch.uint8)}
    for name, model in models.items():
        weights, optimizer = states.get_state_dict(model, optimizers[name].optimizer, options=WHOLE)
        moments = {f"{key}/{moment}": value for key, one in optimizer["state"].items() for moment, value in one.items()}
        for part, values in {"weights": weights, "moments": moments, "best": best[name]}.items():
            tensors |= {f"{part}/{name}/{key}": value for key, value in values.items()}
    if write:
        save_tensors(file, tensors)
        for left in (*file.parent.glob(f".{file.name}.*.partial"), *file.parent.glob(".tmp??????")):
            left.unlink(missing_ok=True)  # what a process left that was killed while it saved


def load_checkpoint(file: Path, now: TrainRecord, models: dict, optimizers: dict) -> tuple[TrainRecord, dict]:
    """Restore weights and optimizers; returns the record and each draft's best weights. Raises CheckpointError."""
    tensors = load_tensors(file)
    require("record" in tensors, CheckpointError, f"a training in {file}", "other tensors", "Choose another folder.")
    record = TrainRecord(**json.loads(bytes(tensors["record"].tolist())))
    old, new = vars(TrainConfig()) | record.config, now.config  # settings that an older version lacked: the defaults
    keys = sorted(key for key in old | new if old.get(key) != new.get(key))
    plans = [TrainConfig(**{key: one[key] for key in vars(TrainConfig())}) for one in (old, new)]
    rates = [[plan.learning_rate_at(step) for step in range(record.step)] for plan in plans]
    if rates[0] == rates[1] and record.step <= plans[1].steps:  # so far the same training, whatever its length
        keys = [key for key in keys if key not in ("steps", "decay", "decay_steps")]
    record.config = new
    found = "; ".join(f"{key} was {old.get(key)!r} and is now {new.get(key)!r}" for key in keys)
    require(not keys, CheckpointError, f"the settings of {file}", f"others: {found}", "Use those, or another folder.")

    def below(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

    for name, model in models.items():
        weights, optimizer = states.get_state_dict(model, optimizers[name].optimizer, options=WHOLE)
        optimizer["state"] = {key: below(f"moments/{name}/{key}/") for key in weights}
        states.set_state_dict(model, optimizers[name].optimizer, model_state_dict=below(f"weights/{name}/"),
                              optim_state_dict=optimizer, options=WHOLE)  # fmt: skip
    return record, {name: below(f"best/{name}/") for name in models}
