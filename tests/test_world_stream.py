"""The stream: reproducible, random access, and nothing of the evaluation in it."""

import collections
import hashlib
import itertools
import json
import multiprocessing
import os
import statistics
from concurrent.futures import ProcessPoolExecutor

import pytest

from fspad_ref.corpus import CATEGORIES, Question, read_questions, write_questions
from fspad_ref.errors import InputError
from fspad_ref.world import DATA, data_file
from fspad_ref.world.stream import TASKS, dialogue, leaks, questions, stream

# The exchanges that training sees must never change silently: a new world needs a new target.
FIRST_500 = "78c6ca006d5802172dfe655d26a2550ba388c5627779c9b40fd311fb4a555feb"
MANY = 60_000


@pytest.fixture(scope="module")
def evaluation():
    return questions()


def test_first_500_exchanges_are_the_same_everywhere():
    text = json.dumps([(e.category, e.turns, e.expected) for e in itertools.islice(stream(1), 500)], ensure_ascii=False)
    assert hashlib.sha256(text.encode("utf-8")).hexdigest() == FIRST_500


def test_a_stream_can_be_entered_anywhere():
    whole = list(itertools.islice(stream(3), 60))
    assert list(itertools.islice(stream(3, 40), 20)) == whole[40:]
    assert dialogue(3, 17) == whole[17] != dialogue(4, 17)


def test_all_tasks_take_turns():
    counts = collections.Counter(e.category for e in itertools.islice(stream(5), 600))
    assert tuple(TASKS) == CATEGORIES == tuple(dict.fromkeys(e.category for e in itertools.islice(stream(5), 600)))
    assert set(counts.values()) == {100}


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
    words = {c: [len(r.split()) for q in evaluation if q.category == c for r in q.reference] for c in CATEGORIES}
    assert statistics.mean(itertools.chain(*words.values())) >= 32, {c: statistics.mean(n) for c, n in words.items()}


def test_a_leak_would_be_found(monkeypatch):
    taught = dialogue(0, 4)
    leak = Question(1, taught.category, turns=("something else",), reference=(taught.turns[0][1],))
    monkeypatch.setattr("fspad_ref.world.stream.questions", lambda: [leak])
    assert leaks(0, 0, 12) == [taught.turns[0][1]]


def test_no_evaluation_prompt_or_answer_occurs_in_the_training_stream():
    """All the dialogues that the shipped target saw if there are at most 60,000 (or FSPAD_WHOLE_STREAM is set)."""
    record = DATA / "target" / "training.json"
    training = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    count = training.get("dialogues", MANY)
    count = count if os.environ.get("FSPAD_WHOLE_STREAM") else min(count, MANY)
    starts = range(0, count, 5_000)
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        seeds, stops = [training.get("seed", 0)] * len(starts), [min(start + 5_000, count) for start in starts]
        assert list(itertools.chain(*pool.map(leaks, seeds, starts, stops))) == []
