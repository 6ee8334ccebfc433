"""The cost model: speedups that a calculation by hand confirms, and jobs that do what the loops do."""

from types import SimpleNamespace

import pytest
from conftest import tiny_draft

from fspad_ref import SamplingConfig, TreeConfig, autoregressive_generate, speculative_generate, tree
from fspad_ref.bench import costs as module
from fspad_ref.bench.costs import ROUNDS, STEPS, WARM_UP, Costs, measure_costs, predict_speedup
from fspad_ref.cache import KVCache
from fspad_ref.generate import Chooser
from fspad_ref.verify import Verdict

COSTS = Costs(
    plain=10.0, plain_rest=0.5, extension=1.25, level={6: 1.5}, verify={31: 12.0}, after={31: 1.6}, prefill=40.0,
    draft_prefill=4.0,
)  # fmt: skip
TREE, TAU = TreeConfig(top_k=6, depth=4, total_tokens=31), 3.0
# drafting 1.25 + 4 * 1.5 = 7.25     verify(31) 12     after(31) 1.6     a round 20.85


def test_speedups_by_hand():
    # 31 tokens: the first comes with the prefill, thirty in ten rounds; in round one the draft's prefill takes the
    # place of the extension
    assert predict_speedup(COSTS, TREE, TAU, tokens=31) == pytest.approx((40 + 30 * 10.5) / (42.75 + 10 * 20.85))
    assert predict_speedup(COSTS, TREE, TAU, tokens=1e9) == pytest.approx(3 * 10.5 / 20.85), "prefill is forgotten"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_measured_costs_are_complete(target, draft, temperature):
    sampling = SamplingConfig(temperature)
    costs = measure_costs(target, draft, prompt=7, prefix=20, sampling=sampling, total_tokens=(40, 1, 9), top_k=(4, 1),
                          repetitions=2)  # fmt: skip
    assert [*costs.verify] == [*costs.after] == [1, 9, 40] and [*costs.level] == [1, 4]
    single = [costs.plain, costs.plain_rest, costs.extension, costs.prefill, costs.draft_prefill]
    assert min(single + [x for curve in (costs.level, costs.verify, costs.after) for x in curve.values()]) > 0
    assert (costs.prompt, costs.prefix, costs.temperature) == (7, 20, temperature)
    assert predict_speedup(costs, TreeConfig(4, 2, 9), 2.0, 30) > 0


def test_jobs_take_turns_and_bursts_are_divided(target, monkeypatch):
    """With a clock that moves one second a reading, a job lasts a second, whatever it does."""
    readings, order, real = map(float, range(10**6)), [], module._jobs
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: next(readings)))
    monkeypatch.setattr(module, "_jobs", lambda *given: {
        place: (lambda place=place, job=job: [order.append(place), job()], times)
        for place, (job, times) in real(*given).items()
    })  # fmt: skip
    costs = measure_costs(target, tiny_draft(target), prompt=5, prefix=8, total_tokens=(1, 5), top_k=(1, 3),
                          sampling=SamplingConfig(), repetitions=2)  # fmt: skip
    assert (costs.plain, costs.prefill, costs.draft_prefill, costs.extension) == (1.0,) * 4
    assert costs.verify == {1: 1.0, 5: 1.0} and costs.level[3] == pytest.approx(1 / 5)
    assert costs.plain_rest == 1 / STEPS and costs.after[5] == pytest.approx(1 / ROUNDS)
    assert order == order[:11] * (WARM_UP + 2) and len(set(order)) == 11, "no job is timed at a stretch"


def calls(run) -> list[str]:
    """What `run()` does besides forwards, as names in order."""
    names = []
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((tree, "rerank"), (module, "rerank"), (Chooser, "extend"), (Chooser, "every_node"),
                            (Verdict, "read"), (KVCache, "keep")):  # fmt: skip
            real = getattr(owner, name)
            patch.setattr(owner, name, lambda *a, name=name, real=real: [names.append(name), real(*a)][1])
        run()
    return names


def test_the_timed_jobs_do_what_the_loops_do(target, monkeypatch):
    """Between the forwards: a round, and a step of plain decoding; rows, and what is in the cache, as in the loop."""
    draft, sampling = tiny_draft(target), SamplingConfig(1.0)
    jobs = module._jobs(target, draft, 5, 8, sampling, [1, 20], [4])
    first, *rounds = calls(lambda: speculative_generate(target, draft, [2, 7], max_new_tokens=9, sampling=sampling))
    one = ["rerank", "every_node", "read", "keep"]
    assert first == "extend" and rounds == one * (len(rounds) // 4)
    assert calls(jobs["after", 20][0]) == one * ROUNDS
    plain = calls(lambda: autoregressive_generate(target, [2, 7], max_new_tokens=9, sampling=sampling))
    assert plain == ["extend"] * 9 and calls(jobs["plain_rest", 0][0]) == ["extend"] * STEPS

    seen = []
    for owner, name, real in ((target, "_forward", target._forward), (draft, "forward", draft.forward)):
        monkeypatch.setattr(owner, name, lambda *a, real=real, **b: [
            seen.append(((b.get("cache") or a[-1]).length, a[0].shape[1])), real(*a, **b)][1])  # fmt: skip
    for job in (("plain", 0), ("verify", 20), ("prefill", 0), ("draft_prefill", 0), ("extension", 0), ("level", 4)):
        jobs[job][0]()
    assert seen[:5] == [(8, 1), (8, 20), (0, 5), (0, 5), (8, 3)]  # (positions in the cache, rows)
    assert seen[5:] == [(8 + 4 * step, 4) for step in range(5)]
