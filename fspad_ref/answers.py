"""The target's own answers, as training text for drafts.

A draft is to guess what the target writes, so the best text to learn from is the target's own. Here it answers
questions in batches with `transformers`' own `generate`; this is data making, whose speed matters and whose exactness
does not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from fspad_ref.batches import Encoded
from fspad_ref.corpus import prompt_ids
from fspad_ref.errors import ConfigError, InputError
from fspad_ref.target import Target


@dataclass(frozen=True)
class AnswerConfig:
    """How a target writes answers to learn from: sampled from its own distribution, of which nothing is cut off."""

    temperatures: tuple[float, ...] = (0.0, 1.0)
    """Sampling temperatures, each for an equal part of the dialogues; 0 is greedy."""
    max_new_tokens: int = 128
    """Longest answer, in tokens; one that is not ended by then stays unended."""
    batch: int = 64
    """Answers written at once."""
    seed: int = 0
    """Of the sampling."""

    def __post_init__(self) -> None:
        if not self.temperatures or not all(one >= 0 for one in self.temperatures):
            raise ConfigError(
                f"expected temperatures of 0 or more, found {self.temperatures}. Name 0 for greedy answers."
            )
        for name in ("max_new_tokens", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"expected {name} of at least 1, found {getattr(self, name)}. Raise it.")


def own_answers(
    target: Target,
    conversations: Sequence[Sequence[str]],
    temperature: float = 0.0,
    max_new_tokens: int = 128,
    batch_size: int = 64,
    seed: int = 0,
    *,
    systems: Sequence[str] | None = None,
    quiet: bool = False,
) -> list[Encoded]:
    """Let the target answer every turn of every conversation (user turns only, oldest first).

    Returns one (token ids, response mask) pair for each turn, in order of turns, then of conversations: the prompt with
    the earlier turns, and as response the answer. temperature 0 takes the most probable tokens. An answer that is
    not ended after max_new_tokens stays unended. A turn whose prompt leaves no room for that is left out, and so is the
    rest of its conversation. systems: the system message of each conversation, "" for none.

    Raises InputError for a target without a tokenizer or an end-of-sequence token.
    """
    if target.tokenizer is None or target.tokenizer.eos_token_id is None:
        raise InputError("expected a target with a tokenizer that has an end-of-sequence token, found none. Without it "
                         "no answer ends: save one with the target.")  # fmt: skip
    encoded: list[Encoded] = []
    histories: list[list[tuple[str, str]]] = [[] for _ in conversations]
    systems = systems or [""] * len(conversations)
    room = target.max_positions - max_new_tokens
    for turn in range(max(map(len, conversations), default=0)):
        prompts = {
            i: prompt_ids(target.tokenizer, histories[i], questions[turn], systems[i])
            for i, questions in enumerate(conversations)
            if turn < len(questions) and len(histories[i]) == turn
        }
        prompts = {i: prompt for i, prompt in prompts.items() if len(prompt) <= room}
        of_turn = seed + turn
        answers = _answer(target, list(prompts.values()), temperature, max_new_tokens, batch_size, of_turn, quiet)
        for (i, prompt), answer in zip(prompts.items(), answers, strict=True):
            encoded.append((prompt + answer, [False] * len(prompt) + [True] * len(answer)))
            text = target.tokenizer.decode(answer, skip_special_tokens=True)
            histories[i].append((conversations[i][turn], text))
    return encoded


def _answer(
    target: Target, prompts: list[list[int]], temperature: float, limit: int, size: int, seed: int, quiet: bool
) -> list[list[int]]:
    """Answers to prompts of any length, in their order; prompts of similar length share a batch."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers: list[list[int]] = [[] for _ in prompts]
    devices = [target.device] if target.device.type == "cuda" else []
    bar = tqdm(total=len(prompts), desc="target's own answers", unit="", disable=quiet)
    with torch.random.fork_rng(devices), bar:
        torch.manual_seed(seed)
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            eos = target.tokenizer.eos_token_id
            batch = answer_batch(target.model, eos, [prompts[i] for i in chosen], limit, temperature)
            for i, answer in zip(chosen, batch, strict=True):
                answers[i] = answer
            bar.update(len(chosen))
    return answers


def answer_batch(
    model: PreTrainedModel, eos: int, prompts: list[list[int]], limit: int, temperature: float = 0.0
) -> list[list[int]]:
    """The model's answers to prompts of any length, each up to and including its end token, or `limit` tokens long."""
    width = max(map(len, prompts))
    # Padding stands on the left, so that every answer begins at `width`.
    device = model.get_input_embeddings().weight.device  # model.device may be that of an offloaded layer
    ids = torch.tensor([[eos] * (width - len(p)) + p for p in prompts], device=device)  # (B, T)
    seen = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    sampling = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    # Stated in full: what is left out comes from the model's own generation settings.
    text = model.generate(ids, attention_mask=seen, max_new_tokens=limit, eos_token_id=eos, pad_token_id=eos,
                          top_k=0, top_p=1.0, repetition_penalty=1.0, **sampling)  # fmt: skip
    return [row[: row.index(eos) + 1] if eos in row else row for row in text[:, width:].tolist()]
