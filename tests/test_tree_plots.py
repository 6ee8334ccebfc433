"""Pictures of draft trees: every stage shows what the package's own functions make, and the claims count it."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import tiny_draft
from matplotlib.figure import Figure

from fspad_ref import TreeConfig, grow_tree
from fspad_ref.show import tree_plots, tree_views
from fspad_ref.show.tree_plots import Bin
from fspad_ref.tree import expand, rerank

CONFIG = TreeConfig(top_k=3, depth=2, total_tokens=9)  # 3 + 9 + 9 scored nodes
ROOT = 5


@pytest.fixture(scope="module")
def scored(target):
    draft, ids = tiny_draft(target), torch.arange(2, ROOT + 1)[None]
    cache = draft.new_cache(64)
    out = draft(target.features(ids[:, :-1]), ids[:, 1:], cache=cache)
    with torch.no_grad():
        return expand(draft, out.logit_feature[0, -1], out.aligned_feature[0, -1], CONFIG, cache)


def grown(target, ids):
    return grow_tree(tiny_draft(target), target.features(ids[:, :-1]), ids, TreeConfig(10, 5, 60))


def stage(scored, level):
    return tree_views.stage(ROOT, scored, str, CONFIG.top_k, level)


def nodes(one, role):
    return [node for node in range(len(one)) if one.role[node] == role]


def test_a_stage_holds_the_levels_so_far_and_its_frontier_is_what_grows_next(scored):
    early, later, last = (stage(scored, level) for level in (1, 2, 3))
    assert [len(one) for one in (early, later, last)] == [4, 13, 22]
    assert later.parent[: len(early)] == early.parent and last.text[: len(later)] == later.text
    for one, following in ((early, later), (later, last)):
        assert set(nodes(one, "frontier")) == set(following.parent[len(one) :])
        assert set(nodes(one, "frontier")) <= set(nodes(following, "grown"))
    assert not nodes(last, "frontier")


@pytest.mark.parametrize("total_tokens", [1, 2, 9, 22])
def test_marking_and_folding_gives_the_tree_that_rerank_makes(scored, total_tokens):
    tree = tree_views.view(rerank(torch.tensor(ROOT), *scored, TreeConfig(3, 2, total_tokens)), str)
    marked = tree_views.reranked(stage(scored, 3), total_tokens)
    small = tree_views.folded(marked)
    assert replace(small, left_out=tree.left_out) == tree
    assert len(nodes(marked, "dropped")) == 22 - total_tokens


def test_folding_counts_the_dropped_children_of_kept_nodes_only(scored):
    small = tree_views.folded(tree_views.reranked(stage(scored, 3), 2))
    assert small.left_out == (2, 3)  # of the root's three children and of the kept one's three; not of dropped ones'


def test_equal_scores_keep_the_earlier_node():
    chain = tree_views.TreeView(tuple("abc"), (0, 0, 1), (0, 1, 2), (0.0, 0.0, 0.0), ("root",) * 3, (0,) * 3)
    assert tree_views.reranked(chain, 2).role == ("root", "kept", "dropped")


def test_every_picture_is_drawn_at_every_stage_and_for_sixty_nodes(target, scored):
    ids = torch.arange(2, 12)[None]
    tree = grown(target, ids)
    big = tree_views.view(tree, str, on_text=[True] * 2 + [False] * 58)
    panels = {str(level): stage(scored, level) for level in (1, 2, 3)}
    panels["kept"] = tree_views.reranked(panels["3"], 9)
    panels["folded"] = tree_views.folded(panels["kept"])
    figures = [
        tree_plots.tree_panels(panels, columns=2),
        tree_plots.tree_picture(big),
        tree_plots.thumbnails({"one": big, "two": panels["2"]}),
        tree_plots.tree_and_mask(big, tree.ancestors),
    ]
    for figure in figures:
        assert isinstance(figure, Figure)
        figure.canvas.draw()
    drawn = [text.get_text() for text in figures[1].axes[0].texts]
    assert all(str(node) in drawn for node in range(60))
    first, *_, after, _ = figures[0].axes
    inside = [box.get_y() for box in first.patches]
    assert inside == [box.get_y() for box in after.patches[: len(inside)]], "nodes stay in place from stage to stage"


def test_the_mask_shows_exactly_the_ancestors(target):
    tree = grown(target, torch.arange(2, 12)[None])
    one = tree_views.view(tree, str)
    cells = tree_plots.tree_and_mask(one, tree.ancestors).axes[1].images[0].get_array()
    assert (cells[:, 0] == 3).all()
    assert ((cells[:, 1:] > 0) == tree.ancestors.numpy()).all() and (cells[:, 1:].diagonal() == 2).all()
    assert f"{int(tree.ancestors.sum())} are visible" in tree_plots.mask_claim(one, tree.ancestors)


def test_claims_count(scored):
    one = stage(scored, 2)
    assert tree_plots.tree_claim(one) == "12 guesses on 2 levels, 3 of them in the frontier."
    marked = tree_views.reranked(stage(scored, 3), 9)
    assert tree_plots.panels_claim({"A": marked}) == "A: 21 guesses on 3 levels, 13 of them dropped."
    assert "8 guesses" in tree_plots.tree_claim(tree_views.folded(marked))
    assert tree_plots.thumbnails_claim({"A": marked}) == "A: 3 levels, 0 guesses on the text."


def test_curves_hold_their_numbers_and_claims_read_them():
    series = {"T=0": [Bin(0.1, 0.2, 40), Bin(0.5, 0.4, 30), Bin(0.9, 0.95, 20)]}
    left, right = tree_plots.calibration_plot(series).axes
    assert left.lines[1].get_xydata().tolist() == [[0.1, 0.2], [0.5, 0.4], [0.9, 0.95]]
    assert right.lines[0].get_ydata().tolist() == [40, 30, 20]
    assert tree_plots.calibration_claim(series) == "T=0: 2 of 2 steps go up, 2 of 3 points lie above the diagonal."
    knobs = {"depth": {"T=0": {1: 1.5, 5: 3.25}}}
    assert tree_plots.knob_curves(knobs).axes[0].lines[0].get_ydata().tolist() == [1.5, 3.25]
    assert tree_plots.knob_claim(knobs) == "depth from 1 to 5: tau 1.5 to 3.2 (T=0)."


def test_words_fit_their_boxes():
    assert tree_plots.short(" fox") == "␣fox" and tree_plots.short("") == "∅"
    assert len(tree_plots.short("Geschwindigkeit")) == tree_plots.LONGEST
    shown = {0.0: "<.01", 0.004: "<.01", 0.5: ".50", 0.999: ">.99", 1.0: "1", math.exp(0.0): "1"}
    assert {chance: tree_plots.probability(chance) for chance in shown} == shown
