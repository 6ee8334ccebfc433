"""Tests 5 and 6, losslessness of the real loop: thousands of short texts against their exact distribution.

    G = 2 sum over texts O ln(O / E)        O observed, E = runs * P(text); if P is true, G ~ chi2(cells - 1)

A text has 4 tokens out of 3, so its joint distribution is a list of at most 81 numbers. The stand-ins below replace the
two networks by tables, which makes a run quick and its distribution known; the loop, the tree, the noise, the draws,
the verification, the cache and its compaction are the package's own. The table target reads its context back from the
cache's entries, so an entry kept wrongly changes the distribution. Three drafts take turns, with trees of different
shape: runs in which none looks at the noise, and a quarter as many in which all do.

Noise is keyed by (seed, position). Making it costs more than the rest of a run, and makes 32 positions at once; so
seven runs share a seed, each at a place of its own in the text: their prompts have 1, 5, 9 ... 25 tokens.
"""

import math
import random
from collections import Counter
from dataclasses import replace
from functools import cache, lru_cache, partial
from itertools import product

import jaxtyping
import numpy as np
import pytest
import torch
from conftest import TextDraft
from scipy.special import chndtrinc
from scipy.stats import chi2, power_divergence

import fspad_ref.generate
from fspad_ref import SamplingConfig, Target, TreeConfig, speculative_generate
from fspad_ref.cache import KVCache
from fspad_ref.sampling import GumbelNoise

LENGTH = 4
V, FILLER = 4, 3  # tokens 0, 1, 2, and one that fills prompts and has probability 0 everywhere
PLACES = 7  # prompts of one seed
TEMPERATURE = 0.5
ALPHA, POWER = 1e-6, 0.999


# ---- a target and a draft made of tables ----


def weights(text: tuple) -> list[int]:
    """The target's unnormalised probabilities at temperature 1, after prompt and `text`: none tiny, some zero."""
    dice = random.Random(repr(("weights", text)))
    row = [dice.randint(3, 5) for _ in range(FILLER)]
    if dice.random() < 0.1:
        row[dice.randrange(FILLER)] = 0
    return [*row, 0]


@cache
def logits(text: tuple) -> list[float]:
    """The target's logits after prompt and text: the log weights, whatever the prompt."""
    row = weights(tuple(token for token in text if token != FILLER))
    return [math.log(weight) if weight else -math.inf for weight in row]


def p(text: tuple) -> list[float]:
    """The distribution of the token after `text`: at temperature 1/2 the normalised squares."""
    squares = [weight**2 for weight in weights(text)]
    return [square / sum(squares) for square in squares]


def exact_distribution() -> dict[tuple, float]:
    """The joint distribution of the texts, those of probability 0 left out."""
    texts = product(range(FILLER), repeat=LENGTH)
    joint = {text: math.prod(p(text[:i])[text[i]] for i in range(LENGTH)) for text in texts}
    return {text: probability for text, probability in joint.items() if probability}


class TableTarget(Target):
    """Features are logits and the head is the identity. The cache holds the tokens themselves, a number each."""

    vocab_size, max_positions, device, dtype = V, 64, torch.device("cpu"), torch.float64

    lm_head = torch.nn.Identity()

    def __init__(self):
        pass

    def new_cache(self, capacity, batch=1):
        return KVCache(1, 1, 1, capacity, dtype=self.dtype)

    def features(self, input_ids, attention_mask=None, cache=None):
        new = input_ids.shape[1]
        visible = torch.ones(new, new, dtype=torch.bool).tril()
        return self.tree_features(input_ids[0], torch.arange(new), visible, cache)[None]

    def tree_features(self, tokens, depth, ancestors, cache):
        held = cache.length
        entries = tokens.double().view(1, 1, -1, 1)  # (batch, heads, N, dim)
        text = [int(token) for token in cache.write(0, entries, entries)[0].flatten().tolist()]
        rows = ancestors.tolist()
        path = [tuple(text[held + w] for w in range(len(rows)) if row[w]) for row in rows]
        return torch.tensor([logits((*text[:held], *nodes)) for nodes in path], dtype=self.dtype)  # (N, V)


TARGET = TableTarget()
SIMILAR = [p((token,)) for token in range(FILLER)]
RANDOM = [[0.6, 0.3, 0.1], [0.1, 0.6, 0.3], [0.3, 0.1, 0.6]]
WRONG = [[1 - x for x in row[:FILLER]] for row in SIMILAR]


def table_draft(table) -> TextDraft:
    """q depends on the last token alone. One table is like the target, one random, one as wrong as can be."""
    logits = torch.tensor([[*row[:FILLER], 0.001] for row in table] + [[1.0] * V], dtype=torch.float64).log()
    return TextDraft(TARGET, lambda texts: logits[[text[-1] for text in texts]], FILLER)


DRAFTS = [
    (table_draft(SIMILAR), TreeConfig(top_k=2, depth=1, total_tokens=6)),
    (table_draft(RANDOM), TreeConfig(top_k=1, depth=1, total_tokens=3)),
    (table_draft(WRONG), TreeConfig(top_k=3, depth=1, total_tokens=7)),
]
LOOKING = [(draft, replace(tree, noise_weight=w)) for (draft, tree), w in zip(DRAFTS, (0.3, 0.7, 1.0), strict=True)]


# ---- the runs ----


def runs(count: int, noise: type[GumbelNoise] = GumbelNoise, drafts=DRAFTS) -> list[tuple[tuple, list[int]]]:
    """`count` runs of the real loop: (text, drafted tokens accepted in each round)."""
    results = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fspad_ref.generate, "GumbelNoise", lru_cache(1)(noise))  # runs of one seed share it
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # shapes are checked by all other tests
        for run in range(count):
            seed, place = divmod(run, PLACES)
            draft, tree = drafts[run % len(drafts)]
            prompt, sampling = [FILLER] * (1 + LENGTH * place), SamplingConfig(TEMPERATURE, seed=seed)
            result = speculative_generate(TARGET, draft, prompt, max_new_tokens=LENGTH, sampling=sampling, tree=tree)
            results.append((tuple(result.tokens), result.accepted))
    return results


class KeyedByDepth(GumbelNoise):
    """A mutant: noise keyed by the depth in the tree, not by the position in the text. Every round starts it anew.

    Each single token still has the right distribution, only not jointly with the tokens of other rounds.
    """

    def rows(self, first, count):
        start = first - (first - 2) % LENGTH  # of the first tree: prompts have 1, 5, 9 ... tokens
        return super().rows(start if count > 1 else first, count)


@pytest.fixture(scope="module")
def honest(request):
    """The runs that both tests look at. Option --long: enough for a total variation of 0.01."""
    shift = 0.01 if request.config.getoption("--long", default=False) else 0.05
    return runs(runs_needed(len(exact_distribution()) - 1, shift))


# ---- the G-test, and how many runs it needs ----


g_test = partial(power_divergence, lambda_="log-likelihood")  # (observed, expected): .statistic is G


def runs_needed(freedom: int, shift: float) -> int:
    """Runs with which a G-test at level ALPHA sees a total variation of `shift` with probability POWER.

    For a distribution off by `shift`, G ~ noncentral chi2 with noncentrality 2 n KL, and KL >= 2 shift^2 (Pinsker).
    """
    noncentrality = chndtrinc(chi2.isf(ALPHA, freedom), freedom, 1 - POWER)
    return math.ceil(noncentrality / (4 * shift**2))


def test_the_power_is_as_calculated():
    """Of 1,000 simulated experiments each: the exact distribution passes, the hardest to see 0.05 away is rejected."""
    exact = np.array(list(exact_distribution().values()))
    count, limit = runs_needed(len(exact) - 1, 0.05), chi2.isf(ALPHA, len(exact) - 1)
    assert exact.sum() == pytest.approx(1) and (exact * count).min() >= 5  # chi2 is a fair approximation
    low = np.zeros(len(exact), dtype=bool)  # about half of the probability, which the shift lowers; the rest it raises
    for cell in np.argsort(-exact):
        low[cell] = exact[low].sum() + exact[cell] <= 0.5
    shifted = exact * np.where(low, 1 - 0.05 / exact[low].sum(), 1 + 0.05 / exact[~low].sum())
    assert np.abs(shifted - exact).sum() / 2 == pytest.approx(0.05)
    print(f"\n{len(exact)} texts, {count} runs for a total variation of 0.05 at level {ALPHA}, power {POWER}")
    for truth, least, most in ((exact, 0, 0), (shifted, 990, 1000)):
        samples = np.random.default_rng(0).multinomial(count, truth, size=1000)
        assert least <= sum(g_test(row, exact * count).statistic > limit for row in samples) <= most


# ---- 5: the joint distribution ----


def p_value_of_the_joint_distribution(results) -> float:
    exact, observed = exact_distribution(), Counter(text for text, _ in results)
    if observed.keys() - exact.keys():  # a text that is impossible
        return 0.0
    counts, expected = [observed[text] for text in exact], [len(results) * chance for chance in exact.values()]
    return g_test(counts, expected).pvalue


def test_texts_of_the_real_loop_have_the_exact_joint_distribution(honest):
    """Test 5, the joint G-test: enough runs for a total variation of 0.05 (0.01 with --long)."""
    value = p_value_of_the_joint_distribution(honest)
    print(f"\n{len(honest)} runs, p-value {value:.3f}")
    assert value > ALPHA, f"the joint distribution of {LENGTH} tokens is not the target's (p-value {value:.1e})"


def test_so_have_texts_whose_trees_look_at_the_noise(honest):
    """Enough runs for twice that total variation. They accept more; test 6 need not hold for them."""
    looking = runs(math.ceil(len(honest) / 4), drafts=LOOKING)
    value = p_value_of_the_joint_distribution(looking)
    taken, blind = (sum(sum(accepted) for _, accepted in some) / len(some) for some in (looking, honest))
    print(f"\n{len(looking)} runs, p-value {value:.3f}; {taken:.2f} tokens accepted per text instead of {blind:.2f}")
    assert value > ALPHA and taken > blind


# ---- 6: what comes next does not depend on how much was accepted ----


def p_values_by_accepted_length(results) -> dict[int, float]:
    """For each accepted length a: the tokens that follow a round that accepted a, against p(. | text so far)."""
    cells = {}  # (a, text so far) -> Counter of next tokens
    for text, accepted in results:
        end = 1  # the prefill's token
        for a in accepted:
            end += a + 1
            if end < LENGTH:
                cells.setdefault((a, text[:end]), Counter())[text[end]] += 1
    G, freedom = Counter(), Counter()
    for (a, so_far), observed in cells.items():
        possible = [token for token, chance in enumerate(p(so_far)) if chance]
        assert observed.keys() <= set(possible)
        expected = [observed.total() * p(so_far)[token] for token in possible]
        if min(expected) >= 5:
            G[a] += g_test([observed[token] for token in possible], expected).statistic
            freedom[a] += len(possible) - 1
    return {a: chi2.sf(G[a], freedom[a]) for a in sorted(G)}


def test_the_next_token_has_distribution_p_whatever_was_accepted(honest):
    """Test 6, round independence."""
    values = p_values_by_accepted_length(honest)
    print("\np-values by accepted length:", {a: f"{value:.3f}" for a, value in values.items()})
    assert list(values) == [0, 1]  # of 4 tokens the prefill writes 1: after 2 accepted and a bonus nothing is left
    for a, value in values.items():
        assert value > ALPHA, f"after {a} accepted tokens the next one is not drawn from p ({value:.1e})"


def test_both_tests_catch_a_biased_mutant():
    """A few runs are plenty for so coarse a fault."""
    mutant = runs(1000, KeyedByDepth)
    assert p_value_of_the_joint_distribution(mutant) < ALPHA
    assert min(p_values_by_accepted_length(mutant).values()) < ALPHA
