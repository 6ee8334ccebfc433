"""Dialogues and question files -> token ids and response masks.

A `Dialogue` is what a draft is trained on: (user, assistant) pairs. A `Question` is what a target is asked: user turns
only, one JSON object a line, in the format of Spec-Bench (Xia et al., arXiv 2401.07851), whose own `question.jsonl`
reads unchanged. The response mask marks the tokens that the target itself writes when it answers, the
end-of-sequence token included: only these are ever drafted, so only these are trained.
"""

import json
import os
import reprlib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fspad_ref.chat import marked_ids, prompt_of
from fspad_ref.checkpoint import save_atomic
from fspad_ref.errors import InputError

CATEGORIES = ("conversation", "translation", "summarization", "qa", "math_reasoning", "rag")
MT_BENCH = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")

_USER = ("user", "human")
_ASSISTANT = ("assistant", "gpt", "chatgpt", "bing", "bard", "model")


@dataclass(frozen=True)
class Dialogue:
    """Turns of a conversation, oldest first: (what the user said, what the assistant answered); before them the system
    message, if there is one."""

    turns: tuple[tuple[str, str], ...]
    system: str = ""

    def __repr__(self) -> str:
        """Without an empty system message, as a resumed training knows its data again by this text."""
        return f"Dialogue(turns={self.turns!r}{f', system={self.system!r}' if self.system else ''})"


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
    A system message at the start is kept. An answer before the first question and a question after the last answer are
    left out; records without any answered question are skipped. A warning counts both. Raises InputError naming file
    and record for those that are in neither format, or in which user and assistant do not alternate.
    """
    dialogues, left_out, skipped = [], 0, 0
    for record, where in _records(path):
        dialogue, dropped = _dialogue(record, where)
        left_out += dropped
        skipped += not dialogue.turns
        if dialogue.turns:
            dialogues.append(dialogue)
    if not dialogues:
        raise InputError(f"{path}: expected at least one dialogue with an answer, found none in {skipped} records")
    if left_out or skipped:
        counts = f"{left_out} messages left out, {skipped} records without an answer skipped"
        warnings.warn(f"{path}: {counts}", stacklevel=2)
    return dialogues


def _dialogue(record: Any, where: str) -> tuple[Dialogue, int]:
    """One record -> its dialogue, and how many of its messages are not in it."""
    messages = list(_messages(record, where))
    pairs: list[tuple[str, str]] = []
    system, question = "", None
    for number, (role, text) in enumerate(messages, start=1):
        if role == "system" and number == 1:
            system = text
        elif role == "system":
            raise InputError(
                f"{where}: expected a system message at the start alone, found one as message {number}; join it to the "
                "first, or split the dialogue there"
            )
        elif role == "assistant" and question is None and not pairs:
            continue
        elif (role == "assistant") == (question is None):
            raise InputError(
                f"{where}: expected user and assistant to alternate, found two {role} messages in a row at message "
                f"{number}; join or remove one"
            )
        elif role == "assistant":
            pairs.append((question or "", text))
            question = None
        else:
            question = text
    kept = 2 * len(pairs) + bool(pairs and system)
    return Dialogue(tuple(pairs), system), len(messages) - kept


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
            found = reprlib.repr(message.get(content))
            raise InputError(f"{where}: expected message {number} to have a text '{content}', found {found}")
        yield ("user" if role in _USER else "assistant" if role in _ASSISTANT else "system"), message[content]


# ---- text -> ids ----


def encode(dialogue: Dialogue, tokenizer: Any) -> tuple[list[int], list[bool]]:
    """Token ids of the whole dialogue under the tokenizer's chat template, and which of them the assistant wrote.

    chat.py says how. Raises InputError, naming the turn, for a template that no response mask can be read off.
    """
    if not dialogue.turns:
        raise InputError("expected a dialogue of at least one turn, found none")
    return marked_ids(tokenizer, _as_messages(dialogue.turns, dialogue.system))


def prompt_ids(tokenizer: Any, turns_so_far: Sequence[tuple[str, str]], user: str, system: str = "") -> list[int]:
    """The prompt that asks `user` after the (user, assistant) turns so far, ready for the target to answer."""
    return prompt_of(tokenizer, [*_as_messages(turns_so_far, system), {"role": "user", "content": user}])


def _as_messages(turns: Sequence[tuple[str, str]], system: str) -> list[dict[str, str]]:
    messages = [{"role": "system", "content": system}] if system else []
    for user, assistant in turns:
        messages += [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    return messages


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
