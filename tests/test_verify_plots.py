"""Chapter 07's pictures: claims say what the numbers say, and the sketch of waiting adds up."""

import pytest
import torch
from matplotlib.figure import Figure

from fspad_ref import verify
from fspad_ref.errors import InputError
from fspad_ref.show import verify_plots as draw
from fspad_ref.show.toys import tree_of_guesses

WORDS = ["the", "and", "cat", "$ $"]  # the last would be mathematics to matplotlib


def test_the_bonus_token_has_a_place_of_its_own() -> None:
    tree = tree_of_guesses(0, {0: [2, 3], 2: [1]}, levels=2)
    for drawn in ([2, 3, 0, 0], [1, 1, 0, 0], [2, 1, 0, 0]):  # the walk takes one step, none, two
        verdict = verify(tree, torch.tensor(drawn), levels=2)
        boxes = draw.round_tree(tree, drawn, verdict, WORDS).axes[0].patches
        places = [(round(box.get_x() + 0.2, 3), round(box.get_y() + 0.21, 3)) for box in boxes]
        assert len(set(places)) == len(places) == len(tree) + 1, "no two boxes in one place"
        assert places[-1][0] == int(verdict.accepted) + 1, "the bonus token stands one step behind the walk's end"


@pytest.mark.parametrize("looks", [1, 4])
def test_the_sketch_of_waiting_adds_up(looks: int) -> None:
    """Taking turns costs 2 a step and 0.2 a look in between; overlapping costs 1 a step and 1 more at the end."""
    host, device = draw.lanes([1] * looks)
    assert sum(device[-1]) == pytest.approx(2 * looks + 0.2 * (looks - 1))
    assert sum(draw.lanes([looks])[1][-1]) == looks + 1
    for work, unit in zip(host, device, strict=True):
        assert unit[0] >= sum(work), "the device computes what has been queued"
    assert isinstance(draw.wait_lanes(looks), Figure)
    assert f"{looks + 1:.1f}" in draw.wait_claim(looks)


def test_the_matrix_claims_what_is_reached() -> None:
    tree = tree_of_guesses(0, {0: [2, 3], 2: [1]}, levels=2)
    drawn = torch.tensor([2, 1, 0, 0])
    matches = tree.token == drawn[tree.parent]
    matches[0] = True
    reached = (matches | ~tree.ancestors).all(dim=-1)
    assert draw.reach_claim(matches, reached) == "Of 4 nodes 3 match; reached are 0, 1, 3, one a depth."
    figure = draw.reach_matrix(tree, matches, reached, WORDS)
    hatched = [patch for patch in figure.axes[0].patches if patch.get_hatch()]
    assert len(hatched) == 2, "node 2 does not match: once above the matrix, once in its own row"


def test_the_cache_shows_what_moved() -> None:
    prefix, nodes = ["a"] * 7, ["r", "b", "c", "d", "a long word"]
    assert draw.cache_claim(prefix, nodes, [0, 2, 4]) == (
        "Of the tree's 5 entries rows 0, 2, 4 are kept; the length falls from 12 to 10."
    )
    assert "row 0 is kept" in draw.cache_claim(prefix, nodes, [0])
    texts = [text.get_text() for text in draw.cache_rows(prefix, nodes, [0, 2, 4]).axes[0].texts]
    before, after = texts[0:16:2], texts[1:16:2]
    assert before == ["a", "a", "a", "0\nr", "1\nb", "2\nc", "3\nd", "4\na long…"]
    assert after == ["a", "a", "a", "0\nr", "2\nc", "4\na long…", "?", "?"]


def test_a_cut_round_says_what_stays() -> None:
    rounds, accepted = [["a", "b"], ["c", "d", "e"]], [1, 2]
    assert draw.cut_claim(rounds, 3) == "The text ends in round 2: of the 3 tokens of that round 1 are kept."
    figure = draw.cut_rounds(rounds, accepted, 3)
    assert sum(patch.get_hatch() == "..." for patch in figure.axes[0].patches) == 2
    for kept in (2, 6):
        with pytest.raises(InputError, match="ends in the last"):
            draw.cut_rounds(rounds, accepted, kept)


def test_margins_are_compared_with_twice_the_error() -> None:
    errors = {"float32": 0.01, "bfloat16": 0.5}
    assert draw.margin_claim([0.5, 3.0, 0.03], errors) == (
        "Of 3 margins none is within twice the error of float32, some are within twice the error of bfloat16."
    )
    assert isinstance(draw.margin_steps([0.5, 3.0, 0.03], errors), Figure)
