"""A draft with a vocabulary of its own: only its tokens are proposed, the text stays, files and loss agree by hand."""

import pytest
import torch
from conftest import tiny_draft, tiny_target

from fspad_ref import (
    Draft,
    DraftConfig,
    SamplingConfig,
    TreeConfig,
    autoregressive_generate,
    grow_tree,
    partial_alignment_loss,
    speculative_generate,
)
from fspad_ref.errors import ConfigError
from fspad_ref.sampling import GumbelNoise

WORDS = (1, 4, 5, 9, 12, 20, 30)
IDS = torch.tensor([[2, 7, 5, 11, 3, 9]])


@pytest.fixture
def drafts(target):
    whole = tiny_draft(target)
    few = Draft(DraftConfig(vocabulary=WORDS), target).eval()
    few.load_state_dict(whole.state_dict())
    return whole, few


def test_its_logits_are_rows_of_the_targets(target, drafts):
    whole, few = drafts
    features = target.features(IDS[:, :-1])
    u = few(features, IDS[:, 1:]).logit_feature
    assert torch.allclose(few.lm_head(u), whole.lm_head(u)[..., list(WORDS)])
    noise = GumbelNoise(5, target.vocab_size).rows(6, 3)
    for weight in (0.0, 0.7):  # of the noise, the columns of its words
        tree = grow_tree(few, features, IDS, TreeConfig(3, 2, 12, weight), noise=noise)
        assert set(tree.token[1:].tolist()) <= {*WORDS} and torch.isfinite(tree.score).all()
        first = (few.lm_head(u[0, -1]) + weight * noise[0, list(WORDS)]).log_softmax(-1).sort(descending=True)
        assert [WORDS[i] for i in first.indices[:3]] == tree.token[tree.depth == 1].tolist()[:3]
        assert tree.score[tree.depth == 1].tolist()[:3] == pytest.approx(first.values[:3].tolist())


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_text_stays(target, drafts, temperature):
    wanted = {"max_new_tokens": 24, "sampling": SamplingConfig(temperature, seed=5)}
    plain = autoregressive_generate(target, IDS, **wanted).tokens
    for draft in drafts:
        for tree in (TreeConfig(3, 2, 12), TreeConfig(3, 2, 12, noise_weight=0.7)):
            assert speculative_generate(target, draft, IDS, tree=tree, **wanted).tokens == plain


def test_the_loss_is_not_renormalised(target, drafts):
    _, few = drafts
    features = target.features(IDS)
    out, mask = few(features[:, :-1], IDS[:, 1:]), torch.tensor([[0, 1, 0, 1, 1]])
    found = partial_alignment_loss(out, features[:, 1:], target.lm_head, mask, draft=few).logit
    p = target.lm_head(features[0, 1:]).softmax(-1)[:, list(WORDS)]  # sums to less than 1
    log_q = target.lm_head(out.logit_feature[0])[:, list(WORDS)].log_softmax(-1)
    assert found.item() == pytest.approx(-(p * log_q).sum(-1)[mask[0].bool()].mean().item(), rel=1e-6)
    stored = target.lm_head(features[:, 1:]).logsumexp(-1)
    known = partial_alignment_loss(out, features[:, 1:], target.lm_head, mask, draft=few, log_partition=stored).logit
    assert known.item() == pytest.approx(found.item(), rel=1e-6)


def test_files_keep_it_and_bad_ones_are_refused(target, drafts, tmp_path):
    drafts[1].save_pretrained(tmp_path)
    again = Draft.from_pretrained(tmp_path, target)
    assert again.config == drafts[1].config and again.vocabulary.tolist() == [*WORDS]
    Draft(DraftConfig(False, False, vocabulary=WORDS), target).to_official(tmp_path / "served")
    assert torch.load(tmp_path / "served" / "token_map.pt").tolist() == [*WORDS]
    for wrong in ((), (3, 2), (3, 3), (-1, 2), (5, 31)):
        with pytest.raises(ConfigError, match=r"ascending token ids in \[0, 31\)"):
            Draft(DraftConfig(vocabulary=wrong), target)
    with pytest.raises(ConfigError, match="top_k <= 7"):
        grow_tree(again, tiny_target().features(IDS[:, :-1]), IDS, TreeConfig(8, 1, 9))
