"""Several processes train as one does: the same losses, the same weights, the same files, whoever shares the work.

Two processes, connected by gloo, do all trainings of this file once; the tests look at what they left.
"""

import json
import math
import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from conftest import tiny_draft, tiny_target
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from fspad_ref.__main__ import main
from fspad_ref.errors import ConfigError, NonFiniteLoss
from fspad_ref.files import load_json
from fspad_ref.parallel import Several, launched, refuse_settings
from fspad_ref.train import TrainConfig, train

CONFIG = TrainConfig(steps=6, tokens_per_batch=60, batches_per_step=4, warmup_steps=2, learning_rate=3e-3,
                     evaluate_every=2, checkpoint_every=3)  # fmt: skip
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["pytest", "fspad_ref.parallel", "fspad_ref.train"])
SHARDED = {"ddp": False, "fsdp": True}


def parts(dtype: torch.dtype = torch.float32):
    """Target, drafts and dialogues, alike in every process. Dialogues of all lengths: batches train unlike many."""
    target = tiny_target(dtype=dtype)
    generator = torch.Generator().manual_seed(2)
    lengths = torch.randint(6, 40, (30,), generator=generator).tolist()
    dialogues = [(torch.randint(31, (n,), generator=generator).tolist(), [i >= 4 for i in range(n)]) for n in lengths]
    return target, {"eagle": tiny_draft(target, 1, feature_sampling=False, partial_alignment=False),
                    "fspad": tiny_draft(target, 2)}, dialogues  # fmt: skip


class Stop(Exception):
    """Stands for whatever interrupts a training."""


def interrupt(record) -> None:
    if record.step == 4:  # a step behind the checkpoint of step 3
        raise Stop


def size_of(draft) -> float:
    """An evaluation that tells weights apart."""
    return float(sum(weight.float().abs().sum() for weight in draft.parameters()))


def do(folder: Path, name: str, processes=None, dtype=torch.float32, config=CONFIG, resume=False, on_step=None) -> None:
    """One training; the process leaves the weights that it holds at the end beside the main process's files."""
    target, drafts, dialogues = parts(dtype)
    train(target, drafts, dialogues, config, on_step, evaluate=size_of, out=folder / name, resume=resume,
          processes=processes)  # fmt: skip
    rank = processes.rank if processes else 0
    weights = {f"{kind}.{key}": value for kind, one in drafts.items() for key, value in one.state_dict().items()}
    save_file({key: value.clone() for key, value in weights.items()}, folder / f"{name}-{rank}.safetensors")


def work(rank: int, folder: Path) -> None:
    """All that one of the two processes does."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    for name, sharded in SHARDED.items():
        processes = Several("cpu", sharded)
        do(folder, name, processes)
        do(folder, f"{name}-bfloat16", processes, torch.bfloat16)
        do(folder, f"{name}-value", processes, config=TrainConfig(**{**CONFIG.__dict__, "clip": "value",
                                                                     "clip_at": 1e-3, "recompute": True}))  # fmt: skip
        with pytest.raises(Stop):
            do(folder, f"{name}-broken", processes, on_step=interrupt)
        if rank == 0:
            shutil.copytree(folder / f"{name}-broken", folder / f"{name}-resumed")
        processes.wait()
        do(folder, f"{name}-resumed", processes, resume=True)
    said = refuses_what_only_one_process_meets(rank)
    (folder / f"said-{rank}.json").write_text(json.dumps(said))
    processes.close()


def refuses_what_only_one_process_meets(rank: int) -> str:
    """The second process's draft is broken; the first must not go on without it, nor wait for ever."""
    target, drafts, dialogues = parts()

    def poison(record) -> None:
        if rank == 1 and record.step == 2:
            drafts["fspad"].fuse.weight.data[0, 0] = math.nan

    try:
        train(target, drafts, dialogues, CONFIG, poison, processes=Several("cpu"))
    except NonFiniteLoss as error:
        return str(error)
    return "nothing"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What two processes left, and what one process leaves of the same trainings."""
    path = tmp_path_factory.mktemp("together")
    processes = [PROCESSES.Process(target=work, args=(rank, path)) for rank in range(2)]
    for process in processes:
        process.start()
    do(path, "alone")
    do(path, "alone-bfloat16", dtype=torch.bfloat16)
    do(path, "alone-value", config=TrainConfig(**{**CONFIG.__dict__, "clip": "value", "clip_at": 1e-3}))
    for process in processes:
        process.join(600)
        assert process.exitcode == 0
    return path


def assert_alike(folder: Path, one: str, other: str, tolerance: float) -> None:
    ours, theirs = load_file(folder / one), load_file(folder / other)
    assert ours.keys() == theirs.keys()
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=tolerance, atol=tolerance, msg=f"{one}: {name}")


@pytest.mark.parametrize("how", SHARDED)
def test_two_processes_train_as_one(folder, how):
    ours, theirs = (load_json(folder / name / "checkpoint.json") for name in (how, "alone"))
    for curve in ("loss", "feature_loss", "logit_loss"):
        for kind in ("eagle", "fspad"):
            assert ours[curve][kind] == pytest.approx(theirs[curve][kind], rel=1e-4)
    for name in ("step", "place", "tokens", "positions", "config", "data_hash"):
        assert ours[name] == theirs[name], name
    for kind, taus in theirs["tau"].items():
        assert [tau for _, tau in ours["tau"][kind]] == pytest.approx([tau for _, tau in taus], rel=1e-4)
    assert_alike(folder, f"{how}-0.safetensors", "alone-0.safetensors", 1e-4)


@pytest.mark.parametrize("how", SHARDED)
def test_both_processes_end_with_the_same_whole_weights(folder, how):
    assert_alike(folder, f"{how}-1.safetensors", f"{how}-0.safetensors", 0.0)
    saved = load_file(folder / how / "fspad" / "model.safetensors")
    held = load_file(folder / f"{how}-0.safetensors")
    assert all(torch.equal(saved[name], held[f"fspad.{name}"]) for name in saved)


@pytest.mark.parametrize("how", SHARDED)
def test_clipping_by_value_and_recomputing_are_the_same_together(folder, how):
    ours, theirs = (load_json(folder / f"{name}-value" / "checkpoint.json")["loss"] for name in (how, "alone"))
    assert ours["fspad"] == pytest.approx(theirs["fspad"], rel=1e-4)
    # a gradient near 0 moves its weight by a whole learning rate, whichever sign rounding gives it
    assert_alike(folder, f"{how}-value-0.safetensors", "alone-value-0.safetensors", 1e-3)


@pytest.mark.parametrize("how", SHARDED)
def test_in_bfloat16_the_masters_are_shared_and_sharded_too(folder, how):
    ours, theirs = (load_json(folder / f"{name}-bfloat16" / "checkpoint.json")["loss"] for name in (how, "alone"))
    assert ours["fspad"] == pytest.approx(theirs["fspad"], rel=1e-2)
    (file,) = (folder / f"{how}-bfloat16").glob("checkpoint-*.safetensors")
    assert load_file(file)["weights/fspad/fuse.weight"].dtype == torch.float32
    assert load_file(folder / f"{how}-bfloat16-1.safetensors")["fspad.fuse.weight"].dtype == torch.bfloat16


@pytest.mark.parametrize("how", SHARDED)
def test_a_resumed_training_of_two_is_the_uninterrupted_one(folder, how):
    ours, theirs = (load_json(folder / name / "checkpoint.json") for name in (f"{how}-resumed", how))
    assert ours["loss"] == theirs["loss"] and ours["tau"] == theirs["tau"]
    assert_alike(folder, f"{how}-resumed-0.safetensors", f"{how}-0.safetensors", 0.0)
    assert len(list((folder / f"{how}-resumed").glob("checkpoint-*.safetensors"))) == 1


@pytest.mark.parametrize("how", SHARDED)
def test_one_process_can_go_on_where_two_stopped(folder, how, tmp_path):
    """A checkpoint does not tell how many processes wrote it."""
    files = {name: load_file(next((folder / name).glob("checkpoint-*.safetensors"))) for name in (how, "alone")}
    assert {name: tensor.shape for name, tensor in files[how].items()} == {
        name: tensor.shape for name, tensor in files["alone"].items()
    }
    shutil.copytree(folder / f"{how}-broken", tmp_path / "on")
    do(tmp_path, "on", resume=True)
    assert load_json(tmp_path / "on" / "checkpoint.json")["step"] == 6
    assert_alike(tmp_path, "on-0.safetensors", str(folder / f"{how}-0.safetensors"), 1e-4)


def test_what_one_process_meets_stops_both(folder):
    for rank in range(2):
        said = json.loads((folder / f"said-{rank}.json").read_text())
        assert "expected a finite loss for draft 'fspad', found nan at step 2" in said


def test_a_step_must_have_a_batch_for_every_process():
    target, drafts, dialogues = parts()
    processes = type("Three", (Several,), {"__init__": lambda self: None, "number": 3})()
    with pytest.raises(ConfigError, match="multiple of the 3 processes.*found 4. Choose 3"):
        train(target, drafts, dialogues, CONFIG, processes=processes)


# --- what accelerate was set up for ----------------------------------------------------------------------------------


def test_one_process_needs_no_launcher(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    processes = launched("cuda:3")
    assert (processes.device, processes.rank, processes.number, processes.main) == ("cuda:3", 0, 1, True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use_deepspeed": "true"}, "found accelerate's setting use_deepspeed. Launch with --multi_gpu or --use_fsdp"),
        ({"mixed_precision": "bf16"}, "mixed_precision 'bf16' and --dtype float32. Launch with --mixed_precision no"),
        ({"mixed_precision": "fp16"}, "mixed_precision 'fp16'"),
    ],
)
def test_settings_that_would_be_passed_over_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        refuse_settings(settings, "float32")
    refuse_settings({"mixed_precision": "bf16", "use_fsdp": "true"}, "bfloat16")


def test_several_processes_take_devices_of_their_own(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="expected device cpu or cuda in a training of several.*found 'cuda:1'"):
        launched("cuda:1")


# --- the command -----------------------------------------------------------------------------------------------------

TEMPLATE = (
    "{% for m in messages %}{{ ('Q ' if m.role == 'user' else 'A ') + m.content + ' E ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'A ' }}{% endif %}"
)


@pytest.fixture
def files(tmp_path) -> list[str]:
    """A target, dialogues, and the options that name them."""
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate("? E Q A a b c d e f g h".split())}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?", eos_token="E", chat_template=TEMPLATE)
    tokenizer.save_pretrained(tmp_path / "target")
    tiny_target(dtype=torch.float32).model.save_pretrained(tmp_path / "target")
    with (tmp_path / "chats.jsonl").open("w") as file:
        for i in range(20):
            said = [{"from": "human", "value": "a b"}, {"from": "gpt", "value": " ".join("cdefgh"[: 2 + i % 5])}]
            file.write(json.dumps({"conversations": said}) + "\n")
    options = "--training.steps 3 --training.batches-per-step 2 --training.tokens-per-batch 40 --held-out 1"
    where = f"--target {tmp_path / 'target'} --data {tmp_path / 'chats.jsonl'} --own-answers 4"
    return [*options.split(), *where.split(), "--answers.max-new-tokens", "4", "--answers.batch", "1"]


@pytest.mark.parametrize("how", [["--multi_gpu"], ["--use_fsdp", "--fsdp_version", "2"]], ids=SHARDED)
def test_accelerate_launch_trains_as_the_plain_command_does(files, tmp_path, how, capsys):
    """On a CPU: accelerate's --multi_gpu starts processes, and --device cpu keeps them where they are."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", *how, "--num_processes", "2", "--num_machines", "1",
              "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]  # fmt: skip
    train_it = ["-m", "fspad_ref", "train", *files, "--out", str(tmp_path / "two")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, *train_it], env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "broadcast_buffers" not in done.stderr, "a word about a name of torch's, on which no user can act"
    assert done.stdout.count("on 1 held-out prompts after step 3") == 1, "one process speaks for both"
    assert "of the time in the frozen target (2 processes)" in done.stdout
    assert main(["train", *files, "--out", str(tmp_path / "one")]) == 0
    assert "tokens/s" in capsys.readouterr().out
    assert_alike(tmp_path, "two/fspad/model.safetensors", "one/fspad/model.safetensors", 1e-4)
    written = [sorted(file.name for file in (tmp_path / name).glob("answers-*")) for name in ("one", "two")]
    assert written[0] == written[1] and len(written[0]) == 2, "the same answers, one file a temperature"
