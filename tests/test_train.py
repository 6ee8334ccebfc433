"""The draft's training: mask, batches, shared features, exact resume, guards."""

import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from fspad_ref.data import Dialogue, batches, data_hash, trained_positions
from fspad_ref.draft import Draft, DraftConfig
from fspad_ref.errors import CheckpointError, ConfigError, InputError, NonFiniteLoss
from fspad_ref.target import Target
from fspad_ref.train import TrainConfig, acceptance_on, train

QUICK = TrainConfig(steps=6, tokens_per_batch=120, warmup_steps=2, learning_rate=3e-3, evaluate_every=2,
                    checkpoint_every=3)  # fmt: skip


@pytest.fixture(scope="module")
def target() -> Target:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=128,
    )  # fmt: skip
    return Target(LlamaForCausalLM(config))


def draft(target: Target, fspad: bool = True) -> Draft:
    torch.manual_seed(1)
    return Draft(DraftConfig(feature_sampling=fspad, partial_alignment=fspad), target)


@pytest.fixture(scope="module")
def dialogues() -> list[tuple[list[int], list[bool]]]:
    generator = torch.Generator().manual_seed(2)
    lengths = torch.randint(8, 30, (40,), generator=generator).tolist()
    return [(torch.randint(50, (n,), generator=generator).tolist(), [i >= 4 for i in range(n)]) for n in lengths]


def test_the_hash_of_the_data_sees_every_dialogue_of_a_thousand(dialogues):
    many = [([n], [True]) for n in range(1000)]
    hashes = {data_hash(many[:n] + [([7], [False])] + many[n + 1 :]) for n in range(0, 1000, 50)}
    assert len(hashes) == 20 and data_hash(many) not in hashes and data_hash(many[:-1]) not in hashes


def weights(draft: Draft) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in draft.state_dict().items()}


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def last_weights(draft: Draft) -> float:
    """An evaluation under which the last weights are always the best."""
    last_weights.calls = getattr(last_weights, "calls", 0.0) + 1.0
    return last_weights.calls


# ---- mask and batches ----


def test_mask_by_hand():
    #            prompt        answer         prompt  answer of one token, and a cut one
    response = [False, False, True, True, True, False, True, False, True]
    #  pair (f_t, x_t+1):  t=0    1     2     3      4      5      6      7
    expected = [[False, True, True, False, False, False, False, False]]
    assert trained_positions(torch.tensor([response])).tolist() == expected


def test_first_pair_after_the_prompt_is_trained_and_none_before():
    response = torch.arange(10)[None] >= 6
    assert trained_positions(response)[0].nonzero().flatten().tolist() == [5, 6, 7]


def test_batches_hold_every_dialogue_once_an_epoch_within_the_budget(dialogues):
    seen, data = [], batches(dialogues, None, 120, 128, 50)
    while (batch := next(data)).place[0] == 0:
        assert batch.input_ids.numel() <= 120
        assert batch.response.sum(1).min() >= 2
        lengths = batch.response.sum(1) + 4
        seen += [row[:n].tolist() for row, n in zip(batch.input_ids, lengths, strict=True)]
        assert batch.tokens == lengths.sum()
    assert sorted(seen) == sorted(ids for ids, _ in dialogues)


def test_batches_can_be_entered_anywhere(dialogues):
    data = batches(dialogues, None, 120, 128, 50, seed=3)
    run = [next(data) for _ in range(25)]
    assert run[-1].place[0] > 0  # the second epoch, in another order
    for stop in (0, 3, 24 - 1):
        again = next(batches(dialogues, None, 120, 128, 50, seed=3, start=run[stop].following))
        assert torch.equal(again.input_ids, run[stop + 1].input_ids)
        assert again.place == run[stop + 1].place


def test_long_dialogues_are_cut_and_dialogues_without_an_answer_left_out():
    dialogues = [([1] * 100, [True] * 100), ([2] * 9, [False] * 9), ([3] * 9, [False] * 8 + [True])]
    data = batches(dialogues, None, 1000, 64, 50)
    assert [tuple(next(data).input_ids.shape) for _ in range(3)] == [(1, 64)] * 3


class Letters:
    """A tokenizer of letters: 1 opens a question, 2 an answer, 3 ends it."""

    chat_template, eos_token_id = "letters", 3

    def apply_chat_template(self, messages, add_generation_prompt, return_dict):
        ids = []
        for message in messages:
            user = message["role"] == "user"
            ids += [1 if user else 2, *(ord(c) - ord("a") + 10 for c in message["content"])] + [3] * (not user)
        return ids + [2] * add_generation_prompt


def test_dialogues_are_encoded_with_the_targets_tokenizer():
    batch = next(batches([Dialogue((("ab", "cde"),))], Letters(), 100, 64, 50))
    assert batch.input_ids.tolist() == [[1, 10, 11, 2, 12, 13, 14, 3]]
    assert batch.response.tolist() == [[False] * 4 + [True] * 4]


@pytest.mark.parametrize(
    ("dialogue", "message"),
    [
        (([1, 2, 50], [True] * 3), "0 to 49, found 1 to 50"),
        (([1, -2, 5], [True] * 3), "found -2"),
        (([1, 2, 3], [True] * 2), "3 entries, found 2"),
        (([1, 2, 3], [False] * 3), "found none among 1"),
        (([], []), "found none among 1"),
    ],
)
def test_unusable_dialogues_are_refused(dialogue, message):
    with pytest.raises(InputError, match=message):
        next(batches([dialogue], None, 100, 64, 50))


# ---- training ----


def test_loss_falls_for_all_four_kinds_on_shared_features(target, dialogues):
    torch.manual_seed(1)
    kinds = {(fs, pad): Draft(DraftConfig(feature_sampling=fs, partial_alignment=pad), target)
             for fs in (False, True) for pad in (False, True)}  # fmt: skip
    drafts = {draft.config.kind: draft for draft in kinds.values()}
    config = TrainConfig(steps=100, tokens_per_batch=200, warmup_steps=5, learning_rate=5e-3)
    calls, features = [], target.features
    target.features = lambda ids: calls.append(1) or features(ids)
    try:
        record = train(target, drafts, dialogues, config)
    finally:
        del target.features
    assert len(calls) == 100  # one target forward a batch, however many drafts
    for kind in ("eagle", "fs", "pad", "fspad"):
        loss = record.feature_loss[kind]
        assert sum(loss[-10:]) < 0.8 * sum(loss[:10]), kind
    assert 0 < record.target_share < 1
    assert record.positions < record.tokens


def test_drafts_trained_together_equal_drafts_trained_alone(target, dialogues):
    together = {"eagle": draft(target, False), "fspad": draft(target)}
    train(target, together, dialogues, QUICK)
    for name in together:
        alone = draft(target, name == "fspad")
        train(target, {name: alone}, dialogues, QUICK)
        assert same(weights(alone), weights(together[name])), name


def test_resume_is_bitwise_the_uninterrupted_training(target, dialogues, tmp_path):
    whole = {"eagle": draft(target, False), "fspad": draft(target)}
    straight = train(target, whole, dialogues, QUICK, evaluate=last_weights)

    class Stop(Exception):
        pass

    def interrupt(record):
        if record.step == 4:  # a step behind the checkpoint of step 3
            raise Stop

    broken = {"eagle": draft(target, False), "fspad": draft(target)}
    with pytest.raises(Stop):
        train(target, broken, dialogues, QUICK, interrupt, evaluate=last_weights, out=tmp_path)
    fresh = {"eagle": Draft(DraftConfig(False, False), target), "fspad": Draft(DraftConfig(), target)}
    record = train(target, fresh, dialogues, QUICK, evaluate=last_weights, out=tmp_path, resume=True)
    for name in whole:
        assert same(weights(fresh[name]), weights(whole[name])), name
        assert not same(weights(fresh[name]), weights(broken[name])), name
        assert same(weights(Draft.from_pretrained(tmp_path / name, target)), weights(whole[name])), name
    assert record.loss == straight.loss
    assert (record.step, record.tokens, record.place) == (6, straight.tokens, straight.place)
    assert [step for step, _ in record.tau["fspad"]] == [2, 4, 6]
    assert len(list(tmp_path.glob("checkpoint-*.safetensors"))) == 1


def test_resume_of_another_training_is_refused_by_name(target, dialogues, tmp_path):
    train(target, {"d": draft(target)}, dialogues, QUICK, out=tmp_path)
    other = TrainConfig(**{**QUICK.__dict__, "learning_rate": 0.5, "noise": 0.0})
    with pytest.raises(CheckpointError, match="choose another folder"):
        train(target, {"d": draft(target)}, dialogues, QUICK, out=tmp_path)
    with pytest.raises(CheckpointError, match=r"config.learning_rate was 0.003 and is now 0.5; config.noise was 0.025"):
        train(target, {"d": draft(target)}, dialogues, other, out=tmp_path, resume=True)
    with pytest.raises(CheckpointError, match="drafts.d.feature_sampling was True and is now False"):
        train(target, {"d": draft(target, False)}, dialogues, QUICK, out=tmp_path, resume=True)
    with pytest.raises(CheckpointError, match="dialogues was 40 and is now 39"):
        train(target, {"d": draft(target)}, dialogues[1:], QUICK, out=tmp_path, resume=True)


def test_a_truncated_checkpoint_is_refused(target, dialogues, tmp_path):
    train(target, {"d": draft(target)}, dialogues, QUICK, out=tmp_path)
    (file,) = tmp_path.glob("checkpoint-*.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="truncated"):
        train(target, {"d": draft(target)}, dialogues, QUICK, out=tmp_path, resume=True)


def test_best_tau_picks_the_weights(target, dialogues, tmp_path):
    taus, seen = iter([1.5, 2.5, 2.0]), []

    def measure(draft):
        seen.append(weights(draft))
        return next(taus)

    kept = draft(target)
    record = train(target, {"d": kept}, dialogues, QUICK, evaluate=measure, out=tmp_path)
    assert record.tau["d"] == [(2, 1.5), (4, 2.5), (6, 2.0)]
    assert record.best["d"] == (4, 2.5)
    assert same(weights(kept), seen[1])
    assert not same(seen[1], seen[2])
    assert same(weights(Draft.from_pretrained(tmp_path / "d", target)), seen[1])


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_non_finite_loss_stops_before_any_weight_changes(target, dialogues, tmp_path, where):
    healthy, sick = draft(target, False), draft(target)

    def poison(record):
        if record.step == 4:
            if where == "loss":
                sick.fuse.weight.data[0, 0] = math.nan
            else:
                sick.fuse.weight.register_hook(lambda grad: grad * math.inf)
            poison.before = weights(healthy)

    with pytest.raises(NonFiniteLoss, match=rf"finite {where} for draft 'sick'.*step 4.*good checkpoint: step 3"):
        train(target, {"healthy": healthy, "sick": sick}, dialogues, QUICK, poison, out=tmp_path)
    assert same(weights(healthy), poison.before)
    fresh = {"healthy": draft(target, False), "sick": draft(target)}
    assert train(target, fresh, dialogues, QUICK, out=tmp_path, resume=True).step == 6


def test_noise_is_uniform_within_its_half_width_and_new_each_step(target, dialogues):
    inputs, one = [], draft(target)
    forward = one.forward
    one.forward = lambda features, ids: inputs.append((features, ids)) or forward(features, ids)
    train(target, {"d": one}, dialogues[:1], TrainConfig(steps=2, warmup_steps=0))
    ids = torch.tensor([dialogues[0][0]])
    noise = [features - target.features(ids)[:, :-1] for features, _ in inputs]
    assert torch.equal(inputs[0][1], ids[:, 1:])
    assert 0.02 < noise[0].abs().max() <= 0.025 + 1e-6
    assert abs(noise[0].mean()) < 0.003
    assert not torch.equal(noise[0], noise[1])


def test_acceptance_is_tokens_over_rounds(target, dialogues):
    prompts = [dialogues[0][0][:8]]
    one = draft(target)
    assert 1.0 <= acceptance_on(target, prompts, max_new_tokens=10)(one) <= 7.0
    record = train(target, {"d": one}, dialogues, QUICK, prompts=prompts)
    assert [step for step, _ in record.tau["d"]] == [2, 4, 6]


@pytest.mark.parametrize(
    ("decay", "expected"),
    [("linear", [0.5, 1.0, 1.0, 0.5]), ("cosine", [0.5, 1.0, 1.0, 0.5]), ("none", [0.5, 1.0, 1.0, 1.0])],
)
def test_learning_rate_warms_up_then_decays(decay, expected):
    config = TrainConfig(steps=12, warmup_steps=2, learning_rate=1.0, decay=decay)
    assert [config.learning_rate_at(step) for step in (0, 1, 2, 7)] == pytest.approx(expected)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"noise": -1.0}, {"learning_rate": math.nan}, {"clip_at": 0.0}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        TrainConfig(**wrong)


def test_other_dialogues_are_not_resumed_on(target, dialogues, tmp_path) -> None:
    train(target, {"one": draft(target)}, dialogues, QUICK, out=tmp_path)
    with pytest.raises(CheckpointError, match="data_hash"):
        train(target, {"one": draft(target)}, dialogues[::-1], QUICK, out=tmp_path, resume=True)
