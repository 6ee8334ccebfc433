"""`python -m fspad_ref check`: what this machine has, whether the data are complete, and what will run."""

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

from fspad_ref.draft import KINDS

PACKAGES = ("torch", "transformers", "accelerate", "safetensors", "numpy", "scipy", "jaxtyping", "tyro", "matplotlib",
            "jupyterlab", "ipywidgets", "pytest", "nbval")  # fmt: skip
MODEL_FILES = ("config.json", "model.safetensors")
ARITHMETIC = {
    "bfloat16": "it has instructions for it. Near-ties between tokens may flip with a draft; in float32 hardly ever.",
    "float32": "texts with and without a draft agree. It has no instructions for bfloat16, which would be slow.",
}


@dataclass(frozen=True)
class CheckConfig:
    """Print versions and device, whether the data are complete, and what will run."""

    data: Path = Path("data")  # folder of the built-in target, its drafts, dialogues and questions


def check(config: CheckConfig) -> bool:
    """Print the report. True if everything that the demo needs is there."""
    print(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}")
    installed = {one.name: one.version for one in metadata.distributions()}
    for name in PACKAGES:
        print(f"  {name} {installed.get(name, 'MISSING: pip install -e .[dev]')}")
    suits, faults = arithmetic(), list(missing(config.data))
    print(f"Device: {device()}\nArithmetic that suits this processor: {suits}: {ARITHMETIC[suits]}")
    print("\n  ".join([f"Data in {config.data}: {'incomplete' if faults else 'complete'}", *faults]))
    parts = {
        "demo, bench, and generate with the built-in models": not faults,
        "training and decoding on a GPU": torch.cuda.is_available(),
        "notebooks (make lab)": not faults and {"jupyterlab", "ipywidgets"} <= {*installed},
        "tests (make test)": not faults and {"pytest", "hypothesis"} <= {*installed},
    }
    print("What will run:", *(f"{'yes' if runs else 'no ':3}  {what}" for what, runs in parts.items()), sep="\n  ")
    return not faults


def device() -> str:
    """The accelerator that torch sees, or the CPU with the number of threads that torch will use."""
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        count, name = torch.cuda.device_count(), torch.cuda.get_device_name(0)
        return f"{count} x {name}, {memory:.0f} GiB, CUDA {torch.version.cuda}"
    if torch.backends.mps.is_available():
        return "Apple GPU (mps); it has no float64, so exact equality is tested on the CPU only"
    return f"CPU, {torch.get_num_threads()} threads on {os.cpu_count()} cores"


def arithmetic() -> str:
    """bfloat16 where the processor multiplies it in hardware (AVX512-BF16 or AMX), else float32."""
    able = getattr(torch.cpu, "get_capabilities", dict)()  # older versions of torch do not tell
    return "bfloat16" if able.get("avx512_bf16") or able.get("amx_bf16") else "float32"


def missing(data: Path) -> Iterator[str]:
    """One line for each thing that the demo needs and `data` does not have."""
    models = ("target", *(f"drafts/{kind}" for kind in KINDS))
    wanted = [f"{folder}/{name}" for folder in models for name in MODEL_FILES]
    for name in (*wanted, "questions.jsonl", "held_out.jsonl", "dialogues.jsonl.gz"):
        if not (data / name).is_file():
            fetched = name.startswith("target")
            yield f"{name}: not there. {'Run `python -m fspad_ref fetch`' if fetched else 'Restore it from git'}."
