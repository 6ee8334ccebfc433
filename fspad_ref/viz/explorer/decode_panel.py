"""The explorer itself: a prompt, a draft or two side by side, sliders for tree and sampling, and what comes of them."""

import functools
import html
from collections.abc import Callable

import ipywidgets as w
from matplotlib.figure import Figure

from fspad_ref.data import CATEGORIES
from fspad_ref.errors import InputError
from fspad_ref.sampling import SamplingConfig
from fspad_ref.teaching.exercises import pieces, token_kinds
from fspad_ref.tree import TreeConfig
from fspad_ref.viz.explorer.markup import framed, strip
from fspad_ref.viz.explorer.panels import WIDE, Panel, slider, table
from fspad_ref.viz.explorer.runs import Run, Settings, Workbench
from fspad_ref.viz.explorer.stage_svg import tree_svg
from fspad_ref.viz.explorer.stages import run_claim, same_text, stage_claim, stage_view, tips
from fspad_ref.viz.style import token_claim, token_strip

FREE, NOBODY = "free text", "nobody"


class Explorer(Panel):
    """Decode a prompt and see which tokens were guessed, how often the target ran, and the tree of a chosen round.

    Every change of a control decodes anew, in the background; settings once used are remembered. `runs` holds the last
    result of each side, `run` the first side's; functions in `listeners` are called with it.

    Args:
        bench: target, drafts, and the held-out questions to choose from.
        prompt: a text to begin with, instead of the first question.
        tree, sampling, max_new_tokens: settings to begin with.
        draft: the draft to begin with; by default the bench's first.
    """

    def __init__(
        self,
        bench: Workbench,
        *,
        prompt: str = "",
        tree: TreeConfig | None = None,
        sampling: SamplingConfig | None = None,
        max_new_tokens: int = 48,
        draft: str | None = None,
    ):
        self.bench, self.runs, self._silent = bench, [], False
        self.listeners: list[Callable[[Run], None]] = []
        self.tried: dict[tuple, set] = {}  # what a text depends on -> settings that were tried with it
        self._make_controls(tree or TreeConfig(), sampling or SamplingConfig(), max_new_tokens, draft)
        self.sides = [(w.HTML(), w.HTML(), w.HTML()) for _ in range(2)]  # numbers, strip, tree
        self.columns = [w.VBox(side, layout=w.Layout(width="100%", min_width="0px")) for side in self.sides]
        self.round = slider(w.IntSlider, "round", 1, 1, 1, 1)
        prompt_row = w.HBox([self.task, self.question], layout=w.Layout(flex_flow="row wrap"))
        drafts_row = w.HBox([self.draft, self.other], layout=w.Layout(flex_flow="row wrap"))
        sliders = w.HBox([w.VBox(self.shape), w.VBox(self.chance)], layout=w.Layout(flex_flow="row wrap"))
        buttons = w.HBox([self.again])
        super().__init__([prompt_row, self.prompt, drafts_row, sliders, buttons], [self.round, w.HBox(self.columns)])
        buttons.children = [self.again, self.cancel, self.status]
        if prompt:
            self.task.value, self.prompt.value, self.question.disabled = FREE, prompt, True
        else:
            self._take_question()
        self._observe()  # only now: what is above should not decode
        self.decode()

    # --- controls ---

    def _make_controls(self, tree: TreeConfig, sampling: SamplingConfig, longest: int, draft: str | None) -> None:
        asked = {one.category for one in self.bench.questions}
        tasks = [task for task in CATEGORIES if task in asked]
        self.task = w.Dropdown(options=[*tasks, FREE], description="task", style=WIDE)
        self.question = w.Dropdown(description="question", style=WIDE, layout=w.Layout(width="34em"))
        self.prompt = w.Textarea(description="prompt", continuous_update=False, style=WIDE,
                                 layout=w.Layout(width="90%", height="5em"))  # fmt: skip
        names = list(self.bench.drafts)
        self.draft = w.Dropdown(options=names, value=draft or names[0], description="draft", style=WIDE)
        self.other = w.Dropdown(options=[NOBODY, *names], description="beside it", style=WIDE)
        self.depth = slider(w.IntSlider, "depth", tree.depth, 1, 8, 1)
        self.top_k = slider(w.IntSlider, "top-k", tree.top_k, 1, 16, 1)
        self.total = slider(w.IntSlider, "total tokens", tree.total_tokens, 1, 120, 1)
        self.temperature = slider(w.FloatSlider, "temperature", sampling.temperature, 0.0, 2.0, 0.1)
        self.top_p = slider(w.FloatSlider, "top-p", sampling.top_p, 0.05, 1.0, 0.05)
        self.seed = slider(w.IntSlider, "seed", sampling.seed, 0, 50, 1)
        self.longest = slider(w.IntSlider, "new tokens", longest, 1, max(128, longest), 1)
        self.shape = [self.depth, self.top_k, self.total, self.longest]
        self.chance = [self.temperature, self.top_p, self.seed]
        self.again = w.Button(description="Decode", tooltip="Decode with these settings")

    def _observe(self) -> None:
        self.task.observe(lambda _: self._take_question(), "value")
        self.question.observe(lambda _: self._take_prompt(), "value")
        for control in (self.prompt, self.draft, self.other, *self.shape, *self.chance):
            control.observe(lambda _: self._silent or self.decode(), "value")
        self.again.on_click(lambda _: self.decode())
        self.round.observe(lambda _: self._silent or self._draw_trees(), "value")

    def _take_question(self) -> None:
        """List the task's questions; the first one becomes the prompt. Free text keeps what is there."""
        mine = [one for one in self.bench.questions if one.category == self.task.value]
        texts = [(f"{one.question_id}: {one.turns[0][:70]}", one.turns[0]) for one in mine]
        silent, self._silent = self._silent, True
        self.question.options = texts
        self.question.index = 0 if texts else None  # a list that was empty does not select by itself
        self.question.disabled = not texts
        self._silent = silent
        self._take_prompt()

    def _take_prompt(self) -> None:
        if not self._silent and self.question.value is not None:
            self.prompt.value = self.question.value

    # --- decoding ---

    def settings(self) -> list[Settings]:
        """One or two, for the chosen drafts. Raises ConfigError or InputError for what cannot be decoded."""
        if not self.prompt.value.strip():
            raise InputError("expected a prompt, found none. Type some text, or choose a question.")
        ids = tuple(self.bench.encode(self.prompt.value))
        tree = TreeConfig(self.top_k.value, self.depth.value, self.total.value)
        sampling = SamplingConfig(self.temperature.value, self.top_p.value, seed=self.seed.value)
        names = [name for name in (self.draft.value, self.other.value) if name != NOBODY]
        return [Settings(ids, name, tree, sampling, self.longest.value) for name in names]

    def decode(self) -> None:
        """Start decoding with the controls' settings; see `wait`."""
        wanted: list[Settings] = []
        with self.guard():
            wanted = self.settings()
        if not wanted:
            self.stop()  # what is still being decoded is not what the controls say
            return
        self.in_background(lambda *hooks: [self.bench.run(one, *hooks) for one in wanted], self._take)

    def _take(self, runs: list[Run]) -> None:
        self.runs = runs
        self.tried.setdefault(runs[0].settings.text, set()).update(run.settings for run in runs)
        self._silent = True
        self.round.max = max(1, *(len(run.rounds) for run in runs))
        self._silent = False
        for column, side in enumerate(self.sides):
            for view in side:
                view.value = ""
            self.columns[column].layout.display = None if column < len(runs) else "none"
        for run, (numbers, text, _) in zip(runs, self.sides, strict=False):
            numbers.value = self._numbers(run)
            label = token_claim(self._kinds(run))
            text.value = strip(self._pieces(run), self._kinds(run), f"Draft: {run.settings.draft}", label)
        self.tell(run_claim(runs[0]), functools.partial(self._strip_figure, runs[0]))
        self._draw_trees()
        for listen in self.listeners:
            listen(self.run)

    @property
    def run(self) -> Run:
        """The first side's last result. Raises InputError while there is none."""
        if not self.runs:
            raise InputError("expected a finished decoding, found none yet. Wait for it: explorer.wait().")
        return self.runs[0]

    def _numbers(self, run: Run) -> str:
        fast, plain = (f"{1000 * one.seconds:.0f} ms" for one in (run, run.plain))
        times = f"{fast}, plain decoding {plain}: {run.speedup:.2f} times as fast"
        tried = len(self.tried[run.settings.text])
        kept = f"{tried} setting{'s' * (tried > 1)} of draft and tree tried with this prompt, sampling and seed."
        rows = {
            "draft": run.settings.draft,
            "tau, tokens a target forward": f"{run.tau:.2f}",
            "target forwards": f"{run.forwards} for {len(run.tokens)} tokens",
            "time (one measurement)": times,
            "text": f"{same_text(run)} {kept}",
        }
        return table(rows)

    def _strip_figure(self, run: Run) -> Figure:
        return token_strip(self._pieces(run), self._kinds(run), f"Draft: {run.settings.draft}")

    def _kinds(self, run: Run) -> list[str]:
        return token_kinds(len(run.tokens), run.accepted)

    def _pieces(self, run: Run) -> list[str]:
        tokenizer = self.bench.target.tokenizer
        return pieces(tokenizer, run.tokens) if tokenizer else [f" {self.bench.words(t)}" for t in run.tokens]

    def _draw_trees(self) -> None:
        with self.guard():
            for run, (_, _, tree) in zip(self.runs, self.sides, strict=False):
                number = min(self.round.value, len(run.rounds)) - 1
                if number < 0:
                    tree.value = html.escape("The text ended with its first token: there was no round.")
                    continue
                view = stage_view(run, number, "accept", self.bench.words)
                title = f"{run.settings.draft}: round {number + 1} of {len(run.rounds)}"
                text, told = f"Round {number + 1}. {stage_claim(view)}", tips(run, number, view, self.bench.words)
                drawn = framed(tree_svg(view, title=title, tips=told, label=text), "the tree")
                tree.value = f'{drawn}<p style="line-height: 1.4">{html.escape(text)}</p>'
