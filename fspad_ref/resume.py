"""The record of a training, and its checkpoints, from which it goes on as if it had never stopped.

A checkpoint is a pair: `checkpoint-<step>.safetensors` with weights, best weights and AdamW's moments of every draft,
and `checkpoint.json` with the record, which names that file. The JSON is written last, so that a kill at any moment
leaves a valid pair.
"""

import json
import math
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from fspad_ref.data import Place
from fspad_ref.draft import Draft
from fspad_ref.errors import CheckpointError, SaveError
from fspad_ref.files import check_names, load_json, load_tensors, save_json, save_tensors

CHECKPOINT = "checkpoint.json"


@dataclass
class TrainRecord:
    """What happened, in plain data: a checkpoint holds it as JSON, and so does the folder of a trained draft."""

    config: dict[str, Any]
    drafts: dict[str, Any]  # name -> its DraftConfig
    dialogues: int
    data_hash: str = ""  # see batches.data_hash
    step: int = 0
    place: Place = (0, 0, 0)  # epoch, pool, batch of the next step
    loss: dict[str, list[float]] = field(default_factory=dict)  # name -> total loss of each step
    feature_loss: dict[str, list[float]] = field(default_factory=dict)
    logit_loss: dict[str, list[float]] = field(default_factory=dict)
    tau: dict[str, list[tuple[int, float]]] = field(default_factory=dict)  # name -> (step, tau) of each evaluation
    best: dict[str, tuple[int, float]] = field(default_factory=dict)  # name -> (step, tau) of the weights kept
    tokens: int = 0  # through the target, padding not counted
    positions: int = 0  # of them trained on
    seconds: float = 0.0  # training, without evaluation and saving
    target_seconds: float = 0.0  # of them in the frozen target
    evaluation_seconds: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def begin(cls, config: Any, drafts: Mapping[str, Draft], dialogues: int) -> "TrainRecord":
        """The record before the first step. config: the training's settings, a dataclass."""
        settings = {"config": asdict(config), "drafts": {name: asdict(draft.config) for name, draft in drafts.items()}}
        curves = {curve: {name: [] for name in drafts} for curve in ("loss", "feature_loss", "logit_loss", "tau")}
        return cls(**_plain(settings), **curves, dialogues=dialogues, versions=_versions())

    @property
    def target_share(self) -> float:
        """Share of the training time that the frozen target takes."""
        return self.target_seconds / self.seconds if self.seconds else math.nan

    @property
    def tokens_per_second(self) -> float:
        """Tokens through the target a second of training, padding not counted, those of all processes together."""
        return self.tokens / self.seconds if self.seconds else math.nan

    def of(self, name: str) -> dict[str, Any]:
        """What concerns one draft, as plain data: the JSON beside its weights."""
        plain = asdict(self)
        for key in ("drafts", "loss", "feature_loss", "logit_loss", "tau", "best"):
            plain[key] = {name: plain[key][name]} if name in plain[key] else {}
        return plain


@dataclass
class DraftState:
    """All that a training has made of one draft: weights, AdamW's moments by parameter, weights of the best tau."""

    weights: Mapping[str, Tensor]
    moments: Mapping[str, Mapping[str, Tensor]]
    best: Mapping[str, Tensor] = field(default_factory=dict)


def save_training(out: str | Path, record: TrainRecord, states: Mapping[str, DraftState]) -> None:
    """Write a checkpoint into the folder `out`, then remove the one before it.

    Raises SaveError, an OSError, naming the checkpoint that a training can go on from.
    """
    tensors = {}
    for name, state in states.items():
        tensors |= {f"weights/{name}/{key}": value for key, value in state.weights.items()}
        tensors |= {f"best/{name}/{key}": value for key, value in state.best.items()}
        for key, moments in state.moments.items():
            tensors |= {f"optimizer/{name}/{key}/{moment}": value for moment, value in moments.items()}
    out, file = Path(out), Path(out) / f"checkpoint-{record.step}.safetensors"
    try:
        save_tensors(file, tensors)
        save_json(out / CHECKPOINT, asdict(record) | {"tensors": file.name})
        for other in out.glob("checkpoint-*.safetensors"):
            if other != file:
                other.unlink()
        # of a process that was killed while it saved; .tmp is how safetensors names a file that it is writing
        for left in (*out.glob(".checkpoint*.partial"), *out.glob(".tmp??????")):
            left.unlink(missing_ok=True)
    except SaveError as error:
        raise SaveError(error.errno, f"{error.strerror} {_way_on(out)}") from error
    except OSError as error:
        found = f"expected to remove old files from {out}, found: {error.strerror}. Remove them yourself."
        raise SaveError(error.errno, f"{found} {_way_on(out)}") from error


def _way_on(out: Path) -> str:
    """Where a training whose save failed can go on from."""
    try:
        step = load_json(out / CHECKPOINT)["step"]
    except CheckpointError:
        return f"There is no checkpoint in {out} yet: begin anew."
    return f"The last good checkpoint is that of step {step} in {out}: resume from there."


def load_training(
    out: str | Path, record: TrainRecord, drafts: Mapping[str, Draft], resume: bool
) -> tuple[TrainRecord, dict[str, DraftState]]:
    """The record of the checkpoint in `out`, and the state of every draft.

    Without a checkpoint there, `record` comes back, and no states. Raises CheckpointError if there is one and `resume`
    is false, if it was written with other settings (each is named), or if its files are damaged.
    """
    file = Path(out) / CHECKPOINT
    if not file.exists():
        return record, {}
    saved = load_json(file)
    absent = [name for name in (*(one.name for one in fields(TrainRecord)), "tensors") if name not in saved]
    if absent:
        raise CheckpointError(
            f"expected the record of a training in {file}, found one without {', '.join(absent)}; choose another "
            "folder, or remove the file to begin anew"
        )
    if not resume:
        raise CheckpointError(
            f"expected {out} to hold no training yet, found one at step {saved['step']}; resume it, or choose another "
            "folder"
        )
    _refuse_differences(file, saved, _plain(asdict(record)))
    tensors = load_tensors(Path(out) / saved.pop("tensors"))
    states = {}
    for name, draft in drafts.items():
        weights = _below(tensors, f"weights/{name}/")
        check_names(weights, draft.state_dict(), file)
        moments = {key: _below(tensors, f"optimizer/{name}/{key}/") for key, _ in draft.named_parameters()}
        states[name] = DraftState(weights, moments, _below(tensors, f"best/{name}/"))
    saved |= {
        "place": tuple(saved["place"]),
        "tau": {name: [tuple(entry) for entry in entries] for name, entries in saved["tau"].items()},
        "best": {name: tuple(entry) for name, entry in saved["best"].items()},
        "versions": record.versions,
    }
    return TrainRecord(**saved), states


def _refuse_differences(file: Path, saved: dict[str, Any], now: dict[str, Any]) -> None:
    differing = [
        f"{field} was {old!r} and is now {new!r}"
        for part in ("config", "drafts", "dialogues", "data_hash")
        for field, old, new in _differences(part, saved.get(part), now[part])
    ]
    if differing:
        raise CheckpointError(
            f"expected the settings that {file} was written with, found others: {'; '.join(differing)}. Use the same, "
            "or choose another folder."
        )


def _differences(name: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(f"{name}.{key}", old.get(key), new.get(key))
    elif old != new:
        yield name, old, new


def _plain(value: Any) -> Any:
    """As JSON would give it back: tuples become lists, so that saved and present settings compare equal."""
    return json.loads(json.dumps(value))


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _versions() -> dict[str, str]:
    found = {package: version(package) for package in ("torch", "transformers")}
    return {"python": platform.python_version(), **found, "machine": f"{platform.machine()}, {os.cpu_count()} cores"}
