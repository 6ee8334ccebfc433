"""`python -m fspad_ref generate`: an answer as it is decoded, tokens proposed by the draft marked."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from io import TextIOBase
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from fspad_ref.commands.train import load_target
from fspad_ref.data import prompt_ids
from fspad_ref.draft import Draft
from fspad_ref.errors import InputError
from fspad_ref.generate import autoregressive_generate, speculative_generate
from fspad_ref.sampling import SamplingConfig
from fspad_ref.teaching.exercises import Pieces, mark, style_for
from fspad_ref.tree import TreeConfig


@dataclass(frozen=True)
class GenerateConfig:
    """Answer one prompt. Tokens that the draft proposed and the target accepted are underlined in green.

    The answer goes to standard output, unmarked where that is no terminal; the figures go to standard error.
    """

    prompt: Annotated[str | None, tyro.conf.Positional] = None
    """What to answer; read from standard input if not given."""
    target: str = "data/old/target"
    """Folder or Hub id of the target, a Hugging Face causal language model."""
    draft: Path | None = Path("data/old/drafts/fspad")
    """Folder of a draft made for that target; None decodes without one: the same text, one token a forward."""
    chat_format: str | None = None
    """The target's prompt format if it brings no chat template: vicuna. None takes the target's own template."""
    raw: bool = False
    """Continue the prompt as it stands instead of answering it under the target's chat template."""
    max_new_tokens: int = 256
    """Longest answer, in tokens."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    tree: TreeConfig = field(default_factory=TreeConfig)
    device: str = "cpu"
    """Where to compute: cpu, cuda, cuda:1, ..."""
    dtype: Literal["float64", "float32", "bfloat16", "float16"] = "float32"
    """Precision of the weights and of the arithmetic."""


def generate(config: GenerateConfig) -> None:
    """Load target and draft, stream the answer, then say how many tokens each round gave."""
    prompt = config.prompt if config.prompt is not None else read_prompt(sys.stdin)
    target = load_target(config.target, config.device, config.dtype, config.chat_format)
    ids = torch.tensor([encode_prompt(target.tokenizer, prompt, config.raw)], device=target.device)  # (1, T)
    settings = {
        "max_new_tokens": config.max_new_tokens,
        "eos_token_id": target.tokenizer.eos_token_id,
        "sampling": config.sampling,
        "on_round": print_marked(Pieces(target.tokenizer), sys.stdout),
    }
    draft = None if config.draft is None else Draft.from_pretrained(config.draft, target)
    began = time.perf_counter()
    if draft is None:
        result = autoregressive_generate(target, ids, **settings)
    else:
        result = speculative_generate(target, draft, ids, tree=config.tree, **settings)
    print(flush=True)
    print(summary(result.tokens, result.accepted, time.perf_counter() - began), file=sys.stderr)


def read_prompt(stream: TextIOBase) -> str:
    """All of `stream`. Raises InputError if there is nothing in it."""
    if stream.isatty():
        print("Type a prompt and end it with Ctrl-D on a line of its own.", file=sys.stderr)
    prompt = stream.read().strip()
    if not prompt:
        raise InputError("expected a prompt as argument or on standard input, found none")
    return prompt


def encode_prompt(tokenizer, prompt: str, raw: bool) -> list[int]:
    """Token ids of `prompt`: as a user's first turn, or as it stands."""
    if tokenizer is None:
        raise InputError("expected a target with a tokenizer, found none in its folder; save one there")
    if raw:
        return tokenizer(prompt)["input_ids"]
    return prompt_ids(tokenizer, [], prompt)


def print_marked(pieces: Pieces, stream: TextIOBase) -> Callable[[list[int], int], None]:
    """A callback for the decoder: prints a round's tokens, its first `accepted` marked as the draft's."""
    style = style_for(stream)

    def on_round(tokens: list[int], accepted: int) -> None:
        texts = [pieces.push(token) for token in tokens]
        kinds = ["draft" if place < accepted else "target" for place in range(len(tokens))]
        print(mark(texts, kinds, style), end="", file=stream, flush=True)

    return on_round


def summary(tokens: list[int], accepted: list[int], seconds: float) -> str:
    """How many tokens, rounds, tokens a round (tau) and tokens a second."""
    rate = f"{len(tokens)} tokens in {seconds:.1f} s, {len(tokens) / seconds:.0f} a second"
    if not accepted:
        return rate
    tau = (len(tokens) - 1) / len(accepted)
    return f"{rate}; {len(accepted)} target forwards after the prompt, tau = {tau:.2f} tokens a forward"
