"""The cost model: curves that pass through their knots, and speedups that a calculation by hand confirms."""

import dataclasses
import json

import pytest
import torch
from conftest import tiny_draft
from hypothesis import given, settings
from hypothesis import strategies as st

from fspad_ref import SamplingConfig, TreeConfig, autoregressive_generate, speculative_generate
from fspad_ref.bench import costs as timings
from fspad_ref.bench.costs import (
    AFTER_ROUNDS,
    PLAIN_STEPS,
    Costs,
    Curve,
    Terms,
    _after,
    _plain_rest,
    ideal_speedup,
    measure_costs,
    measure_together,
    predict_speedup,
)
from fspad_ref.cache import KVCache
from fspad_ref.errors import CheckpointError, ConfigError, InputError
from fspad_ref.generate import Chooser
from fspad_ref.verify import Verdict


def constant(seconds: float) -> Curve:
    return Curve((1, 100), (seconds, seconds))


COSTS = Costs(
    prompt=30,
    prefix=50,
    temperature=0.0,
    plain=10.0,
    plain_rest=0.5,
    prefill=40.0,
    draft_prefill=4.0,
    target=Curve((1, 61), (9.0, 15.0)),  # 0.1 more a node
    draft=Curve((1, 11), (1.0, 2.0)),  # 0.1 more a row
    head=constant(0.25),
    level=constant(0.125),
    after=Curve((1, 61), (1.0, 2.2)),  # 0.02 more a node
    machine={"hardware": "a calculation by hand"},
)
TREE, TAU = TreeConfig(top_k=6, depth=4, total_tokens=31), 3.0
# drafting   draft(3) + head(1) + 4 (draft(6) + head(6)) = 1.2 + 0.25 + 4 (1.5 + 0.25) = 8.45
# verify     target(31) + head(31)                       = 12 + 0.25                   = 12.25
# overhead   5 level(6) + after(31)                      = 0.625 + 1.6                 = 2.225


def test_terms_by_hand():
    assert COSTS.drafting(TREE, TAU) == pytest.approx(8.45)
    assert COSTS.verify(31) == pytest.approx(12.25)
    assert COSTS.overhead(TREE) == pytest.approx(2.225)


def test_speedups_by_hand():
    assert predict_speedup(COSTS, TREE, TAU) == pytest.approx(3 * 10.5 / 22.925)
    assert ideal_speedup(COSTS, TREE, TAU) == pytest.approx(3 * 10 / 20.7)
    # 31 tokens: the first comes with the prefill, thirty in ten rounds; in round one the draft's prefill takes the
    # place of draft(3) = 1.2
    assert predict_speedup(COSTS, TREE, TAU, tokens=31) == pytest.approx((40 + 30 * 10.5) / (42.8 + 10 * 22.925))
    assert ideal_speedup(COSTS, TREE, TAU, tokens=31) == pytest.approx((40 + 30 * 10) / (42.8 + 10 * 20.7))


def test_a_long_text_forgets_its_prefill():
    for speedup in (predict_speedup, ideal_speedup):
        assert speedup(COSTS, TREE, TAU, tokens=1e9) == pytest.approx(speedup(COSTS, TREE, TAU))


MEASURED = st.dictionaries(st.integers(1, 300), st.floats(1e-6, 10.0), min_size=1, max_size=12)


@given(MEASURED)
@settings(max_examples=100, deadline=None)
def test_curves_never_fall_and_pass_through_their_knots(measured):
    curve = Curve.fit(measured)
    assert curve.sizes == tuple(sorted(measured))
    assert [curve(size) for size in curve.sizes] == list(curve.seconds)
    asked = [curve(size) for size in range(curve.sizes[0], curve.sizes[-1] + 1)]
    assert all(later >= earlier * (1 - 1e-12) for earlier, later in zip(asked, asked[1:], strict=False))


def test_a_curve_that_rises_already_is_kept_as_measured():
    measured = {8: 2.0, 1: 1.0, 60: 2.0, 240: 7.0}
    assert Curve.fit(measured) == Curve((1, 8, 60, 240), (1.0, 2.0, 2.0, 7.0))
    assert Curve.fit(measured)(150) == pytest.approx(4.5)
    assert Curve.fit({1: 1.0, 2: 3.0, 3: 2.0}) == Curve((1, 2, 3), (1.0, 2.5, 2.5))


@pytest.mark.parametrize("sizes, seconds", [((), ()), ((1, 2), (1.0,)), ((2, 1), (1.0, 2.0)), ((1, 2), (2.0, 1.0))])
def test_curves_that_are_none_are_refused(sizes, seconds):
    with pytest.raises(ConfigError, match="expected"):
        Curve(sizes, seconds)


@pytest.mark.parametrize("size", [0, 61.5, 240])
def test_nothing_is_extrapolated(size):
    with pytest.raises(InputError, match="within the measured 1 to 61"):
        COSTS.target(size)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_costs_of_a_real_clock_are_complete_and_survive_a_file(target, draft, tmp_path, temperature):
    terms = Terms(7, 20, SamplingConfig(temperature), tree_sizes=(1, 9, 40), draft_rows=(1, 4))
    costs = measure_costs(target, draft, terms, repetitions=2)
    assert (costs.target.sizes, costs.after.sizes) == ((1, 9, 40), (1, 9, 40))
    assert (costs.draft.sizes, costs.level.sizes) == ((1, 4), (1, 4)) and costs.head.sizes == (1, 4, 9, 40)
    parts = [costs.plain, costs.plain_rest, costs.prefill, costs.draft_prefill]
    curves = [costs.target, costs.draft, costs.head, costs.level, costs.after]
    assert all(seconds > 0 for seconds in parts + [seconds for curve in curves for seconds in curve.seconds])
    assert (costs.prompt, costs.prefix) == (7, 20) and costs.temperature == temperature
    assert {"device", "threads", "dtype", "hardware", "torch", "transformers"} <= set(costs.machine)
    assert predict_speedup(costs, TreeConfig(4, 2, 20), 2.0) > 0
    costs.save(tmp_path / "costs.json")
    assert Costs.load(tmp_path / "costs.json") == costs


def test_every_job_is_timed_alone_and_bursts_are_divided(target):
    """With a clock that moves one second a reading, a job lasts a second, whatever it does."""
    readings = iter(range(10**6))
    terms = Terms(5, 8, tree_sizes=(1, 5), draft_rows=(1, 3))
    costs = measure_costs(target, tiny_draft(target), terms, repetitions=1, now=lambda: float(next(readings)))
    assert (costs.plain, costs.prefill, costs.draft_prefill) == (1.0, 1.0, 1.0)
    assert costs.target.seconds == costs.draft.seconds == (1.0, 1.0)
    assert costs.plain_rest == 1 / 32 and costs.level(3) == 1 / 5 and costs.after(5) == pytest.approx(1 / 7)


def test_the_jobs_of_several_rows_take_turns(target, monkeypatch):
    """A machine that slows down slows all rows alike: no row is timed at a stretch."""
    order, real = [], timings._jobs
    logged = lambda prefix, job: lambda: [order.append(prefix), job()]  # noqa: E731
    monkeypatch.setattr(timings, "_jobs", lambda target, draft, terms: {
        key: (logged(terms.prefix, job), times) for key, (job, times) in real(target, draft, terms).items()
    })  # fmt: skip
    draft, small = tiny_draft(target), {"tree_sizes": (1,), "draft_rows": (1,)}
    wanted = {name: (draft, Terms(3, prefix, **small)) for name, prefix in (("a", 5), ("b", 6))}
    found = measure_together(target, wanted, repetitions=2)
    assert [found[name].prefix for name in "ab"] == [5, 6]
    jobs = len(order) // (2 * (timings.WARM_UP + 2))
    assert order == ([5] * jobs + [6] * jobs) * (timings.WARM_UP + 2)


def test_the_prefills_are_those_of_the_prompt(target, monkeypatch):
    """The prefix of a round is longer: half of the answer is in it."""
    lengths, behind = [], []
    prefill, forward = timings._prefill, timings._draft_forward
    monkeypatch.setattr(timings, "_prefill", lambda *a: [lengths.append(a[1]), prefill(*a)][1])
    monkeypatch.setattr(timings, "_draft_forward", lambda *a: [behind.append(a[1:]), forward(*a)][1])
    measure_costs(target, tiny_draft(target), Terms(5, 8, tree_sizes=(1,), draft_rows=(1,)), repetitions=1)
    assert lengths == [5] and behind == [(0, 5), (8, 1)]  # (entries in the cache, rows)


def calls(run) -> list[str]:
    """What `run()` does besides forwards, as names in order."""
    names = []
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((Chooser, "extend"), (Chooser, "every_node"), (Verdict, "read"), (KVCache, "keep")):
            real = getattr(owner, name)
            patch.setattr(owner, name, lambda *a, name=name, real=real: [names.append(name), real(*a)][1])
        run()
    return names


def test_the_timed_jobs_do_what_the_loops_do(target):
    """Between the forwards: a round, and a step of plain decoding."""
    draft, sampling = tiny_draft(target), SamplingConfig(1.0)
    first, *rounds = calls(lambda: speculative_generate(target, draft, [2, 7], max_new_tokens=9, sampling=sampling))
    one = ["every_node", "read", "keep"]
    assert first == "extend" and rounds == one * (len(rounds) // 3)
    assert calls(_after(target, draft, 8, 20, sampling)) == one * AFTER_ROUNDS
    plain = calls(lambda: autoregressive_generate(target, [2, 7], max_new_tokens=9, sampling=sampling))
    assert plain == ["extend"] * 9 and calls(_plain_rest(target, 8, sampling)) == ["extend"] * PLAIN_STEPS


def test_measuring_changes_nothing(target):
    draft = tiny_draft(target)
    before = {name: value.clone() for name, value in draft.state_dict().items()}
    measure_costs(target, draft, Terms(5, 8, tree_sizes=(1,), draft_rows=(1,)), repetitions=1)
    assert all(torch.equal(value, before[name]) for name, value in draft.state_dict().items())


@pytest.mark.parametrize("fault", ["missing", "unknown", "list"])
def test_other_files_are_refused(tmp_path, fault):
    path = tmp_path / "costs.json"
    COSTS.save(path)
    kept = json.loads(path.read_text())
    assert Costs.load(path) == COSTS == dataclasses.replace(COSTS)
    if fault == "missing":
        del kept["draft"]
    elif fault == "unknown":
        kept["colour"] = 1
    else:
        kept = [kept]
    path.write_text(json.dumps(kept))
    with pytest.raises(CheckpointError, match="costs as Costs.save writes them"):
        Costs.load(path)
