"""`python -m fspad_ref check`: what this machine has, whether the data are complete, and what will run."""

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from fspad_ref.draft import KINDS

NEEDED = ("torch", "transformers", "accelerate", "safetensors", "numpy", "scipy", "jaxtyping", "tyro", "matplotlib")
OPTIONAL = {"jupyterlab": "the notebooks", "ipywidgets": "the notebooks", "pytest": "the tests", "nbval": "the tests"}
MODEL_FILES = ("config.json", "model.safetensors")


@dataclass(frozen=True)
class CheckConfig:
    """Print versions and device, whether the data are complete, and what will run."""

    data: Path = Path("data/old")
    """Folder of the built-in target, its drafts and its questions."""


def check(config: CheckConfig) -> bool:
    """Print the report. True if everything that the demo needs is there."""
    print(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}")
    for name in (*NEEDED, *OPTIONAL):
        needed = "MISSING: pip install -e ." if name in NEEDED else f"missing; only {OPTIONAL[name]} need it"
        print(f"  {name} {_version(name) or needed}")
    print(f"Device: {device()}")
    faults = list(missing(config.data))
    print(f"Data in {config.data}: {'incomplete' if faults else 'complete'}")
    for fault in faults:
        print(f"  {fault}")
    print("What will run:")
    for what, runs in abilities(complete=not faults).items():
        print(f"  {'yes' if runs else 'no ':3}  {what}")
    return not faults


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def device() -> str:
    """The accelerator that torch sees, or the CPU with the number of threads that torch will use."""
    import torch

    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        count, name = torch.cuda.device_count(), torch.cuda.get_device_name(0)
        return f"{count} x {name}, {memory:.0f} GiB, CUDA {torch.version.cuda}"
    if torch.backends.mps.is_available():
        return "Apple GPU (mps); it has no float64, so exact equality is tested on the CPU only"
    return f"CPU, {torch.get_num_threads()} threads on {os.cpu_count()} cores"


def missing(data: Path) -> Iterator[str]:
    """One line for each thing that the demo needs and `data` does not have."""
    for folder in ("target", *(f"drafts/{kind}" for kind in KINDS)):
        absent = [name for name in MODEL_FILES if not (data / folder / name).is_file()]
        if absent:
            yield f"{folder}: no {', '.join(absent)}. Get it from the repository again."
    for name in ("target/tokenizer.json", "questions.jsonl", "dialogues.jsonl.gz"):
        if not (data / name).is_file():
            yield f"{name}: not there. Get it from the repository again."


def abilities(complete: bool) -> dict[str, bool]:
    """What will run: name -> yes or no. complete: all data are there."""
    import torch

    return {
        "demo, bench, and generate with the built-in models": complete,
        "training and decoding on a GPU": torch.cuda.is_available(),
        "notebooks (make lab)": complete and all(map(_version, ("jupyterlab", "ipywidgets"))),
        "tests (make test)": complete and all(map(_version, ("pytest", "hypothesis"))),
    }
