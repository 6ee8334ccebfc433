"""Chapter 02's figures say what their numbers say, and tell things apart without colour."""

import pytest
from matplotlib.figure import Figure

from fspad_ref.show import feature_plots as draw
from fspad_ref.show.feature_plots import Cloud, Score
from fspad_ref.show.teaching import small_png

OPEN = Cloud([" red", " $5", "\n"], [0.6, 0.39, 0.01], [(0, 0), (3, 0), (0, 9)], (1.2, 0.1), (-1, 2))
SURE = Cloud(["a", "b", "c"], [0.999, 0.001, 0.0], [(5, 5), (6, 5), (5, 7)], (5.0, 5.0), (4, 4))
CLOUDS = {"open": OPEN, "sure": SURE}
SCORES = {"one": Score((0.8, 0.9), (0.3, 0.1)), "two": Score((0.07, 0.44), (0.9, 0.4))}
CURVES = {"a": [0.5, 0.9, 1.0], "b": [0.95, 1.0]}
FLIPS = {"up": [0.0, 0.75], "down": [0.0, 0.0]}
MARKS = {"near": 0.14, "far": 1.04}


@pytest.mark.parametrize(
    "figure",
    [
        lambda: draw.pipeline(65, 192, 24, 4096),
        lambda: draw.shifted_pairs([" I", " am", " late", " $"]),
        lambda: draw.entropy_bars([" a", " $", "\n"], [0.0, 2.0, 0.5]),
        lambda: draw.feature_clouds(CLOUDS),
        lambda: draw.spread_scatter([1.0, 0.0, 0.1], [0.5, 0.0, 0.01], {"uncertain": 0, "certain": 1}),
        lambda: draw.guess_bars(SCORES),
        lambda: draw.variance_curves(CURVES),
        lambda: draw.distance_histograms([0.1, 0.5, 0.6], [0.9, 1.0, 1.1], MARKS),
        lambda: draw.direction_curves([0.1, 0.5], FLIPS),
    ],
)
def test_figures_are_opaque_pngs(figure) -> None:
    drawn = figure()
    assert isinstance(drawn, Figure) and drawn.get_facecolor() == (1, 1, 1, 1)
    assert small_png(drawn).startswith(b"\x89PNG")


def test_claims_are_counted_from_the_numbers() -> None:
    assert draw.entropy_claim([" a", " b", " c"], [0.0, 2.0, 1.5]) == (
        "2 of 3 tokens were drawn at an entropy above 1; the largest is before 'b'."
    )
    assert draw.clouds_claim(CLOUDS).endswith(
        "open: 3 next features of 1 % or more; sure: 1 next feature of 1 % or more."
    )
    assert draw.spread_claim([1.0] * 5, [1.0] * 5, 0.984).endswith("rank correlation at least 0.9.")
    assert draw.guess_claim(SCORES).endswith("one 80% (90%), two 7% (44%).")
    assert draw.variance_claim(CURVES) == "Directions that hold 90 % of the variance: a 2, b 1."
    assert draw.distance_claim(MARKS) == "In units of the typical distance: near 0.1, far 1.0."
    assert "up 75%, down 0% of the places" in draw.direction_claim([0.1, 0.5], FLIPS)
    assert "'late' with the token 'now'" in draw.shifted_claim([" am", " late", " now"])


def test_uncertain_tokens_are_hatched() -> None:
    axes = draw.entropy_bars(["a", "b", "c"], [0.2, 2.0, 0.5]).axes[0]
    height_of = {hatch: [b.get_height() for b in axes.patches if b.get_hatch() == hatch] for hatch in ("", "///")}
    assert height_of == {"": [0.2, 0.5], "///": [2.0]}


def test_clouds_share_one_scale_and_stand_around_their_means() -> None:
    left, right, below, other = draw.feature_clouds(CLOUDS).axes
    assert right.get_xlim() == other.get_xlim() and right.get_ylim() == other.get_ylim()
    assert [bar.get_width() for bar in left.patches] == OPEN.probability
    assert [label.get_text() for label in below.get_yticklabels()] == ["a  1", "b  2", "c  3"]
    first = other.collections[0].get_offsets()[0]
    assert tuple(first) == (0, 0), "the sure place's next feature is its mean"


def test_the_pairs_are_shifted_by_one() -> None:
    texts = [text.get_text() for text in draw.shifted_pairs(["I", "am", "late"]).axes[0].texts]
    read = [texts.index("$e_{t}$"), texts.index("$e_{t+1}$")]
    assert texts[read[0] - 1] == "$f_{t-1}$" and texts[read[1] - 1] == "$f_{t}$"
    assert texts[read[1] + 1] == "$f_{t+1}$", "what it should predict"
