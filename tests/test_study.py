"""A whole study on a tiny random target: five kinds, two seeds, and nothing that is finished is done again."""

import dataclasses
import shutil
from functools import partial

import pytest
import torch
from test_replay import QUESTIONS, TREE, worded_target
from tqdm import tqdm

from fspad_ref import Draft
from fspad_ref.bench.bench import decode_questions
from fspad_ref.bench.replay import record_all
from fspad_ref.bench.statistics import paired_difference
from fspad_ref.bench.study import RememberingTarget, StudyConfig, measure, new_draft, study, table, trained
from fspad_ref.errors import ConfigError, InputError
from fspad_ref.files import load_json
from fspad_ref.train import TrainConfig, train

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
    out = tmp_path_factory.mktemp("study")
    return StudyConfig(out=out, results=out / "study.json", seeds=2, tree=TREE, max_new_tokens=8, alphas=2,
                       alpha_every=1, batch=2, resamples=100, cost_steps=2, training=TRAINING)  # fmt: skip


def seed_folder(config: StudyConfig, seed: int):
    """Where the drafts of a seed are."""
    (folder,) = config.out.glob(f"drafts-*/seed-{seed}")
    return folder


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
    assert {(r["method"], r["task"]) for r in results["alphas"]} == {
        (kind, task) for kind in KINDS for task in ("conversation", "qa", "all")
    }
    assert results["provenance"]["dtype"] == "float64" and results["config"]["tree"]["top_k"] == TREE.top_k
    assert [one["step"] for one in results["training"]] == [3] * 10 and results["answers"] == 10
    assert {(one["method"], one["seed"]) for one in results["training"]} == {(k, s) for k in KINDS for s in (0, 1)}
    assert all(one["seconds"] > 0 for one in results["training"])


def test_tau_is_that_of_the_real_loop(results, target, config):
    draft = Draft.from_pretrained(seed_folder(config, 1) / "fspad", target)
    answers = decode_questions(target, {"fspad": draft}, QUESTIONS, temperatures=(0.0, 1.0), tree=TREE,
                               max_new_tokens=8, progress=quiet)  # fmt: skip
    for temperature in (0.0, 1.0):
        rounds = sum(a.rounds for a in answers if (a.method, a.temperature) == ("fspad", temperature))
        (row,) = (r for r in results["accepted"]
                  if (r["method"], r["temperature"], r["task"]) == ("fspad", temperature, "all"))  # fmt: skip
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
    a, b, other = new_draft("fs", target, 3), new_draft("fs", target, 3), new_draft("fs", target, 4)
    assert torch.equal(a.fuse.weight, b.fuse.weight) and not torch.equal(a.fuse.weight, other.fuse.weight)


def test_the_widened_eagle_is_as_large_as_fspad(target, results):
    size = {draft["method"]: draft["parameters"] for draft in results["drafts"]}
    assert abs(size["eagle_wide"] - size["fspad"]) <= target.config.hidden_size < size["fspad"] - size["eagle"]
    wide = new_draft("eagle_wide", target)
    assert wide.config.kind == "eagle" and sum(p.numel() for p in wide.parameters()) == size["eagle_wide"]


def test_what_is_finished_is_not_done_again(results, target, dialogues, config, monkeypatch):
    for name in (
        "fspad_ref.train._Run.step",
        "fspad_ref.bench.study.replay_many",
        "fspad_ref.bench.replay.record",
    ):
        monkeypatch.setattr(name, None)  # a call would fail
    assert study(target, dialogues, QUESTIONS, config, progress=quiet) == results
    config.results.unlink()
    again = study(target, dialogues, QUESTIONS, config, progress=quiet)
    assert {**again, "provenance": 0} == {**results, "provenance": 0}


@pytest.fixture
def copied(results, config, tmp_path) -> StudyConfig:
    """The finished study in another folder, to be changed."""
    out = shutil.copytree(config.out, tmp_path / "copy")
    return dataclasses.replace(config, out=out, results=out / "study.json")


def test_what_is_missing_is_made_again_alike(results, target, dialogues, copied, monkeypatch):
    """One draft, one file of recordings and the results are lost; only these are made anew, and nothing changes."""
    shutil.rmtree(seed_folder(copied, 1) / "fs")
    next(copied.out.glob("recordings-*/T1-*.json")).unlink()
    copied.results.unlink()
    trainings = []
    monkeypatch.setattr("fspad_ref.bench.study.train",
                        lambda *given, **named: trainings.append(list(given[1])) or train(*given, **named))  # fmt: skip
    again = study(target, dialogues, QUESTIONS, copied, progress=quiet)
    assert trainings == [["fs"]] and not list(seed_folder(copied, 1).glob("training-*"))
    assert again["taus"] == results["taus"] and again["alphas"] == results["alphas"]


def test_a_training_that_was_stopped_goes_on(target, dialogues, tmp_path, monkeypatch):
    training = dataclasses.replace(TRAINING, checkpoint_every=1)
    steps = []

    def stopped(seconds):
        class Bar(tqdm):
            def update(self, n=1):
                steps.append(n)
                if len(steps) == seconds:
                    raise KeyboardInterrupt
                return super().update(n)

        return partial(Bar, disable=True)

    kinds = ("eagle", "fspad")
    with pytest.raises(KeyboardInterrupt):
        trained(target, dialogues, training, kinds, 0, tmp_path / "a", stopped(2))
    assert len(steps) == 2
    resumed, _ = trained(target, dialogues, training, kinds, 0, tmp_path / "a", stopped(99))
    assert len(steps) == 3, "two of the three steps were done"
    whole, _ = trained(target, dialogues, training, kinds, 0, tmp_path / "b", quiet)
    for kind in kinds:
        for name, weight in whole[kind].state_dict().items():
            assert torch.equal(weight, resumed[kind].state_dict()[name])


def test_a_kind_that_is_trained_later_is_the_same(target, dialogues, results, config, tmp_path):
    alone, _ = trained(target, dialogues, TRAINING, ("pad",), 1, tmp_path, quiet, RememberingTarget(target))
    together = Draft.from_pretrained(seed_folder(config, 1) / "pad", target)
    for name, weight in together.state_dict().items():
        torch.testing.assert_close(alone["pad"].state_dict()[name], weight)


def test_remembered_features_are_the_targets(target):
    remembering = RememberingTarget(target)
    ids = torch.tensor([[5, 7, 9, 11, 6], [8, 4, 10, 0, 0]])  # the second row is padded
    first = remembering.features(ids)
    assert torch.equal(first, target.features(ids))
    again = remembering.features(torch.nn.functional.pad(ids, (0, 2)))
    assert torch.equal(again[0, :5], first[0]) and torch.equal(again[1, :3], first[1, :3])
    assert not again[1, 3:].any(), "nothing is known of padding"
    small = RememberingTarget(target, most=5 * 24 * 8)
    small.features(ids)
    assert len(small.rows) == 1, "there was room for one row"


def test_another_tree_is_replayed_anew(target, copied):
    folder = seed_folder(copied, 0) / "fspad"
    draft, before = Draft.from_pretrained(folder, target), load_json(next(folder.glob("replay-*.json")))
    asked = dict(max_new_tokens=copied.max_new_tokens, seed=copied.noise_seed, batch=copied.batch, progress=quiet)
    recordings = record_all(copied.out, target, QUESTIONS, copied.temperatures, **asked)
    small = dataclasses.replace(copied, tree=dataclasses.replace(TREE, total_tokens=2))
    after = measure(draft, recordings, small, folder / "replay-small.json", {"tree": "small"}, quiet)
    assert after == load_json(folder / "replay-small.json") and after["chains"] == before["chains"]
    assert all(few <= many for few, many in zip(before["rounds"], after["rounds"], strict=True))
    most = {task: sum(before["accepted"][task][2:]) for task in before["accepted"]}
    assert sum(most.values()) > 0 == sum(sum(one[2:]) for one in after["accepted"].values()), "one draft token a round"


def test_another_training_goes_elsewhere_and_the_first_one_stays(target, dialogues, copied):
    other = dataclasses.replace(
        copied, training=dataclasses.replace(TRAINING, noise=0.1), kinds=("eagle", "fs"), seeds=1
    )
    found = study(target, dialogues, QUESTIONS, other, progress=quiet)
    assert len(list(copied.out.glob("drafts-*"))) == 2
    assert {one["method"] for one in found["drafts"]} == {"eagle", "fs"}
    assert all(row["over_seeds"]["low"] is None for row in found["taus"]), "one seed has no interval"
    assert "[one seed]" in table(found)


def test_questions_without_an_interval_are_refused_before_training(target, dialogues, config, tmp_path, monkeypatch):
    monkeypatch.setattr("fspad_ref.bench.study.trained", None)
    with pytest.raises(InputError, match="two questions a task"):
        study(target, dialogues, QUESTIONS[:3], dataclasses.replace(config, out=tmp_path, results=tmp_path / "r.json"),
              progress=quiet)  # fmt: skip


def test_the_estimate_counts_the_trainings_that_are_missing(results, target, config, tmp_path):
    cost = {kind: {"draft": 6.0, "target": 3.0} for kind in KINDS}
    folder = seed_folder(config, 0).parent
    assert estimate(target, QUESTIONS, config, cost, folder)["training"] == 0
    minutes = estimate(target, QUESTIONS, config, cost, tmp_path)
    assert minutes["training"] == pytest.approx(2 * 3 * (3.0 + 5 * 6.0) / 60), "2 seeds of 3 steps, 5 kinds"
    assert minutes["recording"] > 0 < minutes["replaying"] and "minutes" in spoken(minutes)


def test_the_table_shows_what_the_results_say(results):
    shown = table(results)
    mean = {(r["method"], r["temperature"]): r["over_seeds"] for r in results["taus"] if r["task"] == "mean"}
    for (method, _), row in mean.items():
        assert any(line.startswith(method) and f"{row['value']:.3f}" in line for line in shown.splitlines())
    for text in ("fspad - eagle, qa", "fspad - eagle_wide, mean", "T=1, difference", "n-alpha", "parameters"):
        assert text in shown
    assert "fs - eagle, qa" not in shown, "other pairs are shown in the mean alone"


@pytest.mark.parametrize(
    "settings", [dict(kinds=("fspad",)), dict(kinds=("eagle", "medusa")), dict(seeds=0), dict(temperatures=())]
)
def test_studies_that_cannot_compare_are_refused(settings):
    with pytest.raises(ConfigError, match="expected"):
        StudyConfig(**settings)
