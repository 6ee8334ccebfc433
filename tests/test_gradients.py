"""Gradients of the two losses, one at a time: right, apart where the heads are split, and compared without noise."""

import math

import pytest
import torch
from conftest import tiny_draft

from fspad_ref.batches import Batch
from fspad_ref.errors import InputError
from fspad_ref.lab.gradients import (
    LAST_MAP,
    PLACES,
    across,
    gradient_cosines,
    loss_gradients,
    meetings,
    pairs_of,
    position_cosines,
    score_head,
    second_step,
)
from fspad_ref.lab.rates import draft_guesses
from fspad_ref.loss import partial_alignment_loss

IDS = torch.tensor([[2, 9, 4, 17, 5, 23, 8, 30, 11], [3, 7, 7, 12, 1, 0, 0, 0, 0]])
RESPONSE = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 0, 0, 0, 0]]).bool()


def batch(ids=IDS, response=RESPONSE) -> Batch:
    return Batch(ids, response, ids.numel(), (0, 0, 0), (0, 0, 1))


@pytest.fixture(scope="module")
def pairs(target):
    return pairs_of(target, batch())


def test_pairs_are_shifted_by_one(target, pairs):
    features = target.features(IDS)
    assert torch.equal(pairs.features, features[:, :-1]) and torch.equal(pairs.teacher, features[:, 1:])
    assert torch.equal(pairs.next_ids, IDS[:, 1:])
    assert pairs.mask.int().tolist() == [[0, 1, 1, 1, 1, 1, 1, 0], [0, 1, 1, 0, 0, 0, 0, 0]]
    with pytest.raises(InputError, match="two response tokens"):
        pairs_of(target, batch(response=torch.zeros_like(RESPONSE)))


def test_the_parts_add_up_to_what_training_follows(draft, pairs):
    """1.0 feature gradient + 0.1 logit gradient = gradient of the total loss; and no .grad is left behind."""
    feature, logit = loss_gradients(draft, pairs)
    assert all(weight.grad is None for weight in draft.parameters())
    loss = partial_alignment_loss(draft(pairs.features, pairs.next_ids), pairs.teacher, draft.lm_head, pairs.mask)
    total = torch.autograd.grad(loss.total, list(draft.parameters()))
    for (name, _), expected in zip(draft.named_parameters(), total, strict=True):
        torch.testing.assert_close(feature.parameters[name] + 0.1 * logit.parameters[name], expected)


def test_split_heads_never_meet_shared_ones_do(draft, pairs):
    feature, logit = loss_gradients(draft, pairs)
    cosines, D = gradient_cosines(draft, pairs), pairs.features.shape[-1]
    if draft.config.partial_alignment:
        assert cosines["output"] == cosines["last map"] == 0.0 and cosines["trunk"] != 0.0
        assert not feature.output[..., :D].any() and not logit.output[..., D:].any()
        assert not feature.parameters[LAST_MAP][:D].any() and not logit.parameters[LAST_MAP][D:].any()
    else:
        assert all(cosines[place] != 0.0 for place in PLACES)
        a, b = feature.output.flatten(), logit.output.flatten()
        assert cosines["output"] == pytest.approx(float(a @ b / (a.norm() * b.norm())))
    assert feature.output.shape[-1] == (2 * D if draft.config.partial_alignment else D)
    assert len(position_cosines(draft, pairs)) == int(pairs.mask.sum())


def test_across_sees_through_noise_that_both_losses_share():
    """Rows scatter around two means with cosine -0.6; the common noise makes every single pair of rows agree."""
    torch.manual_seed(0)
    noise = 3 * torch.randn(40, 2000, dtype=torch.float64)
    first, second = torch.zeros(2, 2000, dtype=torch.float64)
    first[0], second[0], second[1] = 40.0, -24.0, 32.0
    assert torch.cosine_similarity(first + noise, second + noise, dim=1).min() > 0.5
    cosine, error = across(first + noise, second + noise)
    assert abs(cosine + 0.6) < 3 * error < 0.3
    assert across(first.expand(3, -1), second.expand(3, -1)) == pytest.approx((-0.6, 0), abs=1e-6)
    assert across(torch.eye(6)[:3], torch.eye(6)[3:]) == (0, 0)
    with pytest.raises(InputError, match="at least three batches"):
        across(first.expand(2, -1), second.expand(2, -1))


def test_the_error_of_across_is_its_spread():
    """Over many draws the jackknife's error is about the standard deviation of the estimate."""
    torch.manual_seed(1)
    first, second = torch.zeros(2, 100, dtype=torch.float64)
    first[0], second[1] = 12.0, 12.0
    noise = torch.randn(200, 8, 100, dtype=torch.float64)
    found = torch.tensor([across(first + x, second + x) for x in noise])  # (200, 2)
    assert 0.7 < found[:, 1].mean() / found[:, 0].std() < 1.4


def test_across_says_when_noise_hides_the_mean():
    a = torch.tensor([[1.0, 1.0], [-1.0, 1.5], [0.5, 1.0]])
    b = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.1, 0.0]])  # its rows cancel
    assert math.isnan(across(a, b)[0])


def test_meetings_over_equal_batches_are_plain_cosines(target, pairs):
    draft = tiny_draft(target, feature_sampling=True, partial_alignment=False)
    cosines, met = gradient_cosines(draft, pairs), meetings(draft, [pairs, pairs, pairs])
    for place, meeting in met.items():
        assert meeting == pytest.approx((cosines[place], cosines[place], 0), abs=1e-6)


def test_the_truth_scores_best(target, pairs):
    perfect = score_head(pairs.teacher, pairs, target.lm_head)
    assert perfect.distance == 0 and perfect.divergence == pytest.approx(0) and perfect.agreement == 1
    off = score_head(pairs.teacher + 0.5, pairs, target.lm_head)
    assert off.distance == pytest.approx(0.5) and off.divergence > 0


def test_a_second_step_on_true_features_is_the_first_step(draft, pairs):
    plain = draft(pairs.features, pairs.next_ids)
    fed = torch.cat((pairs.features[:, 1:], pairs.features[:, :1]), dim=1)  # what stands at t - 1 is f_t
    guesses, second = second_step(draft, pairs, fed)
    torch.testing.assert_close(guesses.logit_feature, plain.logit_feature)
    assert second.mask.int().tolist() == [[0, 0, 1, 1, 1, 1, 1, 0], [0, 0, 1, 0, 0, 0, 0, 0]]


def test_a_second_step_is_the_draft_trees(draft, target):
    """Against the guesses that the acceptance rates are measured with, which feed the aligned feature back."""
    ids = IDS[:1]
    pairs = pairs_of(target, batch(ids, RESPONSE[:1]))
    _, depth_2 = draft_guesses(draft, 2)(target.features(ids), ids)
    with torch.no_grad():
        fed = draft(pairs.features, pairs.next_ids).aligned_feature
    guesses, _ = second_step(draft, pairs, fed)
    torch.testing.assert_close(target.lm_head(guesses.logit_feature)[0, 1:-1], depth_2)
