"""The stream: reproducible, random access, and nothing of the evaluation in it."""

import collections
import hashlib
import itertools
import json
import multiprocessing
import os
import re
import statistics
from concurrent.futures import ProcessPoolExecutor

import pytest
from transformers import AutoTokenizer

from fspad_ref.corpus import CATEGORIES, Question, read_questions, write_questions
from fspad_ref.errors import InputError
from fspad_ref.world import DATA, data_file
from fspad_ref.world.stream import (
    LAST,
    LATER,
    OPENING,
    PRACTICE,
    TASKS,
    dialogue,
    further_questions,
    leaks,
    place_of_task,
    questions,
    stream,
)

# The exchanges that training sees must never change silently: a new world needs a new target.
SAMPLE = "41ff2f375596b6764f33db772e1e742625d05a72040c9e00a71bafb01e7df730"
MANY = 150_000


@pytest.fixture(scope="module")
def evaluation():
    return questions()


def test_700_exchanges_are_the_same_everywhere():
    parts = (0, 100), (OPENING, 400), (LATER, 200)
    exchanges = [one for start, number in parts for one in itertools.islice(stream(1, start), number)]
    text = json.dumps([(e.category, e.turns, e.expected) for e in exchanges], ensure_ascii=False)
    assert hashlib.sha256(text.encode("utf-8")).hexdigest() == SAMPLE


def test_a_stream_can_be_entered_anywhere():
    whole = list(itertools.islice(stream(3), 60))
    assert list(itertools.islice(stream(3, 40), 20)) == whole[40:]
    assert dialogue(3, 17) == whole[17] != dialogue(4, 17)


def test_all_tasks_take_turns():
    assert {dialogue(5, index).category for index in (0, 1, OPENING // 2, OPENING - 1)} == {"echo"}
    counts = collections.Counter(e.category for e in itertools.islice(stream(5, OPENING), 1000))
    assert tuple(TASKS) == CATEGORIES
    assert counts == {c: 100 * (1 + PRACTICE.count(c)) for c in CATEGORIES} | {"echo": 100}
    later = collections.Counter(e.category for e in itertools.islice(stream(5, LATER), 1000))
    assert later == dict.fromkeys(CATEGORIES, 100) | {"notes quiz": 200, "facts quiz": 200}
    last = collections.Counter(e.category for e in itertools.islice(stream(5, LAST), 100))
    assert last == dict.fromkeys(CATEGORIES, 10) | {"sums quiz": 40}
    assert [dialogue(5, index, held=True).category for index in range(12)] == [*CATEGORIES, *CATEGORIES]


def test_the_dialogues_of_the_six_tasks_can_be_counted_off():
    tasks = [dialogue(5, place_of_task(number)) for number in range(60)]
    assert [exchange.category for exchange in tasks] == 10 * [*CATEGORIES]
    assert [e for e in itertools.islice(stream(5, OPENING), 100) if e in tasks] == tasks


def test_reading_aloud_is_a_copy():
    for exchange in itertools.islice(stream(5), 200):
        ((asked, copied),) = exchange.turns
        assert exchange.category == "echo" and copied in asked


def test_a_quiz_asks_eight_things_that_can_be_known():
    for exchange in (dialogue(5, LATER + 10 * i + place) for i in range(20) for place in (6, 7)):
        assert len({question for question, _ in exchange.turns}) == 8
        if exchange.category == "notes quiz":
            assert all(value in exchange.turns[0][0] for (value,) in exchange.expected)


def test_a_quiz_of_sums_is_right():
    for exchange in (dialogue(5, LAST + 10 * i + place) for i in range(60) for place in (6, 9)):
        assert len(exchange.turns) == 8
        for (question, answer), (result,) in zip(exchange.turns, exchange.expected, strict=True):
            asked = re.search(r"\d+ [-+x/] \d+", question)[0]
            assert eval(asked.replace("x", "*").replace("/", "//")) == int(result) > 0  # digits and operators only
            last = asked.split()[0] if "/" in asked else result  # a quotient is checked by multiplying back
            assert f"{asked} = " in answer and answer.rstrip(".").endswith(f" = {last}")


def test_negative_numbers_are_refused():
    with pytest.raises(InputError, match="index"):
        dialogue(0, -1)


def test_questions_file_is_what_the_world_makes(evaluation, tmp_path):
    write_questions(tmp_path / "questions.jsonl", evaluation)
    shipped = data_file("questions.jsonl")
    assert shipped.read_bytes() == (tmp_path / "questions.jsonl").read_bytes()
    assert read_questions(shipped) == evaluation


def test_eighty_questions_a_task_without_duplicates(evaluation):
    assert collections.Counter(q.category for q in evaluation) == dict.fromkeys(CATEGORIES, 80)
    assert len({q.question_id for q in evaluation}) == len({q.turns for q in evaluation}) == 480
    for question in evaluation:
        for reference, expected in zip(question.reference, question.expected, strict=True):
            assert all(part in reference for part in expected)
        assert any(question.expected), question


def test_answers_are_long_enough_to_draft(evaluation):
    """In tokens of the shipped target."""
    tokenizer = AutoTokenizer.from_pretrained(DATA / "target")
    assert statistics.mean(len(tokenizer(text).input_ids) for q in evaluation for text in q.reference) >= 40


def test_further_questions_are_nobodys_benchmark(evaluation):
    plain = [dialogue(0, index, held=True).turns[0][0] for index in range(600)]
    taken = {q.turns[0] for q in evaluation}
    assert taken & {*plain}  # so there is something to leave out
    asked = further_questions(600)
    assert len(asked) == 600 and not taken & {*asked}
    assert [sum(text in plain[place::6] for text in asked[place::6]) >= 80 for place in range(6)] == 6 * [True]


def test_a_leak_would_be_found(monkeypatch):
    taught = dialogue(0, OPENING + 5)
    leak = Question(1, taught.category, turns=("something else",), reference=(taught.turns[0][1],))
    monkeypatch.setattr("fspad_ref.world.stream.questions", lambda: [leak])
    assert leaks(0, OPENING, OPENING + 12) == [taught.turns[0][1]]


def test_no_evaluation_prompt_or_answer_occurs_in_the_training_stream():
    """All the dialogues that the shipped target saw."""
    record = DATA / "target" / "training.json"
    training = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    count = training.get("dialogues", MANY)
    starts = range(0, count, 5_000)
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        seeds, stops = [training.get("seed", 0)] * len(starts), [min(start + 5_000, count) for start in starts]
        assert list(itertools.chain(*pool.map(leaks, seeds, starts, stops))) == []
