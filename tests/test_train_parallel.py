"""Several processes train as one does: the same losses, the same weights, the same files.

Two processes do all trainings of this file once, connected by gloo, as accelerate does it on a CPU; the tests look at
what they left. accelerate shards (FSDP) on GPUs alone, so for that its state is set by hand.
"""

import math
import multiprocessing
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin
from conftest import tiny_target
from safetensors.torch import load_file, save_file
from test_train import Stop, command, main, size_of, stop_after  # noqa: F401 (command is a fixture)

from fspad_ref.errors import ConfigError, NonFiniteLoss
from fspad_ref.files import load_json
from fspad_ref.train import TrainConfig, new_draft, train

CONFIG = TrainConfig(steps=6, tokens_per_batch=60, batches_per_step=4, warmup_steps=2, evaluate_every=2,
                     checkpoint_every=3)  # fmt: skip
TRAININGS = {"float32": {}, "bfloat16": {"dtype": torch.bfloat16},
             "value": {"config": replace(CONFIG, clip="value", clip_at=1e-3)},
             "own steps": {"config": replace(CONFIG, steps_ahead=2)}}  # fmt: skip
HOW = pytest.mark.parametrize("how", ["ddp", "fsdp"])
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["pytest", "fspad_ref.train"])


def parts(dtype: torch.dtype = torch.float32):
    """Target, drafts and dialogues, alike in every process. Dialogues of all lengths: batches train unlike many."""
    target = tiny_target(dtype=dtype)
    generator = torch.Generator().manual_seed(2)
    lengths = torch.randint(6, 40, (30,), generator=generator).tolist()
    dialogues = [(torch.randint(31, (n,), generator=generator).tolist(), [i >= 4 for i in range(n)]) for n in lengths]
    return target, {kind: new_draft(kind, target) for kind in ("eagle", "fs", "pad", "fspad")}, dialogues


def do(folder: Path, name: str, accelerator=None, dtype=torch.float32, config=CONFIG, on_step=None) -> None:
    """One training; each process leaves the weights that it holds at the end beside the main process's files."""
    target, drafts, dialogues = parts(dtype)
    train(target, drafts, dialogues, config, on_step, evaluate=size_of, out=folder / name, resume=True,
          accelerator=accelerator)  # fmt: skip
    weights = {f"{kind}.{key}": value for kind, one in drafts.items() for key, value in one.state_dict().items()}
    save_file(weights, folder / f"{name}-{accelerator.process_index if accelerator else 0}.safetensors")


def work(rank: int, folder: Path) -> None:
    """All that one of the two processes does."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    accelerator = Accelerator(cpu=True, device_placement=False)
    for how in ("ddp", "fsdp"):
        if how == "fsdp":
            accelerator.state.distributed_type = DistributedType.FSDP
            accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
        for name, settings in TRAININGS.items():
            do(folder, f"{how}-{name}", accelerator, **settings)
        with pytest.raises(Stop):  # a step behind the checkpoint of step 3
            do(folder, f"{how}-resumed", accelerator, on_step=stop_after(4))
        if rank == 0:
            shutil.copytree(folder / f"{how}-resumed", folder / f"{how}-stopped")
        accelerator.wait_for_everyone()
        do(folder, f"{how}-resumed", accelerator)
    accelerator.state.distributed_type = DistributedType.MULTI_CPU
    target, drafts, dialogues = parts()

    def poison(record) -> None:
        if rank == 1 and record.step == 2:  # what one process meets must stop both
            drafts["fspad"].fuse.weight.data[0, 0] = math.nan

    with pytest.raises(NonFiniteLoss, match="a finite loss and gradient for draft 'fspad', found nan.*at step 2"):
        train(target, drafts, dialogues, CONFIG, poison, accelerator=accelerator)
    with pytest.raises(ConfigError, match="batches_per_step to be a multiple of 2 processes.*found 3"):
        train(target, drafts, dialogues, replace(CONFIG, batches_per_step=3), accelerator=accelerator)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What two processes left, and what one process leaves of the same trainings."""
    path = tmp_path_factory.mktemp("together")
    processes = [PROCESSES.Process(target=work, args=(rank, path)) for rank in range(2)]
    for process in processes:
        process.start()
    for name, settings in TRAININGS.items():
        do(path, f"one-{name}", **settings)
    for process in processes:
        process.join(600)
        assert process.exitcode == 0
    return path


def assert_alike(one: Path, other: Path, tolerance: float) -> None:
    files = load_file(one), load_file(other)
    torch.testing.assert_close(*files, rtol=tolerance, atol=tolerance, msg=lambda text: f"{one}: {text}")


def record(folder: Path, name: str, kind: str) -> dict:
    return load_json(folder / name / kind / "training.json")


@HOW
@pytest.mark.parametrize("name", TRAININGS)
def test_two_processes_train_as_one(folder, how, name):
    for kind in ("eagle", "fs", "pad", "fspad"):
        ours, theirs = record(folder, f"{how}-{name}", kind), record(folder, f"one-{name}", kind)
        for curve in ("loss", "feature_loss", "logit_loss"):
            assert ours[curve][kind] == pytest.approx(theirs[curve][kind], rel=1e-4)
        assert [tau for _, tau in ours["tau"][kind]] == pytest.approx([tau for _, tau in theirs["tau"][kind]], rel=1e-4)
        assert (ours["step"], ours["tokens"], ours["config"]) == (theirs["step"], theirs["tokens"], theirs["config"])
    # a gradient near 0 moves its weight by a whole learning rate, whichever sign rounding gives it
    tolerance = {"value": 1e-3, "bfloat16": 1e-2}.get(name, 1e-4)
    assert_alike(folder / f"{how}-{name}-0.safetensors", folder / f"one-{name}-0.safetensors", tolerance)
    assert_alike(folder / f"{how}-{name}-1.safetensors", folder / f"{how}-{name}-0.safetensors", 0.0)
    files = [load_file(folder / f"{way}-{name}" / "checkpoint.safetensors") for way in (how, "one")]
    shapes = [{key: (value.shape, value.dtype) for key, value in file.items() if "/" in key} for file in files]
    assert shapes[0] == shapes[1], "a checkpoint does not tell how many processes wrote it"


@HOW
def test_a_resumed_training_of_two_is_the_uninterrupted_one(folder, how, tmp_path):
    for kind in ("eagle", "fspad"):
        ours, theirs = record(folder, f"{how}-resumed", kind), record(folder, f"{how}-float32", kind)
        assert ours["loss"][kind] == pytest.approx(theirs["loss"][kind], rel=1e-6) and ours["step"] == 6
    # bitwise, but where FSDP gathers weights into buffers: their alignment, and so the order of sums, is chance
    tolerance = 0.0 if how == "ddp" else 1e-6
    assert_alike(folder / f"{how}-resumed-0.safetensors", folder / f"{how}-float32-0.safetensors", tolerance)
    shutil.copytree(folder / f"{how}-stopped", tmp_path / "on")
    do(tmp_path, "on")  # one process can go on where two stopped
    assert_alike(tmp_path / "on-0.safetensors", folder / f"{how}-float32-0.safetensors", 1e-4)


def test_a_spread_target_trains_in_one_process():
    target, drafts, dialogues = parts()
    target.devices = [torch.device("cpu"), torch.device("meta")]
    two = Mock(spec=Accelerator, num_processes=2, process_index=0)
    with pytest.raises(ConfigError, match="the whole target on its device, found 4, on .*meta.*use one process"):
        train(target, drafts, dialogues, CONFIG, accelerator=two)


def test_accelerate_launch_trains_as_the_plain_command_does(command, tmp_path):  # noqa: F811
    """On a machine without GPUs accelerate's --multi_gpu starts processes all the same."""
    options = "--multi_gpu --num_processes 2 --num_machines 1 --dynamo_backend no --main_process_port 0 -m fspad_ref"
    launch = [sys.executable, "-m", "accelerate.commands.launch", *options.split()]
    two = [*launch, *command, "--out", str(tmp_path / "two")]
    done = subprocess.run(two, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("on 2 prompts after step 4") == 2, "one process speaks for both"
    assert main([*command, "--out", str(tmp_path / "one")]) == 0
    one, two = (tmp_path / name for name in ("one", "two"))
    assert (one / "own_answers-4-4.json").read_text() == (two / "own_answers-4-4.json").read_text()
    assert_alike(two / "fspad" / "model.safetensors", one / "fspad" / "model.safetensors", 1e-4)
