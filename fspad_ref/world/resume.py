"""Checkpoints of a training run: a folder each, complete as soon as its progress.json is there."""

import re
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fspad_ref.checkpoint import check_names, load_json, load_tensors, save_atomic, save_json, save_tensors


def newest_checkpoint(folder: Path) -> Path | None:
    """The complete checkpoint with the highest number in `folder`, or None."""
    found = [p for p in folder.glob("step-*") if re.fullmatch(r"step-\d+", p.name) and (p / "progress.json").is_file()]
    return max(found, key=lambda p: int(p.name[5:]), default=None)


def save_checkpoint(
    folder: Path,
    step: int,
    model: PreTrainedModel,
    optimizers: Sequence[torch.optim.Optimizer],
    tokenizer: PreTrainedTokenizerBase,
    progress: dict[str, Any],
) -> None:
    """Write `folder`/step-N, then remove the older ones. A crash at any moment leaves one complete checkpoint."""
    place = folder / f"step-{step:07d}"
    if place.exists():
        shutil.rmtree(place)
    place.mkdir(parents=True)
    tokenizer.save_pretrained(place)
    save_tensors(place / "model.safetensors", dict(model.named_parameters()))
    state = {"optimizers": [o.state_dict() for o in optimizers], "rng": torch.get_rng_state()}
    save_atomic(place / "optimizer.pt", lambda path: torch.save(state, path))
    save_json(place / "progress.json", progress)
    for older in folder.glob("step-*"):
        if older != place:
            shutil.rmtree(older, ignore_errors=True)


def load_checkpoint(place: Path, model: PreTrainedModel, optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Put weights, optimizer state and the state of chance back. The model must have the checkpoint's depth already."""
    tensors, parameters = load_tensors(place / "model.safetensors"), dict(model.named_parameters())
    check_names(tensors, parameters, place)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])
    state = torch.load(place / "optimizer.pt", map_location="cpu", weights_only=True)
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    torch.set_rng_state(state["rng"])


def load_progress(place: Path) -> dict[str, Any]:
    """What `save_checkpoint` was given as `progress`."""
    return load_json(place / "progress.json")


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM in a list instead of raising, so that a step in progress ends whole.

    A second signal acts as usual. Outside the main thread, where Python allows no handlers, nothing is caught.
    """
    received: list[int] = []
    before: dict[int, Any] = {}

    def note(number: int, frame: Any) -> None:
        received.append(number)
        for each, handler in before.items():
            signal.signal(each, handler)

    try:
        for each in (signal.SIGINT, signal.SIGTERM):
            before[each] = signal.signal(each, note)
    except ValueError:
        before.clear()
    try:
        yield received
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
