"""A whole study on a tiny random target: five kinds, two seeds, and nothing that is finished is done again."""

import dataclasses
import shutil
from functools import partial

import pandas as pd
import pytest
import torch
from tqdm import tqdm
from worded import QUESTIONS, TREE, worded_target

from fspad_ref import Draft
from fspad_ref.bench import study as module
from fspad_ref.bench.bench import Speculative, decode_questions
from fspad_ref.bench.features import StoredFeatures
from fspad_ref.bench.statistics import taus
from fspad_ref.bench.study import StudyConfig, alphas, pairs, report, study, train_missing
from fspad_ref.data import Batch
from fspad_ref.errors import ConfigError
from fspad_ref.train import TrainConfig, new_draft, train

KINDS = ("eagle", "fs", "pad", "fspad", "eagle_wide")
TRAINING = TrainConfig(tokens_per_batch=60, warmup_steps=1, evaluate_every=0, checkpoint_every=1)
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
    return StudyConfig(out=out, seeds=2, tree=TREE, max_new_tokens=8, alphas=2, batch=2, steps=(2, 4),
                       vocabulary=20, training=TRAINING)  # fmt: skip


@pytest.fixture(scope="module")
def answers(target, dialogues, config) -> pd.DataFrame:
    return study(target, dialogues, QUESTIONS, config, quiet)


def test_every_kind_seed_temperature_and_answer_is_there(answers, config):
    counts = answers.groupby(["method", "seed", "steps", "temperature"]).size()
    assert len(counts) == 5 * 2 * 2 * 2 and (counts == 5).all(), "answers: five turns of four questions"
    for seed in (0, 1):
        folder = config.out / f"seed-{seed}" / "steps-4"
        assert sorted(file.name for file in folder.iterdir()) == sorted([*KINDS, "trunk.safetensors"])


def test_tau_is_that_of_the_real_loop(answers, target, config):
    """So are the histograms of accepted tokens: rounds and tokens add up from them."""
    draft = Draft.from_pretrained(config.out / "seed-1" / "steps-4" / "fspad", target)
    real = decode_questions(target, {"fspad": Speculative(draft, TREE)}, QUESTIONS, max_new_tokens=8, progress=quiet)
    mine = answers.query("method == 'fspad' and seed == 1 and steps == 4")
    theirs = real[real["method"] == "fspad"]
    same = ["temperature", "task", "question_id", "turn", "tokens", "rounds", "loops"]
    assert mine[same].to_numpy().tolist() == theirs[same].to_numpy().tolist()
    assert (mine["rounds"] < mine["tokens"] - 1).any(), "some draft token must have been accepted"
    histogram = mine.filter(like="accepted_")
    assert (histogram.sum(axis=1) == mine["rounds"]).all() and histogram.shape[1] == TREE.levels + 1
    gained = histogram.to_numpy() @ range(1, TREE.levels + 2)
    assert ((gained == mine["tokens"] - 1) | (gained == mine["tokens"])).all(), "the end may cut a bonus token"


def test_n_alpha_pools_answers_and_seeds(answers):
    found, mine = alphas(answers), answers.query("method == 'pad' and temperature == 1")
    assert found.columns.tolist() == [0, 1, 2] and (mine["tried_0"] == mine["tokens"] - 1).all()
    expected = [mine[f"right_{n}"].sum() / mine[f"tried_{n}"].sum() for n in range(2)]
    assert found.loc[(1.0, "pad"), [0, 1]].tolist() == pytest.approx(expected)
    assert (mine["tried_1"] <= mine["right_0"]).all()


def test_kinds_are_compared_with_the_baseline_and_at_equal_size(answers, target):
    assert pairs(answers) == [(kind, "eagle") for kind in KINDS[1:]] + [("fspad", "eagle_wide")]
    assert pairs(answers[answers["method"].isin(["eagle", "fs"])]) == [("fs", "eagle")]
    shown, means = report(answers), taus(answers[answers["steps"] == 4]).query("task == 'mean'")
    assert all(f"{row.tau:.2f} [{row.tau_low:.2f}, {row.tau_high:.2f}]" in shown for row in means.itertuples())
    assert "gain, T=1" in shown and "n-alpha" in shown and "mean tau by length of training" in shown
    size = {kind: sum(p.numel() for p in new_draft(kind, target).parameters()) for kind in KINDS}
    assert abs(size["eagle_wide"] - size["fspad"]) <= target.config.hidden_size < size["fspad"] - size["eagle"]


def test_given_drafts_are_replayed_with_and_without_the_noise(answers, target, config, tmp_path):
    folders = tuple(str(config.out / "seed-1" / "steps-4" / kind) for kind in ("eagle", "fspad"))
    given = dataclasses.replace(config, out=tmp_path, drafts=folders, noise_weights=(0.0, 1.0), noise_scales=(0.5,))
    found = study(target, [], QUESTIONS, given, quiet)
    mine = answers.query("method == 'fspad' and seed == 1 and steps == 4")
    same, noisy = (found[found["method"] == name] for name in ("fspad", "fspad noise 1 scale 0.5"))
    assert same["rounds"].tolist() == mine["rounds"].tolist()
    assert noisy["rounds"].sum() < mine.query("temperature == 1")["rounds"].sum() and "gain, T=1" in report(found)


def test_what_is_finished_is_not_done_again(answers, target, dialogues, config, monkeypatch):
    for name in ("train", "replay_many"):
        monkeypatch.setattr(module, name, None)  # a call would fail
    monkeypatch.setattr("fspad_ref.bench.replay.answers", None)
    pd.testing.assert_frame_equal(study(target, dialogues, QUESTIONS, config, quiet), answers)


def test_what_is_missing_is_made_again_alike(answers, target, dialogues, config, tmp_path, monkeypatch):
    """One draft, one replay and one file of recordings are lost; only these are made anew, and nothing changes."""
    out = shutil.copytree(config.out, tmp_path / "copy")
    shutil.rmtree(out / "seed-1" / "steps-4" / "fs")
    (out / "seed-0" / "steps-4" / "pad" / "replay.csv").unlink()
    (out / "recordings" / "T1-001.safetensors").unlink()
    trainings, replays, real = [], [], module.replay_many
    monkeypatch.setattr(module, "train", lambda *a, **named: trainings.append([*a[1]]) or train(*a, **named))
    monkeypatch.setattr(module, "replay_many", lambda *given: replays.append(given[0].config.kind) or real(*given))
    again = study(target, dialogues, QUESTIONS, dataclasses.replace(config, out=out), quiet)
    assert trainings == [["fs"]] and replays == ["pad", "fs"]
    pd.testing.assert_frame_equal(again, answers)


def test_an_interrupted_training_goes_on(target, dialogues, config, tmp_path):
    class Bar(tqdm):
        def update(self, n=1):
            steps.append(n)
            if len(steps) == 2:
                raise KeyboardInterrupt

    steps, bar = [], partial(Bar, disable=True)
    with pytest.raises(KeyboardInterrupt):
        train_missing(target, dialogues, config, 1, 3, tmp_path, progress=bar)
    train_missing(target, dialogues, config, 1, 3, tmp_path, progress=bar)
    assert len(steps) == 3, "two of the three steps were done"


def test_stored_features_are_the_targets(target, tmp_path, monkeypatch):
    ids = torch.tensor([[5, 7, 9, 11, 6], [8, 4, 10, 0, 0]])  # the second row is padded
    response = torch.tensor([[0, 1, 1, 1, 1], [0, 1, 1, 0, 0]]).bool()
    stored, real = StoredFeatures(target, tmp_path), response | (torch.arange(5) < 3)
    features, log_partition = stored(Batch(ids, response, 8))
    exact = target.features(ids)
    assert features.dtype == torch.bfloat16 and torch.equal(features[real], exact[real].bfloat16())
    sums = target.lm_head(features.to(exact.dtype)).logsumexp(-1)[real]
    torch.testing.assert_close(log_partition[real], sums, check_dtype=False)
    monkeypatch.setattr(target, "features", None)  # a call would fail
    wider = Batch(torch.nn.functional.pad(ids, (0, 2)), torch.nn.functional.pad(response, (0, 2)), 8)
    again, sums = StoredFeatures(target, tmp_path)(wider)
    assert again.shape == (2, 7, 24) and torch.equal(again[:, :5][real], features[real]) and sums[1, 3:].sum() == 0


@pytest.mark.parametrize("settings", [dict(kinds=("fs", "fs")), dict(seeds=0), dict(temperatures=())])
def test_studies_that_cannot_compare_are_refused(settings):
    with pytest.raises(ConfigError, match="kinds to compare"):
        StudyConfig(**settings)
