"""Test 7, device parity: verification is right with all nodes at once, and needs nothing from the host.

Parity: `verify`, all nodes at once, against `verify_by_rejection`, one node after the other, on the same draws. Where
node v has drawn y_v, the sequential rule gets the distribution with all its mass on y_v: nothing is left to chance, and
both must walk the same path.

No waiting: a number that Python reads makes the host wait for the device. Under FakeTensorMode tensors have shapes but
no numbers, so any such read is an error, on a machine without a GPU too.
"""

from contextlib import contextmanager, nullcontext

import pytest
import torch
from conftest import KINDS, PROMPT, tiny_draft, tiny_target, tree_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from fspad_ref import DraftTree, SamplingConfig, TreeConfig, grow_tree
from fspad_ref.generate import Chooser
from fspad_ref.verify import verify, verify_by_rejection

LARGEST = 64
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here: checked on the CPU only")
cuda = [pytest.mark.cuda, needs_cuda]


# ---- parity ----


@st.composite
def trees_with_draws(draw) -> tuple[DraftTree, list[int], int]:
    """A tree of up to 64 nodes with distinct siblings, a token drawn at every node, and the size of the vocabulary.

    Three bytes make a node: whose child it is, its token, and what is drawn there: any token, or one of its children's.
    """
    vocab = draw(st.sampled_from([2, 3, 5, 70]))
    most = draw(st.integers(0, LARGEST - 1))
    genes = draw(st.binary(min_size=3 * most, max_size=3 * most))
    token, parent, children = [0], [0], [[]]
    for i in range(0, len(genes), 3):
        v = genes[i] % len(token)
        free = [w for w in range(vocab) if w not in children[v]]
        if free:
            children[v].append(free[genes[i + 1] % len(free)])
            token, parent, children = [*token, children[v][-1]], [*parent, v], [*children, []]
    luck = genes[2::3] + bytes(len(token))
    drawn = [
        carried[byte // 2 % len(carried)] if carried and byte % 2 == 0 else byte % vocab
        for carried, byte in zip(children, luck, strict=False)
    ]
    return tree_of(token, parent), drawn, vocab


def check_parity(case, device: str) -> int:
    """Both rules on one case; returns how many tokens were accepted."""
    tree, drawn, vocab = case
    path, bonus = verify_by_rejection(
        tree,
        p=lambda node: [int(token == drawn[node]) for token in range(vocab)],
        accept=lambda probability: probability == 1,
        draw=lambda weights: weights.index(1),
    )
    levels = max(int(tree.depth.max()), 1)
    there = DraftTree(*(getattr(tree, name).to(device) for name in ("token", "parent", "depth", "score", "ancestors")))
    verdict = verify(there, torch.tensor(drawn, device=device), levels)
    a = len(path)
    expected = a, [0, *path] + [0] * (levels - a), [*tree.token[path].tolist(), bonus]
    found = verdict.accepted.item(), verdict.path.tolist(), verdict.tokens[: a + 1].tolist()
    assert found == expected, f"accepted, path, tokens: {expected} one after another, {found} at once"
    return a


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=cuda)])
def test_all_nodes_at_once_equals_one_after_another(device):
    seen = []

    @settings(max_examples=2000 if device == "cpu" else 300, deadline=None, database=None, derandomize=True)
    @given(trees_with_draws())
    def check(case):
        seen.append((len(case[0]), check_parity(case, device)))

    check()
    sizes, accepted = zip(*seen, strict=True)
    print(f"\n{len(seen)} trees of up to {max(sizes)} nodes, up to {max(accepted)} accepted")
    assert max(sizes) > LARGEST // 2 and len(set(accepted)) > 3  # large trees and long paths were among them


# ---- nothing is read by the host ----

TREE = TreeConfig(top_k=3, depth=2, total_tokens=12)


def one_round(target, draft, chooser: Chooser, watch):
    """A round up to its verdict; tree growth, draws and verification run inside `watch()`."""
    ids = torch.tensor([PROMPT], device=target.device)
    cache, draft_cache = target.new_cache(32), draft.new_cache(32)
    features = target.features(ids[:, :-1], cache=cache)
    with watch():
        tree = grow_tree(draft, features, ids, TREE, draft_cache)
        node_features = target.tree_features(tree.token, tree.depth, tree.ancestors, cache)
        drawn = chooser.every_node(target.lm_head(node_features), tree, ids, TREE.levels)
        return verify(tree, drawn, TREE.levels)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("kind", ["eagle", "fspad"])
def test_growth_and_verification_never_read_a_number(temperature, kind):
    """And where one is read, as the loop must once per round, the mode notices: the test could fail."""
    target = tiny_target()
    draft = tiny_draft(target, feature_sampling=KINDS[kind][0], partial_alignment=KINDS[kind][1])
    chooser = Chooser(SamplingConfig(temperature, seed=1), target)
    with FakeTensorMode(allow_non_fake_inputs=True):  # the weights are real, all that is computed with them is not
        verdict = one_round(target, draft, chooser, nullcontext)
        assert verdict.path.shape == verdict.tokens.shape == (TREE.levels + 1,)
        with pytest.raises(DataDependentOutputException):
            verdict.accepted.item()


READS = [lambda y: y[0].item(), lambda y: 1 if (y > 0).all() else 0, lambda y: y.nonzero(), lambda y: y.tolist()]


@pytest.mark.parametrize("read", READS, ids=["item", "bool", "nonzero", "tolist"])
def test_any_read_of_a_number_is_noticed(read):
    """Four ways of reading a number, as somebody might write them into a round; each is an error."""
    with FakeTensorMode(), pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
        read(torch.zeros(3, dtype=torch.long))


@contextmanager
def no_sync():
    """On a GPU: CUDA itself raises an error at every call that makes the host wait."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.cuda
@needs_cuda
def test_the_gpu_never_waits_inside_a_round(temperature):
    """And at the read after it, it does: the test could fail."""
    target = tiny_target()
    target.model.cuda()
    chooser = Chooser(SamplingConfig(temperature, seed=1), target)
    verdict = one_round(target, tiny_draft(target), chooser, no_sync)
    with no_sync(), pytest.raises(RuntimeError, match="synchroniz"):
        verdict.accepted.item()
    assert 0 <= verdict.accepted.item() <= TREE.levels
