"""What the pictures of chapter 00 say, and that the map of the book is true of the files."""

import math
import re
from pathlib import Path

import pytest
import torch

from fspad_ref import verify
from fspad_ref.errors import InputError
from fspad_ref.generate import Generation
from fspad_ref.show import idea_plots as draw
from fspad_ref.show.book_map import BOOK, MODULES, PARTS, book_map, map_claim
from fspad_ref.show.toys import tree_of_guesses

TOP = Path(__file__).parent.parent
WORDS = ["The", " red", " fox", ""]
FULL = Generation(tokens=list(range(8)), accepted=[3, 0, 1])  # 1 + 4 + 1 + 2
CUT = Generation(tokens=list(range(7)), accepted=[3, 0, 1])  # the text ends with the last round's guess


def test_gains_add_up_to_the_text() -> None:
    assert draw.gains(FULL) == [(3, 1), (0, 1), (1, 1)]
    assert draw.gains(CUT) == [(3, 1), (0, 1), (1, 0)]
    for result in (FULL, CUT):
        assert math.isclose(sum(map(sum, draw.gains(result))) / len(result.accepted), result.tau)
    assert draw.gains(Generation(tokens=[5])) == []
    for wrong in (Generation([1, 2], [5]), Generation([1, 2, 3], [0]), Generation()):
        with pytest.raises(InputError, match="rounds to make"):
            draw.gains(wrong)


def test_bars_are_as_high_as_the_gains() -> None:
    assert (
        draw.gain_claim({"a": FULL, "b": CUT})
        == "a needs 3 rounds of 1 to 4 tokens; b needs 3 rounds of 1 to 4 tokens."
    )
    top, bottom = draw.gain_bars({"a": FULL, "b": CUT}).axes
    heights = [bar.get_height() for bar in bottom.patches]
    assert heights == [3, 0, 1, 1, 1, 0]
    assert {bar.get_hatch() for bar in top.patches} == {"", "///"}
    assert top.lines[0].get_ydata()[0] == FULL.tau


def test_stairs_end_where_the_text_ends() -> None:
    passes = {"plain": [1] * 8, "draft": [1, 4, 1, 2]}
    assert draw.pass_claim(passes) == "plain 8 tokens in 8 passes, draft 8 tokens in 4 passes."
    plain, draft = draw.pass_steps(passes).axes[0].lines
    assert list(draft.get_ydata()) == [1, 5, 6, 8] and list(draft.get_xdata()) == [1, 2, 3, 4]
    assert plain.get_marker() != draft.get_marker()


@pytest.mark.parametrize(
    ("wanted", "claim"),
    [
        ([1, 2, 0, 3], "Of 3 guesses the target accepts 2, ' red fox', and adds '': 3 tokens from one pass."),
        ([0, 2, 0, 3], "Of 3 guesses the target accepts none and adds 'The': 1 token from one pass."),
    ],
)
def test_a_round_marks_what_stays(wanted: list[int], claim: str) -> None:
    tree = tree_of_guesses(0, {0: [1, 2], 1: [2]}, levels=2)  # The, red, fox, red fox
    wanted = torch.tensor(wanted)
    verdict = verify(tree, wanted, 2)
    assert draw.round_claim(tree, verdict, WORDS) == claim
    guess, look, keep = draw.round_steps(tree, wanted, verdict, WORDS).axes
    assert len(guess.patches) == len(look.patches) == len(tree)
    assert len(keep.patches) == int(verdict.accepted) + 2, "the root, the accepted guesses, the bonus token"
    assert {text.get_text() for text in guess.texts} == {"The", "·red", "·fox"}


def test_rows_put_parents_between_their_children() -> None:
    assert draw.rows_of([0, 0, 0, 1, 1, 2]) == [1.25, 0.5, 2.0, 0.0, 1.0, 2.0]
    assert draw.rows_of([0, 0, 1]) == [0.0, 0.0, 0.0]
    rows = draw.rows_of([0, 0, 0, 0, 2])  # a leaf before and after an inner node
    assert len(set(rows[1:4])) == 3


def test_gates_are_compared_direction_by_direction() -> None:
    gates = {"a": [0.1 * place for place in range(40)], " b": [0.1 * place - 1 for place in range(40)]}
    assert draw.sampling_claim(gates).endswith("'a' and ' b' have gates of opposite sign in 10 of 40 directions.")
    figure = draw.sampling_idea(gates)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[2:] == ["Gate of 'a'", "Gate of '·b'"]
    assert [len(axes.patches) for axes in figure.axes[2:]] == [draw.SHOWN] * 2
    assert len(figure.axes[1].patches) == len(figure.axes[0].patches) + 1, "the gate is what FSPAD adds"


def test_figures_are_opaque() -> None:
    for figure in (draw.alignment_idea(), book_map(), draw.gain_bars({"a": FULL})):
        assert figure.get_facecolor() == (1, 1, 1, 1)
    assert "vector u" in draw.alignment_claim()


# --- the map ---------------------------------------------------------------------------------------------------------


def test_the_map_names_files_that_exist() -> None:
    for module in MODULES:
        place = TOP / "fspad_ref" / module
        assert place.is_dir() if module.endswith("/") else place.is_file(), f"the map names {module}"
    assert {module for chapter in BOOK for module in chapter.modules} == set(MODULES)
    assert {chapter.part for chapter in BOOK} == set(PARTS)


def test_the_map_knows_every_chapter() -> None:
    assert [chapter.number for chapter in BOOK] == list(range(len(BOOK)))
    there = {int(re.match(r"\d\d", path.name)[0]) for path in (TOP / "notebooks").glob("[0-9][0-9]_*.ipynb")}
    assert there and there <= {chapter.number for chapter in BOOK}


def test_the_map_says_how_large_it_is() -> None:
    assert map_claim(BOOK[:3]).startswith("3 chapters, 4 modules: speculative decoding in 00, 01; FSPAD in 02")
    lines = book_map().axes[0].lines
    assert len(lines) == sum(len(chapter.modules) for chapter in BOOK)
