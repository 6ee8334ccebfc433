"""Training survives: kill -9, a full disk, a failing rename, a loss that is no number.

Whatever stops a training, `resume` must end with the very weights of a training that nothing stopped. Here real
processes are killed: from outside, and at exact moments of a save, one kill before each thing that a save does to the
disk. The processes come from Python's fork server, which imports torch once for all of them.
"""

import errno
import math
import multiprocessing
import os
import re
import resource
import signal
import sys
from pathlib import Path

import pytest
import torch
from conftest import tiny_draft, tiny_target
from safetensors.torch import load_file, save_file

import fspad_ref.files
from fspad_ref.data import batches
from fspad_ref.errors import NonFiniteLoss, SaveError
from fspad_ref.files import load_json
from fspad_ref.train import TrainConfig, train

CONFIG = TrainConfig(steps=6, tokens_per_batch=80, warmup_steps=2, evaluate_every=0, checkpoint_every=2)
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["pytest", "fspad_ref.train", "transformers.models.llama.modeling_llama"])


def parts():
    """Target, draft and dialogues, alike in every process."""
    target = tiny_target(dtype=torch.float32)
    generator = torch.Generator().manual_seed(2)
    lengths = torch.randint(8, 24, (16,), generator=generator).tolist()
    dialogues = [(torch.randint(31, (n,), generator=generator).tolist(), [i >= 4 for i in range(n)]) for n in lengths]
    return target, tiny_draft(target), dialogues


def run(out, on_step=None, resume=True):
    """The training, in this process."""
    target, draft, dialogues = parts()
    return train(target, {"d": draft}, dialogues, CONFIG, on_step, out=out, resume=resume)


def in_process(work, *arguments) -> int:
    """The exit code of a process that does `work`; -9 if it was killed."""
    process = PROCESSES.Process(target=work, args=arguments)
    process.start()
    process.join(600)
    assert process.exitcode is not None, "the training process hangs"
    return process.exitcode


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "d" / "model.safetensors")


def assert_same(out: Path, straight: Path) -> None:
    """Weights and losses are those of the uninterrupted training, bit for bit."""
    ours, theirs = weights(out), weights(straight)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert load_json(out / "checkpoint.json")["loss"] == load_json(straight / "checkpoint.json")["loss"]


def assert_whole_checkpoint(out: Path, steps: set[int]) -> None:
    """checkpoint.json parses, is of one of these steps, and names a file of tensors that is whole."""
    saved = load_json(out / "checkpoint.json")
    assert saved["step"] in steps
    assert fspad_ref.files.load_tensors(out / saved["tensors"])


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    """The folder of a training that nothing stopped, done by one process."""
    out = tmp_path_factory.mktemp("straight")
    assert in_process(run, out) == 0
    return out


# --- kill -9 --------------------------------------------------------------------------------------------------------


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run_until_event(out: Path, number: int) -> None:
    """Train; die just before the `number`-th time that Python opens, renames or removes a file in `out`."""
    seen = 0

    def before(event: str, arguments: tuple) -> None:
        nonlocal seen
        if event in ("open", "os.rename", "os.remove") and str(arguments[0]).startswith(str(out)):
            seen += 1
            if seen == number:
                die()

    sys.addaudithook(before)
    run(out)


def run_until_half_a_file(out: Path) -> None:
    """Train; die in the middle of writing the tensors of step 4."""

    def half(tensors, path, metadata=None):
        save_file(tensors, path, metadata=metadata)
        if "checkpoint-4" in path.name:
            os.truncate(path, path.stat().st_size // 2)
            die()

    fspad_ref.files.save_file = half
    run(out)


def run_and_report(out: Path, steps) -> None:
    run(out, lambda record: steps.send(record.step))


def test_killed_before_each_thing_a_save_does_to_the_disk(straight, tmp_path):
    """Every event of the second save, and some of the first one and of the end, each in a folder of its own."""
    reached = 0
    for number in [1, 4, *range(11, 23), 36, 43, 50]:
        out = tmp_path / str(number)
        code = in_process(run_until_event, out, number)
        assert code in (-signal.SIGKILL, 0)
        if code == 0:  # there are fewer events than that
            break
        reached = number
        if (out / "checkpoint.json").exists():
            assert_whole_checkpoint(out, {2, 4, 6})
        assert in_process(run, out) == 0
        assert_same(out, straight)
        assert len(list(out.glob("checkpoint-*.safetensors"))) == 1
    assert reached >= 36, "the trainings were to be killed in all three saves"


def test_killed_in_the_middle_of_a_file(straight, tmp_path):
    """What the killed process leaves behind, ours and safetensors' own half-written file, is swept up later."""
    assert in_process(run_until_half_a_file, tmp_path) == -signal.SIGKILL
    assert_whole_checkpoint(tmp_path, {2})
    assert list(tmp_path.glob(".*.partial"))
    (tmp_path / ".tmpa1B2c3").write_bytes(b"half")  # so safetensors names the file that it writes before it renames it
    assert in_process(run, tmp_path) == 0
    assert_same(tmp_path, straight)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("step", [1, 2, 3, 5])
def test_killed_from_outside(straight, tmp_path, step):
    """The parent kills as soon as it hears of a step: wherever the training is by then, also in a save."""
    listen, steps = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=run_and_report, args=(tmp_path, steps))
    process.start()
    while listen.recv() < step:
        pass
    process.kill()
    process.join(600)
    assert process.exitcode == -signal.SIGKILL or load_json(tmp_path / "checkpoint.json")["step"] == 6
    assert in_process(run, tmp_path) == 0
    assert_same(tmp_path, straight)


# --- a full disk, a failing rename ----------------------------------------------------------------------------------


def failing(function, fails, after: bool = False):
    """`function`, but with the disk full whenever fails(its arguments) says so: before its work or behind it."""

    def wrapped(*arguments, **settings):
        if not fails(*arguments):
            return function(*arguments, **settings)
        if after:
            function(*arguments, **settings)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return wrapped


def on_call(number: int):
    """True on one call of many."""
    calls = iter(range(1, 1000))
    return lambda *arguments: next(calls) == number


STAGES = {  # saves: tensors 2, record 2, tensors 4, record 4; each renames once, and flushes its file and its folder
    "writing the tensors": (fspad_ref.files, "save_file", 2, True),
    "writing the record": (Path, "write_text", 2, True),
    "flushing the tensors": (os, "fsync", 5, False),
    "flushing the folder of the tensors": (os, "fsync", 6, False),
    "flushing the record": (os, "fsync", 7, False),
    "flushing the folder of the record": (os, "fsync", 8, False),
    "renaming the tensors": (os, "replace", 3, False),
    "renaming the record": (os, "replace", 4, False),
    "removing the old tensors": (Path, "unlink", 5, False),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_leaves_the_last_good_checkpoint(straight, tmp_path, monkeypatch, stage):
    """Whatever fails in the second save, the error comes out, and the folder holds a whole checkpoint to go on from."""
    owner, name, number, after = STAGES[stage]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, failing(getattr(owner, name), on_call(number), after))
        with pytest.raises(SaveError, match="expected to .*found: No space left") as error:
            run(tmp_path)
    assert isinstance(error.value, OSError) and error.value.errno == errno.ENOSPC
    # Behind the record's rename the new checkpoint is the good one; before it, the old one.
    good = 4 if stage in ("flushing the folder of the record", "removing the old tensors") else 2
    assert f"last good checkpoint is that of step {good} in {tmp_path}: resume from there" in str(error.value)
    assert_whole_checkpoint(tmp_path, {good})
    assert not list(tmp_path.glob(".*.partial"))
    assert in_process(run, tmp_path) == 0
    assert_same(tmp_path, straight)


def test_a_full_disk_at_the_first_save_says_that_there_is_no_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", failing(os.replace, lambda *arguments: True))
    with pytest.raises(SaveError, match=f"found: No space left.*There is no checkpoint in {tmp_path} yet: begin anew"):
        run(tmp_path)
    assert list(tmp_path.iterdir()) == []


def run_with_small_files(out: Path, errors) -> None:
    """Train where, from step 3 on, no file may grow beyond 1000 bytes: the operating system makes the write fail.

    The writer is safetensors, whose error is no OSError and carries the system's number in its text alone.
    """
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def limit(record):
        if record.step == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))

    try:
        run(out, limit)
    except SaveError as error:
        errors.send((error.errno, str(error)))


def test_a_write_that_the_operating_system_refuses(straight, tmp_path):
    listen, errors = PROCESSES.Pipe(duplex=False)
    assert in_process(run_with_small_files, tmp_path, errors) == 0
    errors.close()
    number, message = listen.recv()
    assert number == errno.EFBIG
    assert re.search("expected to write .*checkpoint-4.*, found: File too large.*Free some space.*step 2 in", message)
    assert_whole_checkpoint(tmp_path, {2})
    assert not list(tmp_path.glob(".*"))
    assert in_process(run, tmp_path) == 0
    assert_same(tmp_path, straight)


# --- a loss that is no number ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_non_finite_loss_names_step_batch_and_last_good_checkpoint(tmp_path, step):
    target, draft, dialogues = parts()

    def poison(record):
        if record.step == step:
            draft.fuse.weight.data[0, 0] = math.nan

    data = batches(dialogues, None, CONFIG.tokens_per_batch, target.max_positions, target.vocab_size, CONFIG.seed)
    place = [next(data).place for _ in range(step + 1)][-1]
    good = f"step {step // 2 * 2} in {tmp_path}" if step > 1 else "none"
    message = f"found nan at step {step} (epoch, pool, batch: {place}); last good checkpoint: {good}."
    with pytest.raises(NonFiniteLoss, match=re.escape(message)):
        train(target, {"d": draft}, dialogues, CONFIG, poison, out=tmp_path)
    assert (tmp_path / "checkpoint.json").exists() == (step > 1)
    if step > 1:
        assert_whole_checkpoint(tmp_path, {step // 2 * 2})
