"""Pictures of chapter 05: opaque, told apart without colour, and their claims say what the numbers say."""

import pytest
import torch

from fspad_ref.errors import InputError
from fspad_ref.show import pair_plots
from fspad_ref.show import training_plots as draw
from fspad_ref.show.teaching import small_png

TOKENS = ["<user>", "Who", "?", "A", "fox", "."]
RESPONSE = [False, False, False, True, True, True]
TRAINED = [False, False, True, True, False]
RATES = {"linear": [0.5, 1.0, 0.5], "none": [0.5, 1.0, 1.0]}
FEATURE = {"eagle": [3.0, 2.0, 2.0, 1.0], "fspad": [3.0, 2.0, 2.5, 4.0]}
LOGIT = {"eagle": [8.0, 7.0, 6.0, 5.0], "fspad": [8.0, 7.0, 6.0, 5.0]}
NORMS = {"eagle": [1.5, 0.4, 0.2, 0.1], "fspad": [0.4, 0.6, 0.4, 0.6]}
TAU = {"eagle": [(0, 1.0), (40, 1.5)], "fspad": [(0, 1.0), (40, 1.0)]}
LIVE = {"eagle": torch.tensor([[0.5, 0.7], [0.3, 0.6]]), "fspad": torch.tensor([[0.5, 0.7], [0.5, 0.8]])}
SHIPPED = {kind: table + torch.tensor([[0.1, 0.1], [0.1, -0.1]]) for kind, table in LIVE.items()}
BOTH = {"eagle": (1.5, 4.0), "fspad": (1.0, 0.9)}


def test_figures_are_opaque_pngs() -> None:
    figures = (
        pair_plots.pair_strip(TOKENS, RESPONSE, TRAINED),
        pair_plots.step_flow(list(LIVE), 4, 96, 32),
        draw.schedule_curves(RATES, 1),
        draw.loss_curves(FEATURE, LOGIT),
        draw.norm_curves(NORMS, 0.5),
        draw.tau_curves(TAU),
        draw.accuracy_panels(LIVE, (1, 3)),
        draw.live_against_shipped(LIVE, SHIPPED, BOTH, (1, 3), 3),
    )
    for figure in figures:
        assert figure.get_facecolor() == (1, 1, 1, 1)
        assert small_png(figure).startswith(b"\x89PNG")


def test_pairs_that_do_not_fit_are_refused() -> None:
    assert pair_plots.pair_claim(RESPONSE, TRAINED) == (
        "6 tokens make 5 pairs; 2 of them count in the loss, and the first of these has its feature on the last token "
        "of the prompt."
    )
    assert "inside the response" in pair_plots.pair_claim(RESPONSE, [False] * 3 + [True, False])
    with pytest.raises(InputError, match="found 6 tokens, 6 of the response mask and 6 pairs"):
        pair_plots.pair_strip(TOKENS, RESPONSE, [*TRAINED, False])


def test_claims_of_curves_count() -> None:
    assert "serves 2 drafts" in pair_plots.flow_claim(list(LIVE))
    assert draw.schedule_claim(RATES) == (
        "The rate is highest at step 1. Left of it in the last step: linear 50 %, none 100 %."
    )
    assert draw.loss_claim(FEATURE, LOGIT, window=1) == "3 of 4 curves end lower than they began."
    assert draw.norm_claim(NORMS, 0.5) == (
        "The first gradient of 1 of 2 drafts is longer than the limit; in the second half of the training 1 of 2 are "
        "clipped less often than in the first."
    )
    assert draw.tau_claim(TAU) == "tau of 1 of 2 drafts is higher at the last look than at the first."
    assert draw.accuracy_claim(LIVE, (1, 3)) == "2 of 4 curves are lower at depth 2 than at depth 1."
    assert draw.against_claim(LIVE, SHIPPED, BOTH, (1, 3), 3) == (
        "The shipped draft is above the short training of its kind at 2 of 4 points of the curves, and in tau for 1 of "
        "2 drafts."
    )


def test_curves_are_smoothed_around_their_middle() -> None:
    panel = draw.loss_curves({"eagle": [1.0, 2.0, 6.0, 4.0, 2.0]}, {"eagle": [1.0, 2.0]}, smooth=3).axes[0]
    raw, smooth = panel.lines
    assert list(raw.get_ydata()) == [1, 2, 6, 4, 2]
    assert list(smooth.get_xdata()) == [2, 3, 4] and list(smooth.get_ydata()) == [3, 4, 4]


def test_what_was_trained_here_is_told_from_what_is_shipped_without_colour() -> None:
    left, right = draw.live_against_shipped(LIVE, SHIPPED, BOTH, (1, 3), 3).axes
    assert [line.get_linestyle() for line in left.lines] == ["-", "-", "--", "--"]
    assert {bar.get_hatch() for bar in right.patches} == {"///", ""}
    assert [bar.get_height() for bar in right.patches] == [1.5, 4.0, 1.0, 0.9]
