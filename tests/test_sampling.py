"""One place turns logits into tokens: its noise is numpy's Philox, its law is p, its bounds are enforced."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from fspad_ref.errors import ConfigError
from fspad_ref.sampling import GumbelNoise, SamplingConfig, choose, philox4x64, position_uniforms, process_logits


@pytest.mark.parametrize("seed", [0, 1, 2**62 + 12345, 2**63 - 1])
def test_philox_is_numpys(seed):
    position, blocks = 987654321, 5
    words = philox4x64(torch.arange(1, blocks + 1), torch.full((blocks,), position), seed)
    ours = torch.stack(words, dim=-1).flatten().numpy().view(np.uint64)
    # numpy counts up before its first block, so its block 1 is the first it emits
    theirs = np.random.Philox(counter=[0, position, 0, 0], key=[seed, 0]).random_raw(4 * blocks)
    assert (ours == theirs).all(), "law broken: the noise comes from Philox 4x64-10, numpy's"


def test_uniforms_lie_strictly_inside_and_are_uniform():
    u = position_uniforms(7, torch.arange(50), 1001)
    assert u.shape == (50, 1001) and u.min() > 0 and u.max() < 1, "law broken: uniforms lie strictly inside (0, 1)"
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 1e-3


def test_the_largest_mantissa_stays_below_one(monkeypatch):
    ones = torch.full((1, 1), -1)  # all 64 bits set
    monkeypatch.setattr("fspad_ref.sampling.philox4x64", lambda *_: [ones] * 4)
    assert position_uniforms(0, torch.arange(1), 4).max() < 1, "law broken: a uniform of 1 is infinite noise"


def test_the_smallest_mantissa_stays_above_zero(monkeypatch):
    monkeypatch.setattr("fspad_ref.sampling.philox4x64", lambda *_: [torch.zeros((1, 1), dtype=torch.long)] * 4)
    assert position_uniforms(0, torch.arange(1), 4).min() > 0, "law broken: a uniform of 0 is infinite noise"


def test_noise_depends_on_seed_and_position_alone():
    in_order, jumping = GumbelNoise(3, 10), GumbelNoise(3, 10)
    rows = {position: in_order.rows(position, 1) for position in range(5, 100)}
    for position in (99, 5, 40, 6, 70):
        same = torch.equal(jumping.rows(position, 1), rows[position])
        assert same, f"law broken: the noise of position {position} depends on what was asked for before"
    assert torch.equal(jumping.rows(30, 50)[7], rows[37][0]), "law broken: row i is the noise of position first + i"
    assert not torch.equal(GumbelNoise(4, 10).rows(5, 1), rows[5]), "law broken: another seed gives other noise"
    assert not torch.equal(rows[6], rows[5]), "law broken: another position gets other noise"


def test_draws_follow_the_law():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, 0.5]])
    config = SamplingConfig(temperature=0.7, top_k=4)
    n = 20_000
    drawn = choose(process_logits(logits, config).expand(n, 5), GumbelNoise(11, 5).rows(0, n))
    p = torch.softmax(process_logits(logits, config), -1)[0].numpy()
    observed = np.bincount(drawn.numpy(), minlength=5)
    assert observed[3] == 0 and p[3] == 0, "law broken: top-k cuts off all but the k most probable tokens"
    kept = torch.tensor([0, 1, 2, 4])
    expected = torch.softmax(logits.double()[0, kept] / 0.7, -1).numpy()  # by hand
    value = stats.chisquare(observed[kept.numpy()], n * expected).pvalue
    assert value > 1e-3, f"law broken: draws do not follow softmax(logits / T) (p-value {value:.1e})"


def test_greedy_is_argmax_and_leaves_logits_alone():
    logits = torch.randn(6, 9)
    assert process_logits(logits, SamplingConfig()) is logits
    assert torch.equal(choose(logits, None), logits.argmax(-1))


def test_top_p_keeps_the_smallest_sufficient_set():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    for top_p, sufficient in ((0.3, 1), (0.49, 1), (0.51, 2), (0.7, 2), (0.81, 3), (0.94, 3), (0.96, 4)):
        kept = process_logits(logits, SamplingConfig(temperature=1.0, top_p=top_p))[0].isfinite().tolist()
        law = f"law broken: top_p = {top_p} keeps the smallest set of tokens that reaches it, {sufficient} of them"
        assert kept == [i < sufficient for i in range(4)], law


def test_cuts_come_after_temperature():
    """At temperature 1/2 the probabilities are 0.74, 0.24, 0.02, so that top_p = 0.7 leaves one token, not two."""
    logits = torch.log(torch.tensor([[0.58, 0.33, 0.09]]))
    kept = process_logits(logits, SamplingConfig(temperature=0.5, top_p=0.7))[0].isfinite().tolist()
    assert kept == [True, False, False], "law broken: temperature comes first, then top-p"


def test_a_top_k_beyond_the_vocabulary_cuts_nothing():
    logits = torch.randn(3, 9)
    all_kept, no_cut = (process_logits(logits, SamplingConfig(temperature=1.0, top_k=k)) for k in (100, 0))
    assert torch.equal(all_kept, no_cut)


def test_impossible_rows_yield_no_token():
    rows = torch.tensor([[0.0, 1.0], [-math.inf, -math.inf], [math.nan, 0.0]])
    assert choose(rows, None).tolist() == [1, -1, -1]


@pytest.mark.parametrize(
    "name, value",
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_p", math.nan),
        ("top_k", -1),
        ("seed", -1),
        ("seed", 2**63),
    ],
)
def test_settings_outside_their_range_are_refused(name, value):
    with pytest.raises(ConfigError, match=f"expected {name} .*found {value!r}.*Set {name}"):
        SamplingConfig(**{name: value})
