"""Question and dialogue files, the response mask read off a chat template, and batches."""

import gzip
import itertools
import json
from collections.abc import Sequence

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from fspad_ref import data
from fspad_ref.data import Dialogue, Question, batches, encode, prompt_ids, read_dialogues, read_questions
from fspad_ref.errors import ConfigError, InputError

PLAIN = (
    "{{ '<|bos|>' }}{% for m in messages %}{% if m.role == 'user' %}{{ '<|user|>' + m.content }}{% else %}"
    "{{ '<|assistant|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# ChatML puts a newline behind the end-of-sequence token: template, not answer.
CHATML = (
    "{% for m in messages %}{{ '<|user|>' + m.role + ' ' + m.content + '<|end|>' + 'newline ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|user|>assistant ' }}{% endif %}"
)
# Rewrites all answers but the last, as the templates of reasoning models do.
REWRITING = PLAIN.replace("m.content + '<|end|>'", "('' if loop.last else 'three ') + m.content + '<|end|>'")
STRICT = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + PLAIN
OTHER_PROMPT = PLAIN.replace("<|assistant|>' }}{%", "<|user|>' }}{%")
WORDS = "<|pad|> <|bos|> <|user|> <|assistant|> <|end|> one two three four user assistant system newline".split()
DIALOGUE = Dialogue((("one", "two three"), ("four", "one")))
SHORT = Dialogue((("one", "two"),), "four")


def tokenizer(template: str | None = PLAIN) -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<|pad|>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<|end|>", bos_token="<|bos|>")
    fast.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>"]})
    fast.chat_template = template
    return fast


# --- the response mask -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "template, dialogue, expected",
    [
        (PLAIN, DIALOGUE, "<|bos|> <|user|> one <|assistant|> [two] [three] [<|end|>] "
                          "<|user|> four <|assistant|> [one] [<|end|>]"),
        (CHATML, SHORT, "<|user|> system four <|end|> newline <|user|> user one <|end|> newline "
                        "<|user|> assistant [two] [<|end|>] newline"),
        (CHATML, Dialogue((("one", "two"),), "four", ended=False), "<|user|> system four <|end|> newline <|user|> "
                        "user one <|end|> newline <|user|> assistant [two]"),
        (REWRITING, DIALOGUE, "<|bos|> <|user|> one <|assistant|> three two three <|end|> "
                              "<|user|> four <|assistant|> [one] [<|end|>]"),
    ],
)  # fmt: skip
def test_the_mask_marks_what_the_target_would_write_after_the_prompt(template, dialogue, expected):
    ids, mask = encode(dialogue, tokenizer(template))
    assert " ".join(f"[{WORDS[i]}]" if own else WORDS[i] for i, own in zip(ids, mask, strict=True)) == expected
    *before, (asked, _) = dialogue.turns
    prompt = prompt_ids(tokenizer(template), before, asked, dialogue.system)
    assert ids[: len(prompt)] == prompt and mask[len(prompt)] and not mask[len(prompt) - 1]


def test_what_no_mask_can_be_read_off_is_refused():
    for template, dialogue, message in (
        (STRICT, SHORT, "found system, user.*System role not supported.*Leave out"),
        (None, DIALOGUE, "a tokenizer with a chat template, found none.*chat_format of vicuna"),
        (PLAIN, Dialogue(()), "at least one turn, found none"),
        (OTHER_PROMPT, DIALOGUE, "an answer that continues the ids of its prompt, found none.*different template"),
    ):
        with pytest.raises(InputError, match=message):
            encode(dialogue, tokenizer(template))


def test_vicunas_own_format():
    preamble = ("A chat between a curious user and an artificial intelligence assistant. "
                "The assistant gives helpful, detailed, and polite answers to the user's questions.")  # fmt: skip
    vicuna = tokenizer("another")
    data.use_chat_format(vicuna, "vicuna")
    messages = chat(("system", "Be brief."), ("user", "one"), ("assistant", "two three"), ("user", "four"))["messages"]
    for said, before in ((messages, "Be brief."), (messages[1:], preamble)):
        text = vicuna.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
        assert text == f"<|bos|>{before} USER: one ASSISTANT: two three<|end|>USER: four ASSISTANT:"
    with pytest.raises(ConfigError, match="expected chat_format to be one of vicuna, found 'alpaca'"):
        data.use_chat_format(vicuna, "alpaca")


# --- files -----------------------------------------------------------------------------------------------------------


def test_spec_benchs_questions_read_and_survive_writing(tmp_path):
    lines = [
        '{"question_id": 81, "category": "writing", "turns": ["Compose ü.", "Rewrite it."]}',
        '{"question_id": 111, "category": "math", "turns": ["Area?", "Circle?"], "reference": ["Area is 3", "49 pi"]}',
        '{"question_id": 161, "category": "translation", "turns": ["Translate: Ja."], "reference": "Yes."}',
        '{"question_id": 321, "category": "qa", "turns": ["Who?"], "reference": [["Ada", "Ada Lovelace"]]}',
        '{"question_id": 401, "category": "math_reasoning", "turns": ["How many?"], "reference": [18]}\n',
    ]
    (tmp_path / "q.jsonl").write_text("\n".join(lines), encoding="utf-8")
    questions = read_questions(tmp_path / "q.jsonl")
    assert questions[0] == Question(81, "conversation", ("Compose ü.", "Rewrite it."))
    assert [one.category for one in questions[1:]] == ["conversation", "translation", "qa", "math_reasoning"]
    references = [("Area is 3", "49 pi"), ("Yes.",), ("Ada / Ada Lovelace",), ("18",)]
    assert [one.reference for one in questions[1:]] == references
    data.write_questions(tmp_path / "again.jsonl", questions)
    assert read_questions(tmp_path / "again.jsonl") == questions


def chat(*said, form: str = "messages") -> dict:
    role, text = {"messages": ("role", "content"), "conversations": ("from", "value")}[form]
    return {form: [{role: who, text: what} for who, what in said]}


MESSAGES = chat(("user", "one"), ("assistant", "two three"), ("user", "four"), ("assistant", "one"))
SHAREGPT = chat(("human", "one"), ("gpt", "two three"), ("human", "four"), ("gpt", "one"), form="conversations")


@pytest.mark.parametrize("record", [SHAREGPT, MESSAGES], ids=["ShareGPT", "messages"])
@pytest.mark.parametrize("name", ["list.json", "lines.jsonl", "lines.jsonl.gz"])
def test_both_formats_read_alike(tmp_path, record, name):
    text = json.dumps([record] * 2, indent=1) if name == "list.json" else "\n\n".join([json.dumps(record)] * 2)
    (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    assert read_dialogues(tmp_path / name) == [DIALOGUE, DIALOGUE]


def test_what_is_no_question_with_its_answer_is_left_out_with_a_warning(tmp_path, recwarn):
    user, gpt, system = ("user", "one"), ("gpt", "two"), ("system", "four")
    said = (), (system, user, gpt), (gpt, user, gpt, user), (user, user, gpt, gpt), (system, user), (user, gpt, system)
    (tmp_path / "d.jsonl").write_text("\n".join(json.dumps(chat(*one)) for one in said), encoding="utf-8")
    with pytest.warns(UserWarning, match="7 messages left out, 2 records without an answer skipped"):
        assert read_dialogues(tmp_path / "d.jsonl") == [SHORT, *[Dialogue(SHORT.turns)] * 3]
    (tmp_path / "d.jsonl").write_text(json.dumps(chat(system, user, gpt)), encoding="utf-8")
    assert read_dialogues(tmp_path / "d.jsonl") == [SHORT] and not recwarn.list


@pytest.mark.parametrize(
    "read, line, message",
    [
        (read_questions, '{"question_id": 1, "category": "qa"}', "'turns'"),
        (read_questions, '{"question_id": 1, "category": "poetry", "turns": ["a"]}', "category of .*poetry"),
        (read_questions, '{"question_id": "x", "category": "qa", "turns": ["a"]}', "integer question_id.*'x'"),
        (read_questions, "7", "a JSON object.*found 7"),
        (read_dialogues, json.dumps(chat(("narrator", "a"), form="conversations")), "from and value .* 1 .*narrator"),
        (read_dialogues, json.dumps(chat(("user", [{"text": "a"}]))), "message 1 .*found 'user' and .*'text'"),
        (read_dialogues, '{"text": "a"}', "conversations.*found .*'text'"),
        (read_dialogues, "[1]", "conversations.*found 1"),
    ],
)
def test_bad_records_are_named_with_file_and_place(tmp_path, read, line, message):
    bad = tmp_path / "bad.jsonl"
    bad.write_text(line if line == "[1]" else "\n" + line, encoding="utf-8")
    with pytest.raises(InputError, match=message) as error:
        read(bad)
    assert ("bad.jsonl, entry 1" if line == "[1]" else "bad.jsonl:2") in str(error.value)


def test_a_file_that_cannot_be_read_is_an_input_error(tmp_path):
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"{}" * 99)[:-9])
    (tmp_path / "latin1").write_bytes(b"\xff")
    for name in ("absent", "cut.gz", "latin1"):
        with pytest.raises(InputError, match=f"a readable file of UTF-8 text at .*{name}, found"):
            read_dialogues(tmp_path / name)


# --- batches ---------------------------------------------------------------------------------------------------------


class Lazy(Sequence):
    """Dialogues that are made when they are asked for: number i has i answer tokens behind three of the prompt."""

    def __len__(self):
        return 40

    def __getitem__(self, i):
        return [i % 13] * (3 + i), [False] * 3 + [True] * i


def first(count: int, dialogues=None, seed=0, start=0) -> list:
    settings = tokenizer(), 100, 30, len(WORDS), seed, start
    return list(itertools.islice(batches(Lazy() if dialogues is None else dialogues, *settings), count))


def test_batches_follow_from_the_seed_and_can_be_entered_anywhere():
    whole, listed = first(40), first(40, [Lazy()[i] for i in range(40)])
    for start in (0, 1, 7, 23, 39):  # an epoch has about ten
        for one, other, third in zip(first(40 - start, start=start), whole[start:], listed[start:], strict=True):
            assert torch.equal(one.input_ids, other.input_ids) and torch.equal(one.response, other.response)
            assert one.tokens == other.tokens and torch.equal(other.input_ids, third.input_ids)
    shapes = [[tuple(batch.input_ids.shape) for batch in first(20, seed=seed)] for seed in (0, 1)]
    assert shapes[0] != shapes[1], "another seed, another order"


def test_an_epoch_has_every_dialogue_that_trains_something_once_within_the_budget():
    rows = []
    for batch in first(60):
        ids, response = batch.input_ids, batch.response
        assert ids.numel() <= 100 and data.trained_positions(response).any(dim=1).all()
        lengths = (response.sum(dim=1) + 3).tolist()
        assert batch.tokens == sum(lengths) and max(lengths) == ids.shape[1] == response.shape[1]
        assert not any(ids[row, length:].any() for row, length in enumerate(lengths)), "padding on the right"
        rows += lengths
    one, other = rows[:38], rows[38:76]
    assert sorted(one) == sorted(other) == sorted(min(3 + i, 30) for i in range(2, 40))  # cut to 30 tokens
    assert one != other, "another epoch, another order"


def test_dialogues_are_encoded_on_the_way_and_long_ones_stand_alone():
    batch = next(batches([DIALOGUE] * 2, tokenizer(), 5, 30, len(WORDS), 0))
    assert (batch.input_ids[0].tolist(), batch.response[0].tolist()) == encode(DIALOGUE, tokenizer())
    assert batch.input_ids.shape[0] == 1


def test_malformed_dialogues_are_refused():
    for ids, response, message in (
        ([1, 2, 3], [False, True], "as many marks in dialogue 0, found 3 ids .*2 marks"),
        ([1, 2, 13], [True] * 3, r"token ids in \[0, 13\).*in \[1, 13\].*tokenizer"),
        ([-1, 2, 3], [True] * 3, r"token ids in \[0, 13\).*in \[-1, 3\]"),
        ([1, 2, 3], [False, False, True], "a response of two tokens or more within 30 tokens, found none among 1"),
    ):
        with pytest.raises(InputError, match=message):
            first(1, [(ids, response)])


def test_the_loss_mask_by_hand():
    """m_t = 1 iff tokens t+1 and t+2 are response; the token after the prompt is the target's own."""
    response = torch.tensor([[0, 0, 1, 1, 1, 0, 1, 1], [0, 1, 0, 0, 0, 0, 0, 0]]).bool()
    assert data.trained_positions(response).int().tolist() == [[0, 1, 1, 0, 0, 1, 0], [0] * 7]
