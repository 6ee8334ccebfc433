"""Test 8: below float64 a text differs from plain decoding's only where rounding explains it.

The error that explains a token comes from plain decoding alone (fspad_ref/bench/certificate.py), so that it can be
held against the tree's forward pass. To show that the certificate can fail, faults are planted in the loop.
"""

import copy
from itertools import product

import pytest
import torch
from conftest import PROMPT, attentive_target, stand_in

from fspad_ref import SamplingConfig, Target, TreeConfig, autoregressive_generate, speculative_generate
from fspad_ref.bench.certificate import certify, explained
from fspad_ref.cache import KVCache
from fspad_ref.sampling import GumbelNoise, choose, process_logits

SIZES = dict(vocab_size=1000, hidden_size=64, intermediate_size=128, num_hidden_layers=4, initializer_range=0.15)
TREE = TreeConfig(4, 3, 20)
SAMPLINGS = [
    SamplingConfig(),
    SamplingConfig(0.3, seed=1),
    SamplingConfig(1.0, top_p=0.9, top_k=50, seed=2),
    SamplingConfig(1.7, top_p=0.6, seed=3),
]
PROMPTS = [[first, *PROMPT] for first in range(2, 8)]


@pytest.fixture(scope="module", params=[torch.bfloat16, torch.float32], ids=str)
def targets(request) -> tuple[Target, Target]:
    """A target in the precision under test, and the same weights in float64."""
    target = attentive_target(0, request.param, **SIZES)
    return target, Target(copy.deepcopy(target.model).double())


def certified(targets, prompt: list[int], sampling):
    """A speculative text's tokens and its certificate."""
    draft = stand_in(targets[0], 1.0, prompt[0])
    tokens = speculative_generate(targets[0], draft, prompt, max_new_tokens=24, sampling=sampling, tree=TREE).tokens
    return tokens, certify(*targets, prompt, tokens, sampling)


def test_rounding_explains_every_token(targets):
    cases = list(product(PROMPTS, SAMPLINGS))
    texts, certificates = zip(*(certified(targets, *case) for case in cases), strict=True)
    assert all(c.explained.all() for c in certificates), "a token that rounding does not explain"
    plain = [autoregressive_generate(targets[0], p, max_new_tokens=24, sampling=s).tokens for p, s in cases]
    same = [text == other for text, other in zip(texts, plain, strict=True)]
    flips, plain_flips = (sum(c[i] for c in certificates) / (24 * len(cases)) for i in (2, 3))
    print(f"\n{targets[0].dtype}: identical {sum(same)} of {len(same)}, every divergence certified; "
          f"flips {flips:.2%}, of plain decoding against itself {plain_flips:.2%}")
    # a text is plain decoding's exactly where plain decoding, forced along it, draws each of its tokens
    assert same == [c.flips == 0 for c in certificates]
    if targets[0].dtype == torch.bfloat16:
        assert flips + plain_flips > 0, "no near-tie was met, so nothing was shown"


# ---- the certificate can fail ----


def siblings_see_each_other(patch):
    honest = Target.tree_features

    def features(self, tokens, depth, ancestors, cache):
        above = ancestors & ~torch.eye(len(tokens), dtype=torch.bool)
        siblings = (above[:, None] == above).all(-1)  # the same ancestors
        return honest(self, tokens, depth, ancestors | siblings, cache)

    patch.setattr(Target, "tree_features", features)


def positions_are_one_too_far(patch):
    honest = Target.tree_features
    patch.setattr(Target, "tree_features", lambda self, tokens, depth, *rest: honest(self, tokens, depth + 1, *rest))


def another_path_is_kept(patch):
    honest = KVCache.keep
    patch.setattr(KVCache, "keep", lambda self, start, rows: honest(self, start, torch.arange(len(rows))))


def noise_of_the_next_position(patch):
    honest, of_a_tree = GumbelNoise.rows, TREE.levels + 1
    patch.setattr(GumbelNoise, "rows", lambda self, first, count: honest(self, first + (count == of_a_tree), count))


FAULTS = [siblings_see_each_other, positions_are_one_too_far, another_path_is_kept]
FAULTS = [*product(FAULTS, SAMPLINGS[:2]), (noise_of_the_next_position, SAMPLINGS[1])]  # greedy has no noise


@pytest.mark.parametrize("fault, sampling", FAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_planted_fault_gets_no_certificate(targets, fault, sampling, monkeypatch):
    fault(monkeypatch)
    assert any(not certified(targets, prompt, sampling)[1].explained.all() for prompt in PROMPTS)


# ---- the rule itself, on logits with known errors ----

CUTS = [*SAMPLINGS, SamplingConfig(1.0, top_k=3, seed=4), SamplingConfig(0.7, top_k=4, top_p=0.8, seed=5)]
ROWS, V = 4000, 8


def known_error(sampling, spread: float):
    """(logits, noise, tokens drawn from the logits, tokens drawn from logits off by at most `spread`)."""
    torch.manual_seed(0)
    logits = torch.randn(ROWS, V, dtype=torch.float64)
    noise = None if sampling.greedy else GumbelNoise(sampling.seed, V).rows(0, ROWS)
    rounded = logits + spread * (2 * torch.rand(ROWS, V, dtype=torch.float64) - 1)
    return logits, noise, *(choose(process_logits(x, sampling), noise) for x in (logits, rounded))


@pytest.mark.parametrize("sampling", CUTS, ids=str)
def test_what_rounding_did_is_always_explained(sampling):
    """Errors from tiny to large; among the tokens are some that top-k or top-p of the exact logits excludes."""
    excluded = 0
    for spread in (0.01, 0.1, 0.5):
        logits, noise, exact, rounded = known_error(sampling, spread)
        assert explained(logits, rounded, sampling, noise, torch.full((ROWS,), spread)).all()
        assert (exact != rounded).any()
        excluded += int(process_logits(logits, sampling).gather(1, rounded[:, None]).isinf().sum())
    assert (excluded > 0) == (sampling.top_k > 0 or sampling.top_p < 1)


@pytest.mark.parametrize("sampling", CUTS, ids=str)
def test_without_an_error_only_the_token_itself_is_explained(sampling):
    logits, noise, exact, _ = known_error(sampling, 0.0)
    for shift in range(V):
        found = explained(logits, (exact + shift) % V, sampling, noise, torch.zeros(ROWS))
        assert found.all() if shift == 0 else not found.any()
