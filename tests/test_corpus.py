"""Question and dialogue files, and the response mask read off a chat template."""

import json

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from fspad_ref.data import Dialogue, Question, encode, prompt_ids, read_dialogues, read_questions, write_questions
from fspad_ref.errors import InputError

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
# Keeps only the last answer, as the templates of reasoning models do.
FORGETFUL = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<|user|>' + m.content }}{% elif loop.last %}"
    "{{ '<|assistant|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# As CHATML, but saying itself where answers are; {{ '<|end|>' }} stands inside or behind the block.
MARKING = (
    "{% for m in messages %}{{ '<|user|>' + m.role + ' ' }}{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}INSIDE{% endgeneration %}BEHIND"
    "{% else %}{{ m.content + '<|end|>' }}{% endif %}"
    "{{ ' newline ' }}{% endfor %}{% if add_generation_prompt %}{{ '<|user|>assistant ' }}{% endif %}"
)
WORDS = "<|pad|> <|bos|> <|user|> <|assistant|> <|end|> one two three four user assistant newline".split()
DIALOGUE = Dialogue((("one", "two three"), ("four", "one")))


def tokenizer(template: str | None = PLAIN) -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<|pad|>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<|end|>", pad_token="<|pad|>")
    fast.add_special_tokens({"additional_special_tokens": ["<|bos|>", "<|user|>", "<|assistant|>"]})
    fast.chat_template = template
    return fast


def marked(ids: list[int], mask: list[bool]) -> str:
    return " ".join(f"[{WORDS[i]}]" if m else WORDS[i] for i, m in zip(ids, mask, strict=True))


def test_mask_marks_each_answer_with_its_eos():
    assert marked(*encode(DIALOGUE, tokenizer())) == (
        "<|bos|> <|user|> one <|assistant|> [two] [three] [<|end|>] <|user|> four <|assistant|> [one] [<|end|>]"
    )


def test_what_a_template_adds_behind_the_eos_is_no_response():
    assert marked(*encode(Dialogue((("one", "two"),)), tokenizer(CHATML))) == (
        "<|user|> user one <|end|> newline <|user|> assistant [two] [<|end|>] newline"
    )


def test_prompt_ids_is_the_unmasked_head_of_the_encoding():
    ids, mask = encode(DIALOGUE, tokenizer())
    assert prompt_ids(tokenizer(), (), "one") == ids[: mask.index(True)]
    assert prompt_ids(tokenizer(), DIALOGUE.turns[:1], "four") == ids[:10]


def test_a_template_that_rewrites_earlier_turns_is_refused():
    with pytest.raises(InputError, match="question of turn 2.*position"):
        encode(DIALOGUE, tokenizer(FORGETFUL))
    encode(Dialogue(DIALOGUE.turns[:1]), tokenizer(FORGETFUL))  # one turn has nothing to rewrite


@pytest.mark.parametrize("end", ["INSIDE", "BEHIND", "INSIDE with more of the template behind it"])
def test_a_template_that_says_where_answers_are_is_believed(end):
    """And answers end with their end token, whether the template counts it in or not."""
    words = {"INSIDE": "{{ '<|end|>' }}", "BEHIND": ""}
    if end == "BEHIND":
        words = {"INSIDE": "", "BEHIND": "{{ '<|end|>' }}"}
    elif end != "INSIDE":
        words["INSIDE"] = "{{ '<|end|> newline' }}"
    template = MARKING.replace("INSIDE", words["INSIDE"]).replace("BEHIND", words["BEHIND"])
    ids, mask = encode(DIALOGUE, tokenizer(template))
    assert [WORDS[i] for i, own in zip(ids, mask, strict=True) if own] == "two three <|end|> one <|end|>".split()
    if end == "INSIDE":
        assert (ids, mask) == encode(DIALOGUE, tokenizer(CHATML)), "both ways of reading agree"


def test_a_marking_template_may_rewrite_earlier_turns():
    marking = FORGETFUL.replace("{{ '<|assistant|>' + m.content", "{{ '<|assistant|>' }}{% generation %}{{ m.content")
    marking = marking.replace("'<|end|>' }}", "'<|end|>' }}{% endgeneration %}", 1)
    assert marked(*encode(DIALOGUE, tokenizer(marking))) == ("<|user|> one <|user|> four <|assistant|> [one] [<|end|>]")


def test_a_template_that_marks_nothing_is_refused():
    empty = PLAIN + "{% generation %}{% endgeneration %}"
    with pytest.raises(InputError, match="generation.*to mark an answer each.*found 0 marked.*enclose message.content"):
        encode(DIALOGUE, tokenizer(empty))


@pytest.mark.parametrize("block", ["{% generation %} {{ m.content }}", "{% generation %}{{ m.content }} "])
def test_a_block_that_begins_or_ends_in_a_dropped_space_is_refused(block):
    """transformers finds no token for the space, and from there on marks nothing, or all."""
    spaced = MARKING.replace("{% generation %}{{ m.content }}INSIDE", block).replace("BEHIND", "{{ '<|end|>' }}")
    with pytest.raises(InputError, match="the 2 {% generation %} blocks.*found [01].*space that the tokenizer drops"):
        encode(DIALOGUE, tokenizer(spaced))


def test_an_empty_answer_between_marks_is_refused():
    """transformers would mark everything behind it, the user's words too."""
    template = MARKING.replace("INSIDE", "").replace("BEHIND", "{{ '<|end|>' }}")
    with pytest.raises(InputError, match="the 2 {% generation %} blocks.*found 1 marked.*no answer be empty"):
        encode(Dialogue((("one", ""), ("two", "three"))), tokenizer(template))


def test_a_system_message_reaches_the_template():
    with_system = Dialogue((("one", "two"),), system="three four")
    told = CHATML.replace("<|user|>' + m.role", "<|user|>' + ('' if m.role == 'system' else m.role)")
    ids, mask = encode(with_system, tokenizer(told))
    assert marked(ids, mask).startswith("<|user|> three four <|end|> newline <|user|> user one")
    assert prompt_ids(tokenizer(told), (), "one", "three four") == ids[: mask.index(True)]


def test_a_template_that_takes_no_system_message_says_so():
    strict = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + PLAIN
    )
    with pytest.raises(InputError, match="found system, user.*System role not supported.*leave out"):
        encode(Dialogue((("one", "two"),), system="three"), tokenizer(strict))


def test_a_dialogues_text_names_a_system_message_only_where_there_is_one():
    """Resumed trainings know their data by it."""
    assert repr(Dialogue((("a", "b"),))) == "Dialogue(turns=(('a', 'b'),))"
    assert repr(Dialogue((("a", "b"),), "c")) == "Dialogue(turns=(('a', 'b'),), system='c')"


@pytest.mark.parametrize("bad", [tokenizer(None), None])
def test_a_tokenizer_without_template_is_refused(bad):
    with pytest.raises(InputError, match="chat template"):
        encode(DIALOGUE, bad)
    with pytest.raises(InputError, match="at least one turn"):
        encode(Dialogue(()), tokenizer())


def test_questions_survive_writing_and_reading(tmp_path):
    questions = [
        Question(81, "qa", ("What is Ü?",), ("A letter.",), (("letter", "vowel"),)),
        Question(82, "conversation", ("Hello.", "And now?")),
    ]
    write_questions(tmp_path / "q.jsonl", questions)
    assert read_questions(tmp_path / "q.jsonl") == questions
    assert "Ü" in (tmp_path / "q.jsonl").read_text(encoding="utf-8")


def test_a_spec_bench_file_drops_in(tmp_path):
    lines = [
        '{"question_id": 81, "category": "writing", "turns": ["Compose a post.", "Rewrite it."]}',
        '{"question_id": 111, "category": "math", "turns": ["Area?", "Circle?"], "reference": ["Area is 3", "49 pi"]}',
        '{"question_id": 161, "category": "translation", "turns": ["Translate: Ja."], "reference": "Yes."}',
        '{"question_id": 321, "category": "qa", "turns": ["Who?"], "reference": [["Ada", "Ada Lovelace"]]}',
        '{"question_id": 401, "category": "math_reasoning", "turns": ["How many?"], "reference": [18]}',
        "",
    ]
    (tmp_path / "q.jsonl").write_text("\n".join(lines), encoding="utf-8")
    questions = read_questions(tmp_path / "q.jsonl")
    assert [q.category for q in questions] == ["conversation"] * 2 + ["translation", "qa", "math_reasoning"]
    assert [q.reference for q in questions] == [
        (), ("Area is 3", "49 pi"), ("Yes.",), ("Ada / Ada Lovelace",), ("18",),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question_id": 1, "category": "qa"}', "turns"),
        ('{"question_id": 1, "category": "poetry", "turns": ["a"]}', "poetry"),
        ('{"question_id": "x", "category": "qa", "turns": ["a"]}', "integer"),
        ('{"question_id": 1, "category": "qa", "turns": "a"}', "list"),
        ('{"question_id": 1, "category": "qa", "turns": [" "]}', "non-empty"),
        ('{"question_id": 1, "category": "qa", "turns": ["a"], "expected": [["b"], ["c"]]}', "per turn"),
        ('{"question_id": 1,', "expected JSON"),
        ("7", "object"),
    ],
)
def test_bad_questions_name_file_and_line(tmp_path, line, message):
    good = '{"question_id": 1, "category": "qa", "turns": ["a"]}\n'
    (tmp_path / "bad.jsonl").write_text(good + line, encoding="utf-8")
    with pytest.raises(InputError, match=rf"bad\.jsonl:2.*{message}"):
        read_questions(tmp_path / "bad.jsonl")


def test_a_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="none.jsonl"):
        read_questions(tmp_path / "none.jsonl")


SHAREGPT = {"conversations": [{"from": "human", "value": "one"}, {"from": "gpt", "value": "two three"},
                              {"from": "human", "value": "four"}, {"from": "gpt", "value": "one"}]}  # fmt: skip
MESSAGES = {"messages": [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two three"},
                         {"role": "user", "content": "four"}, {"role": "assistant", "content": "one"}]}  # fmt: skip


@pytest.mark.parametrize("record", [SHAREGPT, MESSAGES])
@pytest.mark.parametrize("as_list", [True, False])
def test_sharegpt_and_messages_read_alike(tmp_path, record, as_list):
    text = json.dumps([record, record], indent=1) if as_list else json.dumps(record) + "\n" + json.dumps(record)
    (tmp_path / "d.json").write_text(text, encoding="utf-8")
    assert read_dialogues(tmp_path / "d.json") == [DIALOGUE, DIALOGUE]


@pytest.mark.parametrize("key, role, text", [("conversations", "from", "value"), ("messages", "role", "content")])
def test_a_system_message_is_kept(tmp_path, recwarn, key, role, text):
    said = [{role: "system", text: "be brief"}, {role: "user", text: "one"}, {role: "assistant", text: "two"}]
    (tmp_path / "d.jsonl").write_text(json.dumps({key: said, "id": 7}), encoding="utf-8")
    assert read_dialogues(tmp_path / "d.jsonl") == [Dialogue((("one", "two"),), "be brief")]
    assert not recwarn.list


def test_what_has_no_answer_is_left_out_with_a_warning(tmp_path):
    human, gpt = {"from": "human", "value": "one"}, {"from": "gpt", "value": "two three"}
    system = {"from": "system", "value": "be brief"}
    records = [{"conversations": []}, {"conversations": [gpt, human, gpt, human]}, {"conversations": [system, human]}]
    (tmp_path / "d.json").write_text(json.dumps(records), encoding="utf-8")
    with pytest.warns(UserWarning, match="4 messages left out, 2 records"):
        assert read_dialogues(tmp_path / "d.json") == [Dialogue((("one", "two three"),))]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"conversations": [{"from": "human", "value": "a"}] * 2}, "alternate"),
        ({"conversations": [{"from": "narrator", "value": "a"}]}, "narrator"),
        ({"messages": [{"role": "user", "content": 3}]}, "message 1 to have a text 'content', found 3"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]},
            "text 'content', found .*'type'",
        ),
        ({"messages": [{"role": "tool", "content": "a"}]}, "expected message 1 to have 'role' of .*found 'tool'"),
        ({"messages": ["a"]}, "message 1 to have 'role'.*found None"),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "system", "value": "b"}]}, "start.* message 2"),
        ({"text": "a"}, "conversations"),
        ([1], "conversations"),
    ],
)
def test_bad_dialogues_name_file_and_place(tmp_path, record, message):
    (tmp_path / "d.json").write_text(json.dumps([SHAREGPT, record]), encoding="utf-8")
    with pytest.raises(InputError, match=f"entry 2.*{message}"):
        read_dialogues(tmp_path / "d.json")
