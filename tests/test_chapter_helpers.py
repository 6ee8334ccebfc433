"""What the chapters stand on: exact laws, the G-test, figures with claims, exercises and their folded solutions."""

import base64
import json
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from figures import lossless_plots
from figures.toys import tree_of_guesses
from matplotlib.figure import Figure
from scipy.stats import chi2

from fspad_ref import verify
from fspad_ref.errors import InputError
from fspad_ref.teaching import exact
from fspad_ref.teaching import exercises as teaching
from fspad_ref.teaching.exact import as_law, dice, g_test, image, law_of, law_of_text, normalised, total_variation

HALF, QUARTER = Fraction(1, 2), Fraction(1, 4)
WORDS = ["a", "b", "c"]


def test_law_of_finds_every_branch() -> None:
    def until_tails(choose):  # the number of choices depends on the choices
        heads = 0
        while heads < 3 and choose([HALF, HALF]):
            heads += 1
        return heads

    assert law_of(until_tails) == {0: HALF, 1: QUARTER, 2: Fraction(1, 8), 3: Fraction(1, 8)}


@pytest.mark.parametrize("weights", [[HALF, QUARTER], [Fraction(3, 2), -HALF]])
def test_law_of_refuses_what_are_no_probabilities(weights) -> None:
    with pytest.raises(InputError, match="sum to 1"):
        law_of(lambda choose: choose(weights))
    with pytest.raises(InputError, match="positive weight"):
        normalised([0, 0])


def test_law_of_text_goes_through_rounds_and_cuts() -> None:
    """Rounds of one or of two tokens, from the same law: the text cannot tell."""
    one, two = {(0,): HALF, (1,): HALF}, {(a, b): QUARTER for a in (0, 1) for b in (0, 1)}
    by_ones, by_twos = (law_of_text(lambda text, law=law: law, (), 3) for law in (one, two))
    assert by_ones == by_twos and len(by_ones) == 8 and set(by_ones.values()) == {Fraction(1, 8)}
    mixed = law_of_text(lambda text: two if text[-1] == 9 else one, (9,), 3)
    assert total_variation(mixed, by_ones) == 0
    assert total_variation({(0,): Fraction(1)}, one) == HALF


def test_the_p_value_is_the_chi_square_tail() -> None:
    law = as_law([HALF, QUARTER, QUARTER])
    g = 2 * sum(o * torch.tensor(o / e).log().item() for o, e in ((40, 50), (35, 25), (25, 25)))
    assert g_test({0: 40, 1: 35, 2: 25}, law) == pytest.approx(chi2.sf(g, 2), rel=1e-5)
    assert g_test({0: 50, 1: 25, 2: 25}, law) == 1
    assert g_test({0: 50, 1: 25, 3: 25}, law) == 0, "the law excludes 3"
    with pytest.raises(InputError, match="at least 5 runs"):
        g_test({0: 5, 1: 5, 2: 5}, law)


def test_dice_draw_with_their_weights_and_repeat() -> None:
    law = as_law([QUARTER, HALF, QUARTER])
    first, again = ([choose([QUARTER, HALF, QUARTER]) for _ in range(400)] for choose in (dice(3), dice(3)))
    assert first == again and g_test({x: first.count(x) for x in law}, law) > 1e-3


def test_described_laws_name_words_but_not_flags() -> None:
    law = {(0, True): HALF, (2, False): HALF}
    assert exact.describe(law, WORDS) == "a True: 1/2, c False: 1/2"
    assert exact.describe(image(law, lambda x: x[0])) == "0: 1/2, 2: 1/2"


# --- pictures --------------------------------------------------------------------------------------------------------


def test_claims_say_what_the_laws_say() -> None:
    law, other = as_law([HALF, QUARTER, QUARTER]), as_law([HALF, HALF])
    assert lossless_plots.law_claim(law, law, WORDS) == "The two laws are the same: total variation exactly 0."
    assert lossless_plots.law_claim(law, other, WORDS) == ("Too often: b; too seldom: c. Total variation 1/4 = 0.250.")
    strips = {"x": {(0, True): HALF, (1, False): HALF}, "y": {(0, False): HALF, (1, False): HALF}}
    assert lossless_plots.interval_claim(strips).endswith("in all strips. Accepted: x 1/2, y 0.")
    strips["y"] = {(0, False): Fraction(1)}
    assert "does not have" in lossless_plots.interval_claim(strips)


def test_figures_are_opaque_and_tell_bars_apart_without_colour() -> None:
    law, other = as_law([HALF, QUARTER, QUARTER]), as_law([HALF, HALF])
    bars = lossless_plots.law_bars(law, other, WORDS, "A rule")
    assert {bar.get_hatch() for bar in bars.axes[0].patches} == {"", "///"}
    strips = lossless_plots.interval_strips({"x": {(0, True): HALF, (1, False): HALF}}, WORDS)
    counts = lossless_plots.count_panels({"x": {0: 20, 1: 12, 2: 8}, "y": {0: 40, 1: 0, 2: 0}}, law, WORDS)
    margins = lossless_plots.margin_bars({"right": Fraction(0), "wrong": QUARTER})
    for figure in (bars, strips, counts, margins):
        assert figure.get_facecolor() == (1, 1, 1, 1)
        assert teaching.small_png(figure).startswith(b"\x89PNG")


def test_the_walk_marks_the_path() -> None:
    tree = tree_of_guesses(0, {0: [1, 2], 1: [2]}, levels=2)
    drawn = torch.tensor([1, 0, 0, 0])
    verdict = verify(tree, drawn, 2)
    assert lossless_plots.walk_claim(tree, drawn, verdict, WORDS) == (
        "Of 3 guesses the walk accepts 'b' and adds 'a': 2 tokens from one pass of the target."
    )
    axes = lossless_plots.tree_walk(tree, drawn, verdict, WORDS).axes[0]
    assert len(axes.patches) == len(tree) + 1, "every node and the bonus token"


# --- what a cell shows -----------------------------------------------------------------------------------------------


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict, dict | None]]:
    """What cells hand to the notebook: (data, metadata)."""
    seen = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw, metadata=None: seen.append((data, metadata)))
    return seen


def test_a_figure_comes_with_its_claim(shown: list, capsys: pytest.CaptureFixture) -> None:
    teaching.show_figure(Figure(figsize=(2, 1), dpi=100), "One thing is shown.")
    ((data, metadata),) = shown
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert metadata == {"image/png": {"width": 200, "height": 100, "alt": "One thing is shown."}}
    assert capsys.readouterr().out == "Figure: One thing is shown.\n"


def test_exercises_wait_then_judge(capsys: pytest.CaptureFixture) -> None:
    for answer in (..., 3, 4):
        teaching.check_answer("exercise", answer, lambda given: given == 4)
    assert capsys.readouterr().out.splitlines() == [
        "exercise: waiting for your answer",
        "exercise: not right yet",
        "exercise: right",
    ]


@pytest.mark.parametrize(("solution", "passes"), [("answer = 4", True), ("answer = 5", False), ("answer = ...", False)])
def test_folded_solutions_are_tried(tmp_path: Path, capsys: pytest.CaptureFixture, solution: str, passes: bool) -> None:
    chapter = tmp_path / "chapter.ipynb"
    test = {"cell_type": "code", "source": ["check_answer('1', answer, lambda x: x == 2 * two)"]}
    folded = {"cell_type": "markdown", "source": f"<details>\n\n```python\n{solution}\n```\n\n</details>"}
    chapter.write_text(json.dumps({"cells": [test, folded]}))
    mine = {"answer": ..., "two": 2, "check_answer": teaching.check_answer}
    if passes:
        teaching.check_solutions(chapter, mine)
        assert capsys.readouterr().out == "1 of 1 folded solutions pass their checks: True\n"
    else:
        with pytest.raises(AssertionError, match="does not pass"):
            teaching.check_solutions(chapter, mine)
    assert mine["answer"] is ..., "the reader's answers stay as they are"


def test_sources_come_without_their_docstring(shown: list) -> None:
    teaching.show_source(normalised)
    code = shown[0][0]["text/plain"]
    assert code.startswith("def normalised(") and "total = sum(weights)" in code and '"""' not in code
