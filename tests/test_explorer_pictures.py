"""The explorer's pictures: what is drawn are the recorded numbers, and the claims count them."""

import itertools
from xml.etree import ElementTree

import pytest
from explorer_bench import TREE, make_bench, quiet, settings
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from fspad_ref import SamplingConfig, TreeConfig
from fspad_ref.teaching.broken import animals
from fspad_ref.viz.explorer import laws, markup, number_plots, prices, stage_plots, stage_svg, stages, trials

LARGE = TreeConfig(10, 5, 60)


@pytest.fixture(scope="module")
def bench():
    return make_bench()


@pytest.fixture(scope="module", params=[TREE, LARGE], ids=["small", "sixty-nodes"])
def run(request, bench):
    return bench.run(settings(tree=request.param, tokens=6), progress=quiet)


def at(run, name, number=0):
    return stages.stage_view(run, number, name, str)


def written(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_the_stages_of_a_round_follow_the_expansion(run):
    config = run.settings.tree
    names = stages.stage_names(config.levels)
    assert names[-4:] == [f"level {config.levels}", "rerank", "verify", "accept"]
    scored = [at(run, name).scored for name in names[: config.levels]]
    assert scored == [config.top_k + level * config.top_k**2 for level in range(config.levels)]
    for name in names[: config.levels - 1]:
        assert at(run, name).role.count("frontier") == config.top_k
    assert all(len(at(run, name)) <= max(stages.MOST, config.top_k * (config.levels + 1) + 1) for name in names)


def test_nodes_keep_their_numbers_from_rerank_on(bench):
    run = bench.run(settings(tree=LARGE, tokens=6), progress=quiet)
    rerank, verify, accept = (at(run, name) for name in ("rerank", "verify", "accept"))
    assert rerank.numbered and rerank.text == verify.text == accept.text[:-1]
    assert rerank.parent == verify.parent == accept.parent[:-1] and not at(run, "level 6").numbered
    figures = [stage_plots.stage_tree(one) for one in (rerank, verify, accept)]
    places = [[(box.get_x(), box.get_y()) for box in figure.axes[0].patches][:60] for figure in figures]
    assert places[0] == places[1] == places[2], "nothing moves from stage to stage"


def test_every_node_is_drawn_with_its_numbers_and_no_two_boxes_overlap(run):
    for name in stages.stage_names(run.settings.tree.levels):
        one = at(run, name)
        figure = stage_plots.stage_tree(one)
        texts = written(figure)
        boxes = [(round(box.get_x(), 6), round(box.get_y(), 6)) for box in figure.axes[0].patches]
        assert len(boxes) == len(set(boxes)) == len(one)
        assert [text for text in texts if text in one.under] == [line for line in one.under if line]
        assert all(str(node) in {text.rstrip("✓✗▸✂") for text in texts} for node in range(one.nodes))
        rows = {}
        for x, y in boxes:
            rows.setdefault(x, []).append(y)
        for column in rows.values():
            assert all(b - a >= 0.99 for a, b in itertools.pairwise(sorted(column))), "boxes of a level lie apart"


def test_the_second_line_says_q_p_and_the_drawn_token(run):
    one, record = at(run, "verify"), run.rounds[0]
    assert one.under[0] == f"→ {record.drawn[0]}"
    for node in range(1, len(one)):
        q, p = (stages.probability(part[node]) for part in (record.q, record.p))
        assert one.under[node] == f"q {q} p {p} → {record.drawn[node]}"
        assert (one.role[node] == "match") == record.matches[node]


def test_accepted_rejected_and_bonus_differ_by_colour_and_by_shape(run):
    longest = max(range(len(run.rounds)), key=lambda number: len(run.rounds[number].path))
    one, record = at(run, "accept", longest), run.rounds[longest]
    walked = [node for node in range(1, one.nodes) if one.role[node] in ("accepted", "beyond")]
    assert walked == list(record.path[1:]) and one.kept == record.path
    assert one.parent[-1] == record.path[-1] and one.text[-1] == str(record.tokens[-1])
    roles = ("accepted", "rejected", "bonus")
    assert len({stages.LOOKS[role].fill for role in roles}) == len({stages.SIGNS[role] for role in roles}) == 3
    boxes = stage_plots.stage_tree(one).axes[0].patches
    assert [to_hex(box.get_facecolor()).upper() for box in boxes] == [stages.LOOKS[r].fill.upper() for r in one.role]


def test_what_lies_beyond_the_end_is_marked(bench):
    for tokens in range(2, 9):
        run = bench.run(settings(tokens=tokens), progress=quiet)
        last, one = run.rounds[-1], at(run, "accept", len(run.rounds) - 1)
        assert one.role.count("beyond") == len(last.tokens) - last.kept
        assert ("beyond the end" in stages.stage_claim(one)) == (last.kept < len(last.tokens))


def test_mask_and_cache_have_the_trees_numbers(run):
    one, record = at(run, "accept"), run.rounds[0]
    cells = stage_plots.mask_cells(one)
    assert ((cells[:, 1:] > 0) == record.tree.ancestors.numpy()).all() and (cells[:, 0] == 3).all()
    upper, lower = stage_plots.stage_mask(one, selected=1).axes
    assert (upper.images[0].get_array() == cells).all()
    before, during, after = record.slots
    texts = [text.get_text() for text in lower.texts]
    assert texts[0].endswith(f"{during} slots in use") and f"Afterwards: {after} slots in use" in texts
    assert texts[2 : 2 + len(record.tree)] == [str(node) for node in range(len(record.tree))]
    assert texts[-len(record.path) :] == [str(node) for node in record.path]
    early = [text.get_text() for text in stage_plots.stage_mask(at(run, "level 1")).axes[1].texts]
    assert early[0].endswith(f"{before} slots in use") and len(early) == 2


def test_a_selected_node_has_a_ring(run):
    one = at(run, "verify")
    plain, ringed = (stage_plots.stage_tree(one, selected) for selected in (None, 3))
    assert len(ringed.axes[0].patches) == len(plain.axes[0].patches) + 1
    numbers = stages.node_numbers(run, 0, 3, str)
    assert numbers["node"] == "3" and numbers["cache slot during the pass"] == str(run.rounds[0].prefix + 3)
    assert numbers["p, the target's probability"] == f"{run.rounds[0].p[3]:.4f}"


def test_claims_of_a_round_count(run):
    config, record = run.settings.tree, run.rounds[0]
    assert f"{config.top_k} guesses scored on 1 level, {config.top_k} of them grow next" in stages.stage_claim(
        at(run, "level 1")
    )
    assert f"{config.total_tokens - 1} of {config.capacity - 1} guesses are kept" in stages.stage_claim(
        at(run, "rerank")
    )
    assert f"{sum(record.matches) - 1} of {config.total_tokens - 1}" in stages.stage_claim(at(run, "verify"))
    accept = stages.stage_claim(at(run, "accept"))
    assert f"Accept: {len(record.path) - 1} of" in accept and f"{record.slots[2]} stay" in accept
    assert "plain decoding's, token by token (checked)" in stages.run_claim(run)


# --- the same on the screen ---


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg.replace(' xmlns="http://www.w3.org/2000/svg"', ""))


def tips_in(drawing: ElementTree.Element) -> list[str]:
    return [title.text for title in drawing.iter("title")]


def test_the_screens_tree_is_the_figures_tree(run):
    for name in ("level 2", "rerank", "verify", "accept"):
        one = at(run, name)
        figure, drawing = stage_plots.stage_tree(one), parsed(stage_svg.tree_svg(one))
        edges = [part.find("rect") for part in drawing.iter("g")]
        places = [(float(edge.get("x")) / stage_svg.COLUMN - 0.5, (float(edge.get("y")) - stage_svg.TOP)
                   / stage_svg.ROW - 0.5) for edge in edges]  # fmt: skip
        boxes = [part for box in figure.axes[0].patches for part in (box.get_x(), box.get_y())]
        assert [part for place in places for part in place] == pytest.approx(boxes, abs=0.01)
        assert [edge.get("fill") for edge in edges] == [stages.LOOKS[role].fill for role in one.role]
        lines = [text.text for text in drawing.iter("text")]
        assert [line for line in lines if line in one.under] == [line for line in one.under if line]


def test_every_node_tells_its_numbers_under_the_pointer(run):
    record = run.rounds[0]
    for name in ("level 1", "verify", "accept"):
        one = at(run, name)
        told = stages.tips(run, 0, one, str)
        assert tips_in(parsed(stage_svg.tree_svg(one, tips=told))) == told and len(told) == len(one)
    assert f"p, the target's probability: {record.p[3]:.4f}" in told[3] and "the bonus token" in told[-1]
    plain, ringed = (len(list(parsed(stage_svg.tree_svg(one, node)).iter("rect"))) for node in (None, 3))
    assert ringed == plain + 1


def test_mask_and_cache_tell_what_they_hold(run):
    one, record = at(run, "accept"), run.rounds[0]
    told = tips_in(parsed(stage_svg.mask_svg(one, selected=1)))
    count = len(record.tree)
    for node, above in enumerate(record.tree.ancestors.tolist()):
        seen = "".join(f", {other}" for other in range(node) if above[other])
        assert told[node] == f"node {node} attends to the prefix{seen} and itself"
    assert told[count] == "the text so far" and len(told) == 2 * count + 1 + len(record.path)
    assert sum(tip.endswith("forgotten") for tip in told) == count - len(record.path)
    assert told[-1] == f"node {record.path[-1]}, now slot {record.slots[2] - 1}"


def test_text_is_marked_token_by_token():
    tokens, kinds = [" a", "<b>", "\n", ""], ["draft", "target", "draft", "target"]
    page = ElementTree.fromstring(markup.strip(tokens, kinds, "Draft: x", "two").replace("&emsp;", " "))
    marks = [mark for mark in page.iter("span") if mark.get("title")]
    assert [mark.text for mark in marks] == [" a", "<b>", "⏎", "∅"]
    assert all(mark.get("style").startswith(markup.TOKENS[kind][0]) for mark, kind in zip(marks, kinds, strict=True))


def test_what_may_be_too_long_is_squeezed():
    assert "textLength" in markup.words(0, 0, "a long line of text", room=40)
    assert "textLength" not in markup.words(0, 0, "short", room=40)


def test_pictures_become_pngs(run):
    one = at(run, "accept")
    for figure in (stage_plots.stage_tree(one), stage_plots.stage_mask(one)):
        assert stage_plots.png_of(figure).startswith(b"\x89PNG")


# --- numbers ---


def test_the_law_picture_shows_the_law(bench):
    run = bench.run(settings(), progress=quiet)
    law = laws.node_law(bench.target, run.rounds[0], 0, SamplingConfig(0.7), str)
    curve = laws.acceptance_curve(bench.target, run.rounds[0], 0)
    bars, middle, right = number_plots.law_picture(law, {"no cut": curve}, {"fspad": {0.0: 3.0, 1.0: 2.0}}).axes
    widths = {round(bar.get_y() + bar.get_height() / 2): bar.get_width() for bar in bars.patches}
    assert [widths[row] for row in range(len(law.p))] == pytest.approx(law.p)
    assert middle.lines[0].get_ydata().tolist() == pytest.approx(curve)
    assert middle.lines[1].get_ydata()[0] == pytest.approx(law.expected)
    assert right.lines[0].get_xydata().tolist() == [[0.0, 3.0], [1.0, 2.0]]
    text = number_plots.law_claim(law)
    assert f"({law.guesses}) has {law.expected:.2f}" in text and "at T=0.7" in text


def test_the_cost_picture_marks_the_best_point():
    land = prices.landscape(prices.Prices(), prices.Acceptance())
    row, column = land.best
    left, right, _ = number_plots.cost_picture(land).axes
    star = left.lines[-1].get_xydata()[0]
    assert star.tolist() == [land.sizes[column], land.speedup[row, column]]
    assert right.lines[-1].get_xydata()[0].tolist() == [column, row]
    assert f"depth {land.depths[row]} and {land.sizes[column]} nodes" in number_plots.cost_claim(land)
    never = prices.landscape(prices.Prices(), prices.Acceptance(0.0))
    assert "does not pay" in number_plots.cost_claim(never)
    assert len(number_plots.cost_picture(never).axes[1].lines[0].get_xydata()) == 95


def test_the_trial_picture_shows_counts_and_p_values():
    pair = [trials.trial(animals(), name, 500) for name in ("one draw", "rejected guess stays")]
    *panels, last = number_plots.trial_picture(pair).axes
    for axes, one in zip(panels, pair, strict=True):
        assert [bar.get_height() for bar in axes.patches] == [one.counts.get(word, 0) for word in one.target]
    assert last.lines[0].get_xdata().tolist() == [runs for runs, _ in pair[0].path]
    assert number_plots.trial_claim(pair).startswith("500 runs each. one draw: p-value")
    assert "exactly 0;" in number_plots.trial_claim(pair) and "exactly 0.218" in number_plots.trial_claim(pair)
