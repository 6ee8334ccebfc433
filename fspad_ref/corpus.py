"""Dialogues and question files -> token ids and response masks.

A `Dialogue` is what a draft is trained on: (user, assistant) pairs. A `Question` is what a target is asked: user turns
only, one JSON object a line, in the format of Spec-Bench (Xia et al., arXiv 2401.07851), whose own `question.jsonl`
reads unchanged. The response mask marks the tokens that the target itself writes when it answers, the
end-of-sequence token included: only these are ever drafted, so only these are trained.
"""

import json
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fspad_ref.chat import require_template
from fspad_ref.checkpoint import save_atomic
from fspad_ref.errors import InputError

CATEGORIES = ("conversation", "translation", "summarization", "qa", "math_reasoning", "rag")
MT_BENCH = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")

_USER = ("user", "human")
_ASSISTANT = ("assistant", "gpt", "chatgpt", "bing", "bard", "model")


@dataclass(frozen=True)
class Dialogue:
    """Turns of a conversation, oldest first: (what the user said, what the assistant answered)."""

    turns: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Question:
    """One benchmark question: user turns, and per turn a reference answer and the strings a right answer contains."""

    question_id: int
    category: str
    turns: tuple[str, ...]
    reference: tuple[str, ...] = ()
    expected: tuple[tuple[str, ...], ...] = ()


# ---- question files ----


def read_questions(path: str | os.PathLike) -> list[Question]:
    """Read a Spec-Bench `question.jsonl`. MT-bench's eight categories count as "conversation", as in Spec-Bench.

    Raises InputError naming file and line for anything that is not a question.
    """
    return [_question(record, where) for record, where in _records(path)]


def write_questions(path: str | os.PathLike, questions: Iterable[Question]) -> None:
    """Write questions in the same format; empty `reference` and `expected` are left out. Replaces `path` atomically."""
    lines = []
    for q in questions:
        record: dict[str, Any] = {"question_id": q.question_id, "category": q.category, "turns": list(q.turns)}
        if q.reference:
            record["reference"] = list(q.reference)
        if q.expected:
            record["expected"] = [list(e) for e in q.expected]
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    save_atomic(Path(path), lambda partial: partial.write_text("".join(lines), encoding="utf-8", newline="\n"))


def _question(record: Any, where: str) -> Question:
    if not isinstance(record, dict):
        raise InputError(f"{where}: expected a JSON object with question_id, category and turns, found {_kind(record)}")
    for field in ("question_id", "category", "turns"):
        if field not in record:
            raise InputError(f"{where}: expected the field '{field}', found only {sorted(record)}; add it")
    number, category, turns = record["question_id"], record["category"], record["turns"]
    if isinstance(number, str) and number.isdigit():
        number = int(number)
    if not isinstance(number, int) or isinstance(number, bool):
        raise InputError(f"{where}: expected an integer question_id, found {number!r}")
    if category in MT_BENCH:
        category = "conversation"
    if category not in CATEGORIES:
        raise InputError(f"{where}: expected a category of {CATEGORIES + MT_BENCH}, found {category!r}")
    if not _is_texts(turns) or not turns or not all(turn.strip() for turn in turns):
        raise InputError(f"{where}: expected 'turns' to be a list of at least one non-empty string, found {turns!r}")
    expected = record.get("expected", [])
    if not isinstance(expected, list) or not all(map(_is_texts, expected)) or len(expected) not in (0, len(turns)):
        raise InputError(f"{where}: expected 'expected' to be a list of strings per turn, found {expected!r}")
    return Question(number, category, tuple(turns), _reference(record.get("reference")), tuple(map(tuple, expected)))


def _reference(value: Any) -> tuple[str, ...]:
    """References of published files are a string, a list of strings, or a list of alternatives per turn."""
    if value is None or value == "":
        return ()
    if not isinstance(value, list):
        value = [value]
    return tuple(" / ".join(map(str, entry)) if isinstance(entry, list) else str(entry) for entry in value)


# ---- dialogue files ----


def read_dialogues(path: str | os.PathLike) -> list[Dialogue]:
    """Read dialogues from JSON (a list) or JSONL, in ShareGPT's or the `messages` format.

    ShareGPT: `{"conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}, ...]}`; messages:
    `{"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}, ...]}`.
    System messages, an answer before the first question, and a question after the last answer are left out; records
    without any answered question are skipped. A warning counts both. Raises InputError naming file and place for
    records that are in neither format or in which user and assistant do not alternate.
    """
    dialogues, left_out, skipped = [], 0, 0
    for record, where in _records(path):
        turns, dropped = _turns(record, where)
        left_out += dropped
        skipped += not turns
        if turns:
            dialogues.append(Dialogue(turns))
    if not dialogues:
        raise InputError(f"{path}: expected at least one dialogue with an answer, found none in {skipped} records")
    if left_out or skipped:
        counts = f"{left_out} messages left out, {skipped} records without an answer skipped"
        warnings.warn(f"{path}: {counts}", stacklevel=2)
    return dialogues


def _turns(record: Any, where: str) -> tuple[tuple[tuple[str, str], ...], int]:
    """One record -> (user, assistant) pairs, and how many of its messages are in none of them."""
    messages = list(_messages(record, where))
    pairs: list[tuple[str, str]] = []
    question: str | None = None
    for number, (role, text) in enumerate(messages, start=1):
        if role == "system" or (role == "assistant" and question is None and not pairs):
            continue
        if (role == "assistant") == (question is None):
            raise InputError(
                f"{where}: expected user and assistant to alternate, found two {role} messages in a row at message "
                f"{number}; join or remove one"
            )
        if role == "assistant":
            pairs.append((question or "", text))
            question = None
        else:
            question = text
    return tuple(pairs), len(messages) - 2 * len(pairs)


def _messages(record: Any, where: str) -> Iterator[tuple[str, str]]:
    formats = {"conversations": ("from", "value"), "messages": ("role", "content")}
    key = next((k for k in formats if isinstance(record, dict) and isinstance(record.get(k), list)), None)
    if key is None:
        found = sorted(record) if isinstance(record, dict) else _kind(record)
        raise InputError(f"{where}: expected an object with a list 'conversations' or 'messages', found {found}")
    name, content = formats[key]
    for number, message in enumerate(record[key], start=1):
        role = message.get(name) if isinstance(message, dict) else None
        if role not in (*_USER, *_ASSISTANT, "system"):
            raise InputError(
                f"{where}: expected message {number} to have '{name}' of user, human, assistant, gpt or system, "
                f"found {role!r}"
            )
        if not isinstance(message.get(content), str):
            raise InputError(f"{where}: expected message {number} to have a text '{content}', found {message!r}")
        yield ("user" if role in _USER else "assistant" if role in _ASSISTANT else "system"), message[content]


# ---- text -> ids ----


def encode(dialogue: Dialogue, tokenizer: Any) -> tuple[list[int], list[bool]]:
    """Token ids of the whole dialogue under the tokenizer's chat template, and which of them the assistant wrote.

    For every turn, the ids up to the question (with the generation prompt) and up to the answer are compared: what the
    second has more is the response, up to and including its first end-of-sequence token (what a template adds behind
    it, such as a newline, is never generated). This needs no knowledge of the template, only that encodings are
    prefixes of one another; where they are not, InputError says at which turn.
    """
    if not dialogue.turns:
        raise InputError("expected a dialogue of at least one turn, found none")
    messages: list[dict[str, str]] = []
    ids: list[int] = []
    mask: list[bool] = []
    for number, (user, assistant) in enumerate(dialogue.turns, start=1):
        messages.append({"role": "user", "content": user})
        prompt = _template(tokenizer, messages, generate=True)
        _check_prefix(ids, prompt, f"the question of turn {number}")
        mask += [False] * (len(prompt) - len(mask))
        messages.append({"role": "assistant", "content": assistant})
        answered = _template(tokenizer, messages, generate=False)
        _check_prefix(prompt, answered, f"the answer of turn {number}")
        mask += _until_eos(answered[len(prompt) :], tokenizer.eos_token_id)
        ids = answered
    return ids, mask


def prompt_ids(tokenizer: Any, turns_so_far: Sequence[tuple[str, str]], user: str) -> list[int]:
    """The prompt that asks `user` after the (user, assistant) turns so far, ready for the target to answer."""
    messages = []
    for question, answer in turns_so_far:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return _template(tokenizer, [*messages, {"role": "user", "content": user}], generate=True)


def _template(tokenizer: Any, messages: list[dict[str, str]], generate: bool) -> list[int]:
    require_template(tokenizer)
    return list(tokenizer.apply_chat_template(messages, add_generation_prompt=generate, return_dict=False))


def _check_prefix(shorter: list[int], longer: list[int], what: str) -> None:
    if longer[: len(shorter)] != shorter:
        same = next((i for i, (a, b) in enumerate(zip(shorter, longer, strict=False)) if a != b), len(longer))
        raise InputError(
            f"expected the encoding up to {what} to begin with the {len(shorter)} ids before it, found another id at "
            f"position {same}: this chat template rewrites earlier turns or merges tokens across their border, so no "
            "response mask can be read off it; split the dialogue, or give the tokenizer a template that only appends"
        )


def _until_eos(span: list[int], eos: int | None) -> list[bool]:
    end = span.index(eos) + 1 if eos in span else len(span)
    return [position < end for position in range(len(span))]


# ---- files -> records ----


def _records(path: str | os.PathLike) -> Iterator[tuple[Any, str]]:
    """(JSON value, "file:line" or "file, entry n") for each record of a JSONL file or of a JSON list."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: expected a readable file, found: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected UTF-8 text, found another byte at offset {error.start}") from error
    if text.lstrip().startswith("["):
        for number, record in enumerate(_parse(text, path, 0), start=1):
            yield record, f"{path}, entry {number}"
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield _parse(line, path, number - 1), f"{path}:{number}"


def _parse(text: str, path: Path, lines_before: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"{path}:{lines_before + error.lineno}:{error.colno}"
        raise InputError(f"{place}: expected JSON, found: {error.msg}; correct or remove that line") from error


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def _kind(value: Any) -> str:
    return f"a JSON {type(value).__name__}"
