"""Files are inert and saves are atomic: loading executes nothing, a save that fails loses nothing."""

import errno
import json
import os
import pickle

import pytest
import torch
from conftest import tiny_target

from fspad_ref import Target
from fspad_ref.errors import CheckpointError, SaveError
from fspad_ref.files import load_tensors, save_json

# --- nothing is executed ---------------------------------------------------------------------------------------------


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_is_never_executed(tmp_path):
    sprung = tmp_path / "sprung"
    for name in ("draft.bin", "draft.pt", "draft.safetensors"):
        (tmp_path / name).write_bytes(pickle.dumps({"fuse.weight": Trap(sprung)}))
        with pytest.raises(CheckpointError, match="expected .*found"):
            load_tensors(tmp_path / name)
    assert not sprung.exists()
    pickle.loads((tmp_path / "draft.bin").read_bytes())
    assert sprung.exists()  # the trap works


def test_remote_code_is_never_executed(tmp_path):
    """A model folder that brings its own Python: refused, and the code not even imported."""
    (tmp_path / "strange.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'sprung')!r})\n")
    auto_map = {"AutoConfig": "strange.StrangeConfig", "AutoModelForCausalLM": "strange.Strange"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "strange", "auto_map": auto_map}))
    with pytest.raises(CheckpointError, match="(?s)expected a Hugging Face causal LM.*found: .*trust_remote_code=True"):
        Target.from_pretrained(str(tmp_path))
    assert not (tmp_path / "sprung").exists()


@pytest.fixture
def saved(tmp_path):
    """A tiny target in a folder."""
    folder = tmp_path / "target"
    tiny_target(dtype=torch.float32).model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("dump", [lambda trap, file: file.write_bytes(pickle.dumps(trap)), torch.save])
def test_a_target_in_a_pickle_is_never_executed(saved, tmp_path, dump):
    (saved / "model.safetensors").unlink()
    dump({"model.norm.weight": Trap(tmp_path / "sprung")}, saved / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="expected a Hugging Face causal LM.*found: Weights only load failed"):
        Target.from_pretrained(str(saved))
    assert not (tmp_path / "sprung").exists()


def test_a_tokenizers_code_is_never_executed_nor_asked_about(saved, tmp_path, monkeypatch):
    (saved / "strange.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'sprung')!r})\n")
    settings = {"tokenizer_class": "Strange", "auto_map": {"AutoTokenizer": ["strange.Strange", None]}}
    (saved / "tokenizer_config.json").write_text(json.dumps(settings))
    monkeypatch.setattr("builtins.input", lambda prompt: "y")  # what a reader in a hurry would say
    with pytest.raises(CheckpointError, match="expected a tokenizer.*found one with code of its own.*if you trust it"):
        Target.from_pretrained(str(saved))
    assert not (tmp_path / "sprung").exists()


# --- nothing is lost -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here: test_training_survives.py simulates it")
def test_a_full_disk_is_named_and_leaves_the_old_file(tmp_path):
    """The system's own "no space left": what is to be written beside the file lands on a device that is always full."""
    file = tmp_path / "record.json"
    save_json(file, {"step": 1})
    (tmp_path / f".{file.name}.{os.getpid()}.partial").symlink_to("/dev/full")
    with pytest.raises(SaveError, match=r"expected to write .*record.json, found: No space left.*MB are free") as error:
        save_json(file, {"step": 2})
    assert error.value.errno == errno.ENOSPC and isinstance(error.value, OSError)
    assert "Free some space" in str(error.value) and "saved before is untouched" in str(error.value)
    assert json.loads(file.read_text()) == {"step": 1} and list(tmp_path.iterdir()) == [file]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError, match="expected to write .*found: Not a directory.*there is no record.json yet"):
        save_json(tmp_path / "file" / "deep" / "record.json", {})
