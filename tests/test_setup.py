"""One list of dependencies, one set of commands: what the files at the top say about each other holds."""

import re
import subprocess
import sys
import tomllib
from functools import partial
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import fspad_ref
from fspad_ref.__main__ import COMMANDS

TOP = Path(__file__).parent.parent
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
LISTED = [Requirement(one) for names in (PROJECT["dependencies"], *EXTRAS.values()) for one in names]
DIRECT = {canonicalize_name(one.name): one for one in LISTED if one.name != PROJECT["name"]}


def test_there_is_one_list_of_dependencies() -> None:
    environment = yaml.safe_load((TOP / "environment.yml").read_text())
    assert environment["channels"] == ["conda-forge"]
    assert environment["dependencies"] == ["python" + PROJECT["requires-python"], "pip", {"pip": ["-e .[dev]"]}]
    assert f"{PROJECT['name']}[notebooks]" in EXTRAS["dev"]
    jupyter = {Requirement(one).name for one in EXTRAS["notebooks"]}
    assert not jupyter & {Requirement(one).name for one in PROJECT["dependencies"]}, "the package needs none of it"


def test_the_tested_set_lies_within_the_ranges_and_names_no_place() -> None:
    text = (TOP / "constraints.txt").read_text()
    lines = filter(None, (line.partition("#")[0].strip() for line in text.splitlines()))
    pinned = {canonicalize_name(one.name): one for one in map(Requirement, lines)}
    for name, requirement in DIRECT.items():
        (pin,) = pinned[name].specifier
        assert pin.operator == "==" and requirement.specifier.contains(pin.version), name
    assert not re.search(r"^\s*-|://", text, re.M) and all(one.url is None for one in pinned.values())
    assert str(pinned["torch"]) == "torch==2.13.0"
    for older in ("torch==2.11.0", "transformers==5.17.0", "transformers==5.15.0", "torch==2.6.0"):  # promised, too
        name, version = older.split("==")
        assert DIRECT[name].specifier.contains(version), older


def test_version_citation_readme_and_ci_fit_together() -> None:
    citation = yaml.safe_load((TOP / "CITATION.cff").read_text())
    assert fspad_ref.__version__ == PROJECT["version"] == str(citation["version"])
    assert (citation["cff-version"], citation["license"]) == ("1.2.0", PROJECT["license"])
    paper = citation["preferred-citation"]
    assert paper["url"].endswith("2408.15562")
    assert [author["family-names"] for author in paper["authors"]] == ["Gui", "Xiao", "Su", "Chen"]
    readme, targets = (TOP / "README.md").read_text(), re.findall(r"^([a-z]+):", (TOP / "Makefile").read_text(), re.M)
    made, run = set(re.findall(r"\bmake ([a-z]+)\b", readme)), set(re.findall(r"-m fspad_ref ([a-z-]+)", readme))
    assert {"demo", "test", "lab"} <= made <= set(targets) and run and run <= set(COMMANDS)
    script = TOP / ".ci" / "run"
    assert script.stat().st_mode & 0o111 and "set -euo pipefail" in script.read_text()
    assert re.search(r"^make test$", script.read_text(), re.M), "CI runs what a developer runs"


def test_make_refuses_an_old_python_and_sets_up_once(tmp_path: Path) -> None:
    for file in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / file).write_text((TOP / file).read_text())
    make = partial(subprocess.run, cwd=tmp_path, capture_output=True, text=True)
    old = tmp_path / "python3"
    pretend = "import sys\nsys.version_info, sys.version = (3, 9), '3.9.0 (old)'\nexec(sys.argv[2])\n"
    old.write_text(f"#!{sys.executable}\n{pretend}")
    old.chmod(0o755)
    done = make(["make", "setup", f"PYTHON={old}"])
    assert done.returncode != 0 and "needs Python 3.11 or newer" in done.stderr and "is 3.9.0" in done.stderr
    assert not (tmp_path / ".venv").exists() and "pip install" in make(["make", "--dry-run", "demo"]).stdout
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".installed").touch()
    planned = make(["make", "--dry-run", "demo"]).stdout
    assert "pip install" not in planned and planned.count("fspad_ref fetch") == 1
    (tmp_path / "data" / "target").mkdir(parents=True)
    (tmp_path / "data" / "target" / "model.safetensors").touch()
    for name in ("demo", "test", "lab"):
        assert "fetch" not in make(["make", "--dry-run", name]).stdout, "the target is made once"
