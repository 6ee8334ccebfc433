"""The six tasks mixed: an endless stream of dialogues to train on, and the 480 held-out questions.

Dialogue number `index` of a stream is a function of (seed, index), so a stream can be entered anywhere and training
resumed exactly. The questions in ``data/questions.jsonl`` are written by

    python -m fspad_ref.world.stream data/questions.jsonl
"""

import itertools
import os
import sys
from collections.abc import Callable, Iterator

from fspad_ref.corpus import CATEGORIES, Question, write_questions
from fspad_ref.errors import InputError
from fspad_ref.world.arithmetic import math_reasoning
from fspad_ref.world.conversation import conversation
from fspad_ref.world.dice import Dice
from fspad_ref.world.echo import echo
from fspad_ref.world.exchange import Exchange
from fspad_ref.world.knowledge import qa
from fspad_ref.world.quiz import facts_quiz, notes_quiz, sums_quiz
from fspad_ref.world.retrieval import rag
from fspad_ref.world.summaries import summarization
from fspad_ref.world.translation import translation

TASKS: dict[str, Callable[[Dice, bool], Exchange]] = {
    "conversation": conversation,
    "translation": translation,
    "summarization": summarization,
    "qa": qa,
    "math_reasoning": math_reasoning,
    "rag": rag,
}
# A training stream opens with nothing but reading aloud (see echo.py); then it goes through the tasks, for ever, with
# some more practice in what takes a model the longest: first words of two languages, facts and sums; from LATER on,
# when those are known, facts and finding the right note, by quizzes (see quiz.py), and from LAST on, sums.
EXTRA: dict[str, Callable[[Dice], Exchange]] = {
    "echo": echo,
    "notes quiz": notes_quiz,
    "facts quiz": facts_quiz,
    "sums quiz": sums_quiz,
}
OPENING = 8_000
LATER = 100_000
LAST = 157_000
PRACTICE = ("echo", "translation", "qa", "math_reasoning")
LATER_PRACTICE = ("notes quiz", "facts quiz", "notes quiz", "facts quiz")
ROTATION = (*CATEGORIES, *PRACTICE)
LATER_ROTATION = (*CATEGORIES, *LATER_PRACTICE)
LAST_ROTATION = (*CATEGORIES, *4 * ("sums quiz",))

QUESTION_SEED = 480
QUESTIONS_PER_TASK = 80


def _dice(seed: int, index: int, held: bool) -> Dice:
    """Chance for one dialogue; distinct for distinct arguments (index < 2**40)."""
    if seed < 0 or not 0 <= index < 2**40:
        raise InputError(f"expected seed >= 0 and 0 <= index < 2**40, found seed {seed} and index {index}")
    return Dice((seed << 41) + (index << 1) + held)


def dialogue(seed: int, index: int, held: bool = False) -> Exchange:
    """Dialogue number `index` of stream `seed`; with `held`, one from the held-out side of the world.

    Raises InputError if an argument is negative.
    """
    dice = _dice(seed, index, held)
    if held:
        return TASKS[CATEGORIES[index % len(CATEGORIES)]](dice, held)
    rotation = ROTATION if index < LATER else LATER_ROTATION if index < LAST else LAST_ROTATION
    task = "echo" if index < OPENING else rotation[(index - OPENING) % len(rotation)]
    return EXTRA[task](dice) if task in EXTRA else TASKS[task](dice, held)


def place_of_task(number: int) -> int:
    """Index in a training stream of its dialogue number `number` with the six tasks alike, that is without practice."""
    return OPENING + len(ROTATION) * (number // len(CATEGORIES)) + number % len(CATEGORIES)


def stream(seed: int, start: int = 0) -> Iterator[Exchange]:
    """The training dialogues of stream `seed` from number `start` on, without end."""
    return (dialogue(seed, index) for index in itertools.count(start))


def _distinct(seed: int, category: str, count: int) -> list[Exchange]:
    """The first `count` held-out exchanges of the category of which no two share a user turn at the same place."""
    place = CATEGORIES.index(category)
    seen: set[tuple[int, str]] = set()
    chosen: list[Exchange] = []
    for number in range(1000 * count):
        exchange = TASKS[category](_dice(seed, number * len(CATEGORIES) + place, True), True)
        turns = {(i, question) for i, (question, _) in enumerate(exchange.turns)}
        if not turns & seen:
            seen |= turns
            chosen.append(exchange)
        if len(chosen) == count:
            return chosen
    raise InputError(f"expected {count} distinct held-out {category} questions, found {len(chosen)}; widen the task")


def questions(seed: int = QUESTION_SEED, per_task: int = QUESTIONS_PER_TASK) -> list[Question]:
    """`per_task` held-out questions a task, task by task in the order of CATEGORIES, numbered from 1."""
    exchanges = [exchange for category in CATEGORIES for exchange in _distinct(seed, category, per_task)]
    return [
        Question(
            question_id=number,
            category=exchange.category,
            turns=tuple(question for question, _ in exchange.turns),
            reference=tuple(answer for _, answer in exchange.turns),
            expected=exchange.expected,
        )
        for number, exchange in enumerate(exchanges, start=1)
    ]


def further_questions(count: int, seed: int = 0) -> list[str]:
    """First turns of the held-out side that are nobody's benchmark: task after task, in turn.

    Raises InputError for a negative seed.
    """
    asked = {q.turns[0] for q in questions()}

    def of_task(place: int) -> Iterator[str]:
        texts = (dialogue(seed, index, held=True).turns[0][0] for index in itertools.count(place, len(CATEGORIES)))
        return (text for text in texts if text not in asked)

    tasks = [of_task(place) for place in range(len(CATEGORIES))]
    return [next(tasks[number % len(tasks)]) for number in range(count)]


def _prompts(turns: tuple[str, ...]) -> list[tuple[str, ...]]:
    """What the user has said at each turn: "Tell me more." is a different prompt after a different opening."""
    return [turns[: i + 1] for i in range(len(turns))]


def leaks(seed: int, start: int, stop: int) -> list[str]:
    """Prompts and reference answers of the evaluation that occur in training dialogues start..stop-1.

    A prompt is the user's turns so far. Reference answers of question answering do not count: its facts, and so its
    answers, are what training teaches.
    """
    asked = questions()
    prompts = {prompt for q in asked for prompt in _prompts(q.turns)}
    answers = {answer for q in asked if q.category != "qa" for answer in q.reference}
    found = []
    for index in range(start, stop):
        exchange = dialogue(seed, index)
        users, replies = zip(*exchange.turns, strict=True)
        found += [" / ".join(prompt) for prompt in _prompts(users) if prompt in prompts]
        found += [answer for answer in replies if answer in answers and exchange.category != "qa"]
    return found


def write(path: str | os.PathLike) -> int:
    """Write the 480 questions to `path`; the same bytes every time. Returns how many."""
    made = questions()
    write_questions(path, made)
    return len(made)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("expected one argument, the file to write: python -m fspad_ref.world.stream data/questions.jsonl")
    print(f"wrote {write(sys.argv[1])} questions to {sys.argv[1]}")
