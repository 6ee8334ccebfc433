"""Exact distributions, the broken rules and their exact distances, and exercises with their folded solutions."""

import json
import math
from contextlib import nullcontext
from fractions import Fraction
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from fspad_ref.errors import InputError
from fspad_ref.teaching import exercises
from fspad_ref.teaching.broken import BROKEN, LOSSLESS, Place, animals, noise_scored_against_q
from fspad_ref.teaching.exact import as_distribution, dice, distribution_of, g_test, normalised, total_variation

HALF, QUARTER = Fraction(1, 2), Fraction(1, 4)
UNEVEN = {0: HALF, 1: QUARTER, 2: QUARTER}


def test_enumeration_finds_every_branch() -> None:
    def until_tails(choose):  # how many choices there are depends on the choices
        heads = 0
        while heads < 3 and choose([HALF, HALF]):
            heads += 1
        return heads

    assert distribution_of(until_tails) == {0: HALF, 1: QUARTER, 2: Fraction(1, 8), 3: Fraction(1, 8)}


def test_the_p_value_is_the_chi_square_tail() -> None:
    g = 2 * sum(o * math.log(o / e) for o, e in ((40, 50), (35, 25), (25, 25)))
    assert g_test({0: 40, 1: 35, 2: 25}, UNEVEN) == pytest.approx(chi2.sf(g, 2), rel=1e-5)
    assert g_test({0: 50, 1: 25, 2: 25}, UNEVEN) == 1
    assert g_test({0: 50, 1: 25, 3: 25}, UNEVEN) == 0, "3 is impossible"
    with pytest.raises(InputError, match="at least 5 runs"):
        g_test({0: 5, 1: 5, 2: 5}, UNEVEN)


weights = st.lists(st.integers(0, 5), min_size=4, max_size=4).filter(any)


@given(p=weights, q=weights, guesses=st.lists(st.integers(0, 3), unique=True, max_size=3))
def test_lossless_rules_emit_the_targets_distribution_at_any_place(p, q, guesses) -> None:
    place = Place(tuple("abcd"), *(tuple(normalised(w)) for w in (p, p, q)), guesses=tuple(guesses))
    for rule in (*LOSSLESS.values(), partial(noise_scored_against_q, power=1)):
        assert distribution_of(lambda choose, rule=rule: rule(place, choose)) == as_distribution(place.p)


def test_broken_rules_miss_it_by_these_distances() -> None:
    place = animals()
    emitted = {name: distribution_of(lambda choose, rule=rule: rule(place, choose)) for name, rule in BROKEN.items()}
    assert {name: total_variation(d, as_distribution(place.p)) for name, d in emitted.items()} == {
        "bonus from raw logits": Fraction(12, 175),
        "no renormalisation": Fraction(81, 1225),
        "rejected guess stays": Fraction(9333, 42875),
        "scored against q": Fraction(27, 70),
        "drawn from q, then picked": Fraction(27, 175),
        "one uniform for all siblings": Fraction(153, 910),
        "noise reused as the coin": Fraction(41, 221),
        "noise, then scored against q": Fraction(3, 35),
    }
    for name, rule in BROKEN.items():  # the same function, run with floats, draws from what was enumerated
        drawn = [rule(place.in_floats(), choose) for choose in [dice(0)] for _ in range(4000)]
        assert g_test({x: drawn.count(x) for x in set(drawn)}, emitted[name]) > 1e-4, name


@pytest.mark.parametrize(("solution", "passes"), [("answer = 4", True), ("answer = 5", False), ("answer = ...", False)])
def test_folded_solutions_are_tried(tmp_path: Path, solution: str, passes: bool) -> None:
    chapter = tmp_path / "chapter.ipynb"
    asked = {"cell_type": "code", "source": ["check_answer('1', answer, lambda x: x == 2 * two)"]}
    folded = {"cell_type": "markdown", "source": f"<details>\n\n```python\n{solution}\n```\n\n</details>"}
    chapter.write_text(json.dumps({"cells": [asked, folded]}))
    mine = {"answer": ..., "two": 2, "check_answer": exercises.check_answer}
    with nullcontext() if passes else pytest.raises(AssertionError, match="does not pass"):
        exercises.check_solutions(chapter, mine)
    assert mine["answer"] is ..., "the reader's own answers stay"
