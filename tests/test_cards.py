"""Tables in the documents are written from recorded results, between markers."""

from pathlib import Path

import pytest

from fspad_ref.errors import InputError
from fspad_ref.show.cards import replace_section, results_section, sections

ROOT = Path(__file__).parents[1]
SECTIONS = {"README.md": ["results"], "data/README.md": ["target", "scores", "samples", "drafts", "calibration"]}


@pytest.mark.parametrize("path, name", [(path, name) for path, names in SECTIONS.items() for name in names])
def test_the_documents_have_the_markers(path, name):
    text = (ROOT / path).read_text(encoding="utf-8")
    assert "new text" in replace_section(text, name, "new text")
    assert replace_section(replace_section(text, name, "one"), name, "two") == replace_section(text, name, "two")


@pytest.mark.parametrize("path", SECTIONS)
def test_the_documents_say_what_was_recorded(path):
    text = (ROOT / path).read_text(encoding="utf-8")
    for name, recorded in sections(ROOT)[ROOT / path].items():
        assert replace_section(text, name, recorded) == text, f"{name}: run python -m fspad_ref.show.cards"


def test_a_section_without_markers_is_refused():
    with pytest.raises(InputError, match="<!-- begin results -->"):
        replace_section("no markers here", "results", "text")


def test_the_results_table_is_what_the_record_says():
    row = {"task": "mean", "temperature": 0.0, "identical": 6, "answers": 7, "tau_low": 2.9, "tau_high": 3.3}
    row |= {"speedup_low": 1.1, "speedup_high": 1.4}
    summary = [
        row | {"method": "vanilla", "tau": 1.0, "speedup": 1.0},
        row | {"method": "fspad", "tau": 3.1, "speedup": 1.25},
    ]
    tree = {"top_k": 8, "depth": 4, "total_tokens": 32}
    provenance = {
        "hardware": "a machine",
        "threads": 2,
        "dtype": "float32",
        "torch": "2",
        "date": "2026-01-01T00:00:00",
    }
    record = {"summary": summary, "config": {"tree": tree}, "provenance": provenance | {"command": "the command"}}
    table = results_section(record)
    assert "| plain decoding | 0 | 1 | 1 | 6 of 7 |" in table
    assert "| FSPAD | 0 | 3.10 (2.90 to 3.30) | 1.25 (1.10 to 1.40) | 6 of 7 |" in table
    assert table.endswith("    the command")
