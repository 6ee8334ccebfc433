"""A draft's files, in a folder or on the Hub: config.json and model.safetensors.

Pushing is huggingface_hub's own mixin's work. Saving and loading are ours, since a draft's files are written atomically
and a draft is worth nothing without its target: it is loaded *for* one, and refuses another.
"""

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

from huggingface_hub import ModelHubMixin, hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from fspad_ref.checkpoint import check_names, load_json, load_tensors, save_json, save_tensors
from fspad_ref.errors import CheckpointError, ConfigError
from fspad_ref.target import Target

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
    def from_pretrained(cls, folder: str | Path, target: Target, **download: Any) -> "OnTheHub":
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
