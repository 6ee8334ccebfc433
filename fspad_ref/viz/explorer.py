"""The explorer: five instruments under sliders, for notebooks. They need the extra `notebooks`.

    bench = Workbench(target, {"eagle": ..., "fspad": ...}, read_questions("data/questions.jsonl"))
    explorer = Explorer(bench).wait()             prompt, draft, tree, sampling; decodes in the background
    TreeStepper(explorer.run, bench.words)        one round after another, stage by stage, node by node
    TemperaturePanel(bench, explorer.run)         p at a node, expected acceptance, tau over temperature
    CostPanel()                                   what a round costs, and which tree is best
    BrokenPanel()                                 verification rules that are not lossless

A panel is a thin layer: its controls make settings, `runs` and `instruments` numbers, `drawer` and `instruments` a
picture. A cell that ends with a panel shows it; `panel.show()` prints its text, too. Where no kernel runs, a picture
and a line of text stand in for it.
"""

import contextvars
import html
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import ipywidgets as w
import pandas as pd
from IPython.display import display
from matplotlib.figure import Figure

from fspad_ref.data import prompt_ids
from fspad_ref.errors import FspadError, InputError
from fspad_ref.sampling import SamplingConfig
from fspad_ref.teaching.broken import BROKEN, LOSSLESS, animals
from fspad_ref.teaching.exercises import claim, small_png
from fspad_ref.tree import TreeConfig
from fspad_ref.viz import instruments
from fspad_ref.viz.drawer import draw, node_tip, round_view, stage_names
from fspad_ref.viz.instruments import Points
from fspad_ref.viz.runs import Cancelled, Progress, Run, Settings, Stopped, Words, Workbench
from fspad_ref.viz.strips import Pieces, strip, token_claim, token_kinds, visible
from fspad_ref.viz.style import svg

NO_ROUND = "The text ended with its first token: there was no round."
WORKER = ThreadPoolExecutor(1)  # one decoding at a time: they are timed, and two would slow each other down
DRAWING = threading.RLock()  # matplotlib's settings belong to the whole process
WIDE = {"description_width": "9em"}
FRAME = "width: 0; min-width: 100%; overflow: auto; max-height: 52em; background: white"  # what does not fit scrolls
ALERT = "border: 2px solid #D55E00; padding: 0.4em; background: white; color: black"


class Panel(w.VBox):
    """Controls, buttons, what went wrong, `before`, the picture and its text, `after`.

    figure, text: what is shown now. Both stand in for the panel where no kernel runs (GitHub, nbviewer).
    """

    def __init__(
        self, controls: Sequence[w.Widget], buttons: Sequence[w.Button] = (), before: Sequence[w.Widget] = (),
        after: Sequence[w.Widget] = (),
    ):  # fmt: skip
        self.figure: Figure | None = None
        self.text = "Nothing has been drawn yet."
        self.status, self.error, self.picture, self.caption = w.HTML(), w.HTML(), w.HTML(), w.HTML()
        self.cancel = button("Cancel", "Stop what is being decoded", self.stop)
        self.cancel.disabled, self._silent = True, False
        self._stop, self._work = threading.Event(), Future()
        self._work.set_result(None)
        work = [w.HBox([*buttons, self.cancel, self.status])] if buttons else []
        super().__init__([*controls, *work, self.error, *before, self.picture, self.caption, *after])

    def on_change(self, act: Callable[[], object], *controls: w.Widget) -> None:
        """Call act() when the value of a control changes, but not inside `silently`."""
        for control in controls:
            control.observe(lambda _: self._silent or act(), "value")

    @contextmanager
    def silently(self) -> Iterator[None]:
        """Controls that are moved inside start nothing."""
        before, self._silent = self._silent, True
        try:
            yield
        finally:
            self._silent = before

    def show_picture(self, figure: Figure | None, text: str, tips: Sequence[str] = ()) -> None:
        """Put a figure and its text on the screen; None: the text alone."""
        self.figure, self.text = figure, text
        drawn = "" if figure is None else svg(figure, text, tips)
        self.picture.value = f'<div style="{FRAME}" tabindex="0" role="group">{drawn}</div>'
        self.caption.value = f'<p style="line-height: 1.4">{html.escape(text)}</p>'

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        """The widget, and beside it a PNG and a line of text for where widgets do not run."""
        data = (super()._repr_mimebundle_(**kwargs) or {}) | {"text/plain": self.text}
        if self.figure is None:
            return data, {}
        with DRAWING:
            picture, metadata = small_png(self.figure, self.text)
        return data | picture, metadata

    def show(self) -> None:
        """Display the panel and, as under every figure, its text."""
        display(self)
        claim(self.text)

    @contextmanager
    def guard(self) -> Iterator[None]:
        """An error inside is shown in the panel (in a callback nobody else would see it); the picture stays."""
        self.error.value = ""
        try:
            with DRAWING:
                yield
        except Exception as error:
            where = "" if isinstance(error, FspadError) else "".join(traceback.format_exception(error))
            message = f"<b>{type(error).__name__}</b>: {html.escape(str(error))}<pre>{html.escape(where)}</pre>"
            self.error.value = f'<div role="alert" style="{ALERT}">{message}</div>'

    def in_background(self, work: Callable[[Stopped, Progress], Any], done: Callable[[Any], None]) -> None:
        """Run work(stopped, progress) in a thread, in place of what is running there; then done(result)."""
        self._stop.set()
        stop = self._stop = threading.Event()
        self.cancel.disabled, self.status.value = False, "⏳ waiting …"

        def progress(text: str) -> None:
            if self._stop is stop:
                self.status.value = f'<span role="status" aria-live="polite">⏳ {html.escape(text)} …</span>'

        def task() -> None:
            try:
                result = None if stop.is_set() else work(stop.is_set, progress)
                if not stop.is_set():
                    with self.guard():
                        done(result)
            except Cancelled:
                pass  # asked for, and said below
            except Exception as error:
                with self.guard():
                    raise error
            if self._stop is stop:  # no other piece of work has replaced this one
                self.cancel.disabled, self.status.value = True, "Stopped." if stop.is_set() else ""

        # output of the thread belongs to the cell or event that began it
        self._work = WORKER.submit(contextvars.copy_context().run, task)

    def stop(self) -> None:
        """Ask what is running to stop; it does so after the current round."""
        if not self._work.done():
            self._stop.set()
            self.status.value = "Stopped."

    def wait(self) -> "Panel":
        """Return when the work in the background is done: for scripts, and for cells that show the panel."""
        self._work.result()
        return self


def slider(name: str, value: float, low: float, high: float, step: float = 1) -> w.Widget:
    """A slider that reports when it is let go: what it changes takes a while."""
    kind = w.IntSlider if isinstance(step, int) else w.FloatSlider
    return kind(value=value, min=low, max=high, step=step, description=name, continuous_update=False, style=WIDE,
                layout=w.Layout(width="25em"))  # fmt: skip


def choice(name: str, options: Sequence, width: str = "25em") -> w.Dropdown:
    return w.Dropdown(options=options, description=name, style=WIDE, layout=w.Layout(width=width))


def button(name: str, tooltip: str, act: Callable[[], object]) -> w.Button:
    made = w.Button(description=name, tooltip=tooltip, layout=w.Layout(width="auto"))
    made.on_click(lambda _: act())
    return made


def row(*widgets: w.Widget) -> w.HBox:
    return w.HBox(widgets, layout=w.Layout(flex_flow="row wrap"))


class Explorer(Panel):
    """Decode a prompt: the marked text, a table of all settings tried with it, and a stepper through the last run.

    Every change of a control decodes anew in the background; what was decoded once is remembered. `run` is the last
    result. All arguments but the first are what to begin with.
    """

    def __init__(
        self, bench: Workbench, prompt: str = "", tree: TreeConfig | None = None,
        sampling: SamplingConfig | None = None, max_new_tokens: int = 48,
    ):  # fmt: skip
        self.bench, self.run = bench, None
        tree, sampling = tree or TreeConfig(), sampling or SamplingConfig()
        questions = [(f"{one.category}: {one.turns[0][:70]}", one.turns[0]) for one in bench.questions]
        self.question = choice("question", questions, "48em")
        self.prompt = w.Textarea(prompt or self.question.value or "", description="prompt", continuous_update=False,
                                 style=WIDE, layout=w.Layout(width="90%", height="5em"))  # fmt: skip
        self.draft = choice("draft", list(bench.drafts))
        self.depth = slider("depth", tree.depth, 1, 8)
        self.top_k = slider("top-k", tree.top_k, 1, 16)
        self.total = slider("total tokens", tree.total_tokens, 1, 120)
        self.temperature = slider("temperature", sampling.temperature, 0.0, 2.0, 0.1)
        self.top_p = slider("top-p", sampling.top_p, 0.05, 1.0, 0.05)
        self.seed = slider("seed", sampling.seed, 0, 50)
        self.longest = slider("new tokens", max_new_tokens, 1, max(128, max_new_tokens))
        self.strip, self.tried, self.stepper = w.HTML(), w.HTML(), TreeStepper(None, bench.words, "verify")
        speed = (self.draft, self.depth, self.top_k, self.total)
        text = (self.temperature, self.top_p, self.seed, self.longest)
        self.again = button("Decode", "Decode with these settings", self.decode)
        super().__init__(
            [self.question, self.prompt, row(w.VBox(speed), w.VBox(text))],
            [self.again], before=[self.strip, self.tried], after=[self.stepper],
        )  # fmt: skip
        self.on_change(lambda: setattr(self.prompt, "value", self.question.value), self.question)
        self.on_change(self.decode, self.prompt, *speed, *text)
        self.decode()

    def settings(self) -> Settings:
        """What the controls say. Raises ConfigError or InputError for what cannot be decoded."""
        if not self.prompt.value.strip():
            raise InputError("expected a prompt, found none. Type some text, or choose a question.")
        tree = TreeConfig(self.top_k.value, self.depth.value, self.total.value)
        sampling = SamplingConfig(self.temperature.value, self.top_p.value, seed=self.seed.value)
        ids = tuple(prompt_ids(self.bench.target.tokenizer, [], self.prompt.value))
        return Settings(ids, self.draft.value, tree, sampling, self.longest.value)

    def decode(self) -> None:
        """Start decoding; see `wait`."""
        self.stop()  # what is still being decoded is not what the controls say
        with self.guard():
            wanted = self.settings()
            self.in_background(lambda *hooks: self.bench.run(wanted, *hooks), self._take)

    def _take(self, run: Run) -> None:
        kinds = token_kinds(len(run.answer.tokens), run.answer.accepted)
        self.strip.value = strip([*map(Pieces(self.bench.target.tokenizer).push, run.answer.tokens)], kinds)
        self.run, self.tried.value = run, self._table(run)
        self.stepper.show_run(run)
        self.show_picture(None, f"{token_claim(kinds)} Compared with plain decoding: {_same_text(run)}.")
        self.figure = self.stepper.figure  # where no kernel runs

    def _table(self, run: Run) -> str:
        """All settings tried with this prompt, sampling and length: one text, at different speeds."""
        rows = [("no draft", "", 1.0, len(run.answer.tokens), f"{run.plain_seconds:.2f} s", "plain decoding")]
        for one in (one for one in self.bench.runs.values() if one.settings.text == run.settings.text):
            name, tree = one.settings.draft + " ◂ shown" * (one is run), one.settings.tree
            time = f"{one.seconds:.2f} s, {one.plain_seconds / one.seconds:.2f} times as fast"
            size = f"{tree.depth}, {tree.top_k}, {tree.total_tokens}"
            rows.append((name, size, one.answer.tau, 1 + len(one.rounds), time, _same_text(one)))
        names = ["draft", "depth, k, N", "tau", "target passes", "time (one measurement)", "text"]
        table = pd.DataFrame(rows, columns=names).to_html(index=False, border=0, float_format="%.2f", justify="left")
        return table.replace("<table", '<table cellpadding="5"')


def _same_text(run: Run) -> str:
    return "the same text" if run.parted is None else f"another text from token {run.parted + 1} on (a near-tie?)"


class TreeStepper(Panel):
    """Previous, next, play; or choose round, stage and node. The chosen node has a ring, and its numbers stand below.

    run: what to step through, None until `show_run` gives one. words: token id -> text. stage: to begin with.
    """

    def __init__(self, run: Run | None, words: Words = str, stage: str = "grow 1"):
        self.words, self.run = words, run
        self.play = w.Play(value=0, min=0, max=1, interval=1500, description="play")
        self.round, self.stage = slider("round", 1, 1, 1), choice("stage", [stage], "16em")
        self.node, self.numbers = choice("node", [("none", None)], "20em"), w.HTML()
        self.previous = button("◀ previous", "One stage back", lambda: self._go(self.place - 1))
        self.next = button("next ▶", "One stage on", lambda: self._go(self.place + 1))
        controls = [row(self.previous, self.next, self.play), row(self.round, self.stage, self.node)]
        super().__init__(controls, after=[self.numbers])
        self.on_change(lambda: self._go(self.play.value), self.play)
        self.on_change(lambda: self._go(self.place), self.round, self.stage)
        self.on_change(self._draw, self.node)
        if run is not None:
            self.show_run(run)

    @property
    def place(self) -> int:
        """Number of the step, over all stages of all rounds."""
        return (self.round.value - 1) * len(self.stage.options) + self.stage.index

    def show_run(self, run: Run) -> None:
        """Step through another run, from its first round on; the stage stays, if the run has it."""
        self.run, names = run, stage_names(run.settings.tree.levels)
        with self.silently():
            stage = self.stage.value if self.stage.value in names else names[0]
            self.stage.options, self.stage.value = names, stage
            self.round.value, self.round.max = 1, len(run.rounds) or 1
            self.play.max = max(0, len(run.rounds) * len(names) - 1)
        self._go(self.place)

    def _go(self, place: int) -> None:
        """Show step number `place`; beyond the ends nothing changes."""
        if not self.run.rounds:
            self.numbers.value = ""
            self.show_picture(None, NO_ROUND)
        elif 0 <= place <= self.play.max:
            with self.silently():
                number, self.stage.index = divmod(place, len(self.stage.options))
                self.round.value, self.play.value = number + 1, place
                tokens, chosen = self.run.rounds[number].tree.token.tolist(), self.node.value
                names = [(f"{node}: {visible(self.words(token))}", node) for node, token in enumerate(tokens)]
                self.node.options = [("none", None), *names]
                self.node.value = chosen if chosen is None or chosen < len(tokens) else None
            self._draw()

    def _draw(self) -> None:
        with self.guard():
            number, node, stage = self.round.value - 1, self.node.value, self.stage.value
            view = round_view(self.run, number, stage, self.words)
            figure = draw(view, node, f"round {number + 1} of {len(self.run.rounds)}: {stage}")
            self.show_picture(figure, view.claim, [box.tip for box in view.boxes])
            tip = "" if node is None else node_tip(self.run.rounds[number], node, self.words)
            self.numbers.value = f'<pre style="line-height: 1.4">{html.escape(tip)}</pre>'


class TemperaturePanel(Panel):
    """p at a node against temperature and top-p, and how much of it the draft has proposed.

    Moving the sliders takes no pass of the target; the button decodes the run's prompt at several temperatures for tau.
    recorded: method -> [(temperature, tau), ...], drawn beside.
    """

    def __init__(self, bench: Workbench, run: Run, recorded: Mapping[str, Points] | None = None):
        self.bench, self.run, self.recorded, self.measured = bench, run, dict(recorded or {}), {}
        self.round, self.node = slider("round", 1, 1, len(run.rounds) or 1), slider("node", 0, 0, 0)
        self.temperature, self.top_p = slider("temperature", 1.0, 0.0, 2.0, 0.05), slider("top-p", 1.0, 0.05, 1.0, 0.05)
        self.measure = button("Measure tau", "Decode this prompt at several temperatures", self._measure)
        sliders = row(w.VBox([self.round, self.node]), w.VBox([self.temperature, self.top_p]))
        super().__init__([sliders], [self.measure])
        self.on_change(self._draw, self.round, self.node, self.temperature, self.top_p)
        self._draw()

    def _draw(self) -> None:
        if not self.run.rounds:
            return self.show_picture(None, NO_ROUND)
        with self.guard():
            one, target, words = self.run.rounds[self.round.value - 1], self.bench.target, self.bench.words
            with self.silently():
                self.node.max = len(one.tree) - 1
            node, sampling = self.node.value, SamplingConfig(self.temperature.value, self.top_p.value)
            self.found = instruments.node_distribution(target, one, node, sampling, words)
            curve, taus = instruments.acceptance_curve(target, one, node, sampling.top_p), self.recorded | self.measured
            figure, text = instruments.temperature_picture(self.found, sampling, curve, taus)
            word = visible(words(int(one.tree.token[node])))
            self.show_picture(figure, f"Round {self.round.value}, node {node}, after '{word}'. {text}")

    def _measure(self) -> None:
        one = self.run.settings
        wanted = [replace(one, sampling=replace(one.sampling, temperature=t)) for t in (0.0, 0.5, 1.0, 1.5)]
        self.in_background(lambda *hooks: [self.bench.run(settings, *hooks) for settings in wanted], self._take)

    def _take(self, runs: Sequence[Run]) -> None:
        points = [(run.settings.sampling.temperature, run.answer.tau) for run in runs if run.rounds]
        self.measured = {f"{self.run.settings.draft} (this prompt)": points}
        self._draw()


class CostPanel(Panel):
    """Predicted speedup over depth and size of the tree, for any costs and acceptance; the star is the best tree."""

    def __init__(self):
        settings = (
            ("target, ms", 10.0, 0.1, 200.0, 0.1), ("draft, ms", 1.0, 0.0, 200.0, 0.1),
            ("growth to N=60", 1.5, 1.0, 60.0, 0.1), ("overhead, ms", 0.5, 0.0, 50.0, 0.1),
            ("best guess right", 0.7, 0.0, 1.0, 0.01), ("factor per level", 0.95, 0.5, 1.0, 0.01), ("top-k", 10, 1, 16),
        )  # fmt: skip
        self.sliders = [slider(*one) for one in settings]
        super().__init__([row(w.VBox(self.sliders[:4]), w.VBox(self.sliders[4:]))])
        self.on_change(self._draw, *self.sliders)
        self._draw()

    def _draw(self) -> None:
        with self.guard():
            self.land = instruments.landscape(*(control.value for control in self.sliders))
            self.show_picture(*instruments.cost_picture(self.land))


class BrokenPanel(Panel):
    """A verification rule beside the lossless one: exact distributions, counts, p-values as runs are added."""

    def __init__(self):
        self.place, self.seed = animals(), slider("seed", 0, 0, 50)
        self.rule, self.runs = choice("rule", [*BROKEN, *LOSSLESS]), choice("runs", (200, 500, 1000, 2000, 5000, 10000))
        self.runs.value = 2000
        super().__init__([row(self.rule, self.runs, self.seed)])
        self.on_change(self._draw, self.rule, self.runs, self.seed)
        self._draw()

    def _draw(self) -> None:
        with self.guard():
            rules, runs, seed = ("one draw", self.rule.value), self.runs.value, self.seed.value
            self.trials = [instruments.trial(self.place, rule, runs, seed) for rule in rules]
            self.show_picture(*instruments.trial_picture(*self.trials))
