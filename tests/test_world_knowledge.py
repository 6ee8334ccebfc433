"""The invented country and the arithmetic: facts are consistent, workings are right, held-out keys stay out."""

import re

import pytest

from fspad_ref.world.arithmetic import PLANS, _chain, math_reasoning, times
from fspad_ref.world.country import entities
from fspad_ref.world.dice import Dice, held_out
from fspad_ref.world.knowledge import pairs, qa
from fspad_ref.world.sayings import FRAMES, sayings
from fspad_ref.world.situations import situations


def test_country_has_150_entities_with_four_facts_each():
    assert len(entities()) == len({e.name for e in entities()}) == 150
    assert all(len(dict(e.facts)) == 4 for e in entities())


def test_facts_point_at_entities_that_exist():
    names = {e.name: e.noun for e in entities()}
    kinds = {"river": "river", "source": "mountain", "mouth": "lake", "born_in": "town", "studied": "university",
             "founder": "king queen", "builder": "king queen", "crosses": "river", "held_in": "town"}  # fmt: skip
    for entity in entities():
        for attribute, value in entity.facts:
            assert attribute not in kinds or names[value] in kinds[attribute].split(), (entity.name, attribute)


def test_universities_opened_while_their_founder_reigned():
    facts = {e.name: dict(e.facts) for e in entities()}
    for university in (f for f in facts.values() if "opened" in f):
        monarch = facts[university["founder"]]
        years = int(university["opened"]) - int(monarch["crowned"])
        assert 0 <= years <= int(monarch["reign"].split()[0])


def test_every_attribute_has_at_least_eight_prompts_and_three_statements():
    used = {attribute for e in entities() for attribute, _ in e.facts}
    assert used == set(sayings())
    for attribute, saying in sayings().items():
        assert len(saying.phrasings()) == 3 + 2 * len(FRAMES) >= 8
        assert len(saying.statements) >= 3, attribute
        assert all("{v}" in statement for statement in saying.statements), attribute
        assert all("{e}" in prompt for prompt in saying.phrasings()), attribute


def test_no_two_facts_share_a_prompt_and_the_sides_are_disjoint():
    train, held = [{prompt for *_, prompt in pairs(side)} for side in (False, True)]
    assert len(train) + len(held) == 600 * 15 and not train & held


def test_every_fact_is_asked_for_in_training():
    taught = {(entity.name, attribute) for entity, attribute, _, _ in pairs(False)}
    assert len(taught) == 600


@pytest.mark.parametrize("held", [False, True])
def test_answers_give_the_fact_first_then_more(held):
    for seed in range(300):
        exchange = qa(Dice(seed), held)
        (prompt, answer), ((value,),) = exchange.turns[0], exchange.expected
        entity = next(e for e in entities() if any(e.name in p for p in (prompt, prompt[0].lower() + prompt[1:]))
                      and value in dict(e.facts).values())
        assert sum(v in answer or v[0].upper() + v[1:] in answer for _, v in entity.facts) >= 3
        assert value in answer and answer[0].isupper() and answer.endswith(".")


def test_chain_and_times_by_hand():
    assert _chain(34, 27, "+") == ("34 + 27 = 61", 61)
    assert _chain(238, 45, "+") == ("238 + 45 = 278 + 5 = 283", 283)
    assert _chain(145, 108, "-") == ("145 - 108 = 45 - 8 = 37", 37)
    assert _chain(61, 30, "-") == ("61 - 30 = 31", 31)
    assert times(7, 34) == ("7 x 34 = 210 + 28 = 238", 238)


def test_every_equation_in_every_answer_holds():
    equation = re.compile(r"\d[\dx+/ -]*(?: = \d[\dx+/ -]*)+")
    for seed in range(1500):
        exchange = math_reasoning(Dice(seed), seed % 2 == 1)
        answer = exchange.turns[0][1]
        found = equation.findall(answer)
        assert len(found) >= 2
        for chain in found:
            values = {eval(side.replace("x", "*")) for side in chain.split(" = ")}  # digits and operators only
            assert len(values) == 1, answer


def test_the_result_is_what_the_plan_computes_and_stands_in_the_closing_sentence():
    compute = {
        "a+b-c": lambda a, b, c: a + b - c, "a-b+c": lambda a, b, c: a - b + c, "a+b+c": lambda a, b, c: a + b + c,
        "a-b-c": lambda a, b, c: a - b - c, "n*a+b": lambda n, a, b: n * a + b, "n*a-b": lambda n, a, b: n * a - b,
        "n*a+b-c": lambda n, a, b, c: n * a + b - c, "(a+b)*n": lambda n, a, b: (a + b) * n,
        "(a-b)*n": lambda n, a, b: (a - b) * n, "q/n+b": lambda q, n, b: q // n + b,
        "n*a+m*b": lambda n, a, m, b: n * a + m * b,
    }  # fmt: skip
    assert compute.keys() == PLANS.keys()
    for plan, draw in PLANS.items():
        for seed in range(200):
            _, operands, _, result = draw(Dice(seed))
            assert result == compute[plan](*operands) and 0 < result < 1000
    for seed in range(200):
        exchange = math_reasoning(Dice(seed), False)
        assert exchange.expected[0][0] in exchange.turns[0][1].rsplit(". ", 1)[-1]


def test_each_situation_has_one_step_an_operation_and_a_known_plan():
    for situation in situations():
        assert situation.plan in PLANS
        assert len(situation.steps) == len(re.findall(r"[-+*/]", situation.plan)), situation
        assert "{r} " + situation.unit in situation.close, situation
        assert "?" in situation.story, situation
    assert len(situations()) >= 25


def test_operands_of_training_and_evaluation_are_disjoint():
    def keys(held: bool) -> set[tuple[str, ...]]:
        prompts = (math_reasoning(Dice(seed), held).turns[0][0] for seed in range(1500))
        return {tuple(sorted(re.findall(r"\d+", prompt))) for prompt in prompts}

    def possible(key: tuple[str, ...]) -> set[bool]:
        ordered = ",".join(map(str, sorted(map(int, key))))
        return {held_out(f"{plan}:{ordered}") for plan in PLANS}

    assert all(False in possible(key) for key in keys(False)) and all(True in possible(key) for key in keys(True))
