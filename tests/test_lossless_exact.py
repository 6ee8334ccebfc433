"""Losslessness, exactly: the law of the emitted text by enumeration, in rational numbers, for both verification rules.

    total variation = 1/2 sum over texts |P(rule emits text) - P(target writes text)| = 0        not small: zero

A text has several tokens and is written round by round, each round with the tree that belongs to the text so far; so
its law goes through accepted tokens, bonus tokens and later rounds. Random targets depend on the whole text and have
zeros and ties. The rules are the package's own: only the source of chance is replaced by one that tries everything.
"""

import math
import random
from collections import Counter, defaultdict
from fractions import Fraction
from functools import cache
from itertools import product

import pytest
import torch
from broken_rules import BROKEN_RULES, SampledChildren, Textbook, normalised

from fspad_ref import DraftTree
from fspad_ref.teaching.exact import law_of, law_of_text, total_variation
from fspad_ref.tree import ancestors
from fspad_ref.verify import verify, verify_by_rejection

LEVELS = 3
SEEDS, FEW_SEEDS = range(30), range(12)

# --- random worlds ---------------------------------------------------------------------------------------------------


class World:
    """For every text a target's law, a draft's law and a draft tree: functions of (seed, text) alone."""

    def __init__(self, seed: int):
        self.seed = seed
        self.vocab, self.length, self.nodes = ((3, 4, 6), (4, 4, 5), (5, 3, 4))[seed % 3]

    def dice(self, *key) -> random.Random:
        return random.Random(repr((self.seed, *key)))

    def raw(self, text: tuple) -> list[Fraction]:
        """The target before processing: weights from 0 to 3, so zeros and ties abound."""
        dice = self.dice("target", text)
        weights = [dice.randint(0, 3) for _ in range(self.vocab)]
        weights[dice.randrange(self.vocab)] += 1  # never all zero
        return normalised(weights)

    def p(self, text: tuple) -> list[Fraction]:
        """The target at temperature 1/2: softmax(2 log raw), the normalised squares."""
        return normalised([weight**2 for weight in self.raw(text)])

    def q(self, text: tuple) -> list[Fraction]:
        """The draft: a softmax, so nowhere zero."""
        dice = self.dice("draft", text)
        return normalised([dice.randint(1, 4) for _ in range(self.vocab)])

    def tree(self, text: tuple) -> DraftTree:
        """A random tree of 1 to `nodes` nodes and at most LEVELS levels; siblings distinct, parents first."""
        dice = self.dice("tree", text)
        token, parent, depth = [dice.randrange(self.vocab)], [0], [0]
        for _ in range(dice.randint(0, self.nodes - 1)):
            free = [
                (v, w)
                for v in range(len(token))
                for w in range(self.vocab)
                if depth[v] < LEVELS and (v, w) not in zip(parent[1:], token[1:], strict=True)
            ]
            v, w = dice.choice(free)
            token, parent, depth = [*token, w], [*parent, v], [*depth, depth[v] + 1]
        token, parent, depth = (torch.tensor(x) for x in (token, parent, depth))
        return DraftTree(token, parent, depth, torch.zeros(len(token)), ancestors(parent, LEVELS))


class Context:
    """A text, its tree, and the laws p, raw and q after every node of the tree."""

    def __init__(self, world: World, text: tuple):
        self.tree = world.tree(text)
        token, parent = self.tree.token.tolist(), self.tree.parent.tolist()
        self.text = [text]  # of every node
        for v in range(1, len(token)):
            self.text.append((*self.text[parent[v]], token[v]))
        # p(v), raw(v), q(v)
        self.p, self.raw, self.q = (
            cache(lambda node, law=law: law(self.text[node])) for law in (world.p, world.raw, world.q)
        )


@cache
def context(seed: int, text: tuple) -> Context:
    """All rules meet the same contexts, so each is made once."""
    return Context(World(seed), text)


# --- the law of one round: {emitted tokens: probability} -------------------------------------------------------------


def plain(here: Context) -> dict:
    """No draft: one token from p."""
    return {(token,): p for token, p in enumerate(here.p(0)) if p}


def by_walking(here: Context) -> dict:
    """`verify` on all ways, up to V^N, in which N nodes can draw their tokens: y comes with prod_v p_v(y_v)."""
    tree = here.tree
    p = [here.p(node) for node in range(len(tree))]
    possible = [[token for token in range(len(row)) if row[token]] for row in p]
    draws = torch.tensor(list(product(*possible)))  # (ways, N)

    def outcome(drawn):
        verdict = verify(tree, drawn, LEVELS)
        return verdict.accepted, verdict.tokens

    accepted, tokens = torch.vmap(outcome)(draws)  # (ways,), (ways, LEVELS + 1)
    law = defaultdict(Fraction)
    for y, a, emitted in zip(draws.tolist(), accepted.tolist(), tokens.tolist(), strict=True):
        law[tuple(emitted[: a + 1])] += _product(p[v][y[v]] for v in range(len(y)))
    return law


def _product(fractions) -> Fraction:
    fractions = list(fractions)
    return Fraction(math.prod(f.numerator for f in fractions), math.prod(f.denominator for f in fractions))


def by_rejection(here: Context) -> dict:
    """`verify_by_rejection` on every sequence of coins and draws."""

    def experiment(choose):
        path, bonus = verify_by_rejection(here.tree, here.p, lambda p: choose([p, 1 - p]) == 0, choose)
        return (*here.tree.token[path].tolist(), bonus)

    return law_of(experiment)


# --- the law of a text -----------------------------------------------------------------------------------------------


def law_of_world(seed: int, one_round) -> dict:
    """{text: probability} for the first tokens in world `seed`, round after round; what goes beyond is cut off."""

    def after(text: tuple) -> dict:
        law = one_round(context(seed, text))
        assert () not in law, "law broken: a round emitted nothing"
        return law

    return law_of_text(after, (), World(seed).length)


def distance_from_target(one_round, seed: int) -> Fraction:
    return total_variation(law_of_world(seed, one_round), targets_law(seed))


@cache
def targets_law(seed: int) -> dict:
    return law_of_world(seed, plain)


# --- 1: the rules are lossless ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("one_round", [by_walking, by_rejection])
def test_the_emitted_text_has_exactly_the_targets_law(one_round):
    for seed in SEEDS:
        distance = distance_from_target(one_round, seed)
        off = f"{one_round.__name__} is {float(distance):.3g} off in world {seed}"
        assert distance == 0, f"law broken: the emitted text has exactly the target's law; {off}"


def test_the_worlds_hold_what_can_go_wrong():
    """Zeros, ties, siblings, chains, trees of the root alone; and several rounds in most texts."""
    seen = Counter()
    for seed in SEEDS:
        world = World(seed)
        seen["second round"] += any(len(emitted) < world.length for emitted in by_rejection(context(seed, ())))
        for text in ((), *product(range(world.vocab), repeat=1), *product(range(world.vocab), repeat=2)):
            p, tree = world.p(text), world.tree(text)
            children = Counter(tree.parent[1:].tolist())
            seen["zero"] += 0 in p
            seen["tie at the top"] += p.count(max(p)) > 1
            seen["certainty"] += 1 in p
            seen["root alone"] += len(tree) == 1
            seen["three siblings"] += max(children.values(), default=0) >= 3
            seen["full depth"] += int(tree.depth.max()) == LEVELS
    assert len(seen) == 7 and min(seen.values()) >= 5, seen


# --- 2: the test can tell --------------------------------------------------------------------------------------------


def as_round(rule):
    return lambda here: law_of(lambda choose: tuple(rule(here, choose).emit()))


@pytest.mark.parametrize("rule", BROKEN_RULES, ids=lambda rule: rule.__name__)
def test_every_broken_rule_is_caught(rule):
    distances = [float(distance_from_target(as_round(rule), seed)) for seed in FEW_SEEDS]
    caught = sum(distance > 0 for distance in distances)
    worst = max(distances)
    print(f"\n{rule.__name__}: caught in {caught} of {len(distances)} worlds, total variation up to {worst:.3f}")
    assert worst > 0.05, f"the exact test does not see what is wrong with {rule.__name__}"


@pytest.mark.parametrize("rule", [Textbook, SampledChildren], ids=lambda rule: rule.__name__)
def test_the_patterns_that_the_broken_rules_deviate_from_are_right(rule):
    """Else a broken rule might be caught for a fault of its pattern."""
    assert all(distance_from_target(as_round(rule), seed) == 0 for seed in FEW_SEEDS)


# --- 3: how much is accepted -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("one_round", [by_walking, by_rejection])
def test_expected_accepted_tokens_are_the_sum_of_the_nodes_path_probabilities(one_round):
    """E[accepted] = sum over all nodes but the root of p(path to node): no verifier gets more out of a fixed tree."""
    for seed in SEEDS:
        for text in ((), *product(range(World(seed).vocab), repeat=1)):
            here = context(seed, text)
            reached = [Fraction(1)]  # p(path to node)
            for v in range(1, len(here.tree)):
                parent, token = int(here.tree.parent[v]), int(here.tree.token[v])
                reached.append(reached[parent] * here.p(parent)[token])
            expected = sum(probability * (len(emitted) - 1) for emitted, probability in one_round(here).items())
            assert expected == sum(reached[1:]), f"law broken: E[accepted] = {expected}, not {sum(reached[1:])}"
