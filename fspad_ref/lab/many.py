"""Plain decoding of many prompts at once, for recordings: the same tokens as one by one, in a fraction of the time.

The batch is `transformers` own greedy `generate`; a logits processor adds our position-keyed noise, and the argmax
of scores + noise is the draw of sampling.py, so every answer keeps its own seed whatever batch it is in.

A batch rounds otherwise than a single text, and a near-tie could fall the other way. So every answer is checked against
one forward over its whole text, which recordings need anyway for the features: if any of its tokens is not the one
that this forward draws, the answer is decoded again by the plain loop.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from fspad_ref.generate import autoregressive_generate
from fspad_ref.sampling import GumbelNoise, SamplingConfig, at_least_float32, choose, process_logits
from fspad_ref.target import Target

Answer = tuple[list[int], Tensor]  # new tokens; features (L - 1, D) of prompt and answer but for the last token


def answer_many(
    target: Target, prompts: Sequence[list[int]], samplings: Sequence[SamplingConfig], max_new_tokens: int, eos: int
) -> list[Answer]:
    """Every prompt's answer under its own sampling settings, which may differ in their seeds alone."""
    guesses = _batch(target, prompts, samplings, max_new_tokens, eos) if len(prompts) > 1 else [None]
    answers = []
    for prompt, sampling, tokens in zip(prompts, samplings, guesses, strict=True):
        features = tokens and text_features(target, prompt + tokens)
        if tokens is None or not is_drawn(target, prompt, tokens, features, sampling):
            tokens = autoregressive_generate(
                target, prompt, max_new_tokens=max_new_tokens, eos_token_id=eos, sampling=sampling
            ).tokens
            features = text_features(target, prompt + tokens)
        answers.append((tokens, features))
    return answers


def text_features(target: Target, ids: Sequence[int]) -> Float[Tensor, "seq hidden"]:
    """f at every position of a text but the last, (L - 1, D), by one forward, on the CPU."""
    return target.features(torch.tensor([list(ids[:-1])], device=target.device))[0].cpu()  # (1, L - 1) -> (L - 1, D)


@torch.no_grad()
def is_drawn(
    target: Target, prompt: Sequence[int], tokens: Sequence[int], features: Tensor, sampling: SamplingConfig
) -> bool:
    """Whether every token of the answer is the one that these features and the seed's noise draw."""
    logits = at_least_float32(target.lm_head(features[len(prompt) - 1 :].to(target.device)))  # (new, V)
    noise = None
    if not sampling.greedy:
        noise = GumbelNoise(sampling.seed, target.vocab_size, target.device).rows(len(prompt), len(tokens))
    return choose(process_logits(logits, sampling), noise).tolist() == list(tokens)


def _batch(
    target: Target, prompts: Sequence[list[int]], samplings: Sequence[SamplingConfig], limit: int, eos: int
) -> list[list[int]]:
    width = max(map(len, prompts))
    # Padding stands on the left, so that every answer begins at `width`.
    ids = torch.tensor([[eos] * (width - len(p)) + p for p in prompts], device=target.device)  # (B, T)
    seen = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=target.device)
    keyed = _KeyedNoise(target, [width - len(p) for p in prompts], samplings)
    # Stated in full: what is left out comes from the model's own generation settings.
    text = target.model.generate(
        ids, attention_mask=seen, max_new_tokens=limit, eos_token_id=eos, pad_token_id=eos, do_sample=False,
        repetition_penalty=1.0, logits_processor=LogitsProcessorList([keyed]),
    )  # fmt: skip
    return [row[: row.index(eos) + 1] if eos in row else row for row in text[:, width:].tolist()]


class _KeyedNoise(LogitsProcessor):
    """Scores whose argmax is the draw of sampling.py, row by row."""

    def __init__(self, target: Target, padding: Sequence[int], samplings: Sequence[SamplingConfig]):
        self.law, self.padding = samplings[0], padding
        self.noise = [GumbelNoise(one.seed, target.vocab_size, target.device) for one in samplings]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self.law.greedy:
            return scores
        position = input_ids.shape[1]
        rows = [noise.rows(position - pad, 1) for noise, pad in zip(self.noise, self.padding, strict=True)]
        return process_logits(scores, self.law) + torch.cat(rows)  # two of (B, V)
