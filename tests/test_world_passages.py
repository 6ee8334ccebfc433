"""Retrieval, summaries and conversation: answer keys, lengths, language, what is held out, the same on every run."""

import re
from collections import Counter
from statistics import mean

import pytest

from fspad_ref.errors import InputError
from fspad_ref.world import names
from fspad_ref.world.conversation import conversation
from fspad_ref.world.dice import Dice, held_out
from fspad_ref.world.passages import KINDS
from fspad_ref.world.phrasing import join, say
from fspad_ref.world.reports import REPORTS
from fspad_ref.world.retrieval import rag
from fspad_ref.world.stories import STORIES
from fspad_ref.world.summaries import summarization
from fspad_ref.world.talks import TALKS

TASKS = {"rag": rag, "summarization": summarization, "conversation": conversation}
LONGEST_PROMPT = {"rag": 95, "summarization": 75, "conversation": 30}  # words
WRONG_ARTICLE = re.compile(r"\b[Aa] (?=[aeioAEIO]\w)(?!one\b|once\b|eu)|\b[Aa]n (?=[^aeiouhAEIOUH\W\d])")


@pytest.fixture(scope="module", params=TASKS)
def task(request):
    """(category, 2000 training exchanges, 300 held-out ones) of one task."""
    make, training, evaluation = TASKS[request.param], Dice(1), Dice(2)
    return request.param, [make(training, False) for _ in range(2000)], [make(evaluation, True) for _ in range(300)]


def test_answers_hold_what_is_expected(task):
    category, training, evaluation = task
    for exchange in training + evaluation:
        assert exchange.category == category
        assert len(exchange.turns) == (2 if category == "conversation" else 1)
        for (_, answer), wanted in zip(exchange.turns, exchange.expected, strict=True):
            assert wanted and all(text and text in answer for text in wanted)
            assert category == "conversation" or all(text in exchange.turns[0][0] for text in wanted)


def test_lengths(task):
    category, training, _ = task
    prompts = [len(question.split()) for exchange in training for question, _ in exchange.turns]
    answers = [len(answer.split()) for exchange in training for _, answer in exchange.turns]
    assert max(prompts) <= LONGEST_PROMPT[category]
    assert min(answers) >= 12 and max(answers) <= 75
    assert 28 <= mean(answers) <= 45


def test_language(task):
    for exchange in task[1] + task[2]:
        for text in (text for turn in exchange.turns for text in turn):
            assert text[0].isupper() or text[0].isdigit() or text[0] in "[(\"", text
            assert not re.search(r"[{}|~]|  | [,.!?;:]|\.\.|[.!?] [a-z]|,[.,]|!\?", text), text
            assert not WRONG_ARTICLE.search(text), text


def test_held_out_texts_do_not_occur_in_training(task):
    _, training, evaluation = task
    asked = {exchange.turns[0][0] for exchange in training}
    answered = {answer for exchange in training for _, answer in exchange.turns}
    for exchange in evaluation:
        assert exchange.turns[0][0] not in asked
        assert not answered & {answer for _, answer in exchange.turns}


def test_the_same_dice_tell_the_same(task):
    category, training, _ = task
    again = Dice(1)
    assert [TASKS[category](again, False) for _ in range(50)] == training[:50]


def test_answers_rarely_repeat(task):
    answers = [answer for exchange in task[1] for _, answer in exchange.turns]
    assert len(set(answers)) > 0.97 * len(answers)


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("make", [rag, summarization])
def test_every_name_lies_on_the_wanted_side(make, held, monkeypatch):
    drawn = []

    def draw(dice, side, maker, original=names.draw):
        drawn.append(original(dice, side, maker))
        return drawn[-1]

    monkeypatch.setattr(names, "draw", draw)
    dice = Dice(3)
    for _ in range(200):
        drawn.clear()
        prompt = make(dice, held).turns[0][0]
        assert drawn and all(held_out(name) == held and name in prompt for name in drawn)


def test_openings_of_conversations_lie_on_the_wanted_side():
    dice = Dice(4)
    for held in (False, True):
        assert all(held_out(conversation(dice, held).turns[0][0]) == held for _ in range(200))


def test_the_quoted_passage_is_a_passage():
    dice, quotes = Dice(5), 0
    for _ in range(500):
        ((prompt, answer),) = rag(dice, False).turns
        for quote in re.findall(r'"([^"]+)"', answer):
            quotes += 1
            assert quote in prompt
    assert quotes > 50


def test_there_is_enough_to_talk_about():
    dice = Dice(6)
    assert len(KINDS) >= 12 and len(REPORTS) >= 15 and len(TALKS) + len(STORIES) >= 12
    people, towns, firms = ({make(dice) for _ in range(8000)} for make in (names.person, names.town, names.firm))
    assert len(people) > 7500 and len(towns) > 2000 and len(firms) > 2500


def test_a_habit_decides_most_choices():
    """Each choice by one of the things, the same wherever it is offered; the rest is chance."""
    pattern, banks = "[a|b|c|d] {x} [a|b|c|d] {x}", {"x": "[e|f|g|h|i]"}
    told = {thing: Counter(say(Dice(seed), pattern, banks, [thing]) for seed in range(400)) for thing in "mnopq"}
    usual = {thing: counted.most_common(1)[0] for thing, counted in told.items()}
    assert all(0.25 < number / 400 < 0.6 for _, number in usual.values())  # 0.75 ** 4 and a little chance
    assert len({text for text, _ in usual.values()}) >= 4
    free = Counter(say(Dice(seed), pattern, banks) for seed in range(400))
    assert free.most_common(1)[0][1] < 20
    both = Counter(say(Dice(seed), pattern, banks, ["m", "n"]) for seed in range(400)).most_common(1)[0][0]
    for place, word in enumerate(both.split()):
        assert word in {usual[thing][0].split()[place] for thing in "mn"}


def test_a_story_goes_on_otherwise_than_it_began():
    """The plot of a second turn is not that of the first."""
    same = 0
    for seed in range(300):
        (_, first), (_, second) = conversation(Dice(seed), False).turns
        plots = [{sentence for sentence in answer.split(". ") if len(sentence) > 30} for answer in (first, second)]
        same += bool(plots[0] & plots[1])
    assert same <= 6


@pytest.mark.parametrize("held", [False, True])
def test_no_answer_of_a_conversation_lies_on_both_sides(held):
    """Two people who name the same are often told the same, so what is told is held out by itself."""
    for seed in range(200):
        assert all(held_out(answer) == held for _, answer in conversation(Dice(seed), held).turns)


def test_patterns():
    assert say(Dice(0), "a~ {x} [and|and] a~ {y} , {z}[|].", {"z": "[b]"}, x="owl", y="uniform") \
        == "An owl and a uniform, b."
    assert {say(Dice(seed), "a|b") for seed in range(20)} == {"A", "B"}
    assert join(["tea", "salt", "oil"]) == "tea, salt and oil"
    with pytest.raises(InputError, match="close it"):
        say(Dice(0), "[a|b")
    with pytest.raises(InputError, match="remove it"):
        say(Dice(0), "a]")
    with pytest.raises(InputError, match="thing"):
        say(Dice(0), "a {thing}")
