"""Tuning: cuts are the trees that the draft would grow, forecasts are what the loop does, files know their machine."""

import json
import math

import numpy as np
import pytest
import torch
import tyro
from conftest import tiny_draft, tiny_target

from fspad_ref import SamplingConfig, TreeConfig, autoregressive_generate, grow_tree, speculative_generate
from fspad_ref.bench.replay import text_features
from fspad_ref.bench.tune import (
    BigTree,
    Calibration,
    TuneConfig,
    _questions,
    big_trees,
    calibrate,
    cut,
    fit_steps,
    forecast,
    load_tuned,
    rounds,
    table,
    tune,
    tune_tree,
)
from fspad_ref.errors import CheckpointError, ConfigError, InputError

PROMPTS = [[2, 7, 5, 11, 3], [4, 4, 9], [13, 2], [6, 21, 8, 8]]
K, DEPTH = 5, 3
SMALL = dict(prompts=4, max_new_tokens=8, top_k=(2, 3), depth=(1, 2), total_tokens=(4, 6), finalists=2, repetitions=1)


def answer(target, prompt, sampling=None, length=12) -> list[int]:
    return autoregressive_generate(target, prompt, max_new_tokens=length, sampling=sampling).tokens


@pytest.fixture(scope="module")
def text(target) -> tuple[list[int], list[int]]:
    return PROMPTS[0], answer(target, PROMPTS[0])


# --- cutting ---------------------------------------------------------------------------------------------------------


def assert_same_tree(big, nodes, grown):
    assert big.token[nodes].tolist() == grown.token.tolist()
    assert np.searchsorted(nodes, big.parent[nodes]).tolist() == grown.parent.tolist()
    assert big.depth[nodes].tolist() == grown.depth.tolist()
    np.testing.assert_allclose(big.score[nodes], grown.score.numpy(), atol=1e-9)


@pytest.mark.parametrize(
    "config", [TreeConfig(K, DEPTH, 81), TreeConfig(K, DEPTH, 20), TreeConfig(K, 2, 30), TreeConfig(K, 1, 1),
               TreeConfig(3, 1, 9), TreeConfig(1, 1, 3), TreeConfig(4, 2, 15), TreeConfig(2, 3, 10)], ids=str
)  # fmt: skip
def test_a_cut_is_the_tree_that_the_draft_would_grow(target, draft, text, config):
    prompt, tokens = text
    ids = torch.tensor([[*prompt, *tokens]])
    features = text_features(target, ids[0].tolist())[None]
    exact = 0
    for place, big in enumerate(big_trees(draft, prompt, tokens, K, DEPTH)):
        root = len(prompt) + place
        nodes, is_exact = cut(big, config)
        if config.top_k == K or config.depth == 1:
            assert is_exact, "must be exact for the big tree's own top_k, and where no frontier was chosen"
        if is_exact:
            assert_same_tree(big, nodes, grow_tree(draft, features[:, :root], ids[:, : root + 1], config))
        exact += is_exact
    assert exact > 0


def test_a_cut_that_lacks_nodes_says_so():
    """A big tree of top_k 2, depth 2. By top_k 1 node 3 would be the frontier, but the big frontier is 5 and 6."""
    #        0
    #     1     2          scores -1, -1.1
    #    3 4   5 6         -5, -5.5, -2, -2.1
    #        7 8  9 10     -2.5, -3, -2.6, -3.1
    big = BigTree(
        token=np.arange(11),
        parent=np.array([0, 0, 0, 1, 1, 2, 2, 5, 5, 6, 6]),
        depth=np.array([0, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]),
        rank=np.array([0, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1]),
        score=np.array([0, -1, -1.1, -5, -5.5, -2, -2.1, -2.5, -3, -2.6, -3.1]),
        on_text=np.arange(11) == 0,
    )
    for config, expected, exact in [
        (TreeConfig(1, 2, 4), [0, 1, 3], False),
        (TreeConfig(1, 1, 3), [0, 1, 3], True),
        (TreeConfig(2, 2, 6), [0, 1, 2, 5, 6, 7], True),
        (TreeConfig(2, 1, 7), [0, 1, 2, 3, 4, 5, 6], True),
    ]:
        nodes, is_exact = cut(big, config)
        assert nodes.tolist() == expected and is_exact == exact


def test_nodes_on_the_text_are_its_tokens_in_a_row(target, draft, text):
    prompt, tokens = text
    for place, big in enumerate(big_trees(draft, prompt, tokens, K, DEPTH)):
        on_text = np.flatnonzero(big.on_text)
        assert big.depth[on_text].tolist() == list(range(len(on_text)))
        assert big.token[on_text].tolist() == tokens[place : place + len(on_text)]
        assert big.parent[on_text[1:]].tolist() == on_text[:-1].tolist()


# --- forecasting -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_forecast_tau_is_that_of_the_loop(target, draft, temperature):
    sampling = SamplingConfig(temperature, seed=5)
    texts = [big_trees(draft, prompt, answer(target, prompt, sampling), K, DEPTH) for prompt in PROMPTS[:2]]
    trees = [TreeConfig(K, DEPTH, 40), TreeConfig(K, 1, 12), TreeConfig(K, 2, 1), TreeConfig(2, 1, 6)]
    forecasts = forecast(texts, trees, calibrate(texts))
    assert {one.tree for one in forecasts} == set(trees) and all(one.exact == 1.0 for one in forecasts)
    for one in forecasts:
        results = [
            speculative_generate(target, draft, prompt, max_new_tokens=12, sampling=sampling, tree=one.tree)
            for prompt in PROMPTS[:2]
        ]
        appended = sum(len(result.tokens) - 1 for result in results)
        assert one.tau == pytest.approx(appended / sum(len(result.accepted) for result in results))


def test_rounds_by_hand():
    assert rounds([2, 0, 0, 1, 0]) == 2  # from 0 to 3, from 3 to the end
    assert rounds([0, 0, 0]) == 3 and rounds([7, 0]) == 1 and rounds([]) == 0


# --- calibrating -----------------------------------------------------------------------------------------------------


def test_isotonic_steps_by_hand():
    score = np.array([-3.0, -1.0, -2.0, 0.0, -2.0])
    on_text = np.array([False, False, True, True, False])
    knots, chance = fit_steps(score, on_text)
    # by score: 0 | 1 and 0 at -2, then 0 at -1: pooled to 1/3 | 1
    assert knots.tolist() == [-3.0, -2.0, -1.0, 0.0]
    assert chance.tolist() == pytest.approx([0, 1 / 3, 1 / 3, 1])
    calibration = Calibration({(1, 2): (knots, chance)}, np.zeros((1, 3)))
    assert calibration(np.array([-9.0, -1.5, -0.5, 1.0]), depth=1, rank=7).tolist() == pytest.approx(
        [0, 1 / 3, 2 / 3, 1]
    )
    with pytest.raises(ConfigError, match="depth 2, rank 0"):
        calibration(score, depth=2, rank=0)


def test_calibrated_probabilities_rise_with_the_score_and_add_up_to_what_was_accepted(target, draft):
    texts = [big_trees(draft, prompt, answer(target, prompt), K, DEPTH) for prompt in PROMPTS]
    calibration = calibrate(texts)
    trees = [big for text in texts for big in text]
    accepted = sum(big.on_text.sum() for big in trees)
    assert sum(calibration.of_tree(big).sum() for big in trees) == pytest.approx(accepted)
    for score, chance in calibration.steps.values():
        assert (np.diff(score) > 0).all() and (np.diff(chance) >= 0).all()
        assert 0 <= chance[0] and chance[-1] <= 1
    # so the big tree itself is expected to accept what it accepts on average
    (whole,) = forecast(texts, [TreeConfig(K, DEPTH, 81)], calibration)
    assert whole.expected_tau == pytest.approx(accepted / len(trees))


def test_acceptance_by_depth_and_rank_is_counted(target, draft, text):
    trees = big_trees(draft, *text, K, DEPTH)
    acceptance = calibrate([trees]).acceptance
    assert acceptance.shape == (DEPTH + 1, K)
    for rank in range(K):  # level 1: nodes 1 .. k of every tree
        assert acceptance[0, rank] == pytest.approx(np.mean([big.on_text[1 + rank] for big in trees]))
    assert (np.nansum(acceptance, axis=1) <= 1 + 1e-9).all()


# --- the whole -------------------------------------------------------------------------------------------------------


def test_where_costs_are_constant_and_texts_known_the_prediction_is_the_measurement(monkeypatch):
    """A target forward lasts 10 s, a draft forward 1 s, all else nothing, on a clock that only these move."""
    target, time = tiny_target(), [0.0]
    draft = tiny_draft(target)

    def lasts(function, seconds):
        def slowed(*args, **kwargs):
            time[0] += seconds
            return function(*args, **kwargs)

        return slowed

    monkeypatch.setattr(target, "_forward", lasts(target._forward, 10.0))
    monkeypatch.setattr(draft, "forward", lasts(draft.forward, 1.0))
    config = TuneConfig(**{**SMALL, "top_k": (3,), "finalists": 3})
    tuned = tune_tree(target, draft, [*PROMPTS[:2], *PROMPTS[:2]], config, now=lambda: time[0])
    assert tuned.costs.plain == 10.0 and tuned.costs.drafting(TreeConfig(3, 2, 6), 2.0) == 3.0
    assert tuned.costs.overhead(TreeConfig(3, 2, 6)) == 0.0
    assert len(tuned.finalists) == 3 and len(tuned.candidates) == len(config.trees) == 4
    for one in tuned.finalists:
        assert one.measured_tau == pytest.approx(one.tau)
        assert one.measured == pytest.approx(one.predicted) == pytest.approx(one.ideal)
        assert one.error == pytest.approx(0)
    fastest = tuned.finalists[0]
    assert tuned.tree == fastest.tree and fastest.measured == max(one.measured for one in tuned.finalists)
    predicted = [one.predicted for one in tuned.candidates]
    assert predicted == sorted(predicted, reverse=True)


def test_tuning_writes_a_file_that_is_reused_on_this_machine_alone(target, tmp_path, capsys):
    target.model.save_pretrained(tmp_path / "target")
    loaded = type(target).from_pretrained(str(tmp_path / "target"), dtype="float64")
    tiny_draft(loaded).save_pretrained(tmp_path / "draft")
    config = TuneConfig(target=str(tmp_path / "target"), draft=str(tmp_path / "draft"), dtype="float64",
                        out=tmp_path / "cpu.json", **SMALL)  # fmt: skip
    tuned = tune(config, PROMPTS)
    assert "fastest: top_k" in capsys.readouterr().out
    kept = json.loads(config.file.read_text())
    assert len(kept["candidates"]) == len(tuned.candidates) and kept["costs"]["prefix"] > 0
    assert sum(one["measured"] is not None for one in kept["candidates"]) == 2
    assert load_tuned(config.file, loaded) == tuned.tree
    with pytest.raises(CheckpointError, match="embedding_hash"):
        load_tuned(config.file, tiny_target(seed=1))
    kept["made_for"]["hardware"] = "another machine"
    config.file.write_text(json.dumps(kept))
    with pytest.raises(CheckpointError, match="another machine"):
        load_tuned(config.file, loaded)
    del kept["tree"]
    config.file.write_text(json.dumps(kept))
    with pytest.raises(CheckpointError, match="result of tuning"):
        load_tuned(config.file, loaded)


def test_the_table_shows_finalists_that_stand_far_down(target):
    tuned = tune_tree(target, tiny_draft(target), PROMPTS, TuneConfig(**SMALL))
    shown = table(tuned, lines=0)
    assert shown.count("%") == len(tuned.finalists) == 2
    assert all(math.isfinite(one.error) for one in tuned.finalists)


def test_settings_are_read_and_impossible_ones_refused(target):
    config = tyro.cli(TuneConfig, args=["--top-k", "2", "10", "--device", "cuda:1"])
    assert config.top_k == (2, 10) and config.file.as_posix() == "out/tune/cuda-1.json"
    assert TreeConfig(10, 5, 60) in config.trees and all(tree.total_tokens <= tree.capacity for tree in config.trees)
    for wrong in (dict(prompts=1), dict(finalists=0), dict(top_k=(1,), depth=(1,), total_tokens=(9,))):
        with pytest.raises(ConfigError, match="at least 2 prompts, 1 finalist and 1 tree"):
            TuneConfig(**wrong)
    with pytest.raises(InputError, match="at least 2 prompts, found 1"):
        tune_tree(target, tiny_draft(target), PROMPTS[:1], TuneConfig(**SMALL))
    with pytest.raises(InputError, match="at least 2 tokens"):
        tune_tree(target, tiny_draft(target), PROMPTS, TuneConfig(**{**SMALL, "max_new_tokens": 1}))


def test_prompts_come_from_the_world_or_from_a_file(tmp_path):
    asked = _questions(TuneConfig(prompts=12))
    assert len(set(asked)) == 12 and asked[:6] == _questions(TuneConfig(prompts=6))
    file = tmp_path / "dialogues.json"
    file.write_text(
        json.dumps(
            [
                {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "Yes."}]}
                for n in range(5)
            ]
        )
    )
    assert _questions(TuneConfig(prompts=3, data=file)) == ["0?", "1?", "2?"]
