"""What makes training fit and stay stable: several batches a step, recomputed activations, bfloat16, flat memory."""

import gc

import pytest
import torch
from conftest import tiny_draft, tiny_target

from fspad_ref import Target
from fspad_ref.data import batches, trained_positions
from fspad_ref.files import load_tensors
from fspad_ref.loss import partial_alignment_loss
from fspad_ref.train import TrainConfig, train

QUICK = TrainConfig(steps=6, tokens_per_batch=80, warmup_steps=2, learning_rate=3e-3, evaluate_every=0,
                    checkpoint_every=3)  # fmt: skip


@pytest.fixture(scope="module")
def target() -> Target:
    return tiny_target(dtype=torch.float32)


@pytest.fixture(scope="module")
def half() -> Target:
    """The same target in bfloat16."""
    return tiny_target(dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def dialogues() -> list[tuple[list[int], list[bool]]]:
    generator = torch.Generator().manual_seed(2)
    lengths = torch.randint(8, 24, (30,), generator=generator).tolist()
    return [(torch.randint(31, (n,), generator=generator).tolist(), [i >= 4 for i in range(n)]) for n in lengths]


def but(config: TrainConfig, **changes) -> TrainConfig:
    return TrainConfig(**{**config.__dict__, **changes})


def assert_close(one, other, tolerance=1e-5):
    ours, theirs = one.state_dict(), other.state_dict()
    for name in theirs:
        torch.testing.assert_close(ours[name].float(), theirs[name].float(), rtol=tolerance, atol=tolerance)


# --- several batches a step ------------------------------------------------------------------------------------------


def test_the_loss_of_a_step_is_the_mean_over_all_its_positions(target, dialogues):
    """Not the mean of the batches' means, which would favour the positions of short answers."""
    one = tiny_draft(target)
    data = batches(dialogues, None, 80, 256, 31)
    total = positions = 0
    for _ in range(3):
        batch = next(data)
        mask = trained_positions(batch.response)
        features = target.features(batch.input_ids)
        output = one(features[:, :-1], batch.input_ids[:, 1:])
        loss = partial_alignment_loss(output, features[:, 1:], target.lm_head, mask)
        total, positions = total + loss.total.item() * int(mask.sum()), positions + int(mask.sum())
    record = train(target, {"d": one}, dialogues, but(QUICK, steps=1, batches_per_step=3, noise=0.0))
    assert record.loss["d"] == pytest.approx([total / positions], rel=1e-5)
    assert record.positions == positions and record.place == batch.following


def test_two_batches_a_step_train_as_one_that_holds_both(target, dialogues):
    """Four dialogues are one batch of four, or two of two."""
    few = [(ids[:8], response[:8]) for ids, response in dialogues[:4]]
    whole, parts = tiny_draft(target), tiny_draft(target)
    together = but(QUICK, steps=3, noise=0.0, tokens_per_batch=32)
    first = train(target, {"d": whole}, few, together)
    second = train(target, {"d": parts}, few, but(together, tokens_per_batch=16, batches_per_step=2))
    assert second.place[0] == first.place[0], "one epoch a step"
    assert second.loss["d"] == pytest.approx(first.loss["d"], rel=1e-4)
    assert_close(parts, whole, 1e-4)


def test_each_batch_of_a_step_meets_noise_of_its_own(target, dialogues):
    inputs, one = [], tiny_draft(target)
    forward = one.forward
    one.forward = lambda features, ids: inputs.append((features, ids)) or forward(features, ids)
    train(target, {"d": one}, dialogues[:1], but(QUICK, steps=2, batches_per_step=2))
    ids = torch.tensor([dialogues[0][0]])
    noise = [features - target.features(ids)[:, :-1] for features, _ in inputs]
    assert len(noise) == 4 and all(not torch.equal(noise[i], noise[j]) for i in range(4) for j in range(i))


# --- recomputed activations ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [(False, False), (True, True)], ids=["eagle", "fspad"])
def test_recomputing_changes_the_memory_and_not_the_training(target, dialogues, kind):
    drafts = {recompute: tiny_draft(target, feature_sampling=kind[0], partial_alignment=kind[1])
              for recompute in (False, True)}  # fmt: skip
    records = {recompute: train(target, {"d": draft}, dialogues, but(QUICK, recompute=recompute))
               for recompute, draft in drafts.items()}  # fmt: skip
    assert records[True].loss["d"] == pytest.approx(records[False].loss["d"], rel=1e-5)
    assert_close(drafts[True], drafts[False])
    assert "forward" not in vars(drafts[True].layer), "the draft is as it was"


def test_recomputing_keeps_less_for_the_backward(target, dialogues):
    """Bytes that autograd holds on to between forward and backward."""

    def held(recompute: bool) -> int:
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.nbytes) or t, lambda t: t):
            train(target, {"d": tiny_draft(target)}, dialogues, but(QUICK, steps=1, recompute=recompute))
        return sum(sizes)

    assert held(recompute=True) < held(recompute=False) / 2


# --- bfloat16 --------------------------------------------------------------------------------------------------------


def test_a_target_in_bfloat16_trains_a_draft_that_decodes_in_bfloat16(half, target, dialogues, tmp_path):
    one, reference = tiny_draft(half), tiny_draft(target)
    config = but(QUICK, steps=40, learning_rate=5e-3)
    record = train(half, {"d": one}, dialogues, config, out=tmp_path, prompts=[dialogues[0][0][:8]])
    assert {weight.dtype for weight in one.parameters()} == {torch.bfloat16}
    assert sum(record.loss["d"][-10:]) < 0.9 * sum(record.loss["d"][:10])
    exact = train(target, {"d": reference}, dialogues, config)
    ours, theirs = (sum(one.feature_loss["d"][-10:]) for one in (record, exact))
    assert ours == pytest.approx(theirs, rel=0.05)
    assert len(record.tau["d"]) == 1
    (file,) = tmp_path.glob("checkpoint-*.safetensors")
    masters = {name: value for name, value in load_tensors(file).items() if name.startswith(("weights", "optimizer"))}
    assert {value.dtype for value in masters.values()} == {torch.float32}
    assert load_tensors(tmp_path / "d" / "model.safetensors")["fuse.weight"].dtype == torch.bfloat16


def test_updates_too_small_for_bfloat16_add_up(half, dialogues, tmp_path):
    """At this learning rate no single step could change a weight of bfloat16, whose neighbours are 1/256 apart."""
    one = tiny_draft(half)
    before = one.fuse.weight.float().clone()
    config = but(QUICK, steps=40, learning_rate=1e-5, warmup_steps=0, decay="none", weight_decay=0.0)
    train(half, {"d": one}, dialogues, config, out=tmp_path)
    (file,) = tmp_path.glob("checkpoint-*.safetensors")
    moved = (load_tensors(file)["weights/d/fuse.weight"] - before).abs()
    assert moved.mean() > 5e-5, "an update of bfloat16 weights would be lost"


def test_resume_in_bfloat16_is_bitwise_the_uninterrupted_training(half, dialogues, tmp_path):
    whole, fresh = tiny_draft(half), tiny_draft(half)
    train(half, {"d": whole}, dialogues, QUICK)

    class Stop(Exception):
        pass

    def interrupt(record):
        if record.step == 4:
            raise Stop

    with pytest.raises(Stop):
        train(half, {"d": tiny_draft(half)}, dialogues, QUICK, interrupt, out=tmp_path)
    assert train(half, {"d": fresh}, dialogues, QUICK, out=tmp_path, resume=True).step == 6
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in whole.state_dict().items())


# --- memory and speed ------------------------------------------------------------------------------------------------


def test_memory_stays_flat(target, dialogues):
    """As many tensors are alive after step 30 as after step 10, and they hold as many bytes."""
    alive: dict[int, tuple[int, int]] = {}

    def count(record):
        if record.step in (10, 30):
            gc.collect()
            tensors = [one for one in gc.get_objects() if issubclass(type(one), torch.Tensor)]
            alive[record.step] = len(tensors), sum(one.untyped_storage().nbytes() for one in tensors)

    same = [(ids[:8], response[:8]) for ids, response in dialogues]  # so that every step's batch is of one size
    train(target, {"d": tiny_draft(target)}, same, but(QUICK, steps=30), count)
    assert alive[30] == alive[10]


def test_a_record_says_how_fast_training_was(target, dialogues):
    record = train(target, {"d": tiny_draft(target)}, dialogues, QUICK)
    assert record.tokens_per_second == record.tokens / record.seconds > 0
    assert 0 < record.target_share < 1
