"""`train` end to end on a small untrained target: dialogues in, drafts out, the same after an interruption."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from fspad_ref.world.stream import dialogue
from fspad_ref.world.tokenizer import train_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from fspad_ref import Draft, TreeConfig
from fspad_ref.bench import study as data
from fspad_ref.bench.bench import BenchConfig
from fspad_ref.bench.tune import TuneConfig
from fspad_ref.commands import generate as stream
from fspad_ref.commands import train as drafts
from fspad_ref.commands.train import DraftsConfig, train_drafts
from fspad_ref.data import AnswerConfig, own_answers
from fspad_ref.errors import CheckpointError, ConfigError, InputError
from fspad_ref.processes import Processes
from fspad_ref.train import TrainConfig


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target of two layers, untrained, with a tokenizer that knows the world's commonest syllables."""
    path = tmp_path_factory.mktemp("target")
    texts = (text for i in range(60) for turn in dialogue(0, i).turns for text in turn)
    tokenizer = train_tokenizer(texts, vocabulary=400, positions=1024)
    torch.manual_seed(0)
    sizes = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=1024, **sizes))
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def config(folder: Path, tmp_path: Path) -> DraftsConfig:
    training = TrainConfig(steps=2, tokens_per_batch=512, warmup_steps=1, evaluate_every=0, checkpoint_every=1)
    return DraftsConfig(
        kinds=("eagle", "fspad"), out=tmp_path / "drafts", target=str(folder), dialogues=12, own_answers=12, held_out=1,
        training=training,
    )  # fmt: skip


def test_own_answers_are_what_the_target_writes(folder: Path) -> None:
    target = drafts.load_target(str(folder))
    asked = [["Who?"], ["How many people live there?", "And here?"], ["Why is it so?"]]
    encoded = own_answers(target, asked, max_new_tokens=6, batch_size=2)
    assert len(encoded) == 4, "one a turn"
    for ids, mask in encoded:
        begin = mask.index(True)
        assert all(mask[begin:]) and 1 <= len(ids) - begin <= 6
        written = target.model.generate(torch.tensor([ids[:begin]]), max_new_tokens=len(ids) - begin, do_sample=False)
        assert written[0].tolist() == ids, "padding must not change an answer"


def test_train_writes_drafts_that_decode_and_resumes(config: DraftsConfig, monkeypatch, capsys) -> None:
    record = train_drafts(config)
    assert record.step == 2 and record.dialogues >= 24
    printed = capsys.readouterr().out
    assert printed.count("held-out prompts after step") == 2
    assert f"{record.tokens_per_second:,.0f} tokens/s, " in printed and "of the time in the frozen target" in printed
    target = drafts.load_target(config.target)
    for kind in config.kinds:
        assert Draft.from_pretrained(config.out / kind, target).config.kind == kind
        assert json.loads((config.out / kind / "training.json").read_text())["step"] == 2
    small = TreeConfig(top_k=2, depth=2, total_tokens=5)
    stream.generate(stream.GenerateConfig("Hello!", config.target, config.out / "fspad", max_new_tokens=5, tree=small))
    assert "5 tokens" in capsys.readouterr().err

    monkeypatch.setattr("fspad_ref.bench.study.own_answers", None)  # the answers are on file: a call would fail
    assert train_drafts(dataclasses.replace(config, resume=True)).step == 2


def chats(path: Path, count: int = 20, system: str = "") -> Path:
    """A file of dialogues in the messages format, two turns each."""
    with path.open("w") as file:
        for i in range(count):
            said = [{"role": "system", "content": system}] * bool(system)
            for question in (f"What is {i}?", "Why?"):
                said += [{"role": "user", "content": question}, {"role": "assistant", "content": f"{i} it is."}]
            file.write(json.dumps({"messages": said}) + "\n")
    return path


def test_dialogues_may_come_from_a_file(config: DraftsConfig, tmp_path: Path) -> None:
    target = drafts.load_target(config.target)
    config = dataclasses.replace(config, data=chats(tmp_path / "chats.jsonl"), held_out=5, own_answers=0)
    dialogues, prompts = drafts.from_file(config, target, Processes())
    assert (len(dialogues), len(prompts)) == (18, 2), "at most a tenth is held out"
    assert "What is 19?" in target.tokenizer.decode(prompts[-1])


# --- own answers to a file's questions -------------------------------------------------------------------------------

SETTINGS = AnswerConfig(temperatures=(0.0, 1.0), max_new_tokens=4, batch=1)  # four dialogues a file


def test_a_files_answers_may_be_the_targets_own(config: DraftsConfig, tmp_path: Path) -> None:
    target = drafts.load_target(config.target)
    config = dataclasses.replace(config, data=chats(tmp_path / "chats.jsonl"), own_answers=10, answers=SETTINGS)
    texts, _ = drafts.from_file(config, target, Processes())
    assert len(texts) == 9 + 2 * 10, "the others as in the file; of these, one text a turn"
    assert [texts[i].turns[0][0] for i in (0, 8)] == ["What is 10?", "What is 18?"]
    for ids, mask in (texts[i] for i in range(9, 29)):
        begin = mask.index(True)
        assert all(mask[begin:]) and 1 <= len(ids) - begin <= 4
    ids, mask = texts[9]
    written = target.model.generate(torch.tensor([ids[: mask.index(True)]]), max_new_tokens=4, do_sample=False)
    assert written[0].tolist()[: len(ids)] == ids, "the first half is greedy"


def test_own_answers_go_on_where_they_were_interrupted(config, tmp_path, monkeypatch) -> None:
    """Each file is written whole; what is in one is not asked again, and nothing depends on where the break was."""
    target, asked = drafts.load_target(config.target), data.read_dialogues(chats(tmp_path / "chats.jsonl"))[:16]
    whole = data.answered(target, asked, SETTINGS, tmp_path / "whole", chunk=4)
    calls = []

    def breaks_down(*arguments, **settings):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return own_answers(*arguments, **settings)

    monkeypatch.setattr(data, "own_answers", breaks_down)
    with pytest.raises(KeyboardInterrupt):
        data.answered(target, asked, SETTINGS, tmp_path / "broken", chunk=4)
    assert len(list((tmp_path / "broken").glob("answers-*.json"))) == 2
    assert data.answered(target, asked, SETTINGS, tmp_path / "broken", chunk=4) == whole
    assert len(calls) == 3 + 2, "four files: two were there"
    kept = json.loads(next((tmp_path / "whole").glob("answers-*.json")).read_text())["key"]
    assert {"temperature", "top_p", "top_k", "max_new_tokens", "seed"} <= kept.keys(), "how they were sampled is said"


def test_a_system_message_is_before_the_targets_own_answers_too(config, tmp_path) -> None:
    target = drafts.load_target(config.target)
    target.tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role + ' ' + m.content + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant ' }}{% endif %}"
    )
    asked = data.read_dialogues(chats(tmp_path / "chats.jsonl", 2, system="Be brief."))
    for ids, mask in data.answered(target, asked, SETTINGS, tmp_path / "out"):
        assert "Be brief." in target.tokenizer.decode(ids[: mask.index(True)])


def test_a_turn_without_room_for_an_answer_ends_its_conversation(config) -> None:
    target = drafts.load_target(config.target)
    long = "so " * 3000
    encoded = own_answers(target, [["Who?", long, "And?"], [long], ["Who?"]], max_new_tokens=4)
    assert len(encoded) == 2, "the two short first turns"


def test_more_own_answers_than_dialogues_are_refused(config, tmp_path) -> None:
    target = drafts.load_target(config.target)
    config = dataclasses.replace(config, data=chats(tmp_path / "chats.jsonl", 10), own_answers=10)
    with pytest.raises(InputError, match="own_answers of at most the 9 dialogues.*found 10"):
        drafts.from_file(config, target, Processes())


@pytest.mark.parametrize("wrong", [{"temperatures": ()}, {"temperatures": (-1.0,)}, {"batch": 0}])
def test_impossible_answers_are_refused(wrong) -> None:
    with pytest.raises(ConfigError, match=f"expected {next(iter(wrong))}"):
        AnswerConfig(**wrong)


# --- how a target is loaded ------------------------------------------------------------------------------------------


def test_the_commands_choose_a_chat_format(folder: Path) -> None:
    assert "USER: " in drafts.load_target(str(folder), chat_format="vicuna").tokenizer.chat_template
    with pytest.raises(ConfigError, match="chat_format to be one of vicuna, found 'alpaca'"):
        drafts.load_target(str(folder), chat_format="alpaca")
    for command in (DraftsConfig, stream.GenerateConfig, BenchConfig, TuneConfig):
        assert "chat_format" in {field.name for field in dataclasses.fields(command)}


def test_a_device_map_reaches_the_target(folder: Path) -> None:
    assert drafts.load_target(str(folder), device="cuda:7", device_map="cpu").device.type == "cpu"
    with pytest.raises(CheckpointError, match="expected a Hugging Face causal LM.*found: .*nowhere"):
        drafts.load_target(str(folder), device_map="nowhere")
