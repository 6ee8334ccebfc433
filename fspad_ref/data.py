"""Dialogues and questions -> token ids, response masks, batches.

A `Dialogue` is what a draft learns from: (user, assistant) turns. A `Question` is what a target is asked: user turns
only, one JSON object per line, in the format of Spec-Bench (Xia et al., arXiv 2401.07851), whose own `question.jsonl`
reads unchanged.

The *response mask* marks the tokens that the target itself writes when it answers, the end-of-sequence token
included: only these are ever drafted, so only these are trained. It is read off the tokenizer's chat template.
"""

import gzip
import itertools
import json
import os
import random
import reprlib
import warnings
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from jinja2 import TemplateError
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fspad_ref.errors import ConfigError, InputError, require
from fspad_ref.files import save_atomic

CATEGORIES = ("conversation", "translation", "summarization", "qa", "math_reasoning", "rag")
MT_BENCH = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")


@dataclass(frozen=True)
class Dialogue:
    """Turns (what the user said, what the assistant answered), oldest first; before them a system message, or ""."""

    turns: tuple[tuple[str, str], ...]
    system: str = ""
    ended: bool = True  # False: a limit cut the last answer off, so no end token belongs to it


@dataclass(frozen=True)
class Question:
    """One benchmark question: its user turns, and reference answers where the file has some."""

    question_id: int
    category: str
    turns: tuple[str, ...]
    reference: tuple[str, ...] = ()


# --- files -> dialogues and questions --------------------------------------------------------------------------------

_FORMATS = {"conversations": ("from", "value"), "messages": ("role", "content")}
_ASSISTANT = dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "model"), "assistant")
_ROLES = {"user": "user", "human": "user", "system": "system", **_ASSISTANT}


def read_dialogues(path: str | os.PathLike) -> list[Dialogue]:
    """Read dialogues from JSON (a list) or JSONL, in ShareGPT's or the `messages` format; gzipped if named .gz.

    ShareGPT: `{"conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}, ...]}`; messages:
    `{"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}, ...]}`. A system message
    may stand at the start. Messages outside question-answer pairs are left out, records without a pair are skipped,
    and a warning counts both. Raises InputError, naming file and record, for other formats.
    """
    found = [_dialogue(record, where) for record, where in _records(path)]
    dialogues = [dialogue for dialogue, _ in found if dialogue.turns]
    left_out, skipped = sum(count for _, count in found), len(found) - len(dialogues)
    if left_out or skipped:
        counts = f"{left_out} messages left out, {skipped} records without an answer skipped"
        warnings.warn(f"{path}: {counts}", stacklevel=2)
    return dialogues


def _dialogue(record: Any, where: str) -> tuple[Dialogue, int]:
    """One record -> its dialogue, and how many of its messages are not in it."""
    key = next((key for key in _FORMATS if isinstance(record, dict) and isinstance(record.get(key), list)), None)
    expected = f"a list 'conversations' or 'messages' in {where}"
    require(key, InputError, expected, reprlib.repr(record), "Correct or remove it.")
    said: list[tuple[str, str]] = []
    for number, message in enumerate(record[key], start=1):
        role, text = (message.get(name) if isinstance(message, dict) else None for name in _FORMATS[key])
        right = role in list(_ROLES) and isinstance(text, str)
        expected = f"{' and '.join(_FORMATS[key])} in message {number} of {where}, one of {', '.join(_ROLES)}, a text"
        require(right, InputError, expected, f"{role!r} and {reprlib.repr(text)}", "Correct or remove it.")
        said.append((_ROLES[role], text))
    pairs = itertools.pairwise(said)
    turns = tuple((asked, answer) for (one, asked), (other, answer) in pairs if (one, other) == ("user", "assistant"))
    system = said[0][1] if turns and said[0][0] == "system" else ""
    return Dialogue(turns, system, record.get("ended", True)), len(said) - 2 * len(turns) - bool(system)


def read_questions(path: str | os.PathLike) -> list[Question]:
    """Read a Spec-Bench `question.jsonl`. MT-bench's eight categories count as "conversation", as in Spec-Bench.

    Raises InputError, naming file and line, for anything that is not a question.
    """
    return [_question(record, where) for record, where in _records(path)]


def _question(record: Any, where: str) -> Question:
    fields = record if isinstance(record, dict) else {}
    number, category, turns, reference = map(fields.get, ("question_id", "category", "turns", "reference"))
    category = "conversation" if category in MT_BENCH else category
    texts = isinstance(turns, list) and all(isinstance(turn, str) and turn.strip() for turn in turns)
    for right, expected, found in (
        (fields, "a JSON object with question_id, category and turns", record),
        (type(number) is int, "an integer question_id", number),
        (category in CATEGORIES, f"a category of {', '.join(CATEGORIES + MT_BENCH)}", category),
        (turns and texts, "'turns' to be a list of at least one non-empty string", turns),
    ):
        require(right, InputError, f"{expected} in {where}", reprlib.repr(found), "Correct or remove it.")
    # references of published files are a string, a list of strings, or for each turn a list of alternatives
    answers = reference if isinstance(reference, list) else [reference] if reference else []
    answers = [" / ".join(map(str, one)) if isinstance(one, list) else str(one) for one in answers]
    return Question(number, category, tuple(turns), tuple(answers))


def write_questions(path: str | os.PathLike, questions: Iterable[Question]) -> None:
    """Write questions in the same format, atomically; an empty `reference` is left out."""
    records = [{name: value for name, value in vars(question).items() if value != ()} for question in questions]
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    save_atomic(Path(path), lambda partial: partial.write_text(text, encoding="utf-8", newline="\n"))


def _records(path: str | os.PathLike) -> Iterator[tuple[Any, str]]:
    """(JSON value, "file:line" or "file, entry n") for each record of a JSONL file or of a JSON list."""
    try:
        with (gzip.open if str(path).endswith(".gz") else open)(path, "rt", encoding="utf-8-sig") as file:
            text = file.read()
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise InputError(f"expected a readable file of UTF-8 text at {path}, found: {error}. Check it.") from error
    whole = text.lstrip().startswith("[")
    for number, part in enumerate([text] if whole else text.split("\n"), start=1):
        if part.strip():
            try:
                value = json.loads(part)
            except json.JSONDecodeError as error:
                raise InputError(f"expected JSON in {path}:{number}, found: {error}. Correct it.") from error
            for entry, one in enumerate(value if whole else [value], start=1):
                yield one, f"{path}, entry {entry}" if whole else f"{path}:{number}"


# --- text -> ids, by the chat template -------------------------------------------------------------------------------
# A model's own template is used as it is. Vicuna's folders bring none; a wrong one does not fail, it only makes answers
# worse, so none is guessed. v1.1 to v1.5: a preamble, "USER: question ASSISTANT: answer</s>", no space between turns.
_VICUNA = (
    "{% set rest = messages[1:] if messages[0].role == 'system' else messages %}"
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ messages[0].content }}{% else %}"
    "{{ 'A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user\\'s questions.' }}{% endif %}{{ ' ' }}"
    "{% for message in rest %}{% if message.role == 'user' %}{{ 'USER: ' + message.content + ' ' }}"
    "{% else %}{{ 'ASSISTANT: ' + message.content + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
CHAT_FORMATS = {"vicuna": _VICUNA}


def use_chat_format(tokenizer: Any, name: str) -> None:
    """Give the tokenizer the template of a format in CHAT_FORMATS, in place of its own if it has one.

    Raises ConfigError for an unknown name, or without a tokenizer.
    """
    expected = f"chat_format to be one of {', '.join(CHAT_FORMATS)}"
    require(name in CHAT_FORMATS, ConfigError, expected, repr(name), "Leave it at None for the model's own template.")
    expected = f"a tokenizer to give the chat format {name!r} to"
    require(tokenizer is not None, ConfigError, expected, "none", "Save one with the model.")
    tokenizer.chat_template = CHAT_FORMATS[name]


def prompt_ids(tokenizer: Any, turns_so_far: Sequence[tuple[str, str]], user: str, system: str = "") -> list[int]:
    """The prompt that asks `user` after the (user, assistant) turns so far, ready for the target to answer."""
    return _ids(tokenizer, [*_messages(turns_so_far, system), {"role": "user", "content": user}], generate=True)


def encode(dialogue: Dialogue, tokenizer: Any) -> tuple[list[int], list[bool]]:
    """Token ids of the whole dialogue under the tokenizer's chat template, and its response mask.

    An answer is marked up to its first end-of-sequence token: what a template adds behind that, such as a newline, is
    never generated. Some templates rewrite earlier turns: an answer is marked only if the ids before it are the prompt
    that the target would have got. Raises InputError if none is.
    """
    require(dialogue.turns, InputError, "a dialogue of at least one turn", "none", "Leave it out.")
    messages = _messages(dialogue.turns, dialogue.system)
    ids = _ids(tokenizer, messages, generate=False)
    response = [False] * len(ids)
    for number in range(len(messages) - 2 * len(dialogue.turns) + 1, len(messages), 2):  # those of the assistant
        prompt, answered = _ids(tokenizer, messages[:number], True), _ids(tokenizer, messages[: number + 1], False)
        if ids[: len(prompt)] == prompt and ids[: len(answered)] == answered:
            answer = answered[len(prompt) :]
            end = answer.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in answer else len(answer)
            response[len(prompt) : len(prompt) + end] = [True] * end
    advice = "The chat template merges tokens where an answer begins: use a different template."
    require(any(response), InputError, "an answer that continues the ids of its prompt", "none", advice)
    last = len(response) - 1 - response[::-1].index(True)
    if not dialogue.ended and ids[last] == tokenizer.eos_token_id:
        return ids[:last], response[:last]
    return ids, response


def _messages(turns: Sequence[tuple[str, str]], system: str) -> list[dict[str, str]]:
    messages = [{"role": "system", "content": system}] if system else []
    for user, assistant in turns:
        messages += [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    return messages


def _ids(tokenizer: Any, messages: list[dict[str, str]], generate: bool) -> list[int]:
    """Token ids of the messages; with `generate` also of the words after which an answer begins."""
    advice = f"Use an instruction-tuned target, or choose its format: chat_format of {', '.join(CHAT_FORMATS)}."
    template = getattr(tokenizer, "chat_template", None)
    require(template, InputError, "a tokenizer with a chat template", "none", advice)
    try:
        return list(tokenizer.apply_chat_template(messages, add_generation_prompt=generate, return_dict=False))
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        found = f"{roles}, of which it says: {error}. Leave out what it does not know, such as a system message."
        raise InputError(f"expected messages that the chat template takes, found {found}") from error


# --- ids -> batches --------------------------------------------------------------------------------------------------

Encoded = tuple[Sequence[int], Sequence[bool]]  # token ids, response mask
POOL = 1024  # dialogues that are sorted by length together


def frequent_tokens(tokenizer: Any, texts: Sequence[Dialogue | Encoded], size: int) -> tuple[int, ...]:
    """The `size` tokens that answers hold most often, the end token among them, ascending: a draft's vocabulary."""
    encoded = (encode(text, tokenizer) if isinstance(text, Dialogue) else text for text in texts)
    count = Counter(token for ids, response in encoded for token, answer in zip(ids, response, strict=True) if answer)
    end = [token for token in [getattr(tokenizer, "eos_token_id", None)] if token is not None]
    return tuple(sorted(end + [token for token, _ in count.most_common() if token not in end][: size - len(end)]))


@dataclass
class Batch:
    """Right-padded dialogues; tokens counts them without the padding."""

    input_ids: Int[Tensor, "batch seq"]
    response: Bool[Tensor, "batch seq"]
    tokens: int


def trained_positions(response: Bool[Tensor, "batch seq"], step: int = 1) -> Bool[Tensor, "batch seq-1"]:
    """The loss mask: m_t = 1 iff tokens t+1 and t+2 are both response.

    The pair (f_t, x_{t+1}) drafts token t+2. Where t is the last prompt token, x_{t+1} is the first token of the
    response, which the target has sampled itself: the first pair that a draft ever meets, so it is trained.
    step > 1: for training on own steps, see train.own_steps; all of t-step+1 .. t must be such positions.

    >>> trained_positions(torch.tensor([[False, False, True, True, True]])).int().tolist()
    [[0, 1, 1, 0]]
    """
    mask = torch.zeros_like(response[:, 1:])
    mask[:, :-1] = response[:, 1:-1] & response[:, 2:]
    for _ in range(1, step):
        mask[:, 1:] = mask[:, 1:] & mask[:, :-1]
        mask[:, 0] = False
    return mask


def batches(dialogues: Sequence[Dialogue | Encoded], tokenizer: Any, tokens_per_batch: int, max_length: int,
            vocab_size: int, seed: int, start: int = 0) -> Iterator[Batch]:  # fmt: skip
    """Endless batches, epoch after epoch, from batch number `start` on: a pure function of the data and the seed.

    A batch holds at most `tokens_per_batch` tokens, padding included; a longer dialogue is a batch of its own.
    Dialogues are cut to `max_length` tokens, and left out if no position of them is trained. Each is encoded once to
    begin with, for its length and its faults, and then whenever its batch comes: only lengths are kept.

    Raises InputError for malformed dialogues, and if there is nothing to train on.
    """

    def encoded(number: int) -> Encoded:
        one = dialogues[number]
        ids, response = encode(one, tokenizer) if isinstance(one, Dialogue) else one
        low, high = min(ids, default=0), max(ids, default=0)
        right = len(ids) == len(response) and 0 <= low <= high < vocab_size
        expected = f"token ids in [0, {vocab_size}) and as many marks in dialogue {number}"
        found = f"{len(ids)} ids in [{low}, {high}] and {len(response)} marks"
        require(right, InputError, expected, found, "Encode it with the target's own tokenizer.")
        return ids[:max_length], response[:max_length]

    lengths = {}  # of the dialogues that train something
    for number in range(len(dialogues)):
        ids, response = encoded(number)
        if any(a and b for a, b in zip(response[1:], response[2:], strict=False)):
            lengths[number] = len(ids)
    expected = f"dialogues with a response of two tokens or more within {max_length} tokens"
    advice = "Check the response mask, or raise max_length."
    require(lengths, InputError, expected, f"none among {len(dialogues)}", advice)
    plans = (_plan(lengths, tokens_per_batch, random.Random(f"{seed}:{epoch}")) for epoch in itertools.count())
    for group in itertools.islice(itertools.chain.from_iterable(plans), start, None):
        rows = [map(torch.tensor, encoded(number)) for number in group]
        ids, response = (pad_sequence(column, batch_first=True) for column in zip(*rows, strict=True))
        yield Batch(ids, response, sum(lengths[number] for number in group))


def _plan(lengths: dict[int, int], tokens_per_batch: int, chance: random.Random) -> list[list[int]]:
    """One epoch: which dialogues make which batch, in random order. Those of a batch are of similar length."""
    order, groups = list(lengths), []
    chance.shuffle(order)
    for first in range(0, len(order), POOL):
        groups.append([])
        for number in sorted(order[first : first + POOL], key=lengths.get):
            if groups[-1] and lengths[number] * (len(groups[-1]) + 1) > tokens_per_batch:
                groups.append([])
            groups[-1].append(number)
    chance.shuffle(groups)
    return groups
