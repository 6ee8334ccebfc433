"""Top-k accuracy by depth: the quick way over all places against a plain one, place by place."""

import pytest
import torch
from conftest import tiny_draft

from fspad_ref.bench.replay import Recording, text_features, top_k_accuracy
from fspad_ref.errors import InputError

TEXTS = [([2, 9, 4], [17, 5, 23, 8, 30, 11]), ([3, 7, 12, 6], [5, 5, 21, 1])]


@pytest.fixture(scope="module")
def recordings(target) -> list[Recording]:
    return [Recording(i, "qa", 0, 0.0, p, t, text_features(target, p + t)) for i, (p, t) in enumerate(TEXTS)]


@torch.no_grad()
def ranks_by_hand(draft, one: Recording, t: int, depth: int) -> list[int]:
    """The rank of the true token at every depth, for the draft that starts at place t."""
    ids = torch.tensor([one.prompt + one.tokens])
    fed, ranks = one.features[None, : t + 1], []
    for d in range(1, min(depth, ids.shape[1] - 2 - t) + 1):
        out = draft(fed, ids[:, 1 : t + d + 1])
        logits = draft.lm_head(out.logit_feature[0, -1])
        ranks.append(int((logits > logits[ids[0, t + 1 + d]]).sum()))
        fed = torch.cat((fed, out.aligned_feature[:, -1:]), dim=1)
    return ranks


def test_agrees_with_drafts_that_start_at_one_place(draft, recordings) -> None:
    ks, found = (1, 3, 10), [[] for _ in range(4)]
    for one in recordings:
        for t in range(len(one.prompt) - 1, len(one.prompt + one.tokens) - 2):
            for ranks, rank in zip(found, ranks_by_hand(draft, one, t, 4), strict=False):
                ranks.append(rank)
    expected = [[sum(rank < k for rank in ranks) / len(ranks) for k in ks] for ranks in found]
    assert top_k_accuracy(draft, recordings, 4, ks).tolist() == [pytest.approx(row) for row in expected]


def test_the_whole_vocabulary_holds_every_token(target, recordings) -> None:
    accuracy = top_k_accuracy(tiny_draft(target), recordings, depth=3, ks=(5, target.vocab_size))
    assert accuracy.shape == (3, 2) and (accuracy[:, 1] == 1).all() and (accuracy[:, 0] < 1).all()


def test_answers_shorter_than_the_depth_are_refused(target, recordings) -> None:
    with pytest.raises(InputError, match="more than 5 tokens"):
        top_k_accuracy(tiny_draft(target), recordings[1:], depth=5)
