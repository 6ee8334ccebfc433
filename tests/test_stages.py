"""The stages of a round: charged to the right one, adding up to the round, and the loop left as it was."""

import itertools

import pytest
import torch
from conftest import tiny_draft, tiny_target

from fspad_ref import DraftTree, SamplingConfig, TreeConfig, generate, speculative_generate, tree
from fspad_ref.bench.speed import (
    FORWARDS,
    STAGES,
    profile_rounds,
    profile_together,
    table,
    timed_stages,
)
from fspad_ref.cache import KVCache
from fspad_ref.errors import InputError

PROMPT, TREE = [2, 7, 5, 11, 3], TreeConfig(4, 3, 20)


class HandClock:
    """A clock that stands still unless a function moves it."""

    def __init__(self):
        self.time = 0.0

    def __call__(self) -> float:
        return self.time

    def slows(self, function, seconds):
        def slowed(*args, **kwargs):
            self.time += seconds
            return function(*args, **kwargs)

        return slowed


def attributes(target, draft) -> list:
    places = [(tree, name) for name in ("grow_tree", "expand", "top_children", "rerank")]
    places += [(generate, "verify"), (generate.Chooser, "every_node"), (KVCache, "keep")]
    of_objects = [vars(owner).get(name) for owner, name in
                  ((draft, "forward"), (target, "tree_features"), (target.lm_head, "forward"))]  # fmt: skip
    return [getattr(owner, name) for owner, name in places] + of_objects


def test_every_stage_gets_the_seconds_spent_in_it(monkeypatch):
    """Each function moves the clock by its own number of seconds, so that only the right sums come out right."""
    target, clock = tiny_target(), HandClock()
    draft = tiny_draft(target)
    owners = {
        (draft, "forward"): 1000, (target.lm_head, "forward"): 100, (target, "tree_features"): 20,
        (tree, "expand"): 3, (tree, "top_children"): 5, (tree, "rerank"): 7, (generate.Chooser, "every_node"): 11,
        (generate, "verify"): 13, (KVCache, "keep"): 17, (tree, "grow_tree"): 23,
    }  # fmt: skip
    for (owner, name), seconds in owners.items():
        monkeypatch.setattr(owner, name, clock.slows(getattr(owner, name), seconds))
    with timed_stages(target, draft, clock) as stages:
        result = speculative_generate(target, draft, PROMPT, max_new_tokens=20, tree=TREE)
    assert len(stages.rounds) == len(result.accepted) > 1
    expected = {
        "draft extension": 1000, "draft levels": 3000, "draft head": 400, "target forward": 20, "target head": 100,
        "expand": 3, "top-k": 20, "rerank": 7, "draw": 11, "accept": 13, "cache": 17, "rest": 23,
    }  # fmt: skip
    assert all(one == expected for one in stages.rounds)
    profile = summarize(stages.rounds)
    assert profile.round.median == sum(expected.values())
    assert profile.outside.median == sum(value for name, value in expected.items() if name not in FORWARDS)
    assert profile.outside_share.high == pytest.approx(profile.outside.median / profile.round.median)


def test_what_follows_verify_up_to_the_cache_is_acceptance(target, monkeypatch):
    """The copy to the host stands between `verify` and `keep`."""
    clock, draft, cat = HandClock(), tiny_draft(target), torch.cat

    def slow_cat(tensors, *args, **kwargs):
        if [tuple(one.shape) for one in tensors] == [(1,), (TREE.levels + 1,)]:  # accepted, tokens: what is copied
            clock.time += 1
        return cat(tensors, *args, **kwargs)

    monkeypatch.setattr(torch, "cat", slow_cat)
    with timed_stages(target, draft, clock) as stages:
        speculative_generate(target, draft, PROMPT, max_new_tokens=10, tree=TREE)
    assert len(stages.rounds) > 1
    assert all(one["accept"] == 1.0 == sum(one.values()) for one in stages.rounds)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_profile_of_the_real_clock_adds_up_and_restores_everything(target, draft, temperature):
    before = attributes(target, draft)
    sampling = SamplingConfig(temperature, seed=3)
    profile = profile_rounds(target, draft, [PROMPT, PROMPT[:3]], tree=TREE, sampling=sampling, max_new_tokens=12)
    assert attributes(target, draft) == before
    assert profile.rounds >= 2 and set(profile.seconds) == set(STAGES)
    assert all(0 <= spread.low <= spread.median <= spread.high for spread in profile.seconds.values())
    assert 0 < profile.outside_share.median < 1
    text = table(profile)
    assert all(stage in text for stage in STAGES) and f"{profile.rounds} rounds" in text


def test_every_moment_after_the_prefill_belongs_to_one_stage(target):
    """With a clock that shows how often it was read, the stages of all rounds add up to the readings."""
    draft, readings, seen = tiny_draft(target), itertools.count(), []

    def now() -> float:
        seen.append(next(readings))
        return float(seen[-1])

    prefill = []
    with timed_stages(target, draft, now) as stages:
        speculative_generate(
            target, draft, PROMPT, max_new_tokens=30, tree=TREE, on_round=lambda *_: prefill.append(seen[-1])
        )
    first = prefill[0] + 1  # the first reading after the prefill is where the first round begins
    assert sum(sum(one.values()) for one in stages.rounds) == seen[-1] - first


def test_everything_is_restored_after_an_exception(target):
    draft = tiny_draft(target)
    before = attributes(target, draft)
    with pytest.raises(ZeroDivisionError), timed_stages(target, draft):
        assert attributes(target, draft) != before
        raise ZeroDivisionError
    assert attributes(target, draft) == before


def test_the_text_is_the_same_with_timers(target, draft):
    plain = speculative_generate(target, draft, PROMPT, max_new_tokens=20, tree=TREE)
    with timed_stages(target, draft):
        timed = speculative_generate(target, draft, PROMPT, max_new_tokens=20, tree=TREE)
    assert timed == plain


def test_several_trees_take_turns(target, draft, monkeypatch):
    """A machine that slows down slows all of them alike: no tree is profiled at a stretch."""
    order, real = [], generate.speculative_generate
    logged = lambda *a, tree, **b: [order.append(tree.total_tokens), real(*a, tree=tree, **b)][1]  # noqa: E731
    monkeypatch.setattr(generate, "speculative_generate", logged)
    wanted = {size: (TreeConfig(4, 3, size), SamplingConfig()) for size in (9, 20)}
    profiles = profile_together(target, draft, [PROMPT, PROMPT[:3]], wanted, max_new_tokens=8)
    assert order == [9, 20] + 2 * [9, 9, 20, 20]
    assert {*profiles} == {9, 20} and all(profile.rounds > 0 for profile in profiles.values())


def test_texts_without_a_round_are_refused(target, draft):
    with pytest.raises(InputError, match="at least one round"):
        profile_rounds(target, draft, [PROMPT], tree=TREE, max_new_tokens=1)


def test_a_loop_that_no_longer_calls_a_stage_is_found_out(target, monkeypatch):
    def root_alone(draft, features, token_ids, config, cache):
        zero, root = torch.zeros(1, dtype=torch.long), torch.ones(1, 1, dtype=torch.bool)
        return DraftTree(token_ids[0, -1:], zero, zero, torch.zeros(1), root)

    monkeypatch.setattr(tree, "grow_tree", root_alone)
    with pytest.raises(RuntimeError, match="found none of draft extension, draft head, draft levels, expand, rerank"):
        profile_rounds(target, tiny_draft(target), [PROMPT], tree=TREE, max_new_tokens=6)
