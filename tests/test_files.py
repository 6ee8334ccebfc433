"""Files are inert and saves are atomic: loading executes nothing, a save that fails loses nothing. And the Hub."""

import errno
import json
import os
import pickle
import shutil
from types import SimpleNamespace

import pytest
import torch
from conftest import tiny_draft, tiny_target

from fspad_ref import Draft, Target
from fspad_ref.errors import CheckpointError, SaveError, TargetMismatch
from fspad_ref.files import load_tensors, save_atomic, save_json, save_tensors

# --- nothing is executed ---------------------------------------------------------------------------------------------


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def sprung(tmp_path):
    """The folder that a trap makes; it must not be there at the end."""
    yield tmp_path / "sprung"
    assert not (tmp_path / "sprung").exists()
    pickle.loads(pickle.dumps(Trap(tmp_path / "sprung")))
    assert (tmp_path / "sprung").exists(), "else the trap would show nothing"


@pytest.fixture
def saved(tmp_path):
    """A tiny target in a folder."""
    tiny_target(dtype=torch.float32).model.save_pretrained(tmp_path / "target")
    return tmp_path / "target"


@pytest.mark.parametrize("dump", [pickle.dump, torch.save])
def test_a_pickle_is_never_executed(tmp_path, saved, sprung, dump):
    (saved / "model.safetensors").unlink()
    for path in (saved / "pytorch_model.bin", tmp_path / "draft.pt", tmp_path / "draft.safetensors"):
        with open(path, "wb") as file:
            dump({"model.norm.weight": Trap(sprung)}, file)
        with pytest.raises(CheckpointError, match="expected safetensors .*found a pickle"):
            load_tensors(path)
    with pytest.raises(CheckpointError, match="expected a Hugging Face causal LM.*found: Weights only load failed"):
        Target.from_pretrained(str(saved))


def test_remote_code_is_never_executed_nor_asked_about(saved, sprung, monkeypatch):
    (saved / "strange.py").write_text(f"import os\nos.mkdir({str(sprung)!r})\n")
    monkeypatch.setattr("builtins.input", lambda prompt: "y")  # what a reader in a hurry would say
    strange = {"AutoConfig": "strange.C", "AutoModelForCausalLM": "strange.M", "AutoTokenizer": ["strange.T", None]}
    settings = {"model_type": "strange", "tokenizer_class": "Strange", "auto_map": strange}
    for file, expected in (("tokenizer_config.json", "a tokenizer"), ("config.json", "a Hugging Face causal LM")):
        (saved / file).write_text(json.dumps(settings))
        with pytest.raises(CheckpointError, match=f"(?s)expected {expected}.*found.*trust_remote_code=True"):
            Target.from_pretrained(str(saved))


# --- nothing is lost -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [save_json, save_tensors])
def test_a_save_that_the_system_refuses_is_named_and_leaves_the_old_file(tmp_path, save):
    """A limit on the size of files stands for a full disk: the error is the system's own, also through safetensors."""
    resource = pytest.importorskip("resource", reason="limits are a matter of Unix")
    file, limits = tmp_path / "saved", resource.getrlimit(resource.RLIMIT_FSIZE)
    save(file, {"step": torch.zeros(1)} if save is save_tensors else {"step": 1})
    before = file.read_bytes()
    large = {"step": torch.zeros(9999)} if save is save_tensors else list(range(9999))
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(SaveError, match="expected to write .*saved, found: .*Free some space.*untouched") as error:
            save(file, large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert error.value.errno == errno.EFBIG and isinstance(error.value, OSError)
    assert file.read_bytes() == before and list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("death", [KeyboardInterrupt, ZeroDivisionError])
def test_an_interrupted_save_leaves_the_old_file(tmp_path, death):
    def dies_half_way(partial):
        partial.write_text("half")
        raise death

    save_json(tmp_path / "record.json", 1)
    with pytest.raises(death):
        save_atomic(tmp_path / "record.json", dies_half_way)
    assert (tmp_path / "record.json").read_text() == "1\n" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(SaveError, match="expected to write .*found: Not a directory.*choose another folder"):
        save_json(tmp_path / "record.json" / "deep" / "record.json", {})


# --- a draft's files, here and on the Hub ----------------------------------------------------------------------------


def test_a_draft_comes_back_from_its_folder_and_from_the_hub(target, draft, tmp_path, monkeypatch):
    """huggingface_hub as it is called here, with a folder in place of the Hub."""
    hub, asked, name = tmp_path / "hub", [], "someone/fspad-tiny"

    def upload_folder(repo_id, folder_path, commit_message, revision, **rest):
        shutil.copytree(folder_path, hub / repo_id)
        return f"https://hub/{repo_id}/{revision}/{commit_message}"

    def snapshot_download(repo_id, **options):
        asked.append(options)
        if repo_id != name:
            raise OSError("404")
        return str(hub / repo_id)

    made = SimpleNamespace(repo_id=name)
    api = SimpleNamespace(create_repo=lambda repo_id, **rest: made, upload_folder=upload_folder)
    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", lambda token=None: api)
    monkeypatch.setattr("fspad_ref.files.snapshot_download", snapshot_download)

    draft.save_pretrained(tmp_path / "draft")
    assert {file.name for file in (tmp_path / "draft").iterdir()} == {"config.json", "model.safetensors"}
    assert draft.push_to_hub(name, branch="dev", commit_message="first") == f"https://hub/{name}/dev/first"
    card = (hub / name / "README.md").read_text()
    assert f'Draft.from_pretrained("{name}", target)' in card and draft.config.kind in card and "2408.15562" in card
    for path, options in ((tmp_path / "draft", {}), (name, {"revision": "v"})):
        loaded = Draft.from_pretrained(path, target, **options)
        assert loaded.config == draft.config and loaded.state_dict().keys() == draft.state_dict().keys()
        assert all(torch.equal(weight, draft.state_dict()[key]) for key, weight in loaded.state_dict().items())
    assert asked == [{"revision": "v", "allow_patterns": ["config.json", "*.safetensors", "*.bin"]}]
    with pytest.raises(TargetMismatch, match="embedding_hash"):
        Draft.from_pretrained(name, tiny_target(seed=1))
    for load in (Draft.from_pretrained, Draft.from_official):
        with pytest.raises(CheckpointError, match="expected 'someone/absent' here.*found neither: 404.*the network"):
            load("someone/absent", target)


def test_the_precision_of_the_target_does_not_matter(tmp_path):
    half, double = tiny_target(dtype=torch.bfloat16), tiny_target(dtype=torch.float64)
    tiny_draft(half).save_pretrained(tmp_path)
    double.model.load_state_dict(half.model.state_dict())
    assert Draft.from_pretrained(tmp_path, double).fuse.weight.dtype == torch.float64
