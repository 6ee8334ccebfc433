"""Training survives: kill -9, a full disk, a failing rename.

Whatever stops a training, resuming must end with the very weights of a training that nothing stopped. Real processes
are killed, one before each thing that a save does to the disk. They come from Python's fork server, which imports torch
once for all of them.
"""

import errno
import multiprocessing
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from conftest import tiny_draft, tiny_target
from safetensors.torch import load_file

import fspad_ref.files
from fspad_ref.errors import SaveError
from fspad_ref.files import load_json
from fspad_ref.train import TrainConfig, train

CONFIG = TrainConfig(steps=6, tokens_per_batch=80, warmup_steps=2, evaluate_every=0, checkpoint_every=2)
NAME = "checkpoint.safetensors"
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["pytest", "fspad_ref.train", "transformers.models.llama.modeling_llama"])


def run(out: Path, on_step=None) -> None:
    """The training, in this process, from the checkpoint in `out` if there is one."""
    target = tiny_target(dtype=torch.float32)
    generator = torch.Generator().manual_seed(2)
    lengths = torch.randint(8, 24, (16,), generator=generator).tolist()
    dialogues = [(torch.randint(31, (n,), generator=generator).tolist(), [i >= 4 for i in range(n)]) for n in lengths]
    train(target, {"d": tiny_draft(target)}, dialogues, CONFIG, on_step, out=out, resume=True)


def in_process(work, *arguments) -> int:
    """The exit code of a process that does `work`; -9 if it was killed."""
    process = PROCESSES.Process(target=work, args=arguments)
    process.start()
    process.join(600)
    assert process.exitcode is not None, "the training process hangs"
    return process.exitcode


def assert_goes_on(out: Path, straight: Path) -> None:
    """From what `out` holds, the training ends bit for bit as the uninterrupted one, and leaves nothing beside it."""
    if (out / NAME).exists():
        assert fspad_ref.files.load_tensors(out / NAME), "a whole checkpoint, whenever the training was stopped"
    assert in_process(run, out) == 0
    ours, theirs = (load_file(folder / "d" / "model.safetensors") for folder in (out, straight))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    losses = [load_json(folder / "d" / "training.json")["loss"] for folder in (out, straight)]
    assert losses[0] == losses[1]
    assert sorted(file.name for file in out.iterdir()) == [NAME, "d"]


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    """The folder of a training that nothing stopped, done by one process."""
    out = tmp_path_factory.mktemp("straight")
    assert in_process(run, out) == 0
    return out


# --- kill -9 ---------------------------------------------------------------------------------------------------------


def run_until_event(out: Path, number: int) -> None:
    """Train; die just before the `number`-th time that Python opens, renames or removes a file in `out`."""
    seen = 0

    def before(event: str, arguments: tuple) -> None:
        nonlocal seen
        if event in ("open", "os.rename", "os.remove") and str(arguments[0]).startswith(str(out)):
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(before)
    run(out)


def test_killed_before_each_thing_a_save_does_to_the_disk(straight, tmp_path):
    for number in range(1, 100):
        out = tmp_path / str(number)
        code = in_process(run_until_event, out, number)
        assert code in (-signal.SIGKILL, 0)
        if code == 0:  # there are fewer events than that
            break
        assert_goes_on(out, straight)
    assert number > 12, "the trainings were to be killed in all three saves, and while the draft was saved"


# --- a full disk, a failing rename -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("owner", "name"), [(fspad_ref.files, "save_file"), (os, "fsync"), (os, "replace")])
@pytest.mark.parametrize("earlier", [True, False], ids=["second save", "first save"])
def test_a_full_disk_leaves_the_last_good_checkpoint(straight, tmp_path, monkeypatch, owner, name, earlier):
    function = getattr(owner, name)

    def failing(*arguments, **settings):
        if (tmp_path / NAME).exists() != earlier:
            return function(*arguments, **settings)
        if name == "save_file":
            function(*arguments, **settings)  # the error comes when the data are written out
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, failing)
        with pytest.raises(SaveError, match=f"to write .*{NAME}, found: No space left") as error:
            run(tmp_path)
    assert isinstance(error.value, OSError) and error.value.errno == errno.ENOSPC
    assert [file.name for file in tmp_path.iterdir()] == [NAME] * earlier
    (tmp_path / ".tmpa1B2c3").write_bytes(b"half")  # such files safetensors leaves behind if it is killed
    assert_goes_on(tmp_path, straight)
