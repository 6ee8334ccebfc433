"""The tables of README.md and data/README.md are what the recorded results say."""

from pathlib import Path

import pytest

from fspad_ref.errors import InputError
from fspad_ref.show.cards import replace_section, sections

ROOT = Path(__file__).parents[1]


def test_every_marked_section_is_up_to_date():
    for path, parts in sections(ROOT).items():
        text = path.read_text(encoding="utf-8")
        for name, new in parts.items():
            assert replace_section(text, name, new) == text, f"{path.name}, {name}: run python -m fspad_ref.show.cards"


def test_a_section_without_markers_is_refused():
    with pytest.raises(InputError, match="<!-- begin results -->"):
        replace_section("no markers here", "results", "text")
