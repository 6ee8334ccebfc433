"""One list of dependencies, one set of commands: what the files at the top say about each other holds."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from fspad_ref.__main__ import COMMANDS

TOP = Path(__file__).parent.parent
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def constraints() -> dict[str, Requirement]:
    lines = [line.partition("#")[0].strip() for line in (TOP / "constraints.txt").read_text().splitlines()]
    return {canonicalize_name(one.name): one for one in map(Requirement, filter(None, lines))}


def direct() -> list[Requirement]:
    lists = [PROJECT["dependencies"], *EXTRAS.values()]
    return [one for names in lists for one in map(Requirement, names) if one.name != PROJECT["name"]]


def test_environment_yml_only_points_at_pyproject() -> None:
    environment = yaml.safe_load((TOP / "environment.yml").read_text())
    python = "python" + PROJECT["requires-python"]
    assert environment["channels"] == ["conda-forge"]
    assert environment["dependencies"] == [python, "pip", {"pip": ["-e .[dev]"]}]


def test_dev_includes_the_notebooks() -> None:
    assert f"{PROJECT['name']}[notebooks]" in EXTRAS["dev"]


def test_the_package_needs_no_jupyter() -> None:
    names = {canonicalize_name(Requirement(one).name) for one in PROJECT["dependencies"]}
    assert not names & {canonicalize_name(Requirement(one).name) for one in EXTRAS["notebooks"]}


@pytest.mark.parametrize("requirement", direct(), ids=str)
def test_the_tested_set_lies_within_the_ranges(requirement: Requirement) -> None:
    pinned = constraints()[canonicalize_name(requirement.name)]
    (pin,) = pinned.specifier
    assert pin.operator == "==" and requirement.specifier.contains(pin.version)


@pytest.mark.parametrize("older", ["torch==2.11.0", "transformers==5.17.0", "transformers==5.15.0", "torch==2.6.0"])
def test_the_ranges_admit_what_else_is_promised(older: str) -> None:
    name, version = older.split("==")
    (requirement,) = [one for one in direct() if one.name == name]
    assert requirement.specifier.contains(version)


def test_constraints_name_no_place() -> None:
    assert str(constraints()["torch"]) == "torch==2.13.0"
    assert all(one.url is None for one in constraints().values())
    assert not re.search(r"^\s*-|://", (TOP / "constraints.txt").read_text(), re.M), "no index and no file URL"


def test_citation_parses_and_names_the_paper() -> None:
    citation = yaml.safe_load((TOP / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert str(citation["version"]) == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert citation["preferred-citation"]["url"].endswith("2408.15562")
    names = [author["family-names"] for author in citation["preferred-citation"]["authors"]]
    assert names == ["Gui", "Xiao", "Su", "Chen"]


def test_version_is_one() -> None:
    import fspad_ref

    assert fspad_ref.__version__ == PROJECT["version"]


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (TOP / "Makefile").read_text(), re.M))


def test_the_readme_names_commands_that_exist() -> None:
    readme = (TOP / "README.md").read_text()
    made, run = set(re.findall(r"\bmake ([a-z]+)\b", readme)), set(re.findall(r"-m fspad_ref ([a-z-]+)", readme))
    assert {"demo", "test", "lab"} <= made <= make_targets()
    assert "demo" in run and run <= set(COMMANDS)


def test_make_refuses_an_old_python_and_says_so(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    pretend = "import sys\nsys.version_info, sys.version = (3, 9), '3.9.0 (old)'\nexec(sys.argv[2])\n"
    old.write_text(f"#!{sys.executable}\n{pretend}")
    old.chmod(0o755)
    for file in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / file).write_text((TOP / file).read_text())
    done = subprocess.run(["make", "setup", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert "needs Python 3.11 or newer" in done.stderr and "is 3.9.0" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_a_second_make_installs_nothing(tmp_path: Path) -> None:
    for file in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / file).write_text((TOP / file).read_text())
    stamp = tmp_path / ".venv" / ".installed"
    stamp.parent.mkdir()
    stamp.touch()
    plan = ["make", "--dry-run", "demo"]
    assert "pip install" not in subprocess.run(plan, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    stamp.unlink()
    assert "pip install" in subprocess.run(plan, cwd=tmp_path, capture_output=True, text=True, check=True).stdout


def test_ci_runs_what_a_developer_runs() -> None:
    script = TOP / ".ci" / "run"
    assert script.stat().st_mode & 0o111, "executable"
    assert "set -euo pipefail" in script.read_text()
    assert re.search(r"^make test$", script.read_text(), re.M)
