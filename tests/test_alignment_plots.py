"""Pictures of chapter 04: opaque, told apart without colour, and their claims say what the numbers say."""

import math

import pytest
import torch

from fspad_ref.lab.gradients import HeadScore, Meeting
from fspad_ref.show import alignment_plots as draw
from fspad_ref.show.teaching import small_png

SHIPPED = {
    "fs": {"last map": Meeting(0.2, -0.4, 0.1), "trunk": Meeting(0.3, math.nan, math.nan)},
    "fspad": {"last map": Meeting(0.0, 0.0, 0.0), "trunk": Meeting(0.3, 0.2, 0.15)},
}
LIVE = {
    kind: [{place: Meeting(0.5, cosine, 0.1) for place in ("last map", "trunk")} for cosine in cosines]
    for kind, cosines in (("fs", (0.8, 0.1)), ("fspad", (0.6, 0.7)))
}
SCORES = {
    "fs": {"one vector": HeadScore(0.8, 0.4, 0.8)},
    "fspad": {"u": HeadScore(1.2, 0.3, 0.9), "g": HeadScore(0.7, 0.9, 0.7)},
}
FED = {"fspad": {"the target's": SCORES["fspad"]["u"], "g": HeadScore(1, 0.5, 0.7), "u": HeadScore(1, 0.8, 0.7)}}


@pytest.fixture
def plane() -> draw.Plane:
    x, y = torch.linspace(-1, 1, 9), torch.linspace(0, 1, 5)
    heights = torch.stack(torch.meshgrid(x, y, indexing="xy"))  # (2, 5, 9)
    cosine = heights[0].sign()
    points = torch.tensor([[0.5, 0.5], [-0.5, 0.5]])
    first, second = torch.tensor([3.0, 0.0]), torch.tensor([-0.6, 0.8])
    return draw.Plane(x, y, heights[0] ** 2, heights[1] ** 2, cosine, points, *points, points.mean(0), first, second)


def test_figures_are_opaque_pngs(plane) -> None:
    figures = (
        draw.loss_pipeline(8, 16, 31),
        draw.kink_curve({0.5: 0.125, -2.0: 1.5}),
        draw.plane_map(plane),
        draw.cosine_panels([0, 5], LIVE, SHIPPED),
        draw.head_bars(SCORES),
        draw.fed_back_bars(FED),
    )
    for figure in figures:
        assert figure.get_facecolor() == (1, 1, 1, 1)
        assert small_png(figure).startswith(b"\x89PNG")


def test_claims_of_the_mechanisms(plane) -> None:
    assert "one vector of 8 numbers" in draw.pipeline_claim(8)
    assert "half the square (1 points), beyond it a straight line of slope 1 (2 points)" in draw.kink_claim(
        {0.5: 0.125, -2.0: 1.5, 3.0: 2.5}
    )
    assert draw.plane_claim(plane) == (
        "The two losses are smallest 1.00 apart. In 44 % of the picture their gradients oppose; at the marked point "
        "their cosine is -0.60."
    )


def test_cosines_are_told_as_signs() -> None:
    assert [draw.sign(x) for x in (0.01, -0.01, 0.0, math.nan)] == ["positive", "negative", "0", "lost in noise"]
    assert [draw.sign(x, 0.1) for x in (0.3, -0.3, 0.1, -0.1)] == ["positive", "negative", *["not clear of 0"] * 2]
    assert draw.cosine_claim(LIVE, SHIPPED) == (
        "Shipped drafts: last map, on the same batch: fs positive, fspad 0; "
        "last map, across batches: fs negative, fspad 0; "
        "trunk, on the same batch: fs positive, fspad positive; "
        "trunk, across batches: fs lost in noise, fspad not clear of 0. "
        "In the short training 1 of 2 cosines of the trunk end lower than they began."
    )


def test_both_measures_of_every_draft_are_drawn() -> None:
    figure = draw.cosine_panels([0, 5], LIVE, SHIPPED)
    left, right = figure.axes[0], figure.axes[1]
    drawn = [line for line in left.lines if len(line.get_xdata()) == 2 and list(line.get_xdata()) == [0, 5]]
    assert [list(line.get_ydata()) for line in drawn] == [[0.5, 0.5], [0.8, 0.1], [0.5, 0.5], [0.6, 0.7]]
    assert {line.get_linestyle() for line in drawn} == {"--", "-"}, "by more than colour"
    assert [line.get_ydata()[0] for line in right.lines if len(line.get_xdata()) == 1] == [0.2, -0.4, 0.0, 0.0]


def test_heads_are_compared_by_what_they_are_good_at() -> None:
    claim = draw.head_claim(SCORES)
    assert claim == "fspad: g is closer to the target's feature, u gives the better tokens."
    distance = draw.head_bars(SCORES).axes[0]
    assert [bar.get_height() for bar in distance.patches] == [0.8, 1.2, 0.7]
    assert len({bar.get_hatch() for bar in draw.fed_back_bars(FED).axes[0].patches}) == 3
    assert draw.fed_back_claim(FED) == "What serves the second step: fspad: best the target's, worst u."
