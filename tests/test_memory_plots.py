"""Pictures of chapter 10: opaque, told apart without colour, and their claims say what the numbers say."""

import pytest

from fspad_ref.errors import InputError
from fspad_ref.show.memory_plots import memory_bars, memory_claim, width_claim, width_curves
from fspad_ref.show.teaching import small_png

DEVICES = {"small": 24, "large": 80, "as large": 80}
PANELS = {
    "decoding": {"a": {"target": 15.0, "draft": 1.0}, "b": {"target": 79.0, "draft": 1.0}},
    "training": {"a": {"target": 15.0, "optimizer": 9.5}, "b": {"target": 79.0, "optimizer": 18.0}},
}
CURVES = {"wide": {1: 2.0, 60: 2.0, 256: 4.0}, "narrow": {1: 1.0, 60: 15.0, 256: 64.0}}


def test_figures_are_opaque_pngs() -> None:
    for figure in (memory_bars(PANELS, DEVICES), width_curves(CURVES, 60)):
        assert figure.get_facecolor() == (1, 1, 1, 1)
        assert small_png(figure).startswith(b"\x89PNG")


def test_parts_differ_in_hatch_and_are_named_once() -> None:
    figure = memory_bars(PANELS, DEVICES)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["target", "draft", "optimizer"]
    hatches = [handle.get_hatch() for handle in legend.legend_handles]
    assert len(set(hatches)) == 3
    words = {text.get_text().strip() for text in figure.axes[0].texts}
    assert {"small", "large, as large", "16", "80"} <= words


def test_claims_count_what_fits() -> None:
    """80 GiB exactly fit into 80; devices of one size are named once."""
    expected = "Of 2 models fit, decoding: 1 on 24 GiB, 2 on 80 GiB; training: 0 on 24 GiB, 1 on 80 GiB."
    assert memory_claim(PANELS, DEVICES) == expected


def test_width_is_in_passes_over_the_narrowest() -> None:
    assert width_claim(CURVES, 60) == (
        "A pass over 60 nodes takes, in passes over a single node, 1.0 on wide, 15.0 on narrow."
    )
    lines = width_curves(CURVES, 60).axes[0].lines[:2]
    assert [list(line.get_ydata()) for line in lines] == [[1.0, 1.0, 2.0], [1.0, 15.0, 64.0]]
    assert len({line.get_marker() for line in lines}) == 2


def test_no_bill_is_refused() -> None:
    with pytest.raises(InputError, match="found none"):
        memory_bars({"decoding": {}}, DEVICES)
