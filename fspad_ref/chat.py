"""Prompt formats: how a dialogue becomes the tokens that a chat model was trained on, and which of them it wrote.

Most chat models bring their own template with their tokenizer, and that one is used as it is. Vicuna's folders bring
none, and a wrong format does not fail: it only makes the answers worse, and the draft's guesses with them. So a format
is never guessed: `Target.from_pretrained(folder, chat_format="vicuna")` chooses it.

Messages are those of chat templates: {"role": "system", "user" or "assistant", "content": text}, oldest first.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fspad_ref.errors import ConfigError, InputError

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
