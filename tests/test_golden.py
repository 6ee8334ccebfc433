"""Ours against tensors that the paper's reference code computed (tests/golden/README.md): float32, 1e-5."""

import pytest
import torch
from conftest import GOLDEN, KINDS

from fspad_ref import Draft, TreeConfig, grow_tree, partial_alignment_loss
from fspad_ref.generate import autoregressive_generate, speculative_generate

NAMES = {"eagle": "eagle", "wopad": "fs", "wofs": "pad", "fspad": "fspad"}  # the reference's, ours


@pytest.fixture(params=NAMES)
def kind(request):
    return request.param


@pytest.fixture
def draft(kind, golden_target):
    return Draft.from_official(GOLDEN / f"draft_{kind}.safetensors", golden_target)


@pytest.fixture
def outputs(draft, golden):
    with torch.no_grad():
        return draft(golden["target_features"][:, :-1], golden["input_ids"][:, 1:])


@pytest.fixture
def config(golden_meta):
    return TreeConfig(golden_meta["top_k"], golden_meta["depth"], golden_meta["total_tokens"])


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_target_features_and_logits(golden, golden_target):
    features = golden_target.features(golden["input_ids"])
    close(features, golden["target_features"])
    close(golden_target.lm_head(features), golden["target_logits"])


def test_draft_outputs(kind, draft, outputs, golden):
    assert (draft.config.feature_sampling, draft.config.partial_alignment) == KINDS[NAMES[kind]]
    close(outputs.logit_feature, golden[f"{kind}.logit_feature"])
    close(outputs.aligned_feature, golden[f"{kind}.aligned_feature"])


def test_losses(kind, outputs, golden, golden_target, golden_meta):
    mask = torch.zeros(2, 16)
    mask[:, 8:] = 1
    loss = partial_alignment_loss(outputs, golden["target_features"][:, 1:], golden_target.lm_head, mask)
    expected = golden_meta["losses"][kind]
    for ours, theirs in ((loss.feature, "feature_loss"), (loss.logit, "logit_loss"), (loss.total, "total_vw1_pw0.1")):
        assert ours.item() == pytest.approx(expected[theirs], rel=1e-5)


def paths(token, ancestors, depth):
    """The tree as a set of token paths, root left out: it does not depend on the order of nodes."""
    rows = [sorted(row.nonzero().flatten().tolist(), key=lambda w: depth[w])[1:] for row in ancestors[1:]]
    return {tuple(token[row].tolist()) for row in rows}


def test_tree_paths(kind, draft, golden, golden_target, config):
    ids = golden["input_ids"][:1]
    features = golden_target.features(ids)
    sampled = golden_target.lm_head(features[:, -1]).argmax(-1, keepdim=True)
    tree = grow_tree(draft, features, torch.cat((ids, sampled), dim=1), config)
    theirs = paths(golden[f"{kind}.tree_tokens"], golden[f"{kind}.tree_mask"] > 0, golden[f"{kind}.tree_depth"])
    assert paths(tree.token, tree.ancestors, tree.depth) == theirs
    assert len(theirs) == config.total_tokens - 1


def test_greedy_text_and_accepted_counts(golden, golden_target, golden_meta, config):
    draft = Draft.from_official(GOLDEN / "draft_fspad.safetensors", golden_target)
    prompt, text = golden["input_ids"][:1], golden["fspad.greedy_generated"].tolist()
    new = len(text) - prompt.shape[1]
    result = speculative_generate(golden_target, draft, prompt, max_new_tokens=new, tree=config)
    assert prompt[0].tolist() + result.tokens == text
    assert result.accepted == golden_meta["fspad.accepted_per_round"]
    assert autoregressive_generate(golden_target, prompt, max_new_tokens=new).tokens == result.tokens
