"""Training in one process: against steps by hand, alone and together, accumulated, resumed, in bfloat16, by command."""

import json
import math
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_draft, tiny_target
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from fspad_ref import Draft, Target, autoregressive_generate
from fspad_ref.__main__ import main
from fspad_ref.commands import train as drafts
from fspad_ref.data import Question, batches, write_questions
from fspad_ref.errors import CheckpointError, ConfigError, NonFiniteLoss
from fspad_ref.files import load_json, load_tensors, save_tensors
from fspad_ref.train import TrainConfig, new_draft, train

QUICK = TrainConfig(steps=6, tokens_per_batch=80, warmup_steps=2, evaluate_every=2, checkpoint_every=3)


@pytest.fixture(scope="module")
def target() -> Target:
    return tiny_target(dtype=torch.float32)


@pytest.fixture(scope="module")
def dialogues() -> list[tuple[list[int], list[bool]]]:
    generator = torch.Generator().manual_seed(2)
    lengths = torch.randint(8, 24, (30,), generator=generator).tolist()
    asked = (0, 1, 2, 3, 10)  # two answers, and a question of one token between them
    texts = [torch.randint(31, (n,), generator=generator).tolist() for n in lengths]
    return [(ids, [i not in asked for i in range(len(ids))]) for ids in texts]


def pair(target: Target) -> dict[str, Draft]:
    eagle = tiny_draft(target, 1, feature_sampling=False, partial_alignment=False)
    return {"eagle": eagle, "fspad": tiny_draft(target)}


def same(one: Draft, other: Draft) -> bool:
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def assert_close(one: Draft, other: Draft, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=tolerance, atol=tolerance)


def size_of(draft: Draft) -> float:
    """An evaluation that tells weights apart."""
    return float(sum(weight.detach().float().abs().sum() for weight in draft.parameters()))


class Stop(Exception):
    """Stands for whatever interrupts a training."""


def stop_after(step: int):
    def on_step(record) -> None:
        if record.step == step:
            raise Stop

    return on_step


# --- one step --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", ["norm", "value", "none"])
def test_two_steps_equal_two_steps_by_hand(target, dialogues, clip):
    """Noise, both losses, the mean over two unequal batches, clipping and AdamW, written out."""
    config = replace(QUICK, steps=2, batches_per_step=2, clip=clip, clip_at=0.05 if clip == "norm" else 0.002)
    ours, hand = tiny_draft(target), tiny_draft(target)
    record = train(target, {"d": ours}, dialogues, config)
    weights = list(hand.parameters())
    m, v = ([torch.zeros_like(weight) for weight in weights] for _ in range(2))
    data = batches(dialogues, None, 80, 256, 31, 0)
    for step in range(2):
        loss, count = 0.0, 0
        for number in (2 * step, 2 * step + 1):
            batch = next(data)
            mask = torch.zeros(batch.response.shape[0], batch.response.shape[1] - 1)
            mask[:, :-1] = (batch.response[:, 1:-1] & batch.response[:, 2:]).float()
            f = target.features(batch.input_ids)
            noise = torch.rand(f[:, 1:].shape, generator=torch.Generator().manual_seed(number))
            u, g = hand(f[:, :-1] + 0.025 * (2 * noise - 1), batch.input_ids[:, 1:])
            p, log_q = target.lm_head(f[:, 1:]).softmax(-1), target.lm_head(u).log_softmax(-1)
            each = F.smooth_l1_loss(g, f[:, 1:], reduction="none").mean(-1) - 0.1 * (p * log_q).sum(-1)
            loss, count = loss + (mask * each).sum(), count + mask.sum()
        loss = loss / count
        assert record.loss["d"][step] == pytest.approx(loss.item(), rel=1e-5)
        gradients = torch.autograd.grad(loss, weights)
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
        assert norm > 0.05, "the limits are to act"
        for i, gradient in enumerate(gradients):
            if clip == "norm":
                gradient = gradient * 0.05 / norm
            if clip == "value":
                gradient = gradient.clamp(-0.002, 0.002)
            m[i], v[i] = 0.9 * m[i] + 0.1 * gradient, 0.95 * v[i] + 0.05 * gradient**2
            rate = 3e-3 * (step + 1) / 2
            moved = (m[i] / (1 - 0.9 ** (step + 1))) / ((v[i] / (1 - 0.95 ** (step + 1))).sqrt() + 1e-8)
            weights[i].data.mul_(1 - rate * 0.01).sub_(rate * moved)
    # a gradient near 0 moves its weight by a learning rate, whichever sign rounding gives it
    assert_close(ours, hand, 2e-4)


def test_stored_features_teach_all_four_kinds(target, dialogues, monkeypatch):
    """One call per batch, whatever the number of drafts; the target itself is not asked."""
    config = TrainConfig(steps=60, tokens_per_batch=200, warmup_steps=5, learning_rate=5e-3)
    kept = {str(batch.input_ids): (target.features(batch.input_ids), batch.tokens)
            for batch in islice(batches(dialogues, None, 200, 256, 31, 0), 60)}  # fmt: skip
    four, online = {kind: new_draft(kind, target) for kind in ("eagle", "fs", "pad", "fspad")}, new_draft("fs", target)
    train(target, {"fs": online}, dialogues, config)
    monkeypatch.setattr(target, "features", None)  # a call would fail
    calls = []
    record = train(target, four, dialogues, config,
                   features_of=lambda batch: calls.append(batch) or kept[str(batch.input_ids)][0])  # fmt: skip
    assert same(four["fs"], online)
    assert len(calls) == 60 and record.tokens == sum(kept[str(batch.input_ids)][1] for batch in calls)
    for curve in (record.feature_loss, record.logit_loss):
        assert all(sum(losses[-10:]) < 0.95 * sum(losses[:10]) for losses in curve.values())


def test_drafts_trained_together_equal_drafts_trained_alone(target, dialogues):
    together = pair(target)
    train(target, together, dialogues, QUICK)
    for name, draft in pair(target).items():
        train(target, {name: draft}, dialogues, QUICK)
        assert same(draft, together[name]), name


def test_two_batches_per_step_train_as_one_that_holds_both(target, dialogues):
    few = [(ids[:8], response[:8]) for ids, response in dialogues[:4]]  # one batch of four, or two of two
    whole, parts = tiny_draft(target), tiny_draft(target)
    config = replace(QUICK, steps=3, noise=0.0)
    first = train(target, {"d": whole}, few, replace(config, tokens_per_batch=32))
    second = train(target, {"d": parts}, few, replace(config, tokens_per_batch=16, batches_per_step=2))
    assert second.loss["d"] == pytest.approx(first.loss["d"], rel=1e-4) and second.tokens == first.tokens
    assert_close(parts, whole, 1e-4)


@pytest.mark.parametrize("decay", ["linear", "cosine", "none"])
def test_the_learning_rate_warms_up_then_decays(decay):
    config = TrainConfig(steps=12, warmup_steps=2, learning_rate=1.0, decay=decay)
    expected = [0.5, 1.0, 1.0, 1.0 if decay == "none" else 0.5]
    assert [config.learning_rate_at(step) for step in (0, 1, 2, 7)] == pytest.approx(expected)
    late = replace(config, decay_steps=4)
    assert [late.learning_rate_at(step) for step in (1, 7, 8, 10)] == pytest.approx([1.0] * 3 + [expected[3]])


# --- checkpoints, evaluation, guards ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "steps_ahead"), [(torch.float32, 1), (torch.float32, 3), (torch.bfloat16, 2)])
def test_resuming_is_bitwise_the_uninterrupted_training(dtype, steps_ahead, dialogues, tmp_path):
    target, config = tiny_target(dtype=dtype), replace(QUICK, steps_ahead=steps_ahead)
    whole, broken = pair(target), pair(target)
    straight = train(target, whole, dialogues, config, evaluate=size_of)
    with pytest.raises(Stop):  # one step after the checkpoint of step 3
        train(target, broken, dialogues, config, stop_after(4), evaluate=size_of, out=tmp_path)
    fresh = {name: new_draft(name, target, seed=9) for name in whole}
    record = train(target, fresh, dialogues, config, evaluate=size_of, out=tmp_path, resume=True)
    for name in whole:
        assert same(fresh[name], whole[name]) and not same(fresh[name], broken[name])
        assert same(Draft.from_pretrained(tmp_path / name, target), whole[name])
    assert (record.loss, record.tau, record.best) == (straight.loss, straight.tau, straight.best)
    assert (record.step, record.tokens) == (6, straight.tokens)
    assert [step for step, _ in record.tau["fspad"]] == [2, 4, 6]
    assert load_json(tmp_path / "fspad" / "training.json")["loss"] == {"fspad": record.loss["fspad"]}


def test_a_longer_training_goes_on_from_before_the_decay(target, dialogues, tmp_path):
    short = replace(QUICK, decay_steps=2, evaluate_every=0, checkpoint_every=0)
    long, straight, branched = replace(short, steps=9, decay_steps=3), tiny_draft(target), tiny_draft(target, 9)
    train(target, {"d": tiny_draft(target)}, dialogues, short, out=tmp_path / "short")
    trunk, out = tmp_path / "trunk.safetensors", tmp_path / "long"
    tensors = load_tensors(tmp_path / "short" / "trunk.safetensors")
    written = bytes(tensors["record"].tolist()).replace(b'"steps_ahead": 1, ', b"")  # by a version without this setting
    save_tensors(trunk, tensors | {"record": torch.tensor(list(written), dtype=torch.uint8)})
    first = train(target, {"d": branched}, dialogues, long, out=out, start=trunk)
    train(target, {"d": straight}, dialogues, long)
    again = train(target, {"d": tiny_draft(target)}, dialogues, long, out=out, start=trunk)  # its own checkpoint counts
    assert same(straight, branched) and first.config["steps"] == 9 and again == first
    with pytest.raises(CheckpointError, match="decay_steps was 2 and is now 3; steps was 6 and is now 9"):
        ended = tmp_path / "short" / "checkpoint.safetensors"  # its learning rate has gone down already
        train(target, {"d": branched}, dialogues, long, start=ended)


def test_another_training_is_not_resumed_and_each_difference_is_named(target, dialogues, tmp_path):
    train(target, {"d": tiny_draft(target)}, dialogues, QUICK, out=tmp_path)

    def again(config=QUICK, data=dialogues, resume=True, **booleans):
        train(target, {"d": tiny_draft(target, **booleans)}, data, config, out=tmp_path, resume=resume)

    with pytest.raises(CheckpointError, match="Resume it, or choose another folder"):
        again(resume=False)
    with pytest.raises(CheckpointError, match="learning_rate was 0.003 and is now 0.5; noise was 0.025 and is now 0.0"):
        again(replace(QUICK, learning_rate=0.5, noise=0.0))
    with pytest.raises(CheckpointError, match="d.feature_sampling was True and is now False"):
        again(feature_sampling=False)
    with pytest.raises(CheckpointError, match="data_hash.*dialogues was 30 and is now 29"):
        again(data=dialogues[1:])
    with pytest.raises(CheckpointError, match="others: data_hash"):
        again(data=dialogues[::-1])
    file = tmp_path / "checkpoint.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="truncated"):
        again()


def test_the_weights_with_the_best_tau_are_kept(target, dialogues, tmp_path):
    taus, seen, kept = iter([1.5, 2.5, 2.0]), [], tiny_draft(target)

    def measure(draft):
        seen.append({name: value.clone() for name, value in draft.state_dict().items()})
        return next(taus)

    record = train(target, {"d": kept}, dialogues, QUICK, evaluate=measure, out=tmp_path)
    assert record.tau["d"] == [[2, 1.5], [4, 2.5], [6, 2.0]] and record.best["d"] == [4, 2.5]
    for draft in (kept, Draft.from_pretrained(tmp_path / "d", target)):
        assert all(torch.equal(value, seen[1][name]) for name, value in draft.state_dict().items())
    assert not torch.equal(seen[1]["fuse.weight"], seen[2]["fuse.weight"])


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_non_finite_step_changes_no_weight(target, dialogues, tmp_path, where):
    two = pair(target)

    def poison(record):
        if record.step == 4:
            if where == "loss":
                two["fspad"].fuse.weight.data[0, 0] = math.nan
            else:
                two["fspad"].fuse.weight.register_hook(lambda gradient: gradient * math.inf)
            poison.before = two["eagle"].fuse.weight.clone()

    with pytest.raises(NonFiniteLoss, match=f"draft 'fspad', found .*at step 4; .*checkpoint: step 3 in {tmp_path}"):
        train(target, two, dialogues, QUICK, poison, out=tmp_path)
    assert torch.equal(two["eagle"].fuse.weight, poison.before)
    assert train(target, pair(target), dialogues, QUICK, out=tmp_path, resume=True).step == 6


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"noise": -1.0}, {"learning_rate": math.nan}, {"clip_at": 0.0},
                                   {"steps_ahead": 0}, {"steps_ahead": 1.5}])  # fmt: skip
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        TrainConfig(**wrong)
    with pytest.raises(ConfigError, match="float16, in which small gradients vanish"):
        train(tiny_target(dtype=torch.float16), {}, [], QUICK)


# --- bfloat16 --------------------------------------------------------------------------------------------------------


def test_a_draft_for_bfloat16_learns_in_float32(target, dialogues, tmp_path):
    half = tiny_target(dtype=torch.bfloat16)
    one, reference = tiny_draft(half), tiny_draft(target)
    before, config = one.fuse.weight.float().clone(), replace(QUICK, steps=30, learning_rate=5e-3)
    tau = drafts.acceptance_on(half, [dialogues[0][0][:8]], max_new_tokens=8)
    record = train(half, {"d": one}, dialogues, config, out=tmp_path, evaluate=tau)
    exact = train(target, {"d": reference}, dialogues, config)
    ours, theirs = (sum(one.feature_loss["d"][-10:]) for one in (record, exact))
    assert ours == pytest.approx(theirs, rel=0.05) and ours < 0.95 * sum(record.feature_loss["d"][:10])
    saved = load_tensors(tmp_path / "checkpoint.safetensors")
    assert {value.dtype for name, value in saved.items() if name[:7] in ("weights", "moments")} == {torch.float32}
    kept = load_tensors(tmp_path / "d" / "model.safetensors")
    assert {value.dtype for value in (*one.parameters(), *kept.values())} == {torch.bfloat16}
    # Neighbours in bfloat16 are 1/256 apart: at 1e-5 no single step could change a weight of that precision.
    small = replace(config, learning_rate=1e-5, warmup_steps=0, decay="none", weight_decay=0.0)
    train(half, {"d": tiny_draft(half)}, dialogues, small, out=tmp_path / "small")
    moved = load_tensors(tmp_path / "small" / "checkpoint.safetensors")["weights/d/fuse.weight"] - before
    assert moved.abs().mean() > 5e-5


# --- the command -----------------------------------------------------------------------------------------------------

TEMPLATE = (
    "{% for m in messages %}{{ ('Q ' if m.role == 'user' else 'A ') + m.content + ' E ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'A ' }}{% endif %}"
)


@pytest.fixture
def command(tmp_path) -> list[str]:
    """A target of a dozen words, twenty dialogues of two turns, and the command that trains on them."""
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate("? E Q A a b c d e f g h".split())}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?", eos_token="E", chat_template=TEMPLATE)
    tokenizer.save_pretrained(tmp_path / "target")
    tiny_target(dtype=torch.float32, vocab_size=12).model.save_pretrained(tmp_path / "target")
    with (tmp_path / "chats.jsonl").open("w") as file:
        for i in range(20):
            turns = [("user", "a b"), ("assistant", "cdefgh"[i % 5 :]), ("user", "b"), ("assistant", "c d e")]
            said = [{"role": role, "content": " ".join(text.replace(" ", ""))} for role, text in turns]
            file.write(json.dumps({"messages": said}) + "\n")
    options = "--kinds eagle fspad --vocabulary 10 --training.steps 4 --training.batches-per-step 2"
    where = f"--training.tokens-per-batch 40 --target {tmp_path / 'target'} --data {tmp_path / 'chats.jsonl'}"
    write_questions(tmp_path / "asked.jsonl", [Question(number, "qa", ("a b",)) for number in (1, 2)])
    where += f" --questions {tmp_path / 'asked.jsonl'} --own-answers 4 --answer-tokens 4"
    return ["train", *options.split(), *where.split()]


def test_the_command_trains_on_a_file_and_resumes(command, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    monkeypatch.setattr("fspad_ref.commands.train.progress", lambda bar: stop_after(3))
    with pytest.raises(Stop):
        main([*command, "--out", str(out), "--training.checkpoint-every", "2"])
    monkeypatch.undo()
    monkeypatch.setattr("fspad_ref.commands.train.answering", None)  # the answers are there: a call would fail
    assert main([*command, "--out", str(out), "--training.checkpoint-every", "2", "--resume"]) == 0
    assert capsys.readouterr().out.count("on 2 prompts after step 4") == 2
    target = Target.from_pretrained(str(tmp_path / "target"))
    for kind in ("eagle", "fspad"):
        config = Draft.from_pretrained(out / kind, target).config
        assert config.kind == kind and len(config.vocabulary) == 10 and 1 in config.vocabulary, "E is token 1"
        record = load_json(out / kind / "training.json")
        assert record["step"] == 4 and record["config"]["dialogues"] == 20
    for number, (ids, response) in enumerate(load_json(out / "own_answers-4-4.json")):
        starts = [i for i in range(1, len(ids)) if response[i] > response[i - 1]]
        ends = [(response + [False]).index(False, start) for start in starts]
        assert 1 <= len(starts) <= 2 and all(1 <= end - start <= 4 for start, end in zip(starts, ends, strict=True))
        for start, end in list(zip(starts, ends, strict=True)) if number % 2 == 0 else []:
            assert autoregressive_generate(target, ids[:start], max_new_tokens=end - start).tokens == ids[start:end]


@pytest.mark.parametrize(("precision", "sharded"), [("fp16", "false"), ("no", "true")])
def test_what_a_launcher_asks_for_in_vain_is_refused(monkeypatch, precision, sharded):
    found = SimpleNamespace(distributed_type=SimpleNamespace(value="CPU"), mixed_precision=precision, is_fsdp2=False)
    monkeypatch.setattr(drafts, "Accelerator", lambda **_: found)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", sharded)
    with pytest.raises(ConfigError, match=f"found CPU, mixed precision {precision}. Launch with"):
        drafts.launched()
