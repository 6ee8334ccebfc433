"""Verification and tree growth belong on the device: right there, and without a word to the host.

Parity: `verify`, all nodes at once, against `verify_by_rejection`, one node after the other, on the same draws. Where
node v has drawn y_v, give the sequential rule the law that puts all its mass on y_v: its coins and its last draw then
leave nothing to chance, and both must walk the same path.

Silence: a number that Python wants to see makes the device wait. Under FakeTensorMode tensors have shapes but no
numbers, so any such look is an error, on a machine without a GPU too.
"""

from contextlib import nullcontext

import pytest
import torch
from conftest import tiny_draft, tiny_target
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from fspad_ref import DraftTree, SamplingConfig, TreeConfig, grow_tree
from fspad_ref.generate import Chooser
from fspad_ref.tree import ancestors
from fspad_ref.verify import verify, verify_by_rejection

LARGEST = 64
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


@pytest.fixture(params=DEVICES)
def device(request) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here: device parity was checked on the CPU only")
    return request.param


# --- parity ----------------------------------------------------------------------------------------------------------


@st.composite
def trees_with_draws(draw) -> tuple[DraftTree, list[int], int]:
    """A tree of up to 64 nodes with distinct siblings, a token drawn at every node, and the size of the vocabulary.

    Three bytes make a node: whose child it is, its token, and what is drawn there: any token, or one of its children's.
    """
    vocab = draw(st.sampled_from([2, 3, 5, 70]))
    most = draw(st.integers(0, LARGEST - 1))
    genes = draw(st.binary(min_size=3 * most, max_size=3 * most))
    token, parent, depth, children = [0], [0], [0], [[]]
    for i in range(0, len(genes) - 2, 3):
        v = genes[i] % len(token)
        free = [w for w in range(vocab) if w not in children[v]]
        if free:
            children[v].append(free[genes[i + 1] % len(free)])
            token, parent, depth = [*token, children[v][-1]], [*parent, v], [*depth, depth[v] + 1]
            children.append([])
    luck = genes[2::3] + bytes(len(token))
    drawn = [
        carried[byte // 2 % len(carried)] if carried and byte % 2 == 0 else byte % vocab
        for carried, byte in zip(children, luck, strict=False)
    ]
    levels = max(max(depth), 1)
    token, parent, depth = (torch.tensor(x) for x in (token, parent, depth))
    tree = DraftTree(token, parent, depth, torch.zeros(len(token)), ancestors(parent, levels))
    return tree, drawn, vocab


def one_after_another(tree: DraftTree, drawn: list[int], vocab: int) -> tuple[list[int], int]:
    """The sequential rule on draws already made: p(v) is 1 at y_v and 0 elsewhere."""
    return verify_by_rejection(
        tree,
        p=lambda node: [int(token == drawn[node]) for token in range(vocab)],
        accept=lambda probability: probability == 1,
        draw=lambda weights: weights.index(1),
    )


def check_parity(case, device: str) -> int:
    """Both rules on one case; returns how many tokens were accepted."""
    tree, drawn, vocab = case
    path, bonus = one_after_another(tree, drawn, vocab)
    levels = max(int(tree.depth.max()), 1)
    there = DraftTree(*(getattr(tree, name).to(device) for name in ("token", "parent", "depth", "score", "ancestors")))
    verdict = verify(there, torch.tensor(drawn, device=device), levels)
    a = len(path)
    assert verdict.accepted.item() == a, f"law broken: {a} nodes match one after another, {verdict.accepted} at once"
    expected = [0, *path] + [0] * (levels - a), [*tree.token[path].tolist(), bonus]
    found = verdict.path.tolist(), verdict.tokens[: a + 1].tolist()
    assert found == expected, f"law broken: path and tokens {expected} one after another, {found} at once"
    return a


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


# --- no word to the host ---------------------------------------------------------------------------------------------

TREE = TreeConfig(top_k=3, depth=2, total_tokens=12)
IDS = [2, 7, 5, 11, 3]


def one_round(target, draft, sampling: SamplingConfig, watch):
    """A round up to its verdict; tree growth, draws and verification run inside `watch()`."""
    ids = torch.tensor([IDS], device=target.device)
    cache, draft_cache = target.new_cache(32), draft.new_cache(32)
    features = target.features(ids[:, :-1], cache=cache)
    chooser = Chooser(sampling, target)
    with watch():
        tree = grow_tree(draft, features, ids, TREE, draft_cache)
        node_features = target.tree_features(tree.token, tree.depth, tree.ancestors, cache)
        drawn = chooser.every_node(target.lm_head(node_features), tree, ids, TREE.levels)
        return verify(tree, drawn, TREE.levels)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("kind", [(False, False), (True, True)], ids=["eagle", "fspad"])
def test_growth_and_verification_never_look_at_a_number(temperature, kind):
    """And where one does look, as the loop must once a round, the mode notices: the test could fail."""
    target = tiny_target()
    draft = tiny_draft(target, feature_sampling=kind[0], partial_alignment=kind[1])
    with FakeTensorMode(allow_non_fake_inputs=True):  # the weights are real, all that is computed with them is not
        try:
            verdict = one_round(target, draft, SamplingConfig(temperature, seed=1), nullcontext)
        except (DataDependentOutputException, DynamicOutputShapeException) as look:
            raise AssertionError(f"law broken: growth and verification never wait for a number ({look})") from look
        assert verdict.path.shape == verdict.tokens.shape == (TREE.levels + 1,)
        with pytest.raises(DataDependentOutputException):
            verdict.accepted.item()


@pytest.mark.parametrize("fault", ["item", "bool", "nonzero", "tolist"])
def test_any_look_at_a_number_is_noticed(fault):
    """Four ways of looking at a number, as somebody might write them into a round; each is an error."""
    look = {
        "item": lambda y: y[0].item(),
        "bool": lambda y: 1 if (y > 0).all() else 0,
        "nonzero": lambda y: y.nonzero(),
        "tolist": lambda y: y.tolist(),
    }[fault]
    with FakeTensorMode(), pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
        look(torch.zeros(3, dtype=torch.long))


class NoSync:
    """On a GPU: CUDA itself raises an error at every call that makes the host wait."""

    def __enter__(self):
        torch.cuda.set_sync_debug_mode("error")

    def __exit__(self, *error):
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here: FakeTensorMode was checked instead")
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_gpu_never_waits_inside_a_round(temperature):
    target = tiny_target()
    target.model.cuda()
    draft = tiny_draft(target)
    verdict = one_round(target, draft, SamplingConfig(temperature, seed=1), NoSync)
    assert 0 <= verdict.accepted.item() <= TREE.levels


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here: a synchronisation cannot be provoked")
def test_the_gpu_test_notices_a_wait():
    with NoSync(), pytest.raises(RuntimeError, match="synchroniz"):
        torch.ones(1, device="cuda").item()
