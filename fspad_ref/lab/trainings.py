"""The drafts of a study: some seeds of every kind, each trained once and kept.

All kinds of one seed learn in one training: same batches, same noise, same target features; only their weights differ,
and each comes out as if it had been trained alone. So a kind that is asked for later is trained by itself, and is
paired with the others all the same.

    OUT/drafts-HASH/seed-S/KIND/      a trained draft, with training.json
    OUT/drafts-HASH/seed-S/training-KIND+../    checkpoints of a training under way

HASH stands for all that a training depends on, so drafts of another target, other data or other settings lie elsewhere.
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from fspad_ref.batches import Encoded, data_hash
from fspad_ref.checkpoint import load_json
from fspad_ref.corpus import Dialogue
from fspad_ref.draft import KINDS, Draft, DraftConfig
from fspad_ref.lab.provenance import code_hash, digest, fingerprint, kept, plain
from fspad_ref.target import Target
from fspad_ref.train import TrainConfig, train

Kind = Literal["eagle", "fs", "pad", "fspad", "eagle_wide"]
BASE, WIDE = "eagle", "eagle_wide"
CODE = ("batches", "draft", "learner", "loss", "processes", "recipe", "train")


def new_draft(kind: Kind, target: Target, seed: int = 0) -> Draft:
    """An untrained draft of that kind; equal seeds start the parts that kinds share from the same distribution."""
    sampling, alignment = KINDS[BASE if kind == WIDE else kind]
    width = widened(target.config.intermediate_size) if kind == WIDE else None
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Draft(DraftConfig(sampling, alignment, intermediate_size=width), target)


def widened(width: int) -> int:
    """The MLP width at which EAGLE has as many parameters as FSPAD has at width F, up to D of them.

    FSPAD's layer has 4 D F MLP weights and its sampler 3 D F and a norm of D; EAGLE's has 3 D F':  F' = (7 F + 1) / 3.
    """
    return round((7 * width + 1) / 3)


def training_key(target: Target, dialogues: Sequence[Dialogue | Encoded], training: TrainConfig) -> dict[str, Any]:
    """All that trained drafts depend on but their seed, as plain data."""
    return plain({
        **target.identity(),
        "weights": fingerprint(target.model),
        "dtype": str(target.dtype),
        "dialogues": [len(dialogues), data_hash(dialogues)],
        "training": asdict(training),
        "code": code_hash(*CODE),
    })  # fmt: skip


def trained(
    target: Target,
    dialogues: Sequence[Dialogue | Encoded],
    training: TrainConfig,
    kinds: Sequence[Kind],
    seed: int,
    folder: Path,
    progress: Callable[..., Any],
    features: Target | None = None,
) -> tuple[dict[str, Draft], list[dict[str, Any]]]:
    """The drafts of one seed, and a row about the training of each; what is not in `folder` yet is trained.

    features: where the training takes the target's features from, if not from the target itself.
    """
    folder = folder / f"seed-{seed}"
    _collect(folder)
    if rest := missing(folder, kinds):
        training = replace(training, seed=training.seed + seed)
        drafts = {kind: new_draft(kind, target, training.seed) for kind in rest}
        under_way = folder / f"training-{'+'.join(rest)}"
        with progress(total=training.steps, desc=f"train seed {seed}: {', '.join(rest)}", unit="step") as bar:
            train(features or target, drafts, dialogues, training, lambda now: bar.update(now.step - bar.n),
                  out=under_way, resume=True)  # fmt: skip
        _collect(folder)
    rows = [_row(kind, seed, load_json(folder / kind / "training.json")) for kind in kinds]
    return {kind: Draft.from_pretrained(folder / kind, target) for kind in kinds}, rows


def missing(folder: Path, kinds: Sequence[Kind]) -> list[Kind]:
    """The kinds that a seed's folder does not hold yet."""
    return [kind for kind in kinds if not (folder / kind / "training.json").exists()]


def _collect(folder: Path) -> None:
    """Move the drafts of finished trainings to their places, and remove the checkpoints that they came from.

    A draft is finished when its training.json is there: train writes that last.
    """
    for finished in sorted(folder.glob("training-*/*/training.json")):
        if not (folder / finished.parent.name).exists():
            os.replace(finished.parent, folder / finished.parent.name)
    for under_way in folder.glob("training-*"):
        if not missing(folder, under_way.name.removeprefix("training-").split("+")):
            shutil.rmtree(under_way)


def _row(kind: Kind, seed: int, record: Mapping[str, Any]) -> dict[str, Any]:
    names = ("step", "dialogues", "data_hash", "tokens", "positions", "versions")
    return {"method": kind, "seed": seed} | {name: record[name] for name in names}


def training_cost(
    target: Target, dialogues: Sequence[Dialogue | Encoded], training: TrainConfig, steps: int, kind: Kind, folder: Path
) -> dict[str, float]:
    """Median seconds a step of a kind trained alone: the draft's own, and the frozen target's, the same for all kinds.

    All kinds meet the same batches. Kept in a file, as it stands for one machine.
    """
    short = replace(training, steps=steps, evaluate_every=0)
    threads = {"threads": torch.get_num_threads(), "device": str(target.device)}
    key = training_key(target, dialogues, short) | threads

    def measured() -> dict[str, Any]:
        spent, of_target = [0.0], [0.0]  # after each step
        train(target, {kind: new_draft(kind, target)}, dialogues, short,
              lambda now: (spent.append(now.seconds), of_target.append(now.target_seconds)))  # fmt: skip
        frozen = np.diff(of_target)
        medians = {"draft": float(np.median(np.diff(spent) - frozen)), "target": float(np.median(frozen))}
        return {"seconds": medians}

    return kept(folder / f"cost-{kind}-{digest(key)}.json", key, measured)["seconds"]
