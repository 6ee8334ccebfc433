"""One place turns logits into tokens: its noise is numpy's Philox, its distribution is p."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from fspad_ref.sampling import (
    GumbelNoise,
    SamplingConfig,
    choose,
    numpy_words,
    philox4x64,
    position_uniforms,
    process_logits,
    torch_words,
)


@pytest.mark.parametrize("seed", [0, 1, 2**62 + 12345, 2**63 - 1])
def test_philox_is_numpys(seed):
    position, blocks = 987654321, 5
    words = philox4x64(torch.arange(1, blocks + 1), torch.full((blocks,), position), seed)
    ours = torch.stack(words, dim=-1).flatten().numpy().view(np.uint64)
    # numpy counts up before its first block, so its block 1 is the first it emits
    theirs = np.random.Philox(counter=[0, position, 0, 0], key=[seed, 0]).random_raw(4 * blocks)
    assert (ours == theirs).all()
    here, there = (make(seed, [0, 1, position], 13, "cpu") for make in (numpy_words, torch_words))
    assert here.equal(there), "the noise is the same on a CPU and on a GPU"


def test_uniforms_lie_strictly_inside_and_are_uniform():
    u = position_uniforms(7, range(50), 1001)
    assert u.shape == (50, 1001) and u.min() > 0 and u.max() < 1
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("word", [0, -1], ids=["no bit set", "all bits set"])
def test_the_extreme_mantissas_give_finite_noise(monkeypatch, word):
    monkeypatch.setattr("fspad_ref.sampling.numpy_words", lambda *_: torch.full((1, 4), word))
    u = position_uniforms(0, range(1), 4)
    assert 0 < u.min() and u.max() < 1


def test_noise_depends_on_seed_and_position_alone():
    in_order, jumping = GumbelNoise(3, 10), GumbelNoise(3, 10)
    rows = {position: in_order.rows(position, 1) for position in range(5, 100)}
    for position in (99, 5, 40, 6, 70):
        assert torch.equal(jumping.rows(position, 1), rows[position]), "the noise depends on earlier requests"
    assert torch.equal(jumping.rows(30, 50)[7], rows[37][0]), "row i is the noise of position first + i"
    assert not torch.equal(GumbelNoise(4, 10).rows(5, 1), rows[5]), "another seed gives other noise"
    assert not torch.equal(rows[6], rows[5]), "another position gets other noise"


def test_draws_have_distribution_p():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, 0.5]])
    scores = process_logits(logits, SamplingConfig(temperature=0.7, top_k=4))
    n = 20_000
    drawn = choose(scores.expand(n, 5), GumbelNoise(11, 5).rows(0, n))
    observed = np.bincount(drawn.numpy(), minlength=5)
    assert observed[3] == 0 and scores[0, 3].isinf(), "top-k cuts off all but the k most probable tokens"
    kept = [0, 1, 2, 4]
    expected = torch.softmax(logits.double()[0, kept] / 0.7, -1).numpy()  # by hand
    assert stats.chisquare(observed[kept], n * expected).pvalue > 1e-3


def test_greedy_is_argmax_and_no_cut_leaves_logits_alone():
    logits = torch.randn(6, 9).double()
    assert process_logits(logits, SamplingConfig()) is logits
    assert torch.equal(choose(logits, None), logits.argmax(-1))
    for top_k in (0, 9, 100):
        assert torch.equal(process_logits(logits, SamplingConfig(temperature=1.0, top_k=top_k)), logits)


@pytest.mark.parametrize(
    "p, temperature, top_p, sufficient",
    [((0.5, 0.3, 0.15, 0.05), 1.0, *case) for case in ((0.3, 1), (0.49, 1), (0.51, 2), (0.7, 2), (0.81, 3), (0.96, 4))]
    # at temperature 1/2 the probabilities are 0.74, 0.24, 0.02: temperature comes first, so that one token suffices
    + [((0.58, 0.33, 0.09), 0.5, 0.7, 1)],
)
def test_top_p_keeps_the_smallest_sufficient_set(p, temperature, top_p, sufficient):
    kept = process_logits(torch.tensor([p]).log(), SamplingConfig(temperature, top_p)).isfinite()
    assert kept[0].tolist() == [i < sufficient for i in range(len(p))]


def test_impossible_rows_yield_no_token():
    rows = torch.tensor([[0.0, 1.0], [-math.inf, -math.inf], [math.nan, 0.0]])
    assert choose(rows, None).tolist() == [1, -1, -1]
