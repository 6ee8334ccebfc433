"""Files <-> state dicts and configs. This module knows no model.

Two promises:

1. *Atomic*: a reader sees the old file or the new one, never half of one. We write beside the final name,
   flush to the disk, then rename; a full disk or a kill in between leaves the old file in place.
2. *Inert*: loading never runs code. Weights come as safetensors, settings as JSON; the one concession to
   published `.bin` files is `torch.load(weights_only=True)`, which unpickles tensors and nothing else.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fspad_ref.errors import CheckpointError


def save_atomic(path: str | Path, writer: Callable[[Path], None]) -> None:
    """Let `writer` write a file beside `path`, force it to the disk, and rename it to `path`.

    Raises whatever `writer` raises; `path` is then what it was before, and the partial file is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        writer(partial)
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable: the directory entry has to reach the disk too (a no-op where folders cannot be opened)."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Save named tensors as safetensors, atomically."""
    # safetensors refuses tensors that share storage, and views; a detached contiguous copy is neither.
    flat = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    save_atomic(path, lambda partial: save_file(flat, partial, metadata=metadata))


def save_json(path: str | Path, value: Any) -> None:
    """Save plain data as indented JSON, atomically."""
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    save_atomic(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def load_json(path: str | Path) -> Any:
    """Read JSON. Raises CheckpointError if the file is missing or not JSON."""
    path = _existing(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(
            f"expected JSON in {path}, found a file that does not parse ({error}). Restore the file or save it again."
        ) from error


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read named tensors from `.safetensors`, or from `.bin`/`.pt` with `weights_only=True`.

    Raises CheckpointError if the file is missing, truncated, of another kind, or holds NaN or infinity.
    """
    path = _existing(path)
    tensors = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickled_tensors(path)
    bad = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if bad:
        raise CheckpointError(
            f"expected finite weights in {path}, found NaN or infinity in {', '.join(bad[:3])}. "
            "The training that wrote this file diverged; use an earlier checkpoint."
        )
    return tensors


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(
            f"expected a file at {path}, found none. Check the path, or save a checkpoint there first."
        )
    return path


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        with open(path, "rb") as file:
            start = file.read(2)
        kind = "a pickle" if start in (b"\x80\x02", b"\x80\x04", b"PK") else "a damaged or truncated file"
        raise CheckpointError(
            f"expected safetensors in {path}, found {kind} ({error}). "
            "Download or save it again; a pickle must be named .bin to be read as one."
        ) from error


def _read_pickled_tensors(path: Path) -> dict[str, Tensor]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises several kinds here: unpickling, zip and end-of-file errors
        raise CheckpointError(
            f"expected a file of tensors that torch.load(weights_only=True) accepts in {path}, "
            f"found {type(error).__name__}: {error}. Convert it to safetensors where you trust it."
        ) from error
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise CheckpointError(
            f"expected a dict of tensors in {path}, found {type(loaded).__name__}. Save model.state_dict() alone."
        )
    return loaded


def check_names(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str | Path) -> None:
    """Compare names and shapes before anything is loaded. Raises CheckpointError listing every difference."""
    faults = [f"missing {name} {tuple(tensor.shape)}" for name, tensor in expected.items() if name not in found]
    faults += [f"unknown {name} {tuple(tensor.shape)}" for name, tensor in found.items() if name not in expected]
    faults += [
        f"{name} is {tuple(found[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    if faults:
        raise CheckpointError(
            f"{source} does not fit this model: {'; '.join(faults)}. "
            "Check that the file and the config belong together."
        )
