"""Training on the draft's own steps: pass j is step j of a chain; its gradients, its loss and its weights by hand."""

import pytest
import torch
import torch.nn.functional as F

from fspad_ref.data import batches
from fspad_ref.train import TrainConfig, new_draft, own_steps, train

ENDS = (14, 9)  # of two texts; what stands behind is padding


@pytest.fixture
def texts(target):
    ids = torch.randint(31, (2, 14), generator=torch.Generator().manual_seed(4))
    features = target.features(ids)
    features[1, ENDS[1] :], ids[1, ENDS[1] :] = 7.0, 0
    return features, ids


@pytest.mark.parametrize("kind", ["eagle", "fspad"])
@torch.no_grad()
def test_pass_j_at_t_is_step_j_of_a_chain(target, texts, kind):
    draft = new_draft(kind, target)
    passes = own_steps(draft, texts[0][:, :-1], texts[1][:, 1:], 4)
    for row, end in enumerate(ENDS):
        features, ids = (part[row : row + 1] for part in texts)
        for start in range(end - 1):  # the place of the last pair that holds a true feature
            cache = draft.new_cache(14)
            u, g = draft(features[:, : start + 1], ids[:, 1 : start + 2], cache=cache)
            for t, (all_u, all_g) in enumerate(passes[: end - 1 - start], start):
                if t > start:
                    u, g = draft(g[:, -1:], ids[:, t + 1 : t + 2], cache=cache)
                torch.testing.assert_close([all_u[row, t], all_g[row, t]], [u[0, -1], g[0, -1]], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("other", ["v", "k"])
def test_gradients_flow_through_keys_and_through_values_but_not_through_features(target, texts, other):
    features, draft = texts[0].clone().requires_grad_(), new_draft("fspad", target)
    getattr(draft.layer, other).register_forward_hook(lambda layer, given, out: out.detach())  # keys or values alone
    (_, first), (_, second), (u, _) = own_steps(draft, features[:, :-1], texts[1][:, 1:], 3)
    assert torch.autograd.grad(u.sum(), (first, second), None, True, allow_unused=True) == (None, None)
    reached = torch.autograd.grad(u[0, 6].sum(), features)[0]
    assert reached.abs().sum(-1).nonzero().tolist() == [[0, t] for t in range(5)], "by those of positions up to t - 2"


def test_the_loss_of_two_passes_by_hand(target):
    texts = [(list(range(n)), [i not in (0, 6) for i in range(n)]) for n in range(6, 20)]
    config = TrainConfig(steps=1, tokens_per_batch=60, batches_per_step=2, warmup_steps=0, clip="none", steps_ahead=2)
    words, losses = (1, 4, 5, 9, 12, 20, 30), ([], [])
    ours, hand = (new_draft("fspad", target, vocabulary=words) for _ in range(2))
    record, data = train(target, {"d": ours}, texts, config), batches(texts, None, 60, 256, 31, 0)
    for number, batch in zip(range(2), data, strict=False):
        f, generator = target.features(batch.input_ids), torch.Generator().manual_seed(number)
        noisy = f[:, :-1] + 0.025 * (2 * torch.rand(f[:, 1:].shape, generator=generator, dtype=f.dtype) - 1)
        p = target.lm_head(f[:, 1:]).softmax(-1)[..., list(words)]
        for j, (u, g) in enumerate(own_steps(hand, noisy, batch.input_ids[:, 1:], 2)):
            each = F.smooth_l1_loss(g, f[:, 1:], reduction="none").mean(-1)
            each = each - 0.1 * (p * hand.lm_head(u).log_softmax(-1)).sum(-1)
            losses[j].extend(each[row, t] for row, answer in enumerate(batch.response) for t in range(j, f.shape[1] - 2)
                             if answer[t + 1 - j : t + 3].all())  # fmt: skip
    loss = sum(losses[0]) / len(losses[0]) + 0.8 * sum(losses[1]) / len(losses[1])
    assert record.loss["d"] == pytest.approx([loss.item()], rel=1e-10)
    loss.backward()
    torch.optim.AdamW(hand.parameters(), config.learning_rate, config.betas, weight_decay=0.01).step()
    torch.testing.assert_close([*ours.parameters()], [*hand.parameters()], rtol=1e-6, atol=1e-8)
