"""What is seen is what was computed: runs and rounds, the drawer, strips, bars, the instruments, and their widgets."""

import base64
import io
import itertools
import math
import threading
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import torch
from conftest import tiny_draft
from worded import worded_target

from fspad_ref import SamplingConfig, TreeConfig, autoregressive_generate, grow_tree, speculative_generate
from fspad_ref.data import Question
from fspad_ref.errors import ConfigError, InputError
from fspad_ref.viz import drawer, instruments, strips
from fspad_ref.viz.explorer import BrokenPanel, CostPanel, Explorer, TemperaturePanel, TreeStepper
from fspad_ref.viz.runs import Cancelled, Settings, Workbench

PROMPT = (2, 7, 5, 11, 3)
TREE, LARGE = TreeConfig(top_k=4, depth=3, total_tokens=20), TreeConfig(10, 5, 60)


@pytest.fixture(scope="module")
def bench() -> Workbench:
    target = worded_target()
    drafts = dict(eagle=tiny_draft(target), fspad=tiny_draft(target, 1, feature_sampling=True, partial_alignment=True))
    return Workbench(target, drafts, (Question(1, "qa", ("w4 w5",)), Question(2, "rag", ("w3",))))


def settings(temperature: float = 1.0, draft: str = "eagle", tree: TreeConfig = TREE, tokens: int = 12) -> Settings:
    return Settings(PROMPT, draft, tree, SamplingConfig(temperature, seed=3), tokens)


@pytest.fixture(scope="module", params=[(0.0, TREE), (1.0, TREE), (1.0, LARGE)], ids=["greedy", "sampled", "sixty"])
def run(request, bench):
    temperature, tree = request.param
    return bench.run(settings(temperature, tree=tree))


# ---- runs and rounds ----


def test_a_run_is_what_the_loop_and_plain_decoding_write(bench, run):
    wanted = {"max_new_tokens": 12, "sampling": run.settings.sampling, "eos_token_id": 1}
    fast = speculative_generate(bench.target, bench.drafts["eagle"], list(PROMPT), tree=run.settings.tree, **wanted)
    assert run.answer == fast and run.parted is None and run.seconds > 0
    assert fast.tokens == autoregressive_generate(bench.target, list(PROMPT), **wanted).tokens
    emitted = [token for one in run.rounds for token in one.tokens[: one.kept]]
    assert [run.answer.tokens[0], *emitted] == run.answer.tokens and run.rounds[0].prefix == len(PROMPT)
    for one, following in itertools.pairwise(run.rounds):
        assert following.prefix == one.prefix + len(one.path) and one.kept == len(one.tokens) == len(one.path)


def test_every_number_of_a_round_has_a_second_way_to_it(bench, run):
    one, sampling, ids = run.rounds[0], run.settings.sampling, torch.tensor([[*PROMPT, run.answer.tokens[0]]])
    tree = grow_tree(bench.drafts["eagle"], bench.target.features(ids[:, :-1]), ids, run.settings.tree)
    assert tree.token.equal(one.tree.token) and tree.parent.equal(one.tree.parent)
    assert len(one.scored[0]) == run.settings.tree.capacity - 1
    parent, token = tree.parent.tolist(), tree.token.tolist()
    for node in range(1, len(token)):
        above = [token[v] for v in tree.ancestors[node].nonzero().flatten().tolist() if v not in (0, node)]
        logits = bench.target.lm_head(bench.target.features(torch.tensor([[*ids[0].tolist(), *above]]))[:, -1])[0]
        p = float(logits.argmax() == token[node]) if sampling.greedy else float(logits.softmax(-1)[token[node]])
        assert one.p[node] == pytest.approx(p, abs=1e-9)
        assert math.log(one.q[node]) == pytest.approx(float(tree.score[node] - tree.score[parent[node]]), abs=1e-6)
        assert one.matches[node] == (one.drawn[parent[node]] == token[node])
    assert [one.drawn[node] for node in one.path] == one.tokens


def test_runs_are_remembered_and_cancelled_ones_are_not(bench):
    wanted, answers, told = settings(draft="fspad", tokens=10), iter([False] * 9 + [True]), []
    with pytest.raises(Cancelled):
        bench.run(wanted, lambda: next(answers))
    assert wanted not in bench.runs
    first = bench.run(wanted, progress=told.append)
    assert bench.run(wanted, lambda: True) is first and any(text.startswith("fspad: ") for text in told)
    with pytest.raises(ConfigError, match="one of the drafts"):
        bench.run(settings(draft="nobody"))
    with pytest.raises(InputError, match="positions"):
        bench.run(settings(tokens=400))


def drawn_at(run, stage: str, number: int = 0) -> drawer.View:
    return drawer.round_view(run, number, stage, lambda token: f"w{token}")


def test_stages_follow_the_loop_and_nothing_moves(run):
    config, names = run.settings.tree, drawer.stage_names(run.settings.tree.levels)
    views = [drawn_at(run, name) for name in names]
    assert [name.split()[0] for name in names] == ["grow"] * config.levels + [*drawer.STEPS[1:]]
    for level, view in enumerate(views[: config.levels], start=1):
        roles = [box.role for box in view.boxes]
        assert roles.count("frontier") == (config.top_k if level < config.levels else 0)
        seen = sum(role != drawer.HIDDEN for role in roles) - 1 + sum(box.more for box in view.boxes)
        assert seen == config.top_k + (level - 1) * config.top_k**2 and f" {seen} guesses" in view.claim
    assert len({tuple((box.text, box.up, box.depth) for box in view.boxes) for view in views}) == 1
    assert len({tuple(drawer.draw(view).get_size_inches()) for view in views[-2:]}) == 1
    assert sum(box.role == "kept" for box in drawn_at(run, "rerank").boxes) == config.total_tokens - 1


def test_boxes_carry_the_recorded_numbers_and_roles(run):
    number = max(range(len(run.rounds)), key=lambda number: len(run.rounds[number].path))
    one, views = run.rounds[number], {stage: drawn_at(run, stage, number) for stage in drawer.STEPS[1:]}
    nodes = {stage: {box.number: box for box in view.boxes if box.number is not None} for stage, view in views.items()}
    for node in range(1, len(one.tree)):
        q, p = drawer.probability(one.q[node]), drawer.probability(one.p[node])
        assert nodes["score"][node].under == f"q {q} p {p}" and nodes["score"][node].text == f"w{one.tree.token[node]}"
        assert nodes["draw"][node].under == f"→ w{one.drawn[node]}"
        assert (nodes["draw"][node].role == "match") == one.matches[node]
        assert (nodes["verify"][node].role in ("accepted", "beyond")) == (node in one.path)
        assert f"p, the target's probability: {one.p[node]:.4f}" in nodes["keep"][node].tip
    bonus = views["verify"].boxes[-1]
    assert bonus.text == f"w{one.tokens[-1]}" and views["verify"].boxes[bonus.up].number == one.path[-1]
    assert f"{len(one.path) - 1} of {len(one.tree) - 1} guesses are accepted" in views["verify"].claim
    assert f"{one.prefix + len(one.path)} stay" in views["keep"].claim
    for row, seen in enumerate(views["score"].attends):
        assert seen == one.tree.ancestors[row].nonzero().flatten().tolist()


def test_kinds_of_tokens_follow_the_rounds():
    for length, accepted, kinds in ((0, [], ""), (1, [], "t"), (6, [2, 1], "tddtdt"), (5, [2, 1], "tddtd")):
        assert "".join(kind[0] for kind in strips.token_kinds(length, accepted)) == kinds


def test_marks_need_no_colour_and_honour_no_color(monkeypatch):
    words, kinds = ["the", " red", " fox", " hat", "."], ["target", "draft", "draft", "rejected", "target"]
    assert strips.mark(words, kinds, "marks") == "the‹ red fox›[✗ hat]."
    assert strips.mark(words, kinds, "plain") == "the red fox hat."
    assert ";4;" in strips.mark(words, kinds, "colour"), "underlined, for readers who see no colours"
    page = ElementTree.fromstring(strips.strip([*words[:4], "<\n"], kinds).replace("&ensp;", " ").replace("<br>", ""))
    marks = [part for part in page.find("div") if part.get("title")]
    assert [part.tag for part in marks] == ["b", "u", "u", "s", "b"] and marks[-1].text == "<⏎"
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setenv("NO_COLOR", "1")
    assert strips.style_for(terminal) == "marks" and strips.style_for(io.StringIO()) == "plain"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "xterm")
    assert strips.style_for(terminal) == "colour"


def test_pieces_never_split_a_character():
    tokenizer = SimpleNamespace(decode=lambda ids, **_: bytes(ids).decode(errors="replace"))  # tokens are UTF-8's bytes
    text = "für 5 €"
    found = [*map(strips.Pieces(tokenizer).push, text.encode())]
    assert "".join(found) == text and all(piece in text for piece in found) and len(found) == len(text.encode())


def test_the_distribution_at_a_node_follows_temperature_and_cuts(bench):
    one = bench.run(settings()).rounds[0]
    logits, children = bench.target.lm_head(one.features[:1])[0], one.tree.token[one.children(0)]
    curve = instruments.acceptance_curve(bench.target, one, 0, 1.0)
    for temperature in (0.5, 1.0, 2.0):
        found = instruments.node_distribution(bench.target, one, 0, SamplingConfig(temperature))
        p = (logits / temperature).softmax(-1)
        assert found.p.tolist() == pytest.approx(p[found.token.tolist()].tolist())
        assert dict(curve)[temperature] == pytest.approx(float(p[children].sum()))
    cut = instruments.node_distribution(bench.target, one, 0, SamplingConfig(1.0, top_p=0.3))
    assert (cut.p == 0).any() and cut.p.max() > cut.at_one.max()
    figure, text = instruments.temperature_picture(found, SamplingConfig(2.0), curve, {"fspad": [(0, 3), (1, 2)]})
    widths = {round(bar.get_y() + bar.get_height() / 2): bar.get_width() for bar in figure.axes[0].patches}
    assert [widths[row] for row in found.index] == pytest.approx(found.p.tolist()) and len(figure.axes) == 3
    assert f"have probability {dict(curve)[2.0]:.2f}" in text


# ---- widgets, without a kernel: events are fired ----


@pytest.fixture
def explorer(bench):
    made = Explorer(bench, tree=TREE, sampling=SamplingConfig(1.0, seed=3), max_new_tokens=8).wait()
    yield made
    made.stop()
    made.wait()


def test_controls_change_the_speed_and_never_the_text(explorer):
    assert explorer.run.settings.prompt == (0, 2, 8, 9, 3) and not explorer.error.value and explorer.cancel.disabled
    before = explorer.run
    for control, value in ((explorer.depth, 1), (explorer.draft, "fspad")):
        control.value = value
        explorer.wait()
    after = explorer.run
    assert after.settings.tree.depth == 1 and after.settings.draft == "fspad"
    assert after.answer.tokens == before.answer.tokens and explorer.tried.value.count("the same text") == 3
    assert explorer.stepper.run is after and "Verify" in explorer.stepper.text
    data, metadata = explorer._repr_mimebundle_()  # where widgets do not run: a picture, and a line without times
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG") and "widget-view" in str(data.keys())
    assert data["text/plain"] == explorer.text == metadata["image/png"]["alt"] and " s," not in explorer.text
    explorer.question.index = 1
    explorer.wait()
    assert explorer.prompt.value == "w3" and explorer.tried.value.count("the same text") == 1
    explorer.prompt.value = "w1 w2"
    assert explorer.wait().run.settings.prompt == (0, 2, 5, 6, 3)


def test_errors_are_shown_and_the_picture_stays(explorer, monkeypatch):
    shown = explorer.stepper.picture.value
    explorer.total.value = 120
    assert "Lower total_tokens" in explorer.error.value and 'role="alert"' in explorer.error.value
    explorer.prompt.value = "  "
    assert "expected a prompt" in explorer.error.value and explorer.stepper.picture.value == shown
    monkeypatch.setattr(explorer.bench, "run", lambda *_: 1 / 0)
    explorer.total.value, explorer.prompt.value = 10, "w4"
    explorer.wait()
    assert "ZeroDivisionError" in explorer.error.value and "Traceback" in explorer.error.value
    monkeypatch.undo()
    explorer.again.click()
    assert explorer.wait().run.settings.tree.total_tokens == 10 and not explorer.error.value


def test_cancel_stops_and_a_later_wish_replaces_an_earlier_one(explorer, monkeypatch):
    real, began, asked, before = explorer.bench.run, threading.Event(), [], explorer.run

    def slow_at_first(settings, stopped, progress):
        asked.append(settings.tree.depth)
        if len(asked) > 2:
            return real(settings, stopped, progress)
        progress("eagle: 3 tokens")
        began.set()
        while not stopped():
            threading.Event().wait(0.001)
        raise Cancelled("stopped")

    monkeypatch.setattr(explorer.bench, "run", slow_at_first)
    explorer.again.click()
    assert began.wait(20) and "⏳ eagle: 3 tokens" in explorer.status.value and not explorer.cancel.disabled
    explorer.cancel.click()
    explorer.wait()
    assert explorer.status.value == "Stopped." and explorer.cancel.disabled and explorer.run is before
    began.clear()
    explorer.depth.value = 1
    assert began.wait(20)
    explorer.depth.value = 2
    assert explorer.wait().run.settings.tree.depth == 2 and asked == [3, 1, 2] and not explorer.status.value


def test_stepping_through_all_stages_of_all_rounds(bench):
    run, seen = bench.run(settings(tree=TreeConfig(2, 1, 5), tokens=4)), []
    stepper, stages = TreeStepper(run, str), drawer.stage_names(2)
    stepper.previous.click()
    assert stepper.place == 0, "there is nothing before the first step"
    for _ in range(len(run.rounds) * len(stages) + 2):
        seen.append((stepper.round.value, stepper.stage.value))
        stepper.next.click()
    assert [*dict.fromkeys(seen)] == [(r, s) for r in range(1, len(run.rounds) + 1) for s in stages]
    stepper.play.value = 1
    assert (stepper.round.value, stepper.stage.value) == (1, "grow 2") and "Grow" in stepper.text
    stepper.stage.value, before = "score", stepper.picture.value
    stepper.node.value = 3
    assert stepper.picture.value != before and f"{run.rounds[0].p[3]:.4f}" in stepper.numbers.value
    stepper.next.click()
    assert stepper.node.value == 3, "the choice stays from stage to stage"
    stepper.show_run(bench.run(settings(tokens=1)))
    stepper.next.click()
    assert "there was no round" in stepper.text and not stepper.error.value


def test_number_panels_follow_their_controls(bench):
    panel, costs, broken = TemperaturePanel(bench, bench.run(settings())), CostPanel(), BrokenPanel()
    panel.temperature.value, panel.node.value = 0.0, 2
    assert panel.found.p.max() == 1.0 and panel.text.startswith("Round 1, node 2") and len(panel.figure.axes) == 2
    panel.measure.click()
    panel.wait()
    assert dict(panel.measured["eagle (this prompt)"])[1.0] == panel.run.answer.tau and len(panel.figure.axes) == 3
    costs.sliders[4].value = 0.0
    slow = costs.figure.axes[1].lines[0].get_xdata()
    assert "does not pay" in costs.text and len(slow) == len(costs.land), "every tree has its cross"
    broken.rule.value, broken.runs.value = "scored against q", 500
    assert broken.trials[1].counts.total() == 500 and "p-value below 1e-6" in broken.text
    assert not any(one.error.value for one in (panel, costs, broken))
