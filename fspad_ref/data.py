"""Dialogues and question files -> token ids and response masks.

A `Dialogue` is what a draft is trained on: (user, assistant) pairs. A `Question` is what a target is asked: user turns
only, one JSON object a line, in the format of Spec-Bench (Xia et al., arXiv 2401.07851), whose own `question.jsonl`
reads unchanged. The response mask marks the tokens that the target itself writes when it answers, the
end-of-sequence token included: only these are ever drafted, so only these are trained.
"""

import hashlib
import json
import math
import os
import random
import re
import reprlib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from fspad_ref.errors import ConfigError, InputError
from fspad_ref.files import save_atomic

if TYPE_CHECKING:
    from fspad_ref.target import Target

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



# ---- chat ----
#
# Prompt formats: how a dialogue becomes the tokens that a chat model was trained on, and which of them it wrote.
#
# Most chat models bring their own template with their tokenizer, and that one is used as it is. Vicuna's folders bring
# none, and a wrong format does not fail: it only makes the answers worse, and the draft's guesses with them. So a format
# is never guessed: `Target.from_pretrained(folder, chat_format="vicuna")` chooses it.
#
# Messages are those of chat templates: {"role": "system", "user" or "assistant", "content": text}, oldest first.

# Vicuna v1.1 to v1.5: a preamble, then "USER: question ASSISTANT: answer</s>" without a space between turns.
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

Messages = Sequence[Mapping[str, str]]


def use_chat_format(tokenizer: Any, name: str) -> None:
    """Give the tokenizer the template of a format in CHAT_FORMATS, in place of its own if it has one.

    Raises ConfigError for an unknown name, or without a tokenizer.
    """
    if name not in CHAT_FORMATS:
        raise ConfigError(
            f"expected chat_format to be one of {', '.join(CHAT_FORMATS)}, found {name!r}. Choose one, or leave it at "
            "None for the model's own template."
        )
    if tokenizer is None:
        raise ConfigError(
            f"expected a tokenizer to give the chat format {name!r} to, found none in the model's folder. Copy the "
            "tokenizer's files there."
        )
    tokenizer.chat_template = CHAT_FORMATS[name]


def require_template(tokenizer: Any) -> None:
    """Raises InputError for a tokenizer without a chat template, and says which format to choose."""
    if tokenizer is not None and getattr(tokenizer, "chat_template", None):
        return
    path = str(getattr(tokenizer, "name_or_path", ""))
    known = next((name for name in CHAT_FORMATS if name in path.lower()), None)
    if known:
        advice = f"by its name {path!r} it may want that of {known}: choose it with chat_format={known!r}"
    else:
        advice = "use an instruction-tuned target, or set tokenizer.chat_template to the format that it was trained on"
    raise InputError(f"expected a tokenizer with a chat template, found none; {advice}")


# ---- messages -> ids ----


def prompt_of(tokenizer: Any, messages: Messages) -> list[int]:
    """Token ids of the messages and of the words after which an answer begins."""
    return _ids(tokenizer, messages, generate=True)


def marked_ids(tokenizer: Any, messages: Messages) -> tuple[list[int], list[bool]]:
    """Token ids of a whole dialogue, and which of them the assistant wrote: each answer up to its first
    end-of-sequence token (what a template adds behind that, such as a newline, is never generated).

    A template that says where answers are, with {% generation %}, is believed. Of others only this is asked: what they
    make of the first messages must begin what they make of more. Raises InputError, naming the turn, where it does not.
    """
    require_template(tokenizer)
    if _says_where_answers_are(tokenizer):
        return _marked_by_the_template(tokenizer, messages)
    return _marked_by_growing(tokenizer, messages)


_BLOCK = re.compile(r"\{%-?\s*generation\s*-?%\}")  # where a block begins


def _says_where_answers_are(tokenizer: Any) -> bool:
    return getattr(tokenizer, "is_fast", False) and bool(_BLOCK.search(_template(tokenizer)))


def _template(tokenizer: Any) -> str:
    template = tokenizer.chat_template
    return template.get("default", "") if isinstance(template, Mapping) else template  # several, by name


def _written_blocks(tokenizer: Any, messages: Messages) -> int:
    """How many {% generation %} blocks the messages make: a sign is put into each, and counted."""
    template = _BLOCK.sub("\\g<0>{{ '\uE000' }}", _template(tokenizer))
    return _apply(tokenizer, messages, chat_template=template, tokenize=False).count("\uE000")


def _marked_by_the_template(tokenizer: Any, messages: Messages) -> tuple[list[int], list[bool]]:
    found = _apply(tokenizer, messages, return_dict=True, return_assistant_tokens_mask=True)
    ids, marks = list(found["input_ids"]), list(map(bool, found["assistant_masks"]))
    # A block that is empty, or begins or ends in a space of which the tokenizer makes no token, has no first or last
    # token. transformers then marks nothing from there on, or everything.
    blocks = _written_blocks(tokenizer, messages)
    stretches = sum(mark and not before for before, mark in zip([False, *marks], marks, strict=False))
    if not stretches or stretches != blocks:
        raise InputError(
            f"expected the {blocks} {{% generation %}} blocks of the chat template to mark an answer each, found "
            f"{stretches} marked; let the blocks enclose message.content, no answer be empty and no block begin or end "
            "in a space that the tokenizer drops, or remove the blocks from the template"
        )
    return ids, _up_to_the_end(ids, marks, tokenizer.eos_token_id)


def _up_to_the_end(ids: list[int], marks: list[bool], eos: int | None) -> list[bool]:
    """Each marked answer up to its first end token, which a template may also have left just behind its marks."""
    written, before, ended = [], False, False
    for token, mark in zip(ids, marks, strict=True):
        ended = ended and before  # behind a gap another answer begins
        written.append(not ended and (mark or (before and token == eos)))
        ended = ended or (written[-1] and token == eos)
        before = mark
    return written


def _marked_by_growing(tokenizer: Any, messages: Messages) -> tuple[list[int], list[bool]]:
    """For every answer, the ids up to its question (with the generation prompt) and up to the answer are compared:
    what the second has more is the answer."""
    ids: list[int] = []
    mask: list[bool] = []
    turn = 0
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        turn += 1
        asked = _ids(tokenizer, messages[:number], generate=True)
        _check_prefix(ids, asked, f"the question of turn {turn}")
        mask += [False] * (len(asked) - len(mask))
        ids = _ids(tokenizer, messages[: number + 1], generate=False)
        _check_prefix(asked, ids, f"the answer of turn {turn}")
        answer = ids[len(asked) :]
        mask += _up_to_the_end(answer, [True] * len(answer), tokenizer.eos_token_id)
    return ids, mask


def _check_prefix(shorter: list[int], longer: list[int], what: str) -> None:
    if longer[: len(shorter)] != shorter:
        same = next((i for i, (a, b) in enumerate(zip(shorter, longer, strict=False)) if a != b), len(longer))
        raise InputError(
            f"expected the encoding up to {what} to begin with the {len(shorter)} ids before it, found another id at "
            f"position {same}: this chat template rewrites earlier turns or merges tokens across their border, so no "
            "response mask can be read off it; split the dialogue, or give the tokenizer a template that only appends "
            "or that has {% generation %} blocks around the answers"
        )


def _ids(tokenizer: Any, messages: Messages, generate: bool) -> list[int]:
    require_template(tokenizer)
    return list(_apply(tokenizer, messages, add_generation_prompt=generate, return_dict=False))


def _apply(tokenizer: Any, messages: Messages, **settings: Any) -> Any:
    from jinja2 import TemplateError  # torch and transformers need it, too

    try:
        return tokenizer.apply_chat_template(list(messages), **settings)
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise InputError(
            f"expected messages that the target's chat template takes, found {roles}, of which it says: {error}; leave "
            "out what it does not know, such as a system message, or give the tokenizer another template"
        ) from error



# ---- batches ----
#
# Dialogues -> padded batches, in an order that follows from a seed and can be entered anywhere.
#
# Dialogues are shuffled, taken in pools, sorted by length within a pool so that a batch holds little padding, and the
# batches of a pool are shuffled again. A place in the data is (epoch, pool, batch): nothing else has to be remembered to
# go on exactly where a training stopped.

Encoded = tuple[Sequence[int], Sequence[bool]]  # token ids, which of them are response
Place = tuple[int, int, int]  # epoch, pool, batch
POOL = 1024  # dialogues a pool


@dataclass
class Batch:
    """Right-padded dialogues, the place of the batch in the data, and the place after it."""

    input_ids: Int[Tensor, "batch seq"]
    response: Bool[Tensor, "batch seq"]
    tokens: int  # without padding
    place: Place
    following: Place


def trained_positions(response: Bool[Tensor, "batch seq"]) -> Bool[Tensor, "batch seq-1"]:
    """The loss mask: m_t = 1 iff tokens t+1 and t+2 are both response.

    The pair (f_t, x_{t+1}) drafts token t+2. Where t is the last prompt token, x_{t+1} is the first token of the
    response, which the target has sampled itself: the first pair that a draft ever meets, so it is trained.

    >>> trained_positions(torch.tensor([[False, False, True, True, True]])).int().tolist()
    [[0, 1, 1, 0]]
    """
    mask = torch.zeros_like(response[:, 1:])
    mask[:, :-1] = response[:, 1:-1] & response[:, 2:]
    return mask


def data_hash(dialogues: Sequence[Dialogue | Encoded], most: int = 1000) -> str:
    """16 hex digits that tell data apart: a hash of their number and of up to `most` dialogues, spread evenly.

    Not of all of them, since they may be written only when asked for.
    """
    hashed = hashlib.sha256(str(len(dialogues)).encode())
    for index in range(0, len(dialogues), max(1, -(-len(dialogues) // most))):
        hashed.update(repr(dialogues[index]).encode())
    return hashed.hexdigest()[:16]


def batches(
    dialogues: Sequence[Dialogue | Encoded],
    tokenizer: Any,
    tokens_per_batch: int,
    limit: int,
    vocabulary: int,
    seed: int = 0,
    start: Place = (0, 0, 0),
) -> Iterator[Batch]:
    """Endless batches, epoch after epoch, from a place in the data on.

    A batch holds at most `tokens_per_batch` tokens, padding included; a dialogue longer than that makes a batch of its
    own. Dialogues are cut to `limit` tokens, and left out if no position of them is trained. Raises InputError for
    malformed dialogues, and if a whole epoch has nothing to train on.
    """
    epoch, pool, batch = start
    while True:
        order = list(range(len(dialogues)))
        random.Random(f"{seed}:{epoch}").shuffle(order)
        complete, found = pool == 0 and batch == 0, False
        for number in range(pool, math.ceil(len(order) / POOL)):
            chosen = order[number * POOL : (number + 1) * POOL]
            encoded = [_encoded(dialogues[i], i, tokenizer, vocabulary, limit) for i in chosen]
            groups = _groups([e for e in encoded if _trainable(e[1])], tokens_per_batch)
            random.Random(f"{seed}:{epoch}:{number}").shuffle(groups)
            for place in range(batch, len(groups)):
                found = True
                yield _pad(groups[place], (epoch, number, place), (epoch, number, place + 1))
            batch = 0
        if complete and not found:
            raise InputError(f"expected dialogues with a response of two tokens or more within {limit} tokens, found "
                             f"none among {len(dialogues)}; check the response mask, or raise max_length")
        epoch, pool, batch = epoch + 1, 0, 0


def _encoded(dialogue: Dialogue | Encoded, number: int, tokenizer: Any, vocabulary: int, limit: int) -> Encoded:
    ids, response = encode(dialogue, tokenizer) if isinstance(dialogue, Dialogue) else dialogue
    if len(ids) != len(response):
        raise InputError(f"dialogue {number}: expected a response mask of {len(ids)} entries, found {len(response)}")
    if ids and not 0 <= min(ids) <= max(ids) < vocabulary:
        raise InputError(f"dialogue {number}: expected token ids from 0 to {vocabulary - 1}, found {min(ids)} to "
                         f"{max(ids)}; encode it with the target's own tokenizer")
    return ids[:limit], response[:limit]


def _trainable(response: Sequence[bool]) -> bool:
    return any(a and b for a, b in zip(response[1:], response[2:], strict=False))


def _groups(encoded: list[Encoded], budget: int) -> list[list[Encoded]]:
    """Dialogues of similar length together, as many as fit the budget when padded to the longest."""
    groups: list[list[Encoded]] = []
    for one in sorted(encoded, key=lambda e: len(e[0])):
        if groups and len(one[0]) * (len(groups[-1]) + 1) <= budget:
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups


def _pad(group: list[Encoded], place: Place, following: Place) -> Batch:
    length = max(len(ids) for ids, _ in group)
    input_ids = torch.zeros(len(group), length, dtype=torch.long)
    response = torch.zeros(len(group), length, dtype=torch.bool)
    for row, (ids, mask) in enumerate(group):
        input_ids[row, : len(ids)] = torch.tensor(ids)
        response[row, : len(ids)] = torch.tensor(mask)
    return Batch(input_ids, response, sum(len(ids) for ids, _ in group), place, following)



# ---- answers ----
#
# The target's own answers, as training text for drafts.
#
# A draft is to guess what the target writes, so the best text to learn from is the target's own. Here it answers
# questions in batches with `transformers`' own `generate`; this is data making, whose speed matters and whose exactness
# does not.

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
    target: "Target",
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
    target: "Target", prompts: list[list[int]], temperature: float, limit: int, size: int, seed: int, quiet: bool
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


