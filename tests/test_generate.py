"""The decoding loops: blocks are cut where the text ends, counts are right."""

import math

import pytest
import torch
from conftest import PROMPT, tiny_draft

from fspad_ref import SamplingConfig, autoregressive_generate, fspad_generate, speculative_generate
from fspad_ref.errors import InputError
from fspad_ref.generate import Generation, Stop
from fspad_ref.sampling import GumbelNoise


def test_model_generate_samples_with_its_own_settings(target, draft):
    """With temperature, top-p and top-k; the seed is PyTorch's. Longer than the blocks in which noise is made."""
    settings, ours = dict(temperature=0.8, top_p=0.9, top_k=7), dict(custom_generate=fspad_generate, draft=draft)
    cap = dict(max_new_tokens=GumbelNoise.BLOCK + 8, eos_token_id=None)
    torch.manual_seed(5)
    out = target.model.generate(torch.tensor([PROMPT]), do_sample=True, pad_token_id=0, **settings, **cap, **ours)
    torch.manual_seed(5)
    sampling = SamplingConfig(**settings, seed=int(torch.randint(2**62, ())))
    assert out[0].tolist() == PROMPT + autoregressive_generate(target, PROMPT, sampling=sampling, **cap).tokens


@pytest.mark.parametrize("place", range(4))
def test_an_end_token_and_the_length_cap_cut_a_block_wherever_they_fall(place):
    """Blocks of four tokens, three of them drafted. Impossible tokens (-1) behind the end of the text are no error."""
    block = [9] * place + [5] + [-1] * (3 - place)
    for most, eos in ((10, 5), (place + 1, None)):
        result = Generation()
        assert Stop(most, eos, None, None).take(result, block, accepted=3)
        assert result.tokens == block[: place + 1] and result.accepted == [min(3, place + 1)]


def test_counts_of_the_shortest_texts(target, draft):
    nothing, one = (speculative_generate(target, draft, PROMPT, max_new_tokens=n) for n in (0, 1))
    assert nothing.tokens == [] and nothing.accepted == [] and math.isnan(nothing.tau)
    assert len(one.tokens) == 1 and one.accepted == [] and math.isnan(one.tau)


def test_on_round_reports_every_token_once_and_tau_counts_tokens_by_round(target, draft):
    seen = []
    result = speculative_generate(target, draft, PROMPT, max_new_tokens=25, on_round=lambda *new: seen.append(new))
    assert sum((tokens for tokens, _ in seen), []) == result.tokens
    assert [n for _, n in seen][1:] == result.accepted and result.tau == 24 / len(result.accepted) >= 1
    assert autoregressive_generate(target, PROMPT, max_new_tokens=25).tau == 1.0


def test_the_longest_text_that_fits_is_written(target):
    """5 tokens of the prompt, 245 new ones, 6 levels of the default tree: 256 positions."""
    draft = tiny_draft(target)
    with pytest.raises(InputError, match="256 positions.*at most 245"):
        speculative_generate(target, draft, PROMPT, max_new_tokens=246)
    assert len(speculative_generate(target, draft, PROMPT, max_new_tokens=245).tokens) == 245
