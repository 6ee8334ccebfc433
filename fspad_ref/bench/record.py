"""Where a measurement comes from: command, code, machine, versions. And when it is stale.

A result is kept under a *key*: all that it depends on, as plain data. Its file holds the key, and whoever asks for the
result again with the same key gets the file; with another key it is measured anew. Into a key go

    settings      what was asked for
    weights       fingerprints of the target and of the drafts
    code          a hash of the modules that the result rests on, by what they do: comments, docstrings and layout
                  do not count
    machine       where times were measured: processor, threads, precision, versions
"""

import ast
import hashlib
import itertools
import json
import math
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from fspad_ref.files import load_json, save_json
from fspad_ref.target import Target

PACKAGE = Path(__file__).parents[1]
METHOD = ("sampling", "cache", "target", "draft", "tree", "verify", "generate")  # what decoding rests on


def provenance(target: Target) -> dict[str, Any]:
    """All that someone would have to know to measure again."""
    cuda = target.device.type == "cuda"
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": "python -m fspad_ref " + " ".join(sys.argv[1:]),
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "hardware": torch.cuda.get_device_name(target.device) if cuda else _processor(),
        "threads": torch.get_num_threads(),
        "dtype": str(target.dtype).removeprefix("torch."),
    }


def _commit() -> str | None:
    """The commit of the code that measured, with "+" if files differ from it; None outside a repository."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changed else "")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()


def jsonable(config: Any) -> dict[str, Any]:
    """A config dataclass as plain data."""
    return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(config).items()}


# ---- when a result is stale ----


def plain(value: Any) -> Any:
    """As a file will give it back: tuples become lists, keys strings."""
    return json.loads(json.dumps(value))


def digest(key: Any) -> str:
    """8 hex digits of a key, for names of folders."""
    return hashlib.sha256(json.dumps(plain(key), sort_keys=True).encode()).hexdigest()[:8]


def fingerprint(module: nn.Module) -> str:
    """16 hex digits that tell weights apart: a hash of all names and shapes, and of some thousand numbers a tensor.

    The stride shares no divisor with a row's length, so that the numbers come from as many different columns as can be.
    """
    hashed = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        width = tensor.shape[-1] if tensor.dim() else 1
        stride = next(n for n in itertools.count(max(1, tensor.numel() // 4096)) if math.gcd(n, width) == 1)
        thinned = tensor.flatten()[::stride].cpu().contiguous()
        hashed.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        hashed.update(thinned.view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()[:16]


def code_hash(*modules: str) -> str:
    """16 hex digits of what modules of this package do, named from its top as in "lab.replay"."""
    hashed = hashlib.sha256()
    for module in sorted(modules):
        source = (PACKAGE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
        hashed.update(f"{module}\n{_without_words(source)}\n".encode())
    return hashed.hexdigest()[:16]


def _without_words(source: str) -> str:
    """A program's syntax tree as text, without its docstrings; comments and layout are not in it to begin with."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):  # a lambda's is an expression
            node.body = [one for one in body if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))]
    return ast.dump(tree)


def machine(target: Target) -> dict[str, Any]:
    """What times depend on."""
    about = provenance(target)
    names = ("hardware", "threads", "dtype", "torch", "transformers")
    return {name: about[name] for name in names} | {"device": target.device.type}


def kept(file: Path, key: Any, make: Callable[[], dict[str, Any]], say: Callable[[str], None] = print) -> dict:
    """What `file` holds if it was made under this key, else what `make` returns, then saved there with the key.

    What differs is said, so that nobody waits for a measurement without knowing why it is taken again.
    """
    key = plain(key)
    if file.exists():
        old = load_json(file)
        if old.get("key") == key:
            return old
        say(f"{file}: measured anew, for what it rests on has changed: {'; '.join(changes(old.get('key'), key))}")
    save_json(file, {"key": key} | make())
    return load_json(file)


def changes(old: Any, new: Any, name: str = "") -> Sequence[str]:
    """The leaves in which two keys differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = sorted(old.keys() | new.keys())
        return [line for one in names for line in changes(old.get(one), new.get(one), f"{name}.{one}".strip("."))]
    if old is None and isinstance(new, dict):
        return [f"there was no {name or 'key'}"]
    return [] if old == new else [f"{name or 'the key'} was {old!r} and is now {new!r}"]


