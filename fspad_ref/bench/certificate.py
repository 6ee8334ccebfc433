"""The near-tie certificate: does rounding explain every token of a text?

Below float64, forward passes of different shape round differently, and of two words that are nearly tied the other can
win. Let s be the exact scores (logits / T; T = 1 if greedy), G the noise (0 if greedy), e the error of the logits. Then
rounding explains the token y if top-k and top-p keep y for some logits within e of the exact ones, and
s(y) + G(y) >= s(w) + G(w) - 2 e / T for every word w that they keep for all such logits.

"Exact" is float64, and e is the larger error of two *plain* forward passes over the text: one token at a time, and all
at once. The tree's forward pass has no part in e, so a wrong tree mask cannot excuse itself.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from fspad_ref.sampling import GumbelNoise, SamplingConfig, choose, process_logits
from fspad_ref.target import Target


class Certificate(NamedTuple):
    explained: torch.Tensor  # (n,), whether rounding explains each token
    error: torch.Tensor  # (n,), e
    flips: int  # tokens that plain decoding, one at a time along the text, draws differently
    plain_flips: int  # how often its two passes differ


def certify(target: Target, exact: Target, prompt: list[int], tokens: list[int], sampling) -> Certificate:
    """Certify new `tokens` (n,) after `prompt` (T,). exact: Target(copy.deepcopy(target.model).double()), or alike."""
    text, T, n = torch.tensor([prompt + tokens], device=target.device), len(prompt), len(tokens)
    cache, parts = target.new_cache(T + n), text[:, :-1].split([T] + [1] * (n - 1), dim=1)
    one = torch.cat([target.lm_head(target.features(part, cache=cache)[:, -1]) for part in parts]).double()  # (n, V)
    whole, true = (model.lm_head(model.features(text[:, :-1])[0, T - 1 :]).double() for model in (target, exact))
    error = torch.maximum((one - true).abs().amax(-1), (whole - true).abs().amax(-1))  # (n,)
    noise = None if sampling.greedy else GumbelNoise(sampling.seed, target.vocab_size, target.device).rows(T, n)
    drawn, again = (choose(process_logits(logits, sampling), noise) for logits in (one, whole))
    flips, plain_flips = int((drawn != text[0, T:]).sum()), int((again != drawn).sum())
    return Certificate(explained(true, text[0, T:], sampling, noise, error), error, flips, plain_flips)


def explained(logits, tokens, sampling: SamplingConfig, noise, error) -> torch.Tensor:
    """For each row of exact `logits` (n, V): could logits within `error` (n,) have drawn its token? (n,), bool."""
    T, k, top_p = (1.0, 0, 1.0) if sampling.greedy else (sampling.temperature, sampling.top_k, sampling.top_p)
    scores, slack, token = logits / T, 2 * error[:, None] / T, tokens[:, None]
    p, k = scores.softmax(-1), min(k or scores.shape[-1], scores.shape[-1])
    ordered = scores.sort(descending=True).values
    mass = F.pad(ordered.softmax(-1).cumsum(-1), (1, 0))  # (n, V + 1): of the best 0, 1, ..., V words
    least = torch.searchsorted(-ordered, -scores - slack)  # (n, V): how many words are above w for all logits within e
    most = torch.searchsorted(-ordered, -scores + slack, right=True) - 1  # and for some
    # The probability above w after top-k, to be held against top-p. Rounding changes it by at most a factor exp(slack).
    light = mass.gather(1, least) / (p * (least < k)).sum(-1, keepdim=True) * (-slack).exp()
    heavy = (mass.gather(1, most + 1) - p) / mass[:, k : k + 1] * slack.exp()
    always, sometimes = ((n < k) & ((m < top_p) | (top_p == 1)) for n, m in ((most, heavy), (least, light)))
    perturbed = scores if noise is None else scores + noise
    best = perturbed.masked_fill(~always, -torch.inf).amax(-1, keepdim=True)
    return (sometimes.gather(1, token) & (perturbed.gather(1, token) >= best - slack))[:, 0]
