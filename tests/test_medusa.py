"""Medusa heads: how they begin, what they learn, what is refused, and the tree of their guesses."""

import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_target

from fspad_ref.bench.replay import acceptance_rates
from fspad_ref.bench.rivals import (
    MedusaConfig,
    MedusaHeads,
    grow_medusa_tree,
    medusa_guesses,
    medusa_loss,
    plan_tree,
    train_medusa,
)
from fspad_ref.errors import CheckpointError, ConfigError, NonFiniteLoss, TargetMismatch
from fspad_ref.train import TrainConfig

IDS = torch.tensor([[2, 9, 4, 17, 5, 23, 8, 1]])


def random_heads(target, seed: int = 3, **sizes) -> MedusaHeads:
    heads = MedusaHeads(MedusaConfig(**({"heads": 3} | sizes)), target)
    torch.manual_seed(seed)
    for weight in heads.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return heads.eval()


def test_heads_begin_as_the_targets_own_guess(target):
    features = target.features(IDS)[0]
    fresh = MedusaHeads(MedusaConfig(heads=3, blocks=2), target)
    assert torch.equal(fresh(features), features.expand(3, -1, -1))
    assert not any("lm_head" in name or weight is target.lm_head.weight for name, weight in fresh.named_parameters())


def test_heads_are_residual_blocks(target):
    heads, x = random_heads(target, blocks=2), target.features(IDS)[0]
    for k in range(3):
        y = x
        for W, b in zip(heads.weight, heads.bias, strict=True):
            y = y + F.silu(y @ W[k] + b[k])
        torch.testing.assert_close(heads(x)[k], y)


def test_loss_by_hand(target):
    """Position by position: head i is asked only where tokens t+1 .. t+1+i are all response."""
    ids = torch.cat((IDS, IDS.flip(1)))
    response = torch.tensor([[0, 0, 1, 1, 1, 0, 1, 1], [0, 1, 1, 1, 0, 0, 0, 0]]).bool()
    heads, features = random_heads(target), target.features(ids)
    expected = 0.0
    for i in (1, 2, 3):
        losses = [
            F.cross_entropy(target.lm_head(heads(features[row])[i - 1, t]), ids[row, t + 1 + i])
            for row in range(2)
            for t in range(7 - i)
            if response[row, t + 1 : t + 2 + i].all()
        ]
        expected += 0.5**i * sum(losses) / max(1, len(losses))
    assert len(losses) == 0  # three response tokens in a row, never four
    torch.testing.assert_close(medusa_loss(heads, features, ids, response, decay=0.5), expected)


def test_training_teaches_the_heads_to_look_ahead():
    """On texts that count upwards, token t + 1 + i follows from token t."""
    target = tiny_target(dtype=torch.float32)
    dialogues = [([(start + i) % 31 for i in range(14)], [i >= 2 for i in range(14)]) for start in range(31)]
    heads = MedusaHeads(MedusaConfig(heads=2), target)
    frozen = [weight.clone() for weight in target.model.parameters()]
    config = TrainConfig(steps=60, tokens_per_batch=300, warmup_steps=5, learning_rate=0.03)
    seen = []
    losses = train_medusa(target, heads, dialogues, config, on_step=lambda step, loss: seen.append((step, loss)))
    assert [loss for _, loss in seen] == losses and len(losses) == 60
    assert losses[-1] < 0.5 * losses[0]
    assert all(map(torch.equal, frozen, target.model.parameters()))
    rates = acceptance_rates(target, medusa_guesses(heads), dialogues, levels=2, ranks=3)
    assert (rates[:, 0] > 0.3).all()  # chance is 1 / 31


def test_training_refuses_what_cannot_work(target):
    dialogues, config = [(IDS[0].tolist(), [True] * 8)], TrainConfig(steps=1)
    heads = random_heads(target)
    with torch.no_grad():
        heads.bias[0][0, 0, 0] = torch.inf
    with pytest.raises(NonFiniteLoss, match="step 0"):
        train_medusa(target, heads, dialogues, config)
    half = tiny_target(dtype=torch.bfloat16)
    with pytest.raises(ConfigError, match="half precision"):
        train_medusa(half, MedusaHeads(MedusaConfig(), half), dialogues, config)


def test_saved_heads_come_back_and_refuse_another_target(target, tmp_path):
    heads = random_heads(target)
    heads.save_pretrained(tmp_path)
    again = MedusaHeads.from_pretrained(tmp_path, target)
    assert again.config == heads.config
    assert all(torch.equal(again.state_dict()[name], weight) for name, weight in heads.state_dict().items())
    with pytest.raises(TargetMismatch, match="embedding_hash"):
        MedusaHeads.from_pretrained(tmp_path, tiny_target(seed=1))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(CheckpointError, match="fspad_ref_medusa"):
        MedusaHeads.from_pretrained(tmp_path, target)


def test_tree_holds_each_heads_best_guesses(target):
    shape = ((0,), (1,), (2,), (0, 0), (0, 1), (2, 3), (0, 1, 2))
    heads, feature = random_heads(target), target.features(IDS)[0, -1]
    tree = grow_medusa_tree(heads, feature, torch.tensor(6), plan_tree(shape))
    log_q, guess = torch.log_softmax(target.lm_head(heads(feature[None])[:, 0]), -1).sort(-1, descending=True)
    assert tree.token[0] == 6
    for v, path in enumerate(shape, start=1):
        assert tree.token[v] == guess[len(path) - 1, path[-1]]
        score = sum(log_q[d, rank] for d, rank in enumerate(path))
        assert tree.score[v].item() == pytest.approx(score.item(), abs=1e-9)
    assert tree.depth.tolist() == [0, 1, 1, 1, 2, 2, 2, 3] and tree.parent.tolist() == [0, 0, 0, 0, 1, 1, 3, 5]
    with pytest.raises(ConfigError, match="at most 3 levels"):
        grow_medusa_tree(heads, feature, torch.tensor(6), plan_tree(((0,), (0, 0), (0, 0, 0), (0, 0, 0, 0))))
