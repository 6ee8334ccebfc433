"""Tables in the documents are written from recorded results, between markers."""

from pathlib import Path

import pytest

from fspad_ref.checkpoint import save_json
from fspad_ref.errors import InputError
from fspad_ref.lab.duel import gain
from fspad_ref.show.cards import (
    files_section,
    goals_section,
    paper_section,
    readme_section,
    replace_section,
    sections,
)

ROOT = Path(__file__).parents[1]
SECTIONS = {"README.md": ["results"], "data/README.md": ["target", "scores", "samples", "drafts", "calibration"],
            "data/results/README.md": ["files", "goals"]}  # fmt: skip


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


# ---- what `bench --preset paper` recorded ----

MACHINE = {"hardware": "a machine", "threads": 2, "dtype": "float32", "torch": "2", "date": "2026-01-01T00:00:00"}
TREES = {"small": {"top_k": 4, "depth": 2, "total_tokens": 12}, "large": {"top_k": 10, "depth": 5, "total_tokens": 60}}


def estimate(value: float, half: float | None) -> dict:
    low, high = (None, None) if half is None else (value - half, value + half)
    return {"value": value, "low": low, "high": high}


def study(seeds: int = 5, half: float | None = 0.1) -> dict:
    taus = {"eagle": 4.0, "eagle_wide": 4.05, "fspad": 4.4}
    rows = [{"method": method, "task": task, "temperature": 0.0, "over_seeds": estimate(tau, half)}
            for method, tau in taus.items() for task in ("qa", "mean")]  # fmt: skip
    rows[0]["over_seeds"] = estimate(9.0, half)  # a single task is in no table of means
    differences = [
        {"method": "fspad", "against": other, "task": "mean", "temperature": 0.0,
         "over_seeds": estimate(0.4, half), "gain_over_seeds": estimate(0.1, half and 0.02)}
        for other in ("eagle", "eagle_wide")
    ]  # fmt: skip
    return {"taus": rows, "differences": differences, "published_gains": {"0": [0.066, 0.08]}, "key": {"seeds": seeds},
            "config": {"tree": TREES["large"], "training": {"steps": 1000}}, "answers": 1120,
            "provenance": MACHINE | {"command": "the study's command"}}  # fmt: skip


def speed() -> dict:
    rows = [("vanilla", 1.0, 1.0), ("prompt_lookup", 1.3, 1.1), ("eagle", 3.5, 1.9), ("fspad", 3.9, 2.1)]
    summary = [{"method": method, "task": "mean", "temperature": 0.0, "tau": tau, "speedup": fast,
                "by_repetition": [fast - 0.1, fast, fast + 0.2], "identical": 6, "answers": 7}
               for method, tau, fast in rows]  # fmt: skip
    config = {"tree": TREES["small"], "per_task": 4, "speed": {"repetitions": 3}}
    return {"summary": summary, "config": config, "provenance": MACHINE | {"command": "the command"},
            "other_text": ["prompt_lookup"]}  # fmt: skip


def calibration() -> dict:
    """Two questions a task, one of them with two turns; a turn of 21 tokens takes FSPAD 5 rounds, EAGLE-2 6."""
    answers = [
        {"method": method, "category": task, "question_id": question, "turn": turn, "tokens": 21, "rounds": rounds}
        for method, rounds in (("eagle", 6), ("fspad", 5), ("vanilla", 20)) for task in ("qa", "rag")
        for question, turn in ((1, 0), (1, 1), (2, 0))
    ]  # fmt: skip
    summary = [{"method": "eagle", "task": "mean", "tau": 20 / 6}, {"method": "fspad", "task": "mean", "tau": 4.0}]
    return {"summary": summary, "answers": answers, "config": {"per_task": 2}}


def told_of(found_study: dict, found_speed: dict) -> str:
    return paper_section(found_study, found_speed, calibration(), 3000)


def test_the_gain_of_the_shipped_drafts_is_paired_and_counts_all_turns_of_a_question():
    one = gain(calibration()["answers"])
    assert (one.value, one.low, one.high) == pytest.approx((0.2, 0.2, 0.2)), "every question gains as much"
    line = (
        "- T=0, FSPAD against EAGLE-2 after 3,000 steps (data/drafts, 2 questions a task): mean tau 4.00 against 3.33, "
        "a gain of +20.0% (+20.0% to +20.0% over questions)."
    )
    assert line in told_of(study(), speed()).splitlines()


def test_the_gain_of_the_shipped_drafts_has_an_interval_over_questions():
    answers = [dict(one) for one in calibration()["answers"]]
    for answer in answers:
        if (answer["method"], answer["question_id"]) == ("fspad", 2):
            answer["rounds"] = 8
    one = gain(answers)  # 18 rounds of a task, as EAGLE-2: what the first question wins the second loses
    assert one.value == pytest.approx(0.0) and one.low < 0 < one.high


def test_the_papers_table_is_what_study_and_speed_say():
    table = told_of(study(), speed())
    lines = table.splitlines()
    assert lines[0] == "|  | study: tau, T=0 | real loop: tau, T=0 | speedup, T=0 |" and lines[1] == "|---|---|---|---|"
    assert lines[2] == "| plain decoding | - | 1 | 1 |"
    assert "| prompt lookup | - | 1.30 | 1.10 (1.00 to 1.30) |" in lines
    assert "| EAGLE-2 | **4.00** (3.90 to 4.10) | 3.50 | 1.90 (1.80 to 2.10) |" in lines
    assert "| EAGLE-2, as large as FSPAD | **4.05** (3.95 to 4.15) | - | - |" in lines, "it is in no real loop"
    assert not any("Medusa" in line or "9.00" in line for line in lines)
    assert ("- T=0, FSPAD against EAGLE-2: mean tau +0.400 (+0.300 to +0.500), a gain of +10.0% (+8.0% to +12.0%); "
            "published for large targets: 6.6% to 8.0%.") in lines  # fmt: skip
    assert any(line.startswith("- T=0, FSPAD against EAGLE-2, as large") and "published" not in line for line in lines)
    for text in (
        "5 trainings of 1,000 steps",
        "1,120 recorded answers",
        "top_k 4, depth 2, 12 tokens",
        "FSPAD was faster than EAGLE-2 in 3 of 3 runs at T=0.",
        "    the command",
        "    the study's command",
    ):
        assert text in table


def test_answers_that_should_be_plain_decodings_are_counted():
    found = speed()
    ours = [row | {"temperature": 1.0} for row in found["summary"]]
    ours[1]["identical"] = 0  # another text of the same law
    ours[3]["by_repetition"] = [1.7, 1.9, 2.3]  # of FSPAD, where EAGLE-2 has 1.8, 1.9, 2.1
    found["summary"] += ours
    told = told_of(study(), found)
    assert "of all other answers 30 of 35 are plain decoding's" in told, "plain decoding itself does not count"
    assert "FSPAD was faster than EAGLE-2 in 3 of 3 runs at T=0, in 1 of 3 runs at T=1." in told, "a tie is no win"


def test_one_seed_has_no_interval_in_the_table():
    table = told_of(study(seeds=1, half=None), speed())
    assert "| FSPAD | **4.40** | 3.90 | 2.10 (2.00 to 2.30) |" in table and "no interval, as there is one seed" in table


def test_the_readme_has_the_table_of_all_files(tmp_path):
    results = tmp_path / "results"
    for name, recorded in (("study", study()), ("speed", speed()), ("calibration", calibration())):
        save_json(results / f"{name}.json", recorded)
    save_json(tmp_path / "drafts" / "fspad" / "training.json", {"step": 3000})
    assert readme_section(results) == told_of(study(), speed())


def test_the_card_lists_the_files_and_the_goals_that_are_there(tmp_path):
    assert goals_section(tmp_path) == "Not measured yet."
    goal = {"goal": "a share", "measured": 0.1234, "sense": "at most", "bound": 0.08, "met": False}
    save_json(tmp_path / "goals.json", {"goals": [goal, goal | {"bound": 0.2, "met": True}]})
    save_json(tmp_path / "speed.json", speed())
    assert "| a share | 0.123 | at most 0.08 | **not met** |" in goals_section(tmp_path)
    assert "| a share | 0.123 | at most 0.2 | met |" in goals_section(tmp_path)
    listed = files_section(tmp_path)
    assert "| 2026-01-01, a machine, 2 threads | `the command` |" in listed and "study.json" not in listed
