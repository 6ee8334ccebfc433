"""Results as small plain files: JSON or, for a table, CSV; each says how, when and where it was measured."""

import dataclasses
import json
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import transformers

from fspad_ref.files import load_json, save_atomic, save_json


def save_record(path: str | Path, data: Any) -> None:
    """Write a dict as JSON, with the header under "about", or a table as CSV below comment lines with the header.

    data: may hold dataclasses, tables and paths.
    """
    about = header()
    if isinstance(data, pd.DataFrame):
        text = "".join(f"# {name}: {value}\n" for name, value in about.items()) + data.to_csv(index=False)
        save_atomic(path, lambda partial: partial.write_text(text, encoding="utf-8"))
    else:
        save_json(path, json.loads(json.dumps({"about": about} | data, default=plain)))


def load_record(path: str | Path) -> Any:
    """What save_record wrote: a dict, or a table."""
    return pd.read_csv(path, comment="#") if Path(path).suffix == ".csv" else load_json(path)


def header() -> dict[str, str | int]:
    """Command, date, processor, threads and versions."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    named = [line.split(": ")[1] for line in info.splitlines() if line.startswith("model name")]
    return {
        "command": "python -m fspad_ref " + " ".join(sys.argv[1:]),
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "processor": (named or [platform.machine()])[0],
        **({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}),
        "threads": torch.get_num_threads(),
        "versions": " ".join(("python", platform.python_version(), "torch", torch.__version__,
                              "transformers", transformers.__version__)),
    }  # fmt: skip


def plain(value: Any) -> Any:
    """What JSON does not know, as something it does."""
    if dataclasses.is_dataclass(value):
        return dataclasses.asdict(value)
    if isinstance(value, pd.DataFrame):
        return json.loads(value.to_json(orient="records"))
    return str(value) if isinstance(value, Path) else value.item()  # a number of numpy's
