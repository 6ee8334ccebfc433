"""Panels of numbers: temperature, the cost model, and verification rules that are broken on purpose."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import ipywidgets as w

from fspad_ref.bench.costs import Costs, Terms, measure_costs
from fspad_ref.errors import CheckpointError
from fspad_ref.files import load_json
from fspad_ref.sampling import SamplingConfig
from fspad_ref.teaching.broken import BROKEN, LOSSLESS, Place, animals
from fspad_ref.tree import TreeConfig
from fspad_ref.viz.explorer.laws import acceptance_curve, node_law, tau_curve
from fspad_ref.viz.explorer.number_plots import (
    cost_claim,
    cost_picture,
    law_claim,
    law_picture,
    trial_claim,
    trial_picture,
)
from fspad_ref.viz.explorer.panels import WIDE, Panel, slider
from fspad_ref.viz.explorer.prices import IDEAL, Acceptance, Prices, landscape, prices_of
from fspad_ref.viz.explorer.runs import Cancelled, Memory, Progress, Run, Stopped, Workbench
from fspad_ref.viz.explorer.trials import place_at, trial
from fspad_ref.viz.tree_views import short

WRAP = w.Layout(flex_flow="row wrap")


class TemperaturePanel(Panel):
    """The target's law at a node against temperature and top-p, and how much of it the draft has guessed.

    Features are recorded, so moving temperature or top-p takes no pass of the target; the button decodes the run's
    prompt at several temperatures for tau.

    Args:
        bench, run: where the nodes come from; `show_run` takes another run.
        recorded: name -> temperature -> tau, drawn beside (see `laws.recorded_taus`).
        temperatures: at which the button decodes.
    """

    def __init__(
        self,
        bench: Workbench,
        run: Run,
        recorded: Mapping[str, Mapping[float, float]] | None = None,
        temperatures: Sequence[float] = (0.0, 0.5, 1.0, 1.5),
    ):
        self.bench, self.recorded, self.temperatures = bench, dict(recorded or {}), tuple(temperatures)
        self.measured: dict[str, Mapping[float, float]] = {}
        self._silent, self.curves = True, Memory(64)
        self.round = slider(w.IntSlider, "round", 1, 1, 1, 1)
        self.node = slider(w.IntSlider, "node", 0, 0, 0, 1)
        self.temperature = slider(w.FloatSlider, "temperature", 1.0, 0.0, 2.0, 0.05)
        self.top_p = slider(w.FloatSlider, "top-p", 1.0, 0.05, 1.0, 0.05)
        self.measure = w.Button(description="Measure tau", tooltip="Decode this prompt at several temperatures")
        sliders = [w.VBox([self.round, self.node]), w.VBox([self.temperature, self.top_p])]
        work = w.HBox([self.measure])
        super().__init__([w.HBox(sliders, layout=WRAP), work])
        work.children = [self.measure, self.cancel, self.status]
        for control in (self.round, self.node, self.temperature, self.top_p):
            control.observe(lambda _: self._silent or self._draw(), "value")
        self.measure.on_click(lambda _: self._measure())
        self.show_run(run)

    def show_run(self, run: Run) -> None:
        """Look at the nodes of another run."""
        with self.guard():
            self.run, self._silent, self.measured = run, True, {}
            self.round.value, self.node.value, self.round.max = 1, 0, max(1, len(run.rounds))
            self._silent = False
        self._draw()

    def _draw(self) -> None:
        with self.guard():
            if not self.run.rounds:
                self.tell("The text ended with its first token: there was no round.")
                return
            one = self.run.rounds[self.round.value - 1]
            self._silent, self.node.max = True, len(one.tree) - 1
            self._silent = False
            target, node, top_p = self.bench.target, self.node.value, self.top_p.value
            law = node_law(target, one, node, SamplingConfig(self.temperature.value, top_p), self.bench.words)
            curves = {f"top-p {top_p:g}": self._curve(node, top_p)}
            if top_p < 1:
                curves["no cut"] = self._curve(node, 1.0)
            word = short(self.bench.words(int(one.tree.token[node])))
            text = f"Round {self.round.value}, node {node}, after '{word}'. {law_claim(law)}"
            self.law = law
            self.show_picture(law_picture(law, curves, self.recorded | self.measured), text)

    def _curve(self, node: int, top_p: float) -> tuple[float, ...]:
        """Of the round on show; it does not depend on the temperature's slider, and is remembered."""
        number = self.round.value
        one, key = self.run.rounds[number - 1], (self.run.settings, number, node, top_p)
        return self.curves.get(key, lambda: acceptance_curve(self.bench.target, one, node, top_p))

    def _measure(self) -> None:
        settings = self.run.settings

        def take(taus: Mapping[float, float]) -> None:
            self.measured = {f"{settings.draft}, this prompt": taus}
            self._draw()

        self.in_background(lambda *hooks: tau_curve(self.bench, settings, self.temperatures, *hooks), take)


class CostPanel(Panel):
    """Predicted speedup over depth and size of the tree, for any prices and any acceptance; the best point is marked.

    Args:
        bench: to measure this machine with; without one, there is no button for that.
        presets: name -> prices, a button each, beside those for ideal machines; `tuned_prices` reads some.
        prices, acceptance: to begin with.
    """

    def __init__(
        self,
        bench: Workbench | None = None,
        presets: Mapping[str, Prices] | None = None,
        prices: Prices | None = None,
        acceptance: Acceptance | None = None,
    ):
        prices, acceptance = prices or Prices(), acceptance or Acceptance()
        self.bench, self._silent = bench, False
        self.target = slider(w.FloatSlider, "target, ms", prices.target, 0.1, 100.0, 0.1)
        self.draft = slider(w.FloatSlider, "draft, ms", prices.draft, 0.0, 50.0, 0.1)
        self.growth = slider(w.FloatSlider, "growth to N=60", prices.growth, 1.0, 60.0, 0.1)
        self.overhead = slider(w.FloatSlider, "overhead, ms", prices.overhead, 0.0, 20.0, 0.1)
        self.first = slider(w.FloatSlider, "best guess right", acceptance.first, 0.0, 1.0, 0.01)
        self.decay = slider(w.FloatSlider, "factor a level", acceptance.decay, 0.5, 1.0, 0.01)
        self.top_k = slider(w.IntSlider, "top-k", 10, 1, 16, 1)
        costs = [self.target, self.draft, self.growth, self.overhead]
        gains = [self.first, self.decay, self.top_k]
        self.presets = {name: self._button(name, one) for name, one in (IDEAL | dict(presets or {})).items()}
        self.measure = w.Button(description="Measure this machine", layout=w.Layout(width="auto"), disabled=not bench)
        work = w.HBox([self.measure])
        super().__init__(
            [w.HBox([w.VBox(costs), w.VBox(gains)], layout=WRAP), w.HBox([*self.presets.values()], layout=WRAP), work]
        )
        work.children = [self.measure, self.cancel, self.status]
        for control in (*costs, *gains):
            control.observe(lambda _: self._silent or self._draw(), "value")
        self.measure.on_click(lambda _: self._measure())
        self._draw()

    def _button(self, name: str, prices: Prices) -> w.Button:
        button = w.Button(description=name, tooltip=str(prices), layout=w.Layout(width="auto"))
        button.on_click(lambda _: self.set_prices(prices))
        return button

    def set_prices(self, prices: Prices) -> None:
        """Move the sliders to these prices, widening them where they are too short."""
        self._silent = True
        try:
            for name in ("target", "draft", "growth", "overhead"):
                control, value = getattr(self, name), getattr(prices, name)
                control.max, control.value = max(control.max, value), value
        finally:
            self._silent = False
        self._draw()

    def _draw(self) -> None:
        with self.guard():
            prices = Prices(self.target.value, self.draft.value, self.growth.value, self.overhead.value)
            self.land = landscape(prices, Acceptance(self.first.value, self.decay.value), self.top_k.value)
            self.show_picture(cost_picture(self.land), cost_claim(self.land))

    def _measure(self) -> None:
        self.in_background(lambda *hooks: measured_prices(self.bench, *hooks), self.set_prices)


def measured_prices(
    bench: Workbench, stopped: Stopped = lambda: False, progress: Progress = lambda text: None
) -> Prices:
    """This machine's prices, measured in a few seconds. Raises Cancelled soon after stopped() has become true."""

    def now() -> float:
        if stopped():
            raise Cancelled("expected to go on measuring, found a wish to stop. Measure again.")
        return time.perf_counter()

    progress("measuring this machine")
    draft, k = next(iter(bench.drafts.values())), min(10, bench.target.vocab_size)
    half = bench.target.max_positions // 2
    terms = Terms(min(64, half), min(128, half), tree_sizes=(1, 60), draft_rows=(1, k))
    costs = measure_costs(bench.target, draft, terms, repetitions=5, now=now)
    return prices_of(costs, TreeConfig(k, 5, 60))


def tuned_prices(path: str | Path) -> Prices:
    """Prices from a file that tuning has written. Raises CheckpointError for a file of another kind."""
    values = load_json(path)
    try:
        costs, tree = Costs.from_json(values["costs"], path), TreeConfig(**values["tree"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"expected a result of tuning in {path}, found something else ({error}). Tune again."
        ) from error
    return prices_of(costs, tree)


class BrokenPanel(Panel):
    """A verification rule beside the lossless one: histograms, p-values over the runs, and the exact distance.

    Args:
        place: where the rules are tried; by default chapter 01's.
        bench, run: with both, nodes of the run can be chosen as places, too.
    """

    def __init__(self, place: Place | None = None, bench: Workbench | None = None, run: Run | None = None):
        self.place, self.bench, self.run = place or animals(), bench, run
        self.rule = w.Dropdown(options=[*BROKEN, *LOSSLESS], description="rule", style=WIDE)
        self.runs = w.SelectionSlider(options=(200, 500, 1000, 2000, 5000, 10000), value=2000, description="runs",
                                      continuous_update=False, style=WIDE)  # fmt: skip
        self.seed = slider(w.IntSlider, "seed", 0, 0, 50, 1)
        self.where = w.Dropdown(options=[("a toy place", -1)], description="place", style=WIDE)
        if bench is not None and run is not None and run.rounds:
            nodes = [(f"round 1, node {v}", v) for v in range(len(run.rounds[0].tree))]
            self.where.options = [*self.where.options, *nodes]
        self.temperature = slider(w.FloatSlider, "temperature", 0.8, 0.1, 2.0, 0.1, disabled=run is None)
        controls = [w.VBox([self.rule, self.where, self.temperature]), w.VBox([self.runs, self.seed])]
        super().__init__([w.HBox(controls, layout=WRAP)])
        for control in (self.rule, self.runs, self.seed, self.where, self.temperature):
            control.observe(lambda _: self._draw(), "value")
        self._draw()

    def _draw(self) -> None:
        with self.guard():
            place = self.place
            if self.where.value >= 0:
                sampling = SamplingConfig(self.temperature.value)
                one = self.run.rounds[0]
                place = place_at(self.bench.target, one, self.where.value, sampling, self.bench.words)
            names = ("one draw", self.rule.value)
            self.trials = [trial(place, name, self.runs.value, self.seed.value) for name in names]
            self.show_picture(trial_picture(self.trials), trial_claim(self.trials))
