"""Tuning: one big tree per position tells tau of every smaller tree, and the fastest tree in the real loop wins."""

import pytest
from conftest import tiny_draft
from test_replay import agreeable, attentive, recording
from worded import quiet, saved, worded_target

from fspad_ref import SamplingConfig, TreeConfig, autoregressive_generate
from fspad_ref.bench import bench
from fspad_ref.bench.record import load_record
from fspad_ref.bench.replay import replay_many
from fspad_ref.bench.tune import TuneConfig, replayed_taus, tune, tune_tree, walk
from fspad_ref.data import Question

QUESTIONS = [Question(n, "conversation", (words,)) for n, words in enumerate(("w1 w2", "w3", "w4 w5 w6", "w7 w1"))]
SMALL = dict(prompts=4, max_new_tokens=8, top_k=(2, 3), depth=(1, 2), total_tokens=(4, 6), finalists=2, repetitions=1)


@pytest.fixture(scope="module")
def worded():
    return worded_target()


def test_one_big_tree_tells_tau_of_every_smaller_tree(target, draft):
    """Exactly: tau of each is that of its own rounds, on a text of the target and one that the draft guesses well."""
    draft, sampling = attentive(draft), SamplingConfig(1.0, seed=5)
    sampled = autoregressive_generate(target, [4, 4, 9], max_new_tokens=24, sampling=sampling).tokens
    texts = [recording(target, [4, 4, 9], sampled, sampling), agreeable(target, draft)]
    trees = [TreeConfig(k, depth, n) for k in (2, 10) for depth in (1, 3) for n in (1, 4, 7, 9, 15, 80)
             if n <= TreeConfig(k, depth, 1).capacity] + [TreeConfig(10, 3, 15, noise_weight=0.7)]  # fmt: skip
    found = replayed_taus(draft, texts, trees)
    assert list(found) == trees and len(set(found.values())) > 4
    for tree, tau in found.items():
        rounds = replay_many(draft, texts, tree, progress=quiet)
        assert tau == (23 + len(texts[1].tokens) - 1) / sum(map(len, rounds)), tree


def test_rounds_by_hand():
    assert walk([2, 0, 0, 1, 0]) == 2  # from 0 to 3, from 3 to the end
    assert walk([0, 0, 0]) == 3 and walk([7, 0]) == 1 and walk([]) == 0


def test_where_costs_are_constant_and_texts_known_the_prediction_is_the_measurement(monkeypatch):
    """A target forward lasts 10 s, a draft forward 1 s, all else nothing, on a clock that only these move."""
    target, time = worded_target(), [0.0]
    draft = tiny_draft(target)

    def lasts(function, seconds):
        def slowed(*args, **kwargs):
            time[0] += seconds
            return function(*args, **kwargs)

        return slowed

    monkeypatch.setattr(target, "_forward", lasts(target._forward, 10.0))
    monkeypatch.setattr(draft, "forward", lasts(draft.forward, 1.0))
    monkeypatch.setattr(bench.time, "perf_counter", lambda: time[0])
    config = TuneConfig(**{**SMALL, "top_k": (3,), "finalists": 3})
    twice = [one for one in QUESTIONS[:2] for _ in range(2)]  # the same questions are recorded and timed
    best, found, costs = tune_tree(target, draft, twice, config)
    assert costs.plain == 10.0 and costs.extension == costs.level[3] == pytest.approx(1)
    assert found["predicted"].is_monotonic_decreasing and len(found) == 4
    finalists = found.dropna(subset="measured")
    assert finalists.index.tolist() == [0, 1, 2]
    assert finalists["measured_tau"].tolist() == pytest.approx(finalists["tau"].tolist())
    assert finalists["measured"].tolist() == pytest.approx(finalists["predicted"].tolist(), rel=0.01)
    fastest = found.loc[found["measured"].idxmax()]
    assert (best.top_k, best.depth, best.total_tokens) == tuple(fastest[["top_k", "depth", "total_tokens"]])


def test_the_command_asks_and_writes_the_tree(worded, tmp_path, capsys):
    saved(worded, tmp_path)
    config = TuneConfig(target=str(tmp_path / "target"), draft=str(tmp_path / "drafts" / "fspad"), dtype="float64",
                        questions=tmp_path / "held_out.jsonl", out=tmp_path / "tune.json", **SMALL)  # fmt: skip
    found = tune(config)
    kept = load_record(config.out)
    assert TreeConfig(**kept["tree"]) in config.trees and str(TreeConfig(**kept["tree"])) in capsys.readouterr().out
    assert len(kept["candidates"]) == len(found) == len(config.trees) and kept["costs"]["prefix"] > 0
    assert sum(one["measured"] is not None for one in kept["candidates"]) == 2
    assert kept["config"]["questions"] == str(config.questions) and kept["about"]["threads"] > 0
