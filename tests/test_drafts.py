"""`train` end to end on a small untrained target: dialogues in, drafts out, the same after an interruption."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from fspad_ref import Draft, TreeConfig
from fspad_ref.show import drafts, stream
from fspad_ref.show.drafts import DraftsConfig, train_drafts
from fspad_ref.train import TrainConfig
from fspad_ref.world.answers import own_answers
from fspad_ref.world.stream import dialogue
from fspad_ref.world.tokenizer import train_tokenizer


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
    assert capsys.readouterr().out.count("held-out prompts after step") == 2
    target = drafts.load_target(config.target)
    for kind in config.kinds:
        assert Draft.from_pretrained(config.out / kind, target).config.kind == kind
        assert json.loads((config.out / kind / "training.json").read_text())["step"] == 2
    small = TreeConfig(top_k=2, depth=2, total_tokens=5)
    stream.generate(stream.GenerateConfig("Hello!", config.target, config.out / "fspad", max_new_tokens=5, tree=small))
    assert "5 tokens" in capsys.readouterr().err

    monkeypatch.setattr("fspad_ref.world.answers.own_answers", None)  # the answers are on file: a call would fail
    assert train_drafts(dataclasses.replace(config, resume=True)).step == 2


def test_dialogues_may_come_from_a_file(config: DraftsConfig, tmp_path: Path) -> None:
    path = tmp_path / "dialogues.jsonl"
    with path.open("w") as file:
        for i in range(20):
            said = [{"role": "user", "content": f"What is {i}?"}, {"role": "assistant", "content": f"{i} it is."}]
            file.write(json.dumps({"messages": said}) + "\n")
    target = drafts.load_target(config.target)
    dialogues, prompts = drafts.from_file(dataclasses.replace(config, data=path, held_out=5), target)
    assert (len(dialogues), len(prompts)) == (18, 2), "at most a tenth is held out"
    assert "What is 19?" in target.tokenizer.decode(prompts[-1])
