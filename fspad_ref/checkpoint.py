"""Files <-> state dicts and configs. This module knows no model.

Two promises:

1. *Atomic*: a reader sees the old file or the new one, never half of one. We write beside the final name,
   flush to the disk, then rename; a full disk or a kill in between leaves the old file in place.
2. *Inert*: loading never runs code. Weights come as safetensors, settings as JSON; the one concession to
   published `.bin` files is `torch.load(weights_only=True)`, which unpickles tensors and nothing else.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fspad_ref.errors import CheckpointError, SaveError


def save_atomic(path: str | Path, writer: Callable[[Path], None]) -> None:
    """Let `writer` write a file beside `path`, force it to the disk, and rename it to `path`.

    Raises SaveError, which is an OSError too, if the system refuses a write or a rename, else whatever `writer`
    raises. `path` is then what it was before, and the partial file is removed.
    """
    path, renamed = Path(path), False
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer(partial)
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
        renamed = True
        _sync_folder(path.parent)
    except (OSError, SafetensorError) as error:
        number = _system_error(error)
        if number is None:
            raise
        raise _save_error(path, number, renamed) from error
    finally:
        with suppress(OSError):
            partial.unlink()


def _system_error(error: OSError | SafetensorError) -> int | None:
    """The operating system's number of an error; safetensors puts it into its message. None: it is of another kind."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"os error (\d+)", str(error))
    return int(found[1]) if found else None


def _save_error(path: Path, number: int, renamed: bool) -> SaveError:
    """What was to be written, what stopped it, what stands at `path` now, and what to do."""
    folder = next(one for one in path.absolute().parents if one.is_dir())
    free = shutil.disk_usage(folder).free
    if renamed:
        state = f"{path} is the new file already, but a power cut may undo that"
    else:
        state = f"the {path.name} saved before is untouched" if path.exists() else f"there is no {path.name} yet"
    return SaveError(
        number,
        f"expected to write {path}, found: {os.strerror(number)} ({free / 1e6:,.0f} MB are free there). "
        f"Free some space or choose a folder that can be written to, then save again; {state}.",
    )


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
        pickled = start == b"PK" or (start[:1] == b"\x80" and start[1:] <= b"\x05")  # a zip of pickles, or a bare one
        kind = "a pickle" if pickled else "a damaged or truncated file"
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
            f"expected the tensors of this model in {source}, found others: {'; '.join(faults)}. "
            "Check that the file and the config belong together."
        )
