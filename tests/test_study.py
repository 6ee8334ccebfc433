"""A whole study on a tiny random target: five kinds, two seeds, and nothing that is finished is done again."""

import dataclasses
import shutil
from functools import partial

import pytest
import torch
from test_replay import QUESTIONS, TREE, worded_target
from tqdm import tqdm

from fspad_ref import Draft
from fspad_ref.checkpoint import load_json
from fspad_ref.errors import CheckpointError, ConfigError, InputError
from fspad_ref.lab import study as studies
from fspad_ref.lab.bench import decode_questions
from fspad_ref.lab.comparison import table
from fspad_ref.lab.recordings import load_recordings, recording_key
from fspad_ref.lab.statistics import paired_difference
from fspad_ref.lab.study import StudyConfig, fresh, measure, study
from fspad_ref.train import TrainConfig

KINDS = ("eagle", "fs", "pad", "fspad", "eagle_wide")
TASKS = ("conversation", "qa", "mean")
TRAINING = TrainConfig(steps=3, tokens_per_batch=60, warmup_steps=1, evaluate_every=0, checkpoint_every=0)
quiet = partial(tqdm, disable=True)


@pytest.fixture(scope="module")
def target():
    return worded_target()


@pytest.fixture(scope="module")
def dialogues() -> list[tuple[list[int], list[bool]]]:
    rows = torch.randint(4, 31, (12, 14), generator=torch.Generator().manual_seed(0)).tolist()
    return [(row, [place >= 4 for place in range(14)]) for row in rows]


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> StudyConfig:
    return StudyConfig(out=tmp_path_factory.mktemp("study"), seeds=2, tree=TREE, max_new_tokens=8, alphas=2,
                       resamples=100, cost_steps=2, training=TRAINING)  # fmt: skip


@pytest.fixture(scope="module")
def results(target, dialogues, config) -> dict:
    return study(target, dialogues, QUESTIONS, config, progress=quiet)


def test_every_kind_task_temperature_and_seed_is_there(results):
    assert [(r["temperature"], r["method"], r["task"]) for r in results["taus"]] == [
        (temperature, kind, task) for temperature in (0.0, 1.0) for kind in KINDS for task in TASKS
    ]
    assert all(len(r["by_seed"]) == 2 and min(r["by_seed"]) >= 1 for r in results["taus"])
    pairs = {(r["method"], r["against"]) for r in results["differences"]}
    assert pairs == {(kind, "eagle") for kind in KINDS[1:]} | {("fspad", "eagle_wide")}
    assert {(r["method"], r["temperature"]) for r in results["alphas"]} == {(k, t) for k in KINDS for t in (0.0, 1.0)}
    assert results["provenance"]["dtype"] == "float64" and results["config"]["tree"]["top_k"] == TREE.top_k
    assert [one["step"] for one in results["training"]] == [3, 3] and results["recordings"]["answers"] == 10


def test_tau_is_that_of_the_real_loop(results, target, config):
    draft = Draft.from_pretrained(config.out / "seed-1" / "fspad", target)
    answers = decode_questions(target, {"fspad": draft}, QUESTIONS, temperatures=(0.0, 1.0), tree=TREE,
                               max_new_tokens=8, progress=quiet)  # fmt: skip
    for temperature in (0.0, 1.0):
        rounds = sum(a.rounds for a in answers if (a.method, a.temperature) == ("fspad", temperature))
        (row,) = (r for r in results["accepted"] if (r["method"], r["temperature"]) == ("fspad", temperature))
        assert sum(row["rounds_by_seed"][1]) == rounds and len(row["rounds_by_seed"][1]) == TREE.levels + 1
    for row in results["taus"]:
        if row["method"] == "fspad" and row["task"] != "mean":
            mine = [
                a
                for a in answers
                if (a.method, a.category, a.temperature) == ("fspad", row["task"], row["temperature"])
            ]
            assert row["by_seed"][1] == sum(a.tokens - 1 for a in mine) / sum(a.rounds for a in mine)


def test_differences_are_paired_by_seed(results):
    tau = {(r["method"], r["task"], r["temperature"]): r["by_seed"] for r in results["taus"]}
    for row in results["differences"]:
        a, b = (tau[name, row["task"], row["temperature"]] for name in (row["method"], row["against"]))
        assert row["over_seeds"] == pytest.approx(dataclasses.asdict(paired_difference(a, b)))
        assert row["over_questions"]["value"] == pytest.approx(row["over_seeds"]["value"])
    for task_mean in (value for (_, task, _), value in tau.items() if task == "mean"):
        assert max(task_mean) > 1, "some draft token must have been accepted"


def test_drafts_of_a_seed_are_paired_and_seeds_differ(target):
    a, b, other = fresh("fs", target, 3), fresh("fs", target, 3), fresh("fs", target, 4)
    assert torch.equal(a.fuse.weight, b.fuse.weight) and not torch.equal(a.fuse.weight, other.fuse.weight)


def test_the_widened_eagle_is_as_large_as_fspad(target, results):
    size = {draft["method"]: draft["parameters"] for draft in results["drafts"]}
    assert abs(size["eagle_wide"] - size["fspad"]) <= target.config.hidden_size < size["fspad"] - size["eagle"]
    wide = fresh("eagle_wide", target)
    assert wide.config.kind == "eagle" and sum(p.numel() for p in wide.parameters()) == size["eagle_wide"]


def test_what_is_finished_is_not_done_again(results, target, dialogues, config, monkeypatch):
    for name in ("fspad_ref.train._Run.step", "fspad_ref.lab.study.replay", "fspad_ref.lab.recordings.record"):
        monkeypatch.setattr(name, None)  # a call would fail
    again = study(target, dialogues, QUESTIONS, config, progress=quiet)
    assert {**again, "provenance": 0} == {**results, "provenance": 0}
    assert load_json(config.out / "results.json")["taus"] == results["taus"]


@pytest.fixture
def copied(results, config, tmp_path) -> StudyConfig:
    """The finished study in another folder, to be changed."""
    return dataclasses.replace(config, out=shutil.copytree(config.out, tmp_path / "copy"))


def test_another_tree_is_replayed_anew(target, copied):
    file = copied.out / "seed-0" / "fspad" / "replay.json"
    draft, before = Draft.from_pretrained(file.parent, target), load_json(file)
    key = recording_key(target, QUESTIONS, copied.temperatures, copied.max_new_tokens, copied.noise_seed)
    recordings = load_recordings(copied.out / "recordings.json", key)
    small = dataclasses.replace(copied, tree=dataclasses.replace(TREE, total_tokens=2))
    after = measure(draft, recordings, small, file, key, quiet)
    assert after == load_json(file) and after["chains"] == before["chains"]
    assert all(few <= many for few, many in zip(before["rounds"], after["rounds"], strict=True))
    assert sum(before["accepted"]["0"][2:]) > 0 == sum(after["accepted"]["0"][2:]), "one draft token a round at most"


def test_another_training_in_the_same_folder_is_refused(target, dialogues, copied):
    other = dataclasses.replace(copied, training=dataclasses.replace(TRAINING, noise=0.1))
    with pytest.raises(CheckpointError, match="noise was"):
        study(target, dialogues, QUESTIONS, other, progress=quiet)


def test_questions_without_an_interval_are_refused_before_training(target, dialogues, config, tmp_path, monkeypatch):
    monkeypatch.setattr(studies, "train", None)
    with pytest.raises(InputError, match="two questions a task"):
        study(target, dialogues, QUESTIONS[:3], dataclasses.replace(config, out=tmp_path), progress=quiet)


def test_the_table_shows_what_the_results_say(results):
    shown = table(results)
    mean = {(r["method"], r["temperature"]): r["over_seeds"] for r in results["taus"] if r["task"] == "mean"}
    for (method, _), row in mean.items():
        assert any(line.startswith(method) and f"{row['value']:.3f}" in line for line in shown.splitlines())
    for text in ("fspad - eagle, qa", "fspad - eagle_wide, mean", "T=1, difference", "n-alpha", "parameters"):
        assert text in shown
    assert "fs - eagle, qa" not in shown, "other pairs are shown in the mean alone"


@pytest.mark.parametrize(
    "settings", [dict(kinds=("fspad",)), dict(kinds=("eagle", "medusa")), dict(seeds=1), dict(temperatures=())]
)
def test_studies_that_cannot_compare_are_refused(settings):
    with pytest.raises(ConfigError, match="expected"):
        StudyConfig(**settings)
