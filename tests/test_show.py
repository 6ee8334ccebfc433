"""Figures are opaque, made without pyplot, and say in words what they show; tokens are marked without colour, too."""

import io
import subprocess
import sys

import pytest
from matplotlib.figure import Figure

from fspad_ref.errors import InputError
from fspad_ref.teaching import exercises as teaching
from fspad_ref.viz import style as plots
from fspad_ref.viz.style import Curve, Measure

ROWS = [
    Measure(task, method, temperature, value + 0.1 * temperature, value - 0.2, value + 0.3)
    for temperature in (0.0, 1.0)
    for task, eagle, fspad in (("translation", 3.0, 3.5), ("qa", 4.0, 3.9), ("rag", 1.5, 2.0))
    for method, value in (("EAGLE-2", eagle), ("FSPAD", fspad))
]
CURVES = {"EAGLE-2": Curve([0, 10, 20], [3.0, 1.0, 0.5], [0, 20], [1.0, 2.5]), "FSPAD": Curve([0, 10], [3.0, 0.9])}


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "figure",
    [
        lambda: plots.token_strip(["a", " $5", "\n", ""], ["prompt", "target", "draft", "draft"], "An answer"),
        lambda: plots.acceptance_bars(ROWS),
        lambda: plots.speedup_bars(ROWS),
        lambda: plots.training_curves(CURVES),
    ],
)
def test_figures_are_opaque_pngs(figure) -> None:
    drawn = figure()
    assert drawn.get_facecolor() == (1, 1, 1, 1)
    assert png(drawn).startswith(b"\x89PNG")


def test_bars_have_the_heights_they_were_given() -> None:
    panel, last = plots.acceptance_bars(ROWS).axes
    heights = [bar.get_height() for bar in panel.patches]
    assert heights == [row.value for method in ("EAGLE-2", "FSPAD") for row in ROWS[:6] if row.method == method]
    assert len({bar.get_hatch() for bar in panel.patches}) == 2, "methods must differ by more than colour"
    assert [label.get_text() for label in last.get_xticklabels()] == ["translation", "qa", "rag"]


def test_a_mean_is_drawn_but_is_no_task() -> None:
    rows = [*ROWS, Measure("mean", "EAGLE-2", 0.0, 2.8), Measure("mean", "FSPAD", 0.0, 3.1)]
    assert plots.acceptance_claim(rows, "FSPAD", "EAGLE-2") == plots.acceptance_claim(ROWS, "FSPAD", "EAGLE-2")
    assert plots.speedup_claim(rows, "FSPAD") == plots.speedup_claim(ROWS, "FSPAD")
    assert len(plots.acceptance_bars(rows).axes[0].patches) == len(plots.acceptance_bars(ROWS).axes[0].patches) + 2


def test_claims_are_counted_from_the_numbers() -> None:
    assert plots.acceptance_claim(ROWS, "FSPAD", "EAGLE-2") == (
        "FSPAD's tau is above EAGLE-2's in 2 of 3 tasks at T=0 and in 2 of 3 tasks at T=1."
    )
    assert plots.speedup_claim(ROWS[:6], "FSPAD") == "FSPAD is faster than plain decoding in 3 of 3 tasks at T=0."
    assert plots.training_claim(CURVES) == (
        "The loss of 2 of 2 drafts fell; the largest tau at the end is EAGLE-2's."
    )
    kinds = ["prompt", "target", "draft", "draft"]
    assert plots.token_claim(kinds) == (
        "2 of 3 tokens were proposed by the draft and accepted; 1 are the target's own."
    )


def test_a_long_strip_wraps_and_keeps_every_token() -> None:
    axes = plots.token_strip(["word "] * 40, ["draft", "target"] * 20, columns=50).axes[0]
    assert len(axes.patches) == 40
    assert {patch.get_y() for patch in axes.patches} == {0, 1, 2, 3}
    assert max(patch.get_x() + patch.get_width() for patch in axes.patches) == 50


def test_strip_refuses_what_it_cannot_draw() -> None:
    with pytest.raises(InputError, match="one kind a token"):
        plots.token_strip(["a", "b"], ["draft"])
    with pytest.raises(InputError, match="banana"):
        plots.token_strip(["a"], ["banana"])


def test_plots_leave_pyplot_and_the_settings_alone() -> None:
    code = """
import sys, matplotlib
def settings():  # asking for the backend would choose one
    return {name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}
before = settings()
from fspad_ref.viz.style import Curve, training_curves
training_curves({"a": Curve([0], [1.0])})
assert "matplotlib.pyplot" not in sys.modules
assert settings() == before
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_check_prints_or_raises(capsys: pytest.CaptureFixture) -> None:
    teaching.check("two is even", 2 % 2 == 0)
    assert capsys.readouterr().out == "two is even: True\n"
    with pytest.raises(AssertionError, match="three is even: expected True, found False"):
        teaching.check("three is even", 3 % 2 == 0)


@pytest.mark.parametrize(
    ("length", "accepted", "kinds"),
    [
        (0, [], ""),
        (1, [], "t"),
        (6, [2, 1], "tddtdt"),
        (5, [2, 1], "tddtd"),  # the last round's own token fell to the end of the budget
        (3, [0, 0], "ttt"),
    ],
)
def test_token_kinds(length: int, accepted: list[int], kinds: str) -> None:
    assert "".join(kind[0] for kind in teaching.token_kinds(length, accepted)) == kinds


@pytest.mark.parametrize(("length", "accepted"), [(7, [2, 1]), (4, [2, 1]), (0, [0]), (2, [])])
def test_token_kinds_refuses_rounds_that_do_not_add_up(length: int, accepted: list[int]) -> None:
    with pytest.raises(InputError):
        teaching.token_kinds(length, accepted)


def test_marks_need_no_colour() -> None:
    words, kinds = ["the", " red", " fox", "."], ["target", "draft", "draft", "target"]
    assert teaching.mark(words, kinds, "marks") == "the‹ red fox›."
    assert teaching.mark(words, kinds, "plain") == "the red fox."
    coloured = teaching.mark(words, kinds, "colour")
    assert coloured == f"the{teaching.ACCEPTED} red fox{teaching.END}."
    assert ";4;" in teaching.ACCEPTED, "underlined, for who sees no colours"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_style_honours_no_color_and_pipes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert teaching.style_for(Terminal()) == "colour"
    assert teaching.style_for(io.StringIO()) == "plain"
    monkeypatch.setenv("NO_COLOR", "1")
    assert teaching.style_for(Terminal()) == "marks"


class Bytes:
    """A tokenizer whose tokens are the bytes of UTF-8: most of them end inside a character."""

    def decode(self, ids: list[int], **_: object) -> str:
        return bytes(ids).decode(errors="replace")


def test_pieces_never_split_a_character() -> None:
    text = "für 5 €"
    found = teaching.pieces(Bytes(), list(text.encode()))
    assert "".join(found) == text
    assert all(piece == "" or piece in text for piece in found)
    assert len(found) == len(text.encode())
