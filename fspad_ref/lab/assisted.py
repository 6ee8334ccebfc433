"""Baselines that `transformers` has itself: prompt lookup, assisted generation, and its plain `generate`.

They run as they are, under the same call as our own methods, and only the counting is ours. A *round* is a target
forward after the first one, which is the prefill; so tau = (tokens - 1) / rounds, as everywhere here. One thing to know
when reading it: `transformers` lets the prefill check drafted tokens too, and what it accepts there costs no round.

Greedy text is that of plain decoding. At a temperature `transformers` draws from torch's global generator, seeded here
from the sampling seed: the law of the text is the same, the text is another one; tau and speed remain comparable.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.generation.streamers import BaseStreamer

from fspad_ref.batches import Batch, Encoded
from fspad_ref.corpus import Dialogue
from fspad_ref.errors import TargetMismatch
from fspad_ref.generate import Generation, prepare_prompt
from fspad_ref.lab.fit import OnStep, fit
from fspad_ref.sampling import SamplingConfig, at_least_float32
from fspad_ref.target import Target
from fspad_ref.train import TrainConfig


@dataclass(frozen=True)
class TransformersGenerate:
    """`model.generate` of the target with some settings; made by `plain_generate`, `prompt_lookup`, `assisted`."""

    target: Target
    settings: Mapping[str, Any] = field(default_factory=dict)

    @torch.no_grad()
    def decode(
        self,
        ids: list[int] | Tensor,
        max_new_tokens: int,
        sampling: SamplingConfig,
        eos: int | list[int] | None = None,
    ) -> Generation:
        """Result as in `generate.speculative_generate`; `.accepted` is, a round, its tokens less one."""
        prompt = prepare_prompt(self.target, ids, max_new_tokens, extra=0)  # (1, T)
        if max_new_tokens == 0:
            return Generation()
        law = dict(do_sample=False)
        if not sampling.greedy:
            law = dict(do_sample=True, temperature=float(sampling.temperature),
                       top_p=float(sampling.top_p), top_k=sampling.top_k)  # fmt: skip
        counter = _Counter()
        ends = [] if eos is None else torch.as_tensor(eos).flatten().tolist()
        cuda = [self.target.device] if self.target.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(sampling.seed)
            text = self.target.model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=max_new_tokens,
                eos_token_id=eos,
                # Unused at batch 1, but an assistant would not see prompt tokens of this id, unless it also ends texts.
                pad_token_id=ends[0] if ends else None,
                repetition_penalty=1.0,  # a model's own generation settings may have another
                streamer=counter,
                **law,
                **self.settings,
            )
        return Generation(text[0, prompt.shape[1] :].tolist(), [n - 1 for n in counter.tokens[1:]])


class _Counter(BaseStreamer):
    """Told by `generate` of the prompt, and then of the tokens of each target forward; remembers how many."""

    def __init__(self) -> None:
        self.prompt: int | None = None
        self.tokens: list[int] = []

    def put(self, value: Tensor) -> None:
        if self.prompt is None:
            self.prompt = value.numel()
        else:
            self.tokens.append(value.numel())

    def end(self) -> None:
        """Nothing is buffered."""


def plain_generate(target: Target) -> TransformersGenerate:
    """`transformers`' own plain loop: how far our vanilla baseline is from what people usually run."""
    return TransformersGenerate(target)


def prompt_lookup(target: Target, tokens: int = 10, ngram: int = 2) -> TransformersGenerate:
    """Prompt lookup: drafts what followed the last n-gram where it stood in the text before.

    tokens: drafted a round. ngram: the longest n-gram looked up. The defaults are `transformers`' own.
    """
    return TransformersGenerate(target, dict(prompt_lookup_num_tokens=tokens, max_matching_ngram_size=ngram))


def assisted(
    target: Target, assistant: PreTrainedModel, tokens: int | None = None, threshold: float | None = None
) -> TransformersGenerate:
    """Assisted generation: a small language model of the same vocabulary drafts a chain.

    tokens: drafted a round at most. threshold: stop a chain where the assistant is less sure than this. None keeps
    `transformers`' defaults. The values are written into the assistant's generation_config, where `generate` looks for
    them: of two methods with one assistant object the later one's hold for both.

    Raises TargetMismatch if the vocabularies differ in size.
    """
    if assistant.config.vocab_size != target.vocab_size:
        raise TargetMismatch(f"expected an assistant with the target's {target.vocab_size} tokens, found "
                             f"{assistant.config.vocab_size}. Train one with train_assistant.")  # fmt: skip
    if tokens is not None:
        assistant.generation_config.num_assistant_tokens = tokens
    if threshold is not None:
        assistant.generation_config.assistant_confidence_threshold = threshold
    return TransformersGenerate(target, dict(assistant_model=assistant))


# ---- the small language model that assists ----


@dataclass(frozen=True)
class AssistantConfig:
    """Sizes of the assistant, a Llama; vocabulary, positions and special tokens are the target's."""

    layers: int = 2
    hidden: int = 128
    intermediate: int = 256
    heads: int = 4


def new_assistant(target: Target, config: AssistantConfig, seed: int = 0) -> LlamaForCausalLM:
    """A fresh assistant in float32 on the target's device."""
    llama = LlamaConfig(
        vocab_size=target.vocab_size,
        hidden_size=config.hidden,
        intermediate_size=config.intermediate,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        max_position_embeddings=target.max_positions,
        tie_word_embeddings=True,
        bos_token_id=target.config.bos_token_id,
        eos_token_id=target.config.eos_token_id,
        pad_token_id=target.config.pad_token_id,
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(llama).float().to(target.device)


def train_assistant(
    target: Target,
    assistant: LlamaForCausalLM,
    dialogues: Sequence[Dialogue | Encoded],
    config: TrainConfig,
    on_step: OnStep | None = None,
    prompt_weight: float = 0.1,
) -> list[float]:
    """Train it on the drafts' own batches; returns the loss of every step. Settings: see `fit`.

    prompt_weight: weight of a token of the prompt, where one of the response has 1.
    """

    def loss_of(batch: Batch) -> Tensor:
        ids, response = batch.input_ids.to(target.device), batch.response.to(target.device)
        # Padding stands on the right, where causal attention hides it: no mask is needed for it.
        logits = assistant(input_ids=ids, use_cache=False).logits  # (B, T) -> (B, T, V)
        return weighted_loss(logits, ids, response, prompt_weight)

    return fit(assistant, loss_of, target, dialogues, config, on_step)


def weighted_loss(
    logits: Float[Tensor, "batch seq vocab"],
    ids: Int[Tensor, "batch seq"],
    response: Bool[Tensor, "batch seq"],
    prompt_weight: float,
) -> Float[Tensor, ""]:
    """- sum_t w_{t+1} log q(x_{t+1}) / sum_t w_{t+1}, in nats.

    w is 1 on response tokens, prompt_weight on others, and 0 behind a row's last response token, where padding begins.
    """
    real = response.flip(1).cumsum(dim=1).flip(1) > 0  # (B, T)
    weight = torch.where(response, 1.0, prompt_weight * real)[:, 1:].flatten()  # (B, T) -> (B * (T - 1),)
    each = F.cross_entropy(at_least_float32(logits[:, :-1].flatten(0, 1)), ids[:, 1:].flatten(), reduction="none")
    return (weight * each).sum() / weight.sum()


def save_assistant(assistant: LlamaForCausalLM, target: Target, folder: str | Path) -> None:
    """Write it in Hugging Face's layout, with the target's tokenizer if that has one."""
    assistant.save_pretrained(folder)
    if target.tokenizer is not None:
        target.tokenizer.save_pretrained(folder)


def load_assistant(folder: str | Path, target: Target) -> PreTrainedModel:
    """Load what `save_assistant` wrote, in the target's precision, on its device.

    Raises CheckpointError for a folder without a sound model, TargetMismatch for one with another tokenizer.
    """
    dtype = str(target.dtype).removeprefix("torch.")
    small = Target.from_pretrained(str(folder), device=str(target.device), dtype=dtype)
    if small.identity()["tokenizer_hash"] != target.identity()["tokenizer_hash"]:
        raise TargetMismatch(f"expected an assistant with the target's own tokenizer, found another in {folder}. "
                             "Train one with train_assistant.")  # fmt: skip
    return small.model
