"""Files <-> tensors, settings, drafts. Two promises:

1. *Atomic*: a reader sees the old file or the new one, never half of one. We write beside the final name, flush to the
   disk, then rename; a full disk or a kill in between leaves the old file in place.
2. *Inert*: loading never runs code. Weights come as safetensors, settings as JSON; the one concession to published
   `.bin` files is `torch.load(weights_only=True)`, which unpickles tensors and nothing else.
"""

import dataclasses
import json
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from huggingface_hub import ModelHubMixin, snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fspad_ref.errors import CheckpointError, SaveError, require

if TYPE_CHECKING:
    from fspad_ref.target import Target


def save_atomic(path: str | Path, writer: Callable[[Path], Any], durable: bool = True) -> None:
    """Let `writer` write a file beside `path`, force it to the disk, and rename it to `path`.

    durable: False does not force it, which is faster: for what can be computed again after a power cut.
    Raises SaveError, which is an OSError too, if the system refuses; the partial file is removed.
    """
    path = Path(path).absolute()
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer(partial)
        if durable:
            with open(partial, "rb+") as file:
                os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        in_text = re.search(r"os error (\d+)", str(error))  # where safetensors puts the system's number
        number = getattr(error, "errno", None) or (in_text and int(in_text[1]))
        if not number:
            raise
        advice = "Free some space or choose another folder, and save again; what was saved there before is untouched."
        raise SaveError(number, f"expected to write {path}, found: {os.strerror(number)}. {advice}") from error
    finally:
        with suppress(OSError):
            partial.unlink()


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor], durable: bool = True) -> None:
    """Save named tensors as safetensors, atomically."""
    # safetensors refuses tensors that share storage, and views; a detached contiguous copy is neither.
    flat = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    save_atomic(path, lambda partial: save_file(flat, partial, metadata={"format": "pt"}), durable)


def save_json(path: str | Path, value: Any) -> None:
    """Save plain data as indented JSON, atomically."""
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    save_atomic(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def load_json(path: str | Path) -> Any:
    """Read JSON. Raises CheckpointError if the file is missing or not JSON."""
    try:
        return json.loads(_existing(path).read_text(encoding="utf-8"))
    except ValueError as error:
        found = f"a file that does not parse ({error})"
        raise CheckpointError(f"expected JSON in {path}, found {found}. Restore it or save it again.") from error


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read named tensors from `.safetensors`, or from `.bin`/`.pt` with `weights_only=True`.

    Raises CheckpointError if the file is missing, truncated, of another kind, or holds NaN or infinity.
    """
    path = _existing(path)
    try:
        if path.suffix == ".safetensors":
            tensors = load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
            if not all(isinstance(value, Tensor) for value in tensors.values()):
                raise ValueError("values that are no tensors")
    except Exception as error:  # torch raises many kinds: unpickling, zip and end-of-file errors
        with open(path, "rb") as file:
            start = file.read(2)
        pickled = start == b"PK" or (start[:1] == b"\x80" and start[1:] <= b"\x05")  # a zip of pickles, or a bare one
        kind = "a pickle" if pickled else "a damaged or truncated file"
        raise CheckpointError(
            f"expected safetensors in {path}, or in a file named .bin a pickle of tensors alone, found {kind} "
            f"({type(error).__name__}: {error}). Download or save it again, as safetensors."
        ) from error
    check_finite(tensors, path)
    return tensors


def check_finite(tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Raises CheckpointError for NaN or infinity."""
    bad = [name for name, tensor in tensors.items() if not (tensor.is_meta or tensor.isfinite().all())]
    found, advice = f"NaN or infinity in {', '.join(bad[:3])}", "Get the file again, or use an earlier checkpoint."
    require(not bad, CheckpointError, f"finite weights in {source}", found, advice)


def check_names(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str | Path) -> None:
    """Compare names and shapes before anything is loaded. Raises CheckpointError listing every difference."""
    shapes = [{name: tuple(tensor.shape) for name, tensor in tensors.items()} for tensors in (expected, found)]
    pairs = {name: [one.get(name, "none") for one in shapes] for name in sorted(shapes[0] | shapes[1])}
    faults = "; ".join(f"{name} {other} instead of {one}" for name, (one, other) in pairs.items() if one != other)
    advice = "Check that the file and the config belong together."
    require(not faults, CheckpointError, f"the tensors of this model in {source}", faults, advice)


def _existing(path: str | Path) -> Path:
    require(Path(path).is_file(), CheckpointError, f"a file at {path}", "none", "Check the path, or save there first.")
    return Path(path)


# --- a draft's files, in a folder or on the Hub: config.json and model.safetensors -----------------------------------


def fetched(path: str | Path, **download: Any) -> Path:
    """A folder or file that is here, else the folder to which the repository of that id on the Hub is downloaded.

    download: revision, token, cache_dir, local_files_only or force_download. Raises CheckpointError if there is none.
    """
    weights = str(path).endswith((".safetensors", ".bin", ".pt"))
    if isinstance(path, Path) or os.path.exists(path) or weights or not re.fullmatch(r"[\w.-]+/[\w.-]+", path):
        return Path(path)
    try:
        return Path(snapshot_download(path, allow_patterns=["config.json", "*.safetensors", "*.bin"], **download))
    except (OSError, ValueError) as error:  # among them: offline, not found, not allowed
        found = f"neither: {error}. Check the path, or the id and the network."
        raise CheckpointError(f"expected {path!r} here, or on the Hub by that id, found {found}") from error


_CARD = """---
{{ card_data }}
---
A draft ({{ kind }}) for lossless speculative decoding with one target, whose embedding and lm_head it borrows:

    target = Target.from_pretrained(...)  # {{ hidden_size }} wide, vocabulary of {{ vocab_size }}; any other is refused
    draft = Draft.from_pretrained("{{ repo_id }}", target)

Method: FSPAD, {{ paper_url }}
"""


class OnTheHub(ModelHubMixin, paper_url="https://arxiv.org/abs/2408.15562", library_name="fspad_ref",
               tags=["speculative-decoding"], model_card_template=_CARD):  # fmt: skip
    """What a Draft can do with files. huggingface_hub's own mixin does the pushing. Saving and loading are ours: files
    are written atomically, and a draft is loaded *for* a target and refuses another."""

    config_class: ClassVar[type]  # the dataclass of its settings

    def save_pretrained(self, folder: str | Path, *, config: Any = None, model_card_kwargs: dict | None = None) -> None:
        """Write config.json and model.safetensors, each atomically. Raises SaveError if the system refuses.

        config, model_card_kwargs: from push_to_hub alone; then a README.md is written, too.
        """
        folder = Path(folder)
        save_tensors(folder / "model.safetensors", self.state_dict())
        settings = {"model_type": "fspad_ref", "kind": self.config.kind, **dataclasses.asdict(self.config)}
        save_json(folder / "config.json", settings)
        if model_card_kwargs is not None:
            self.generate_model_card(**model_card_kwargs).save(folder / "README.md")

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the draft's files with a model card; returns the commit's address. options: private, token, branch,
        create_pr and the others of huggingface_hub's ModelHubMixin.push_to_hub."""
        card = dataclasses.asdict(self.config) | {"kind": self.config.kind, "repo_id": repo_id}
        return super().push_to_hub(repo_id, model_card_kwargs=card, **options)

    @classmethod
    def from_pretrained(cls, folder: str | Path, target: "Target", **download: Any) -> "OnTheHub":
        """Load what save_pretrained or push_to_hub wrote, for this target, from a folder or the Hub, see `fetched`.

        Raises CheckpointError or TargetMismatch, before anything is used.
        """
        folder = fetched(folder, **download)
        settings = load_json(folder / "config.json")
        kind = settings.pop("model_type", None) if isinstance(settings, dict) else None
        names = {"kind", *(field.name for field in dataclasses.fields(cls.config_class))}
        known = kind == "fspad_ref" and settings.keys() <= names
        advice = "Give the folder of a saved draft; for weights in the published layouts use Draft.from_official."
        found = ", ".join([f"model_type {kind!r}", *sorted(set(settings) - names)])
        require(known, CheckpointError, f"model_type 'fspad_ref' and its settings in {folder}", found, advice)
        settings.pop("kind", None)
        settings = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
        return cls(cls.config_class(**settings), target)._load(load_tensors(folder / "model.safetensors"), folder)

    def _load(self, tensors: Mapping[str, Tensor], source: str | Path) -> "OnTheHub":
        check_names(tensors, self.state_dict(), source)
        self.load_state_dict(tensors)
        return self.eval()
