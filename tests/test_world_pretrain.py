"""The built-in target's training: tokenizer, packing, Muon, growth, resume and exam, on a tiny copy task."""

import json
import math
import random
import signal
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from fspad_ref.corpus import Dialogue, Question, encode, prompt_ids
from fspad_ref.errors import CheckpointError, ConfigError, InputError, NonFiniteLoss
from fspad_ref.show.cards import target_section
from fspad_ref.world.exam import Answered, answer, card_section, check_target, scores
from fspad_ref.world.exchange import Exchange
from fspad_ref.world.learner import Learner
from fspad_ref.world.model import TargetConfig, grow
from fspad_ref.world.muon import Muon, orthogonalize
from fspad_ref.world.packing import PackedBatches, pack
from fspad_ref.world.pretrain import learn_tokenizer, pretrain
from fspad_ref.world.recipe import PretrainConfig
from fspad_ref.world.stream import ROTATION, dialogue
from fspad_ref.world.tokenizer import SPECIAL, train_tokenizer

WORDS = "red blue gold grün weiß amber".split()


def copy_task(seed: int, index: int, held: bool) -> Exchange:
    """Say a word and a number again; a second turn in every third dialogue."""
    rng = random.Random(1000 * seed + 2 * index + held)
    turns = []
    for _ in range(1 + (index % 3 == 0)):
        thing = f"{rng.choice(WORDS)} {rng.randint(10, 99)}"
        turns.append((f"Say {thing} please.", f"It is {thing}."))
    return Exchange("qa", tuple(turns), tuple((a[6:-1],) for _, a in turns))


TINY = TargetConfig(layers=2, hidden=32, intermediate=64, heads=2, vocabulary=300, positions=128)


def tiny(out, **changes) -> PretrainConfig:
    values = {"tokens": 4600, "growth": ((0.0, 2),), "batch_tokens": 200, "row_tokens": 64, "micro_batches": 2}
    values |= {"tokenizer_dialogues": 100, "eval_dialogues": 4, "other_rate": 1e-2, "target": TINY}
    return PretrainConfig(out=out, **{**values, **changes})


@pytest.fixture(scope="module")
def tokenizer():
    texts = [text for i in range(100) for turn in copy_task(0, i, False).turns for text in turn]
    return train_tokenizer(texts, 300, 128)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("target")
    return out, pretrain(tiny(out), copy_task)


# ---- tokenizer ----


def test_the_vocabulary_is_learned_from_all_tasks_as_often_as_the_stream_has_them(tmp_path):
    asked = Counter()

    def counted(seed, index, held):
        exchange = dialogue(seed, index, held)
        asked[exchange.category] += 1
        return exchange

    learn_tokenizer(PretrainConfig(tmp_path, minutes=1), counted)
    shares = Counter(ROTATION)
    for counts in (shares, asked):
        del counts["echo"]  # of which the stream's opening consists, besides
    for task, share in shares.items():
        assert asked[task] / asked.total() == pytest.approx(share / shares.total(), abs=0.01)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40))
@settings(max_examples=60, deadline=None)
def test_every_text_survives_the_tokenizer(tokenizer, text):
    if not any(special in text for special in SPECIAL):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


@pytest.mark.parametrize(
    "text", ["Größe, Übung, Straße", "🙂 and 日本", "  two  spaces ,  kept .", "a\n\tb", "don't 's"]
)
def test_umlauts_emoji_and_spaces_survive(tokenizer, text):
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_digits_stay_single_the_first_with_its_blank(tokenizer):
    assert tokenizer.tokenize("red 4711")[-4:] == ["Ġ4", "7", "1", "1"]


def test_a_saved_tokenizer_is_the_same(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = "<|bos|><|user|>Grün 12?<|assistant|>"
    assert again(text).input_ids == tokenizer(text).input_ids
    assert (again.chat_template, again.padding_side) == (tokenizer.chat_template, "left")
    assert (again.bos_token, again.eos_token, again.pad_token) == ("<|bos|>", "<|end|>", "<|pad|>")


def test_the_chat_template_writes_the_documented_text(tokenizer):
    messages = [
        {"role": "user", "content": "q1"},
        {"role": "assistant", "content": "a1"},
        {"role": "user", "content": "q2"},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|bos|><|user|>q1<|assistant|>a1<|end|><|user|>q2<|assistant|>"
    assert tokenizer.decode(prompt_ids(tokenizer, [("q1", "a1")], "q2")) == text


def test_the_response_mask_covers_the_answers_and_their_ends(tokenizer):
    exchange = copy_task(0, 0, False)
    ids, mask = encode(Dialogue(exchange.turns), tokenizer)
    answered = tokenizer.decode([i for i, m in zip(ids, mask, strict=True) if m])
    assert answered == "".join(a + "<|end|>" for _, a in exchange.turns)


def test_a_vocabulary_without_room_for_bytes_is_refused():
    with pytest.raises(ConfigError, match="at least 261"):
        train_tokenizer(["a"], 200)


# ---- packing ----


def encoded(tokenizer, count=7):
    return [encode(Dialogue(copy_task(0, i, False).turns), tokenizer) for i in range(count)]


def test_packing_loses_no_token_and_labels_are_the_next_ones(tokenizer):
    dialogues = encoded(tokenizer)
    rows = pack(dialogues, 64, 128, prompt_weight=0.25)
    assert rows.tokens == int((rows.dialogue >= 0).sum()) == sum(len(ids) for ids, _ in dialogues)
    for number, (ids, mask) in enumerate(dialogues):
        mine = rows.dialogue == number
        assert rows.input_ids[mine].tolist() == ids
        assert rows.position_ids[mine].tolist() == list(range(len(ids)))
        assert rows.label[mine].tolist() == [*ids[1:], -100]
        assert rows.weight[mine].tolist() == [*(1.0 if m else 0.25 for m in mask[1:]), 0.0]


def test_a_packed_dialogue_has_the_logits_it_has_alone(tokenizer, tmp_path):
    torch.manual_seed(0)
    learner = Learner(tiny(tmp_path), tokenizer, 2)
    for p in learner.model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    dialogues = encoded(tokenizer)
    rows = pack(dialogues, 64, 128)
    assert len(rows.input_ids) < len(dialogues)
    with torch.no_grad():
        together = learner.model(
            rows.input_ids, position_ids=rows.position_ids, attention_mask=rows.attention_mask(), use_cache=False
        ).logits
        for number, (ids, _) in enumerate(dialogues):
            alone = learner.model(torch.tensor([ids])).logits[0]
            assert torch.allclose(together[rows.dialogue == number], alone, atol=1e-5)


def test_a_dialogue_beyond_the_positions_is_refused():
    with pytest.raises(InputError, match="at most 8 tokens, found one of 9"):
        pack([([1] * 9, [True] * 9)], 4, 8)


def test_a_batch_depends_on_its_number_alone(tokenizer):
    batches = PackedBatches(copy_task, 3, tokenizer, 5, 64, 128)
    assert torch.equal(batches[4].input_ids, batches[4].input_ids)
    assert not torch.equal(batches[4].input_ids[:1, :20], batches[5].input_ids[:1, :20])


# ---- Muon and growth ----


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 24), (2, 24, 8)])
def test_orthogonalize_keeps_directions_and_levels_singular_values(shape):
    torch.manual_seed(0)
    given_matrices = torch.randn(shape)
    result = orthogonalize(given_matrices)
    u, _, vh = torch.linalg.svd(given_matrices, full_matrices=False)
    inner = u.mT @ result @ vh.mT  # diagonal in the basis of the SVD
    values = inner.diagonal(dim1=-2, dim2=-1)
    assert (inner - torch.diag_embed(values)).abs().max() < 1e-3
    assert values.max() < 1.3 and values.median() > 0.6


def test_muon_minimises_a_quadratic():
    torch.manual_seed(0)
    goal, p = torch.randn(8, 8), torch.nn.Parameter(torch.zeros(8, 8))
    optimizer = Muon([p], lr=0.1)
    for step in range(100):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 100)
        optimizer.zero_grad()
        (p - goal).square().sum().backward()
        optimizer.step()
    assert (p - goal).norm() < 0.1 * goal.norm()


def test_growing_keeps_the_function(tokenizer, tmp_path):
    torch.manual_seed(0)
    model = Learner(tiny(tmp_path), tokenizer, 2).model
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    deeper, kept = grow(model, 6)
    ids = torch.randint(5, 300, (2, 12))
    assert deeper.config.num_hidden_layers == len(deeper.model.layers) == 6
    assert torch.equal(deeper(ids).logits, model(ids).logits)
    assert kept["model.layers.3.mlp.up_proj.weight"] == "model.layers.1.mlp.up_proj.weight"
    with pytest.raises(ConfigError, match="multiple of 2"):
        grow(model, 5)


def test_every_layer_is_compiled_at_the_start_and_after_growing(tokenizer, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda layer, **options: compiled.append(layer))
    learner = Learner(tiny(tmp_path, growth=((0.0, 1), (0.5, 2)), compile=True), tokenizer, 1)
    assert compiled == [*learner.model.model.layers]
    learner.grow_to(2)
    assert compiled[1:] == [*learner.model.model.layers]


# ---- training ----


def test_training_lowers_the_loss_and_writes_a_target(trained):
    out, record = trained
    assert record["finished"] and record["tokens"] >= 4600 > record["answer_tokens"] > 1000
    assert record["reports"][-1]["loss"]["qa"] < 2.5 < torch.tensor(300.0).log()  # from log 300 = 5.7
    assert json.loads((out / "training.json").read_text())["steps"] == record["steps"]
    assert not (out / "checkpoints").exists()
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.dtype == torch.bfloat16 and model.config.tie_word_embeddings
    assert (model.config.rope_parameters["rope_theta"], model.config.rms_norm_eps) == (10000.0, 1e-5)
    assert model.generation_config.eos_token_id == AutoTokenizer.from_pretrained(out).eos_token_id


@pytest.mark.parametrize("growth", [((0.0, 2),), ((0.0, 1), (0.3, 2))])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, growth):
    changes = {"tokens": 2000, "growth": growth, "checkpoint_minutes": 0.0, "tokenizer_dialogues": 50}
    whole = pretrain(tiny(tmp_path / "one", **changes), copy_task)
    left = 50 + 240 + 60  # dialogues that the tokenizer, the batch size, and about seven batches take

    def breaks_off(seed, index, held):
        nonlocal left
        left -= not held
        if left < 0:
            raise KeyboardInterrupt
        return copy_task(seed, index, held)

    with pytest.raises(KeyboardInterrupt):
        pretrain(tiny(tmp_path / "two", **changes), breaks_off)
    with pytest.raises(CheckpointError, match="unfinished run"):
        pretrain(tiny(tmp_path / "two", **changes), copy_task)
    with pytest.raises(CheckpointError, match="settings"):
        pretrain(tiny(tmp_path / "two", **changes, resume=True, seed=1), copy_task)
    resumed = pretrain(tiny(tmp_path / "two", **changes, resume=True), copy_task)
    assert resumed["loss"] == whole["loss"] and resumed["tokens"] == whole["tokens"]
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two


def test_a_run_goes_on_from_a_finished_target_with_new_dialogues(trained, tmp_path):
    folder, before = trained
    seen = []

    def stream(seed, index, held):
        seen.append(index) if not held else None
        return copy_task(seed, index, held)

    changes = {"tokens": 1500, "initial": folder, "matrix_rate": 0.003, "other_rate": 1e-3}
    record = pretrain(tiny(tmp_path / "longer", **changes), stream)
    assert record["before"] == json.loads((folder / "training.json").read_text())
    size = math.ceil(record["dialogues"] / (before["dialogues"] / before["steps"]))  # batches, those before included
    assert record["steps"] == size - before["steps"] and min(seen[-20:]) >= before["dialogues"]
    assert record["reports"][-1]["loss"]["qa"] < before["reports"][-1]["loss"]["qa"]
    assert "up to dialogue" in target_section(record) and target_section(record).count("Trained for") == 2
    with pytest.raises(ConfigError, match="layers of"):
        pretrain(tiny(tmp_path / "deeper", initial=folder, growth=((0.0, 1), (0.5, 2))), copy_task)


def test_ctrl_c_ends_the_step_and_saves(tmp_path):
    def presses_ctrl_c(seed, index, held):
        if presses["after"] == 0:
            signal.raise_signal(signal.SIGINT)
        presses["after"] -= not held
        return copy_task(seed, index, held)

    presses = {"after": 100 + 240 + 30}
    handler = signal.getsignal(signal.SIGINT)
    record = pretrain(tiny(tmp_path), presses_ctrl_c)
    assert signal.getsignal(signal.SIGINT) is handler
    assert not record["finished"] and not (tmp_path / "training.json").exists()
    again = pretrain(tiny(tmp_path, resume=True), copy_task)
    assert again["finished"] and again["steps"] > record["steps"] > 0


def test_a_loss_that_is_not_finite_stops_before_the_weights_change(tokenizer, tmp_path):
    learner = Learner(tiny(tmp_path), tokenizer, 2)
    with torch.no_grad():
        learner.model.model.norm.weight.fill_(float("nan"))
    before = learner.model.model.layers[0].self_attn.q_proj.weight.clone()
    with pytest.raises(NonFiniteLoss, match="resume from the last checkpoint"):
        learner.step(pack(encoded(tokenizer), 64, 128), 1.0)
    assert torch.equal(before, learner.model.model.layers[0].self_attn.q_proj.weight)


def test_the_schedule(tmp_path):
    config = tiny(tmp_path, growth=((0.0, 1), (0.5, 2)), warmup=0.1, decay=0.4)
    assert [config.layers(s) for s in (0.0, 0.49, 0.5, 1.0)] == [1, 1, 2, 2]
    assert config.rate(0.3) == 1 and config.rate(0.8) == pytest.approx(0.5) and config.rate(1.0) == 0
    for wrong in ({"minutes": 1.0}, {"growth": ((0.0, 1),)}, {"decay": 0.0}):
        with pytest.raises(ConfigError):
            tiny(tmp_path, **wrong)


# ---- exam ----


def test_answers_in_a_batch_are_those_given_alone(trained):
    out, _ = trained
    tokenizer = AutoTokenizer.from_pretrained(out)
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    questions = ["Say red 12 please.", "Say weiß 99 please. Say blue 45 please."]
    together = answer(model, tokenizer, questions, max_new_tokens=12)
    assert together == [answer(model, tokenizer, [q], max_new_tokens=12)[0] for q in questions]


def test_scores_count_parts_turns_and_questions():
    def turn(number, which, missing, ended=True):
        return Answered(number, "translation", which, "q", "a", 10, ended, missing, 2)

    table = scores([turn(1, 1, ()), turn(1, 2, ("x",)), turn(2, 1, ()), turn(3, 1, (), ended=False)])
    row = table["translation"]
    assert (row["turns"], row["right"], row["whole"], row["ended"]) == (4, 0.5, pytest.approx(1 / 3), 0.75)
    assert row["parts"] == 1 - 1 / 8
    assert "| translation | 4 | 50.0 % | 87.5 % | 33.3 % | 10.0 | 75.0 % |" in card_section(table)


def test_the_exam_of_a_trained_target(trained, tmp_path, capsys):
    out, _ = trained
    exchanges = [copy_task(0, i, True) for i in range(6)]
    questions = [
        Question(i, "qa", tuple(q for q, _ in e.turns), (), e.expected) for i, e in enumerate(exchanges, start=1)
    ]
    table = check_target(out, questions, batch=4, max_new_tokens=12, json_output=tmp_path / "scores.json")
    written = json.loads((tmp_path / "scores.json").read_text())
    assert written["scores"] == table
    assert len(written["answers"]) == table["qa"]["turns"] == sum(len(e.turns) for e in exchanges)
    assert "| qa |" in capsys.readouterr().out
    with pytest.raises(InputError, match="at least one question"):
        check_target(out, [])
