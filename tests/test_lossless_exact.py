"""Tests 1 to 3, losslessness exactly: the distribution of the emitted text, enumerated in rational numbers.

    total variation = 1/2 sum over texts |P(rule emits text) - P(target writes text)| = 0        not small: zero

A text has several tokens and is written round by round, each round with the tree that belongs to the text so far. So
its distribution includes accepted tokens, bonus tokens and later rounds. The targets are random, depend on the whole
text, and have zeros and ties. `verify` and `verify_by_rejection` are the package's own; only the source of chance is
replaced by one that tries everything.
"""

import math
import random
from collections import Counter, defaultdict
from fractions import Fraction
from functools import cache
from itertools import product

import pytest
import torch
from conftest import tree_of

from fspad_ref.teaching.broken import BROKEN, LOSSLESS, Place
from fspad_ref.teaching.exact import distribution_of, normalised, text_distribution, total_variation
from fspad_ref.verify import verify, verify_by_rejection

LEVELS, GRID = 3, 4
SIZES = ((3, 4, 6), (4, 4, 5), (5, 3, 4))  # vocabulary, length of texts, most nodes of a tree
SEEDS, FEW_SEEDS = range(30), range(12)

# ---- random worlds ----


class Context:
    """What follows a text in world `seed`: distributions over the next token, and a draft tree.

    raw: the target at temperature 1, weights from 0 to 4, so zeros and ties abound; p: at temperature 1/2, which is
    softmax(2 log raw), the normalised squares; q: the draft, a softmax, so nowhere zero. The tree has at most LEVELS
    levels; siblings are distinct, parents come first. All are functions of (seed, text).
    """

    def __init__(self, seed: int, text: tuple):
        self.seed, dice = seed, random.Random(repr((seed, text)))
        vocab, self.length, most = SIZES[seed % 3]
        self.words = range(vocab)
        weights = [dice.randint(0, 3) for _ in self.words]
        weights[dice.randrange(vocab)] += 1  # never all zero
        self.raw, self.p = normalised(weights), normalised([weight**2 for weight in weights])
        self.q = normalised([dice.randint(1, 4) for _ in self.words])
        token, parent = [dice.randrange(vocab)], [0]
        self.text, self.children = [text], [{}]  # of every node; {token: child}
        for v in range(1, dice.randint(1, most)):
            free = [(u, w) for u in range(v) for w in self.words if w not in self.children[u]]
            u, w = dice.choice([(u, w) for u, w in free if len(self.text[u]) - len(text) < LEVELS])
            self.children[u][w] = v
            token, parent = [*token, w], [*parent, u]
            self.text, self.children = [*self.text, (*self.text[u], w)], [*self.children, {}]
        self.tree = tree_of(token, parent)

    def at(self, node: int) -> "Context":
        """The context of the text that ends at `node`."""
        return context(self.seed, self.text[node])

    def place(self, node: int) -> Place:
        """The node as the book describes it to a rule."""
        here = self.at(node)
        words, guesses = tuple(map(str, self.words)), tuple(self.children[node])
        return Place(words, tuple(here.p), tuple(here.raw), tuple(here.q), guesses)


context = cache(Context)  # all rules meet the same contexts


# ---- the distribution of one round: {emitted tokens: probability} ----


def by_walking(here: Context) -> dict:
    """`verify` on all ways, up to V^N, in which N nodes can draw their tokens: y comes with prod_v p_v(y_v)."""
    tree = here.tree
    p = [here.at(node).p for node in range(len(tree))]
    possible = [[token for token in range(len(row)) if row[token]] for row in p]
    draws = torch.tensor(list(product(*possible)))  # (ways, N)

    def outcome(drawn):
        verdict = verify(tree, drawn, LEVELS)
        return verdict.accepted, verdict.tokens

    accepted, tokens = torch.vmap(outcome)(draws)  # (ways,), (ways, LEVELS + 1)
    found = defaultdict(Fraction)
    for y, a, emitted in zip(draws.tolist(), accepted.tolist(), tokens.tolist(), strict=True):
        chances = [p[v][token] for v, token in enumerate(y)]
        above, below = (math.prod(getattr(c, part) for c in chances) for part in ("numerator", "denominator"))
        found[tuple(emitted[: a + 1])] += Fraction(above, below)
    return found


def by_rejection(here: Context) -> dict:
    """`verify_by_rejection` on every sequence of coins and draws."""

    def experiment(choose):
        path, bonus = verify_by_rejection(here.tree, lambda v: here.at(v).p, lambda p: choose([p, 1 - p]) == 0, choose)
        return (*here.tree.token[path].tolist(), bonus)

    return distribution_of(experiment)


def by_rule(rule):
    """A rule of the book at every node: step to the child with the emitted token, until there is none."""

    def emitted(here: Context, node: int = 0) -> dict:
        found = defaultdict(Fraction)
        for token, chance in distribution_of(lambda choose: rule(here.place(node), choose)).items():
            child = here.children[node].get(token)
            for rest, probability in ({(): 1} if child is None else emitted(here, child)).items():
                found[token, *rest] += chance * probability
        return found

    return emitted


# ---- the distribution of a text ----


@cache
def targets_distribution(seed: int) -> dict:
    """{text: probability} of the texts of world `seed`: the product of p along each."""
    start = context(seed, ())
    texts = product(start.words, repeat=start.length)
    chances = {text: math.prod(context(seed, text[:i]).p[w] for i, w in enumerate(text)) for text in texts}
    return {text: chance for text, chance in chances.items() if chance}


def distance_from_target(one_round, seed: int) -> Fraction:
    """Of the texts that are written round after round; what goes beyond the length is cut off."""
    found = text_distribution(lambda text: one_round(context(seed, text)), (), context(seed, ()).length)
    return total_variation(found, targets_distribution(seed))


# ---- 1: the rules are lossless ----


@pytest.mark.parametrize("one_round", [by_walking, by_rejection])
def test_the_emitted_text_has_exactly_the_targets_distribution(one_round):
    """Test 1, exhaustive branching."""
    for seed in SEEDS:
        distance = distance_from_target(one_round, seed)
        assert distance == 0, f"{one_round.__name__}: total variation {float(distance):.3g} in world {seed}, not 0"


def test_the_worlds_hold_what_can_go_wrong():
    """Zeros, ties, siblings, chains, trees of the root alone; and several rounds in most texts."""
    seen = Counter()
    for seed in SEEDS:
        start = context(seed, ())
        seen["second round"] += any(len(emitted) < start.length for emitted in by_rejection(start))
        for text in ((), *product(start.words, repeat=1), *product(start.words, repeat=2)):
            p, tree, children = context(seed, text).p, context(seed, text).tree, context(seed, text).children
            seen["zero"] += 0 in p
            seen["tie at the top"] += p.count(max(p)) > 1
            seen["certainty"] += 1 in p
            seen["root alone"] += len(tree) == 1
            seen["three siblings"] += max(map(len, children)) >= 3
            seen["full depth"] += int(tree.depth.max()) == LEVELS
    assert len(seen) == 7 and min(seen.values()) >= 5, seen


def text_of(seed: int, noise: tuple[int, ...]) -> tuple:
    """The text that `verify` writes with this noise, an outcome out of 0 .. GRID - 1 for every position.

    The token after x is number noise[len(x)] of the GRID tokens dealt to x, at random, so p(w) is w's share of them.
    A tree is any function of the text and *all* of the noise: each outcome of the noise has the trees of another world.
    """
    start, text = context(seed, ()), ()
    other = seed + len(SIZES) * (1 + int("".join(map(str, noise)), GRID))
    while len(text) < start.length:
        here = Context(other, text)
        drawn = [dealt(seed, x)[noise[len(x)] if len(x) < len(noise) else 0] for x in here.text]
        text += tuple(verify(here.tree, torch.tensor(drawn), LEVELS).read()[2])
    return text[: start.length]


def dealt(seed: int, text: tuple) -> list[int]:
    return random.Random(repr((seed, text, "dealt"))).choices(context(seed, ()).words, k=GRID)


@pytest.mark.parametrize("seed", range(6))
def test_trees_may_be_any_function_of_text_and_noise(seed):
    """Test 1 for trees that look at the noise: all GRID^length outcomes of the noise are equally likely."""
    length = context(seed, ()).length
    texts = Counter(text_of(seed, noise) for noise in product(range(GRID), repeat=length))
    for text, count in texts.items():  # the product of p along the text, as a number of the GRID^length outcomes
        assert count == math.prod(dealt(seed, text[:i]).count(token) for i, token in enumerate(text))
    assert texts.total() == GRID**length  # nothing is missing: the total variation is 0


# ---- 2: the test can tell ----


@pytest.mark.parametrize("name", BROKEN)
def test_every_broken_rule_is_caught(name):
    """Test 2, mutation kill: the book's broken rules (fspad_ref/teaching/broken.py) must fail test 1."""
    distances = [float(distance_from_target(by_rule(BROKEN[name]), seed)) for seed in FEW_SEEDS]
    print(f"\n{name}: caught in {sum(map(bool, distances))} of {len(distances)} worlds, up to {max(distances):.3f}")
    assert max(distances) > 0.05, f"the exact test does not see what is wrong with: {name}"


def sampled_children(place: Place, choose) -> int:
    """Two guesses drawn from q, scored against q: lossless. Picking one of them breaks it ("drawn, then picked")."""
    residual = list(place.p)
    for guess in (choose(place.q), choose(place.q)):
        chance = min(Fraction(1), residual[guess] / place.q[guess])
        if choose([chance, 1 - chance]) == 0:
            return guess
        residual = normalised([max(p - q, 0) for p, q in zip(residual, place.q, strict=True)])
    return choose(residual)


@pytest.mark.parametrize("rule", [*LOSSLESS.values(), sampled_children], ids=lambda rule: rule.__name__)
def test_the_rules_that_the_broken_ones_change_are_lossless(rule):
    """Else a broken rule might be caught for another fault."""
    assert all(distance_from_target(by_rule(rule), seed) == 0 for seed in FEW_SEEDS)


# ---- 3: how much is accepted ----


@pytest.mark.parametrize("one_round", [by_walking, by_rejection])
def test_expected_accepted_tokens_are_the_sum_of_the_nodes_path_probabilities(one_round):
    """Test 3, acceptance identity: E[accepted] = sum over nodes but the root of p(path), the most that is possible."""
    for seed in SEEDS:
        for text in ((), *product(context(seed, ()).words, repeat=1)):
            here = context(seed, text)
            reached = [Fraction(1)]  # p(path to node)
            for v in range(1, len(here.tree)):
                parent, token = int(here.tree.parent[v]), int(here.tree.token[v])
                reached.append(reached[parent] * here.at(parent).p[token])
            expected = sum(probability * (len(emitted) - 1) for emitted, probability in one_round(here).items())
            assert expected == sum(reached[1:]), f"E[accepted] = {expected}, not {sum(reached[1:])}"
