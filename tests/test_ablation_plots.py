"""Pictures of the recorded trainings of chapter 05: opaque, told apart without colour, claims that count."""

import pytest

from fspad_ref.errors import InputError
from fspad_ref.lab.statistics import Estimate
from fspad_ref.show import ablation_plots as draw
from fspad_ref.show.teaching import small_png

LOSSES = {"eagle": [8.0, 6.0, 5.0, 4.0, 4.0, 4.0], "fspad": [8.0, 5.0, 4.0, 4.0, 3.0, 3.0]}
LOOKED = {"eagle": [(2, 2.0), (6, 3.0)], "fspad": [(2, 2.0), (6, 5.0)]}
BY_SEED = {
    0.0: {"eagle": [3.0, 3.1, 3.2], "fspad": [3.5, 3.4, 3.6], "eagle_wide": [3.2, 3.5, 3.3]},
    1.0: {"eagle": [2.0, 2.1, 2.2], "fspad": [2.5, 2.4, 2.6], "eagle_wide": [2.2, 2.2, 2.3]},
}
HIGHER, LOWER, UNCLEAR = Estimate(0.3, 0.1, 0.5), Estimate(-0.3, -0.5, -0.1), Estimate(0.1, -0.1, 0.3)
DIFFERENCES = {"fs - eagle": {0.0: HIGHER, 1.0: UNCLEAR}, "pad - eagle": {0.0: LOWER, 1.0: LOWER}}


def test_figures_are_opaque_pngs() -> None:
    figures = (
        draw.long_training(LOSSES, {"eagle": [9.0, 7.0, 6.0]}, LOOKED, smooth=2),
        draw.seed_dots(BY_SEED),
        draw.difference_rows(DIFFERENCES),
    )
    for figure in figures:
        assert figure.get_facecolor() == (1, 1, 1, 1)
        assert small_png(figure).startswith(b"\x89PNG")


def test_how_far_loss_and_tau_are_at_the_first_look() -> None:
    fallen, risen = draw.shares_at_first_look(LOSSES, LOOKED, window=1)
    assert fallen == {"eagle": 0.5, "fspad": 0.6} and risen == {"eagle": 0.5, "fspad": 0.25}
    assert draw.long_claim({"eagle": [8.0] * 50 + [6.0] * 50 + [4.0] * 50}, {"eagle": [(100, 2.0), (150, 3.0)]}) == (
        "At step 100 of 150, 50 % of the fall of the logit loss is done, and 50 % of the rise of tau."
    )


def test_orders_are_counted_seed_by_seed() -> None:
    assert draw.orders(BY_SEED[0.0]) == [
        ("fspad", "eagle_wide", "eagle"),
        ("eagle_wide", "fspad", "eagle"),
        ("fspad", "eagle_wide", "eagle"),
    ]
    assert draw.seed_claim(BY_SEED) == (
        "At T=0 3 seeds put the kinds in 2 orders; at T=1 3 seeds put the kinds in 1 order."
    )


def test_every_training_is_one_dot_and_seeds_are_joined() -> None:
    left, right = draw.seed_dots(BY_SEED).axes
    assert [len(dots.get_offsets()) for dots in left.collections if len(dots.get_offsets()) > 1] == [3, 3, 3]
    assert [list(line.get_ydata()) for line in right.lines] == [[2.0, 2.5, 2.2], [2.1, 2.4, 2.2], [2.2, 2.6, 2.3]]


def test_a_difference_is_clear_of_zero_if_its_interval_is() -> None:
    assert [draw.sign(one) for one in (HIGHER, LOWER, UNCLEAR)] == ["above 0", "below 0", "not clear of 0"]
    assert draw.difference_claim(DIFFERENCES) == (
        "T=0: above 0: fs - eagle; below 0: pad - eagle; not clear of 0: none. "
        "T=1: above 0: none; below 0: pad - eagle; not clear of 0: fs - eagle."
    )
    with pytest.raises(InputError, match="two seeds or more"):
        draw.sign(Estimate(0.3, None, None))


def test_temperatures_are_told_apart_without_colour() -> None:
    (axes,) = draw.difference_rows(DIFFERENCES).axes
    marks = [line for line in axes.lines if len(line.get_xdata()) == 1]
    assert [line.get_marker() for line in marks] == ["o", "s", "o", "s"]
    assert [line.get_xdata()[0] for line in marks] == [0.3, 0.1, -0.3, -0.3]
