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
    assert (ours == theirs).all()


def test_uniforms_lie_strictly_inside_and_are_uniform():
    u = position_uniforms(7, torch.arange(50), 1001)
    assert u.shape == (50, 1001) and u.min() > 0 and u.max() < 1
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 1e-3


def test_the_largest_mantissa_stays_below_one(monkeypatch):
    ones = torch.full((1, 1), -1)  # all 64 bits set
    monkeypatch.setattr("fspad_ref.sampling.philox4x64", lambda *_: [ones] * 4)
    assert position_uniforms(0, torch.arange(1), 4).max() < 1


def test_noise_depends_on_seed_and_position_alone():
    in_order, jumping = GumbelNoise(3, 10), GumbelNoise(3, 10)
    rows = {position: in_order.rows(position, 1) for position in range(5, 100)}
    for position in (99, 5, 40, 6, 70):
        assert torch.equal(jumping.rows(position, 1), rows[position])
    assert torch.equal(jumping.rows(30, 50)[7], rows[37][0])
    assert not torch.equal(GumbelNoise(4, 10).rows(5, 1), rows[5])


def test_draws_follow_the_law():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, 0.5]])
    config = SamplingConfig(temperature=0.7, top_k=4)
    n = 20_000
    drawn = choose(process_logits(logits, config).expand(n, 5), GumbelNoise(11, 5).rows(0, n))
    p = torch.softmax(process_logits(logits, config), -1)[0].numpy()
    observed = np.bincount(drawn.numpy(), minlength=5)
    assert observed[3] == 0 and p[3] == 0  # top-k cut it off
    assert stats.chisquare(observed[p > 0], n * p[p > 0]).pvalue > 1e-3


def test_greedy_is_argmax_and_leaves_logits_alone():
    logits = torch.randn(6, 9)
    assert process_logits(logits, SamplingConfig()) is logits
    assert torch.equal(choose(logits, None), logits.argmax(-1))


def test_top_p_keeps_the_smallest_sufficient_set():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    kept = process_logits(logits, SamplingConfig(temperature=1.0, top_p=0.7)).isfinite()
    assert kept.tolist() == [[True, True, False, False]]


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
