"""`python -m fspad_ref check`: what this machine has, whether the data are complete, and what will run."""

import json
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from fspad_ref.draft import KINDS

NEEDED = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "jaxtyping", "tyro", "matplotlib")
OPTIONAL = {"jupyterlab": "the notebooks", "ipywidgets": "the notebooks", "pytest": "the tests", "nbval": "the tests"}
MODEL_FILES = ("config.json", "model.safetensors")
QUESTIONS = 480


@dataclass(frozen=True)
class CheckConfig:
    """Print environment, device, versions, threads, whether the data are complete, and what will run."""

    data: Path = Path("data")
    """Folder of the built-in target, drafts, questions and lexicon."""


def check(config: CheckConfig) -> bool:
    """Print the report. True if everything that the demo needs is there."""
    print(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}")
    for line in versions():
        print(f"  {line}")
    print(f"Device: {device()}")
    faults = list(missing(config.data))
    print(f"Data in {config.data}: {'complete' if not faults else 'incomplete'}")
    for fault in faults:
        print(f"  {fault}")
    print("What will run:")
    for name, runs in abilities(faults).items():
        print(f"  {'yes' if runs else 'no ':3}  {name}")
    return not faults


def versions() -> Iterator[str]:
    """One line a package: its version, or that it is missing and what for."""
    for name in (*NEEDED, *OPTIONAL):
        try:
            yield f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            use = OPTIONAL.get(name)
            yield f"{name} missing, only needed for {use}" if use else f"{name} MISSING: pip install -e ."


def device() -> str:
    """The accelerator that torch sees, or the CPU with the threads it will use."""
    import torch

    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        return f"{count} x {torch.cuda.get_device_name(0)}, {memory:.0f} GiB, CUDA {torch.version.cuda}"
    if torch.backends.mps.is_available():
        return "Apple GPU (mps); float64, and with it exact equality, is on the CPU only"
    return f"CPU, {torch.get_num_threads()} threads of {os.cpu_count()} cores"


def missing(data: Path) -> Iterator[str]:
    """One line for each thing that the demo needs and `data` lacks, with the command or step that brings it."""
    target = [name for name in (*MODEL_FILES, "tokenizer.json") if not (data / "target" / name).is_file()]
    if target:
        yield f"target: no {', '.join(target)} (python -m fspad_ref fetch makes one)"
    for kind in KINDS:
        lacking = [name for name in MODEL_FILES if not (data / "drafts" / kind / name).is_file()]
        if lacking:
            yield f"drafts/{kind}: no {', '.join(lacking)} (python -m fspad_ref train makes one)"
    if not any((data / "lexicon").glob("*.tsv")):
        yield "lexicon: no .tsv file (get it from the repository again)"
    yield from missing_questions(data / "questions.jsonl")


def missing_questions(path: Path) -> Iterator[str]:
    if not path.is_file():
        yield f"{path.name}: not there (get it from the repository again)"
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    try:
        found = len({json.loads(line)["question_id"] for line in lines if line.strip()})
    except (ValueError, KeyError, TypeError) as error:
        yield f"{path.name}: not a file of questions ({error})"
        return
    if found != QUESTIONS:
        yield f"{path.name}: expected {QUESTIONS} questions, found {found}"


def abilities(faults: list[str]) -> dict[str, bool]:
    """What will run: name -> yes or no."""
    import torch

    def installed(name: str) -> bool:
        return any(True for _ in metadata.distributions(name=name))

    complete = not faults
    return {
        "demo, bench, generate with the built-in models": complete,
        "fetch, train on the CPU": sys.version_info >= (3, 11),
        "training and decoding on a GPU": torch.cuda.is_available(),
        "notebooks (make lab)": complete and installed("jupyterlab") and installed("ipywidgets"),
        "tests (make test)": installed("pytest") and installed("hypothesis"),
    }
