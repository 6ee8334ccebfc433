"""The explorer's widgets, without a kernel: events are fired, and what they change is read off data and texts."""

import base64
import builtins
import importlib
import sys
import threading
import time
from xml.etree import ElementTree

import pytest
from explorer_bench import QUESTIONS, TREE, encode, make_bench, quiet, settings

from fspad_ref import SamplingConfig, TreeConfig
from fspad_ref.viz.explorer.runs import Cancelled
from fspad_ref.viz.widgets import (
    BrokenPanel,
    CostPanel,
    Explorer,
    Prices,
    TemperaturePanel,
    TreeStepper,
    tuned_prices,
)


@pytest.fixture(scope="module")
def bench():
    return make_bench()


@pytest.fixture(scope="module")
def run(bench):
    return bench.run(settings(), progress=quiet)


@pytest.fixture
def explorer(bench):
    made = Explorer(bench, tree=TREE, sampling=SamplingConfig(1.0, seed=3), max_new_tokens=8).wait()
    yield made
    made.stop()
    made.wait()


def letters(place) -> str:
    """What is written in a widget's markup, tooltips included."""
    return "".join(ElementTree.fromstring(f"<div>{place.value}</div>".replace("&emsp;", " ")).itertext())


# --- explorer ---


def test_it_decodes_the_first_question_and_says_what_it_found(explorer):
    assert explorer.run.settings.prompt == tuple(encode("who?")) and not explorer.error.value
    numbers, strip, tree = explorer.sides[0]
    assert "plain decoding&#x27;s, token by token (checked)" in numbers.value and "target forwards" in numbers.value
    words = "".join(explorer.bench.words(token) for token in explorer.run.tokens)
    assert words in letters(strip).replace(" ", "") and "eagle: round 1 of" in letters(tree)
    assert 'aria-label="Round 1. Accept:' in tree.value and explorer.columns[1].layout.display == "none"
    assert explorer.text.endswith("(checked).") and explorer.cancel.disabled and not explorer.status.value


def test_moving_a_slider_changes_the_tree_and_never_the_text(explorer):
    before = explorer.run
    explorer.depth.value = 1
    explorer.wait()
    explorer.draft.value = "fspad"
    explorer.wait()
    after = explorer.run
    assert after.settings.tree.depth == 1 and after.settings.draft == "fspad" and after.tokens == before.tokens
    assert "3 settings of draft and tree tried" in explorer.sides[0][0].value
    explorer.seed.value = 4
    explorer.wait()
    assert explorer.run.settings.sampling.seed == 4 and "1 setting of draft and tree" in explorer.sides[0][0].value


def test_two_drafts_side_by_side(explorer):
    explorer.other.value = "fspad"
    explorer.wait()
    assert [run.settings.draft for run in explorer.runs] == ["eagle", "fspad"]
    assert explorer.columns[1].layout.display is None and "fspad: round 1" in letters(explorer.sides[1][2])
    first = explorer.sides[1][2].value
    explorer.round.value = 2
    assert "Round 2. Accept:" in letters(explorer.sides[0][2]) and not explorer.error.value
    assert explorer.sides[1][2].value != first


def test_a_task_lists_its_questions_and_free_text_is_taken_as_it_is(explorer):
    explorer.task.value = "rag"
    explorer.wait()
    assert explorer.prompt.value == QUESTIONS[2].turns[0] and len(explorer.question.options) == 1
    explorer.task.value = "free text"
    explorer.prompt.value = "abc"
    explorer.wait()
    assert explorer.question.disabled and explorer.run.settings.prompt == tuple(encode("abc"))


def test_settings_that_contradict_each_other_are_shown_as_an_error_and_the_picture_stays(explorer):
    picture = explorer.sides[0][2].value
    explorer.total.value = 120
    assert "Lower total_tokens" in explorer.error.value and 'role="alert"' in explorer.error.value
    assert explorer.sides[0][2].value == picture
    explorer.total.value = 10
    explorer.wait()
    assert not explorer.error.value and explorer.run.settings.tree.total_tokens == 10
    explorer.prompt.value = "  "
    assert "expected a prompt" in explorer.error.value


def test_cancel_stops_a_decoding_and_the_next_one_works(explorer, monkeypatch):
    began = threading.Event()

    def endless(settings, stopped, progress):
        progress("eagle: 3 tokens")
        began.set()
        while not stopped():
            threading.Event().wait(0.001)
        raise Cancelled("stopped")

    monkeypatch.setattr(explorer.bench, "run", endless)
    before = explorer.run
    explorer.again.click()
    assert began.wait(20)
    assert "⏳ eagle: 3 tokens" in explorer.status.value and not explorer.cancel.disabled
    explorer.cancel.click()
    explorer.wait()
    assert explorer.status.value == "Stopped." and explorer.cancel.disabled and not explorer.error.value
    assert explorer.run is before
    monkeypatch.undo()
    explorer.again.click()
    explorer.wait()
    assert not explorer.status.value and explorer.run is before


def test_a_later_wish_replaces_an_earlier_one(explorer, monkeypatch):
    real, began, asked = explorer.bench.run, threading.Event(), []

    def slow_at_first(settings, stopped, progress):
        asked.append(settings.tree.depth)
        if len(asked) == 1:
            began.set()
            while not stopped():
                threading.Event().wait(0.001)
            raise Cancelled("stopped")
        return real(settings, stopped, progress)

    monkeypatch.setattr(explorer.bench, "run", slow_at_first)
    explorer.depth.value = 1
    assert began.wait(20)
    explorer.depth.value = 2
    explorer.wait()
    assert asked == [1, 2] and explorer.run.settings.tree.depth == 2 and not explorer.status.value


def test_an_error_of_any_kind_is_shown_with_where_it_happened(explorer, monkeypatch):
    def fails(settings, stopped, progress):
        raise ZeroDivisionError("by <nothing>")

    monkeypatch.setattr(explorer.bench, "run", fails)
    explorer.again.click()
    explorer.wait()
    assert "ZeroDivisionError" in explorer.error.value and "by &lt;nothing&gt;" in explorer.error.value
    assert "in fails" in explorer.error.value and explorer.cancel.disabled and not explorer.status.value


def test_a_panel_carries_a_png_and_a_line_for_where_widgets_do_not_run(explorer):
    data, metadata = explorer._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert data["text/plain"] == explorer.text == metadata["image/png"]["alt"]
    assert "application/vnd.jupyter.widget-view+json" in data and "\n" not in explorer.text
    assert not any(mark in explorer.text for mark in (" s,", "times as fast")), "no measured time in what is compared"


def test_listeners_follow(explorer):
    heard = []
    explorer.listeners.append(heard.append)
    explorer.depth.value = 2
    explorer.wait()
    assert len(heard) == 1 and heard[0] is explorer.run


# --- stepper ---


def test_stepping_through_all_stages_of_all_rounds(bench):
    run, seen = bench.run(settings(tokens=4)), []
    stepper = TreeStepper(run, str)
    stepper.previous.click()
    assert stepper.place == 0, "there is nothing before the first step"
    for _ in range(len(run.rounds) * len(stepper.stages) + 2):
        if not seen or seen[-1] != (stepper.round.value, stepper.stage.value):
            seen.append((stepper.round.value, stepper.stage.value))
        stepper.next.click()
    assert seen == [(r, s) for r in range(1, len(run.rounds) + 1) for s in stepper.stages]
    assert not stepper.error.value and stepper.place == stepper.play.max
    stepper.play.value = 1
    assert (stepper.round.value, stepper.stage.value) == (1, "level 2") and "Level 2" in stepper.text


def test_round_stage_and_node_can_be_chosen(run):
    stepper = TreeStepper(run, str)
    stepper.round.value = 2
    stepper.stage.value = "verify"
    assert stepper.play.value == stepper.place == len(stepper.stages) + stepper.stages.index("verify")
    assert "Round 2. Verify:" in stepper.picture.value and "Round 2 of" in letters(stepper.picture)
    assert "Ancestor mask and cache" in stepper.mask.value
    before = stepper.picture.value
    stepper.node.value = 3
    assert stepper.picture.value != before and f"{run.rounds[1].p[3]:.4f}" in stepper.numbers.value
    stepper.next.click()
    assert stepper.node.value == 3, "the choice stays from stage to stage"


def test_sixty_nodes_are_drawn_in_a_fraction_of_a_second(bench):
    stepper = TreeStepper(bench.run(settings(tree=TreeConfig(10, 5, 60), tokens=6), progress=quiet), str)

    def cost(name: str, value) -> float:
        began = time.thread_time()
        getattr(stepper, name).value = value
        return time.thread_time() - began

    stages = [cost("stage", name) for name in stepper.stages[1:]]
    nodes = [cost("node", node) for node in (1, 2, 3)]
    assert max(min(stages), min(nodes)) < 0.15 and len(stepper.view) == 61


def test_another_run_starts_at_its_beginning(bench, run):
    stepper = TreeStepper(run, str)
    stepper.round.value = 3
    other = bench.run(settings(draft="fspad", tokens=1), progress=quiet)
    stepper.show_run(other)
    assert "there was no round" in stepper.text
    stepper.next.click()
    stepper.show_run(run)
    assert stepper.place == 0 and stepper.view.name == "level 1" and not stepper.error.value


# --- numbers ---


def test_temperature_moves_the_law_without_decoding(bench, run, monkeypatch):
    monkeypatch.setattr(bench, "run", None)
    panel = TemperaturePanel(bench, run, {"recorded": {0.0: 3.0, 1.0: 2.0}})
    sharp = panel.law
    panel.temperature.value = 0.0
    assert panel.law.sampling.greedy and max(panel.law.p) == 1.0 > max(sharp.p)
    panel.temperature.value, panel.top_p.value = 1.0, 0.5
    assert panel.law.sampling == SamplingConfig(1.0, top_p=0.5) and "top-p 0.5" in panel.text
    panel.node.value = 2
    assert "node 2" in panel.text and not panel.error.value
    panel.round.value = 2
    assert panel.text.startswith("Round 2, node 2")
    assert len(panel.figure.axes) == 3, "recorded taus have a picture of their own"


def test_tau_over_temperature_is_measured_on_request(bench, run):
    panel = TemperaturePanel(bench, run, temperatures=(0.0, 1.0))
    assert len(panel.figure.axes) == 2
    panel.measure.click()
    panel.wait()
    taus = panel.measured["eagle, this prompt"]
    assert taus[1.0] == run.tau and set(taus) == {0.0, 1.0} and len(panel.figure.axes) == 3


def test_cost_sliders_and_presets_move_the_best_point():
    panel = CostPanel(presets={"mine": Prices(target=200.0, draft=0.5, growth=1.1, overhead=0.1)})
    before = panel.land.best
    panel.draft.value = 20.0
    assert panel.land.depths[panel.land.best[0]] == 1 and panel.land.best != before
    panel.presets["mine"].click()
    assert (panel.target.value, panel.draft.value, panel.growth.value) == (200.0, 0.5, 1.1)
    assert panel.land.depths[panel.land.best[0]] > 1 and not panel.error.value
    panel.first.value = 0.0
    assert "does not pay" in panel.text
    assert panel.measure.disabled, "nothing to measure with"


def test_this_machine_can_be_measured(bench):
    panel = CostPanel(bench)
    panel.measure.click()
    panel.wait()
    assert not panel.error.value and panel.target.value != Prices().target and panel.target.value > 0


def test_only_a_file_of_tuning_has_tuned_prices(tmp_path):
    file = tmp_path / "tuned.json"
    file.write_text("{}")
    with pytest.raises(ValueError, match="result of tuning"):
        tuned_prices(file)


def test_a_broken_rule_is_found_out(bench, run):
    panel = BrokenPanel(bench=bench, run=run)
    assert "one draw: p-value" in panel.text and panel.trials[0].distance == 0 < panel.trials[1].distance
    panel.rule.value = "scored against q"
    assert panel.trials[1].p_value < 1e-6 and "below 1e-6" in panel.text
    panel.runs.value = 5000
    panel.where.value = 0
    assert panel.trials[0].words != panel.place.words and not panel.error.value
    before = panel.text
    panel.runs.value = 200
    assert "Run more" in panel.error.value and panel.text == before


def test_without_ipywidgets_the_import_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "fspad_ref.viz.widgets")
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(ImportError, match=r"fspad_ref\[notebooks\]"):
        importlib.import_module("fspad_ref.viz.widgets")


def test_the_panels_print_nothing(run, monkeypatch):
    monkeypatch.setattr(builtins, "print", lambda *args, **kwargs: pytest.fail("a callback printed"))
    stepper = TreeStepper(run, str)
    stepper.next.click()
    CostPanel().draft.value = 2.0
