"""Chapter 08's pictures: claims say what the rows say, and a curve stops paying where it crosses 1."""

from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from fspad_ref.errors import InputError
from fspad_ref.lab.stages import FORWARDS, OUTSIDE
from fspad_ref.lab.statistics import Estimate
from fspad_ref.show import acceptance_plots as acceptance
from fspad_ref.show import speedup_plots as speedup
from fspad_ref.show import sureness_plots as sureness

KINDS = ("eagle", "fs", "pad", "fspad", "eagle_wide")


def estimate(value: float, half: float | None = 0.01) -> dict[str, float | None]:
    bounds = (None, None) if half is None else (value - half, value + half)
    return dict(zip(("value", "low", "high"), (value, *bounds), strict=True))


def tau_row(method: str, task: str, temperature: float, value: float, half: float | None = 0.1) -> dict[str, Any]:
    return {"method": method, "task": task, "temperature": temperature, "over_seeds": estimate(value, half)}


def gain_row(task: str, temperature: float, gain: float, method: str = "fspad") -> dict[str, Any]:
    gains = {f"gain_over_{what}": estimate(gain) for what in ("seeds", "questions")}
    return {"method": method, "against": "eagle", "task": task, "temperature": temperature, **gains}


def test_rows_are_picked_or_missed() -> None:
    rows = [{"a": 1, "b": 2}, {"a": 1, "b": 3}]
    assert acceptance.pick(rows, a=1, b=3) == [rows[1]]
    with pytest.raises(InputError, match="expected a row with {'a': 2}"):
        acceptance.pick(rows, a=2)


# --- acceptance ------------------------------------------------------------------------------------------------------


def test_pairs_are_counted_and_intervals_told() -> None:
    given = [3.0, 3.1, 3.2], [3.2, 3.0, 3.3], ["EAGLE-2", "FSPAD"], {"paired": Estimate(0.07, -0.1, 0.24)}
    assert sureness.pairs_claim(*given) == (
        "FSPAD is above EAGLE-2 in 2 of 3 seeds; the difference: paired from -0.10 to +0.24."
    )
    lines = sureness.seed_pairs(*given).axes[0].lines
    assert [tuple(line.get_ydata()) for line in lines] == [(3.0, 3.2), (3.1, 3.0), (3.2, 3.3)]


def test_every_resample_is_in_the_histogram() -> None:
    values = np.random.default_rng(0).normal(size=1000)
    panels = {"tau": (values, Estimate(0.0, *np.percentile(values, (2.5, 97.5))))}
    low = panels["tau"][1].low
    bars = sureness.resamples(panels).axes[0].patches
    assert sum(bar.get_height() for bar in bars) == 1000
    inside = sum(bar.get_height() for bar in bars if not bar.get_hatch())
    assert 900 <= inside <= 950, "the bars that a bound cuts count as outside"
    assert sureness.resamples_claim(panels).startswith(f"tau 0.00, bounds {low:.2f} and ")
    panels |= {"wider": (2 * values, panels["tau"][1])}
    left, right = sureness.resamples(panels, alike=list(panels)).axes
    assert left.get_xlim() == right.get_xlim()


def test_tau_is_compared_by_task_and_not_by_mean() -> None:
    rows = [tau_row(method, task, t, value + t, None if t else 0.1)
            for t in (0.0, 1.0)
            for task, values in {"qa": (3, 4), "rag": (5, 4), "mean": (4, 4)}.items()
            for method, value in zip(("eagle", "fspad"), values, strict=True)]  # fmt: skip
    assert acceptance.tau_claim(rows) == (
        "FSPAD's tau is above EAGLE-2's in 1 of 2 tasks at T=0 and in 1 of 2 tasks at T=1."
    )
    left, right = acceptance.tau_dots(rows).axes
    assert len(left.collections) == 6 and not right.collections, "one seed has no interval"
    assert [label.get_text() for label in left.get_yticklabels()] == ["qa", "rag", "mean"]


def test_gains_are_told_in_percent_with_what_was_published() -> None:
    rows = [
        gain_row(task, t, gain) for t in (0.0, 0.5) for task, gain in {"qa": 0.08, "rag": -0.02, "mean": 0.03}.items()
    ]
    claim = acceptance.gain_claim(rows)
    assert claim.startswith(
        "At T=0 the mean gain is +3.0% (+2.0% to +4.0% over seeds, +2.0% to +4.0% over questions), "
    )
    assert claim.count("positive in 1 of 2 tasks") == 2
    bands = [len(axes.patches) for axes in acceptance.gain_forest(rows, {"0": [0.06, 0.08]}).axes]
    assert bands == [1, 0], "nothing was published for T=0.5"


def test_weights_and_gains_of_all_kinds() -> None:
    drafts = [{"method": kind, "parameters": 1000 * (i + 1)} for i, kind in enumerate(KINDS)]
    taus = [tau_row(kind, "mean", 0.0, 3 + i) for i, kind in enumerate(KINDS)]
    gains = [gain_row("mean", 0.0, i / 100, kind) for i, kind in enumerate(KINDS) if i]
    assert acceptance.weight_claim(gains) == (
        "Gain in mean tau over EAGLE-2: at T=0 EAGLE-2 widened to FSPAD's size +4.0%, FSPAD +3.0%."
    )
    dots = acceptance.weight_dots(drafts, taus).axes[0].lines
    assert [line.get_ydata()[0] for line in dots] == [3, 4, 5, 6, 7]


def test_alpha_by_position() -> None:
    rows = [{"method": kind, "task": "all", "temperature": 0.0, "n": n, "over_seeds": estimate(0.8 - n / 10)}
            for kind in ("eagle", "fspad") for n in range(3)]  # fmt: skip
    assert acceptance.alpha_claim(rows) == (
        "n-alpha: FSPAD at T=0 from 0.80 to 0.60 over n = 0 to 2; EAGLE-2 at T=0 from 0.80 to 0.60 over n = 0 to 2."
    )
    assert len(acceptance.alpha_lines(rows, (0.7, 0.6)).axes[0].lines) == 3


def test_full_rounds_of_all_seeds() -> None:
    rows = [{"method": "fspad", "task": "all", "temperature": 1.0, "rounds_by_seed": [[1, 1, 2], [0, 0, 4]]}]
    assert "75% (FSPAD, T=1)" in acceptance.accepted_claim(rows)
    heights = [bar.get_height() for bar in acceptance.accepted_bars(rows).axes[0].patches]
    assert heights == pytest.approx([1 / 8, 1 / 8, 6 / 8])


# --- speed -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("curve", "best", "stops"),
    [({8: 1.5, 16: 2.0, 32: 1.5, 64: 0.5}, 16, 48.0), ({8: 1.5, 16: 1.2}, 8, None), ({8: 0.9, 16: 0.5}, 8, 8.0),
     ({8: 0.5, 16: 1.5, 32: 0.5}, 16, 24.0)],
)  # fmt: skip
def test_where_a_curve_stops_paying(curve: dict[int, float], best: int, stops: float | None) -> None:
    found = speedup.crossing(curve)
    assert (found.best, found.highest, found.stops) == (best, curve[best], stops)


def test_paying_is_drawn_and_told() -> None:
    curves = {"depth 5": {8: 1.5, 16: 2.0, 32: 0.5}, "depth 1": {8: 1.2, 16: 1.1}}
    assert speedup.pays_claim(curves) == (
        "Predicted speedup: depth 5 is best at 16 nodes with 2.0 and stops paying at about 27 nodes; "
        "depth 1 is best at 8 nodes with 1.2 and pays at all sizes shown."
    )
    assert isinstance(speedup.pays(curves, {"depth 5": {16: 2.4}}), Figure)
    with pytest.raises(InputError, match="at least one size"):
        speedup.crossing({})


def test_a_pass_in_plain_steps() -> None:
    measured = {1: 0.02, 60: 0.05}
    assert "60 nodes takes as long as 2.0 steps" in speedup.pass_claim(measured, 0.025)
    assert len(speedup.pass_times(measured, 0.025, "here").axes) == 2


def test_stages_add_up_in_the_picture() -> None:
    seconds = {stage: {"median": 0.001 * (i + 1)} for i, stage in enumerate(FORWARDS + OUTSIDE)}
    whole = sum(one["median"] for one in seconds.values())
    profile = {"name": "tuned", "temperature": 0.0, "seconds": seconds, "round": {"median": whole},
               "outside_share": {"median": 0.5}}  # fmt: skip
    left, right = speedup.stage_bars([profile]).axes
    assert sum(bar.get_width() for bar in left.patches) == pytest.approx(1e3 * whole)
    outside = sum(seconds[stage]["median"] for stage in OUTSIDE)
    assert sum(bar.get_width() for bar in right.patches) == pytest.approx(1e3 * outside)
    assert speedup.stage_claim([profile]) == (
        f"Share of a round: tuned at T=0: target {0.009 / whole:.0%}, outside 50.0%."
    )


def test_methods_are_ranked_by_the_clock() -> None:
    def row(method: str, fast: float) -> dict[str, Any]:
        times = {"speedup": fast, "by_repetition": [fast, fast + 0.1]}
        return {"method": method, "temperature": 0.0, "tau": 2.0, "tau_low": 1.5, "tau_high": 2.5} | times

    rows = [row("vanilla", 1.0), row("fspad", 1.8), row("eagle (fixed tree)", 1.9)]
    assert speedup.method_claim(rows) == (
        "Speedup over plain decoding: at T=0 the fastest is EAGLE-2 (fixed tree) with 1.90, FSPAD has 1.80 and is "
        "number 2 of 3."
    )
    names = [label.get_text() for label in speedup.method_bars(rows).axes[0].get_yticklabels()]
    assert names == ["FSPAD", "EAGLE-2 (fixed tree)"], "plain decoding is the line at 1"


def test_gain_and_price_make_the_speed() -> None:
    points = {("fspad", 0.0): (1.1, 1.21), ("fs", 1.0): (1.1, 1.045)}
    assert speedup.trade_claim(points) == (
        "Against EAGLE-2: FSPAD at T=0: tau +21.0%, time of a round +10.0%, speed +10.0%; "
        "feature sampling only at T=1: tau +4.5%, time of a round +10.0%, speed -5.0%."
    )
    drawn = speedup.trade_off(points).axes[0].lines[1:]
    assert [tuple(map(float, (*line.get_xdata(), *line.get_ydata()))) for line in drawn] == [
        (1.0, 1.0), (1.1, 1.21), (1.1, 1.045)]  # fmt: skip
    assert [line.get_fillstyle() for line in drawn] == ["full", "full", "none"]


def test_the_model_against_the_clock() -> None:
    row = {
        "method": "fspad",
        "temperature": 0.0,
        "ideal": 2.0,
        "predicted": 1.9,
        "measured": 1.8,
        "measured_of_ideal": 0.9,
    }
    other = row | {"measured": 1.6, "measured_of_ideal": 0.8}
    assert speedup.model_claim([row, other]) == (
        "Measured is 80% to 90% of the ideal; predictions are off by +6% to +19%."
    )
    assert isinstance(speedup.model_dots([row, other]), Figure)
