"""Prompt formats: how a dialogue becomes the text that a chat model was trained on.

Most chat models bring their own template with their tokenizer, and that one is used as it is. Vicuna's folders bring
none, and a wrong format does not fail: it only makes the answers worse, and the draft's guesses with them. So a format
is never guessed: `Target.from_pretrained(folder, chat_format="vicuna")` chooses it.
"""

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
