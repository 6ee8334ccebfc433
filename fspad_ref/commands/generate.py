"""`python -m fspad_ref generate`: stream an answer, with the draft's accepted tokens marked."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import TextIOBase
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fspad_ref.data import prompt_ids
from fspad_ref.draft import Draft
from fspad_ref.errors import InputError, require
from fspad_ref.generate import Generation, autoregressive_generate, speculative_generate
from fspad_ref.sampling import SamplingConfig
from fspad_ref.target import Target
from fspad_ref.tree import TreeConfig
from fspad_ref.viz.strips import Pieces, Style, mark, style_for


@dataclass(frozen=True)
class GenerateConfig:
    """Answer one prompt. In a terminal, tokens proposed by the draft and accepted are underlined in green."""

    prompt: Annotated[str | None, tyro.conf.Positional] = None  # the prompt; without it, standard input is read
    target: str = "data/target"  # folder or Hub id of the target, a Hugging Face causal language model
    draft: Path | None = Path("data/drafts/fspad")  # folder of a draft for that target. None: same text, without one
    chat_format: str | None = None  # prompt format for a target without a chat template of its own: vicuna
    raw: bool = False  # continue the prompt as it is, without the chat template
    max_new_tokens: int = 256  # longest answer, in tokens
    sampling: SamplingConfig = SamplingConfig()
    tree: TreeConfig = TreeConfig()
    device: str = "cpu"  # where to compute: cpu, cuda, cuda:1, ...
    dtype: Literal["float64", "float32", "bfloat16", "float16"] = "float32"  # precision of weights and arithmetic


def generate(config: GenerateConfig) -> None:
    """Load target and draft, stream the answer, then print how many tokens each forward pass gave."""
    prompt = read_prompt(config.prompt, sys.stdin)
    target = Target.from_pretrained(
        config.target, device=config.device, dtype=config.dtype, chat_format=config.chat_format
    )
    ids = encode_prompt(target.tokenizer, prompt, config.raw)
    settings = {
        "max_new_tokens": config.max_new_tokens,
        "eos_token_id": target.tokenizer.eos_token_id,
        "sampling": config.sampling,
        "on_round": print_marked(Pieces(target.tokenizer), sys.stdout, style_for(sys.stdout)),
    }
    draft = config.draft and Draft.from_pretrained(config.draft, target)
    began = time.perf_counter()
    if draft:
        result = speculative_generate(target, draft, ids, tree=config.tree, **settings)
    else:
        result = autoregressive_generate(target, ids, **settings)
    print(flush=True)
    print(summary(result, time.perf_counter() - began), file=sys.stderr)


def read_prompt(given: str | None, stream: TextIOBase) -> str:
    """The prompt that was given, or all of `stream`. Raises InputError if it is empty, or no text in UTF-8."""
    if given is None and stream.isatty():
        print("Type a prompt, then press Ctrl-D on an empty line.", file=sys.stderr)
    try:
        prompt = stream.read().strip() if given is None else given
        prompt.encode()  # Python may have let bytes that are no UTF-8 pass, as lone surrogates
    except UnicodeError as error:
        raise InputError(f"expected a prompt in UTF-8, found: {error}. Convert it, with iconv for example.") from error
    require(prompt, InputError, "a prompt", "none", "Give it as an argument or on standard input.")
    return prompt


def encode_prompt(tokenizer, prompt: str, raw: bool) -> list[int]:
    """Token ids of `prompt`: as the first turn of a chat, or as it is."""
    require(tokenizer, InputError, "a target with a tokenizer", "none in its folder", "Save one there.")
    return tokenizer(prompt)["input_ids"] if raw else prompt_ids(tokenizer, [], prompt)


def print_marked(pieces: Pieces, stream: TextIOBase, style: Style) -> Callable[[list[int], int], None]:
    """A callback for the decoding loop: print the tokens of each round, and mark the first `accepted` of them."""

    def on_round(tokens: list[int], accepted: int) -> None:
        kinds = ["draft"] * accepted + ["target"] * (len(tokens) - accepted)
        print(mark([pieces.push(token) for token in tokens], kinds, style), end="", file=stream, flush=True)

    return on_round


def summary(result: Generation, seconds: float) -> str:
    """Number of tokens, tokens per second and, for an answer with a draft, tau."""
    tokens, passes = len(result.tokens), len(result.accepted)
    tau = f"; tau = {result.tau:.2f} tokens per forward pass ({passes} after the prompt)" if passes else ""
    return f"{tokens} tokens in {seconds:.1f} s, {tokens / seconds:.0f} per second{tau}"
