"""Ours against tensors that the paper's reference code computed (tests/golden/README.md): float32, 1e-5."""

import pytest
import torch
from conftest import GOLDEN
from safetensors.torch import load_file

from fspad_ref import (
    Draft,
    TreeConfig,
    autoregressive_generate,
    grow_tree,
    partial_alignment_loss,
    speculative_generate,
)

KINDS = {"eagle": (False, False), "wopad": (True, False), "wofs": (False, True), "fspad": (True, True)}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def draft(kind, golden_target):
    return Draft.from_official(GOLDEN / f"draft_{kind}.safetensors", golden_target)


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_target_features_and_logits(golden, golden_target):
    features = golden_target.features(golden["input_ids"])
    close(features, golden["target_features"])
    close(golden_target.lm_head(features), golden["target_logits"])


def test_kind_is_read_off_the_tensors(kind, draft):
    assert (draft.config.feature_sampling, draft.config.partial_alignment) == KINDS[kind]


def outputs(draft, golden):
    return draft(golden["target_features"][:, :-1], golden["input_ids"][:, 1:])


def test_draft_outputs(kind, draft, golden):
    with torch.no_grad():
        out = outputs(draft, golden)
    close(out.logit_feature, golden[f"{kind}.logit_feature"])
    close(out.aligned_feature, golden[f"{kind}.aligned_feature"])


def test_losses(kind, draft, golden, golden_target, golden_meta):
    mask = torch.zeros(2, 16)
    mask[:, 8:] = 1
    with torch.no_grad():
        loss = partial_alignment_loss(
            outputs(draft, golden), golden["target_features"][:, 1:], golden_target.lm_head, mask
        )
    expected = golden_meta["losses"][kind]
    assert loss.feature.item() == pytest.approx(expected["feature_loss"], rel=1e-5)
    assert loss.logit.item() == pytest.approx(expected["logit_loss"], rel=1e-5)
    assert loss.total.item() == pytest.approx(expected["total_vw1_pw0.1"], rel=1e-5)


def paths(token, ancestors, depth):
    """The tree as a set of token paths, root left out: it does not depend on the order of nodes."""
    rows = range(1, len(token))
    return {
        tuple(
            token[w].item() for w in sorted(ancestors[v].nonzero().flatten().tolist(), key=lambda w: depth[w]) if w != 0
        )
        for v in rows
    }


def test_tree_paths(kind, draft, golden, golden_target, golden_meta):
    ids = golden["input_ids"][:1]
    features = golden_target.features(ids)
    sampled = golden_target.lm_head(features[:, -1]).argmax(-1, keepdim=True)
    config = TreeConfig(golden_meta["top_k"], golden_meta["depth"], golden_meta["total_tokens"])
    tree = grow_tree(draft, features, torch.cat((ids, sampled), dim=1), config)
    theirs = paths(golden[f"{kind}.tree_tokens"], golden[f"{kind}.tree_mask"] > 0, golden[f"{kind}.tree_depth"])
    assert paths(tree.token, tree.ancestors, tree.depth) == theirs
    assert len(theirs) == config.total_tokens - 1


def test_greedy_text_and_accepted_counts(golden, golden_target, golden_meta):
    draft = Draft.from_official(GOLDEN / "draft_fspad.safetensors", golden_target)
    prompt, text = golden["input_ids"][:1], golden["fspad.greedy_generated"].tolist()
    new = len(text) - prompt.shape[1]
    config = TreeConfig(golden_meta["top_k"], golden_meta["depth"], golden_meta["total_tokens"])
    result = speculative_generate(golden_target, draft, prompt, max_new_tokens=new, tree=config)
    assert prompt[0].tolist() + result.tokens == text
    assert result.accepted == golden_meta["fspad.accepted_per_round"]
    assert autoregressive_generate(golden_target, prompt, max_new_tokens=new).tokens == result.tokens


def test_bin_files_load_alike(kind, draft, golden_target, tmp_path):
    torch.save(load_file(GOLDEN / f"draft_{kind}.safetensors"), tmp_path / "pytorch_model.bin")
    again = Draft.from_official(tmp_path / "pytorch_model.bin", golden_target)
    assert all(torch.equal(a, b) for a, b in zip(draft.state_dict().values(), again.state_dict().values(), strict=True))
