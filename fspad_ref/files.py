"""Files <-> state dicts and configs. This module knows no model.

Two promises:

1. *Atomic*: a reader sees the old file or the new one, never half of one. We write beside the final name,
   flush to the disk, then rename; a full disk or a kill in between leaves the old file in place.
2. *Inert*: loading never runs code. Weights come as safetensors, settings as JSON; the one concession to
   published `.bin` files is `torch.load(weights_only=True)`, which unpickles tensors and nothing else.
"""

import dataclasses
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from huggingface_hub import ModelHubMixin, hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fspad_ref.errors import CheckpointError, ConfigError, SaveError

if TYPE_CHECKING:
    from fspad_ref.target import Target


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



# ---- hub ----
#
# A draft's files, in a folder or on the Hub: config.json and model.safetensors.
#
# Pushing is huggingface_hub's own mixin's work. Saving and loading are ours, since a draft's files are written atomically
# and a draft is worth nothing without its target: it is loaded *for* one, and refuses another.

FILES = ("config.json", "model.safetensors")

_CARD = """---
{{ card_data }}
---

# Draft model ({{ kind }})

A draft for lossless speculative decoding, of the kind "{{ kind }}", trained for one target ({{ hidden_size }} wide,
vocabulary of {{ vocab_size }}); it holds neither embedding nor lm_head, which are the target's.

    target = Target.from_pretrained(...)  # the model it was trained for; any other is refused
    draft = Draft.from_pretrained("{{ repo_id }}", target)

Method: Gui, Xiao, Su, Chen, "Boosting Lossless Speculative Decoding via Feature Sampling and Partial Alignment
Distillation", {{ paper_url }}.
"""


class OnTheHub(ModelHubMixin, paper_url="https://arxiv.org/abs/2408.15562", library_name="fspad_ref",
               tags=["speculative-decoding"], model_card_template=_CARD):  # fmt: skip
    """What a Draft can do with files; `config_class` is the dataclass of its settings."""

    config_class: ClassVar[type]

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        config: Any = None,
        model_card_kwargs: dict[str, Any] | None = None,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        **push_options: Any,
    ) -> str | None:
        """Write config.json and model.safetensors, each atomically; with push_to_hub, upload them too.

        Args:
            config: must stay None: what is written is the draft's own config.
            model_card_kwargs: given when pushing; a README.md is written then.
            push_to_hub, repo_id, push_options: as in huggingface_hub; repo_id is the folder's name by default.

        Returns the commit's address if it was pushed. Raises SaveError if the system refuses a write.
        """
        if config is not None and config is not getattr(self, "_hub_mixin_config", None):
            raise ConfigError("expected no config to save with a draft, found one. The draft's own config is written.")
        if push_options and not push_to_hub:
            raise ConfigError(
                f"expected options of a push only with push_to_hub=True, found {', '.join(push_options)}. Add it."
            )
        folder = Path(folder)
        save_tensors(folder / "model.safetensors", self.state_dict())
        settings = {"model_type": "fspad_ref", "kind": self.config.kind, **dataclasses.asdict(self.config)}
        save_json(folder / "config.json", settings)
        if model_card_kwargs is not None:
            self.generate_model_card(**model_card_kwargs).save(folder / "README.md")
        return self.push_to_hub(repo_id or folder.name, **push_options) if push_to_hub else None

    def push_to_hub(self, repo_id: str, *, model_card_kwargs: dict[str, Any] | None = None, **options: Any) -> str:
        """Upload the draft's files with a model card. options: private, token, branch, create_pr and the others of
        huggingface_hub's ModelHubMixin.push_to_hub. Returns the commit's address."""
        card = {"kind": self.config.kind, "hidden_size": self.config.hidden_size, "repo_id": repo_id}
        card |= {"vocab_size": self.config.vocab_size, **(model_card_kwargs or {})}
        return super().push_to_hub(repo_id, model_card_kwargs=card, **options)

    @classmethod
    def from_pretrained(cls, folder: str | Path, target: "Target", **download: Any) -> "OnTheHub":
        """Load what save_pretrained or push_to_hub wrote, for this target.

        Args:
            folder: a folder, or the id of a repository on the Hub.
            download: revision, token, cache_dir, local_files_only or force_download, for a repository.

        Raises CheckpointError or TargetMismatch, before anything is used.
        """
        config, weights = (find_file(folder, name, **download) for name in FILES)
        settings = load_json(config)
        names = {field.name for field in dataclasses.fields(cls.config_class)}
        kind = settings.pop("model_type", None) if isinstance(settings, dict) else None
        if kind != "fspad_ref":
            raise CheckpointError(
                f"expected model_type 'fspad_ref' in {config}, found {kind!r}. Give the folder of a "
                "saved draft; for weights in the published layouts use Draft.from_official."
            )
        settings.pop("kind", None)
        if unknown := sorted(set(settings) - names):
            raise ConfigError(
                f"expected the settings of DraftConfig in {config}, found also "
                f"{', '.join(unknown)}. Remove them, or use the version that wrote them."
            )
        return cls(cls.config_class(**settings), target)._load(load_tensors(weights), folder)

    def _load(self, tensors: dict, source: str | Path) -> "OnTheHub":
        check_names(tensors, self.state_dict(), source)
        self.load_state_dict(tensors)
        return self.eval()


def find_file(folder: str | Path, name: str, **download: Any) -> Path:
    """A file of a local folder, or of a repository on the Hub, downloaded to its cache if it is not there yet.

    What exists here, what is a Path, and what can be no repository's id, is a folder. Raises CheckpointError if the Hub
    does not give the file.
    """
    if isinstance(folder, Path) or Path(folder).exists() or not _is_repo_id(folder):
        return Path(folder) / name
    try:
        return Path(hf_hub_download(folder, name, **download))
    except (OSError, ValueError, HfHubHTTPError) as error:  # among them: offline, not found, not allowed
        raise CheckpointError(
            f"expected a folder {folder!r} here, or a repository of that id with {name} on the Hub, found neither: "
            f"{error}. Check the path, or the id and the network."
        ) from error


def fetch_official(path: str | Path, **download: Any) -> Path:
    """A published draft: the path itself if it is one here, else the folder that a repository was downloaded to."""
    if isinstance(path, Path) or Path(path).exists() or not _is_repo_id(path):
        return Path(path)
    wanted = {"allow_patterns": ["config.json", "*.safetensors", "*.bin"], **download}
    try:
        return Path(snapshot_download(path, **wanted))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise CheckpointError(
            f"expected {path!r} to be a file or folder here, or a repository on the Hub, found neither: {error}. "
            "Check the path, or the id and the network."
        ) from error


def _is_repo_id(path: str) -> bool:
    """Whether "owner/name" is what was meant: not a bare name, and not the name of a file."""
    try:
        validate_repo_id(path)
    except HFValidationError:
        return False
    return "/" in path and not path.endswith((".safetensors", ".bin", ".pt", ".json"))


