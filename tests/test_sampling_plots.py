"""Chapter 03's pictures: their claims say what the numbers say, and every picture can be drawn."""

import io

import pytest
import torch
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from fspad_ref.show import sampling_plots as draw
from fspad_ref.show.plots import BLUE, ORANGE

EYE, HALF = torch.eye(2), 0.5 * torch.eye(2)
GRID = {"linear": {"door": HALF, "book": HALF.clone()}, "gated": {"door": EYE, "book": EYE.flip(0)}}
CHANGES = {"EAGLE": {"the fusion": 0.0, "the draft": 0.25}, "FS": {"the fusion": 0.5, "the draft": 0.75}}
GATES = torch.tensor([[0.2, -0.1, 0.3, 0.0], [-0.2, -0.1, 0.3, 0.1]])
TRUTH = torch.tensor([[0.0, 0, 0], [3, 0, 0], [0, 4, 0]])
GUESSES = {"EAGLE": TRUTH + torch.tensor([0.0, 0, 2]), "FS": TRUTH + torch.tensor([[0.0, 0, 1], [0, 0, 1], [0, 0, 4]])}
ERRORS = {"EAGLE": torch.tensor([0.5, 0.75, 1.0]), "FS": torch.tensor([0.25, 1.0, 0.25])}
THIRDS = {
    "distance": {"EAGLE": {"sure": 2.0, "unsure": 3.0}, "FS": {"sure": 1.0, "unsure": 4.0}},
    "agreement": {"EAGLE": {"sure": 0.5, "unsure": 0.25}, "FS": {"sure": 0.75, "unsure": 0.5}},
}

FIGURES = {
    "fusions": lambda: draw.fusions(192, 512),
    "jacobian grid": lambda: draw.jacobian_grid(GRID),
    "jacobian changes": lambda: draw.jacobian_changes(CHANGES),
    "gate heatmap": lambda: draw.gate_heatmap(GATES, ["$a", "b$"]),
    "fork": lambda: draw.fork(TRUTH, GUESSES, ["a", "b", "c"]),
    "places": lambda: draw.places_scatter(ERRORS),
    "thirds": lambda: draw.thirds_bars(THIRDS),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_drawn(name: str) -> None:
    figure = FIGURES[name]()
    assert isinstance(figure, Figure)
    figure.savefig(io.BytesIO(), format="png")


def test_claims_count_what_the_numbers_say() -> None:
    assert draw.fusions_claim(192, 512).startswith("Both map [e ; f], 384 numbers, to h, 192 numbers")
    assert draw.jacobian_claim(GRID) == (
        "linear: the same Jacobian for 2 tokens; gated: 2 different Jacobians for 2 tokens."
    )
    assert draw.jacobian_changes_claim(CHANGES) == (
        "How much the Jacobian depends on the token, the fusion: EAGLE 0%, FS 50%; the draft: EAGLE 25%, FS 75%."
    )
    assert draw.gate_claim(GATES).startswith("1 of 4 units have a positive gate for one of the 2 tokens")
    assert draw.fork_claim(TRUTH, GUESSES) == (
        "Mean distance in all 3 dimensions: EAGLE 2.0, FS 2.0; FS is nearer for 2 of 3."
    )
    assert draw.places_claim(ERRORS) == ("The error of FS is smaller at 2 of 3 places; means: EAGLE 0.75, FS 0.50.")
    assert draw.thirds_claim(THIRDS) == (
        "FS is better than EAGLE by distance in 1 of 2 thirds, by agreement in 2 of 2 thirds."
    )


def test_the_correlation_of_gates_is_the_mean_over_pairs() -> None:
    rows = torch.tensor([[1.0, 2, 3], [2, 4, 6], [3, 2, 1]])  # correlations 1, -1, -1
    assert draw.gate_claim(rows).endswith("mean correlation of -0.33.")


def test_the_heatmap_is_sorted_by_its_first_row() -> None:
    picture = draw.gate_heatmap(GATES, ["a", "b"]).axes[0].images[0].get_array()
    assert torch.tensor(picture[0]).tolist() == GATES[0].sort(descending=True).values.tolist()
    assert torch.tensor(picture[1]).tolist() == GATES[1][[2, 0, 3, 1]].tolist()


def test_the_fork_is_drawn_in_the_plane_of_the_truths() -> None:
    """Errors at right angles to that plane do not show in it: the guesses of this test lie on their truths."""
    for axes in draw.fork(TRUTH, GUESSES, ["a", "b", "c"]).axes:
        points = torch.tensor([line.get_xydata()[0].tolist() for line in axes.lines if len(line.get_xdata()) == 1])
        true, guessed = points[::2], points[1::2]
        assert torch.allclose(true, guessed, atol=1e-5)
        assert torch.allclose(torch.pdist(true).sort().values, torch.tensor([3.0, 4, 5], dtype=true.dtype), atol=1e-5)


def test_the_two_sides_of_the_scatter_have_their_colours() -> None:
    below, above = draw.places_scatter(ERRORS).axes[0].lines[1:]
    assert to_rgba(below.get_color()) == to_rgba(BLUE) and below.get_xdata().tolist() == [0.5, 1.0]
    assert to_rgba(above.get_color()) == to_rgba(ORANGE) and above.get_xdata().tolist() == [0.75]
