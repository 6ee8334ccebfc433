"""The tree stepper: through the rounds of a run, and within a round through expand, rerank, verify, accept."""

from collections.abc import Callable

import ipywidgets as w

from fspad_ref.viz.explorer.markup import framed
from fspad_ref.viz.explorer.panels import Panel, slider, table
from fspad_ref.viz.explorer.runs import Run
from fspad_ref.viz.explorer.stage_plots import stage_tree
from fspad_ref.viz.explorer.stage_svg import mask_svg, tree_svg
from fspad_ref.viz.explorer.stages import node_numbers, stage_claim, stage_names, stage_view, tips
from fspad_ref.viz.tree_views import short

NOBODY = -1
NONE = ("none", NOBODY)


class TreeStepper(Panel):
    """Previous, next, play; or choose round, stage and node. The chosen node's numbers stand beside the picture, and
    it has a ring in the tree, its row in the mask and its slot in the cache.

    Args:
        run: what to step through; `show_run` replaces it.
        words: token id -> text.
    """

    def __init__(self, run: Run, words: Callable[[int], str] = str):
        self.words, self._moving = words, False
        self.previous = w.Button(description="◀ previous", tooltip="One stage back")
        self.next = w.Button(description="next ▶", tooltip="One stage on")
        self.play = w.Play(value=0, min=0, max=1, interval=1500, description="play")
        self.round = slider(w.IntSlider, "round", 1, 1, 1, 1)
        self.stage = w.Dropdown(options=["accept"], description="stage")
        self.node = w.Dropdown(options=[NONE], description="node")
        self.numbers, self.mask = w.HTML(), w.HTML()
        beside = w.VBox([self.mask, self.numbers], layout=w.Layout(flex="4 1 28em", min_width="0px"))
        buttons = w.HBox([self.previous, self.next, self.play])
        choices = w.HBox([self.round, self.stage, self.node], layout=w.Layout(flex_flow="row wrap"))
        super().__init__([buttons, choices])
        self.picture.layout = w.Layout(flex="5 1 34em", min_width="0px")
        views = w.HBox([self.picture, beside], layout=w.Layout(flex_flow="row wrap"))
        self.children = [view if view is not self.picture else views for view in self.children]
        self.previous.on_click(lambda _: self._go(self.place - 1))
        self.next.on_click(lambda _: self._go(self.place + 1))
        self.play.observe(lambda change: self._go(change["new"]), "value")
        for control in (self.round, self.stage):
            control.observe(lambda _: self._moving or self._go(self.place), "value")
        self.node.observe(lambda _: self._moving or self._draw(), "value")
        self.show_run(run)

    @property
    def stages(self) -> list[str]:
        return stage_names(self.run.settings.tree.levels)

    @property
    def place(self) -> int:
        """Number of the step, over all stages of all rounds."""
        return (self.round.value - 1) * len(self.stages) + self.stages.index(self.stage.value)

    def show_run(self, run: Run) -> None:
        """Step through another run, from its first stage on."""
        with self.guard():
            self.run, self._moving = run, True
            try:
                self.round.value, self.round.max = 1, max(1, len(run.rounds))
                self.stage.options, self.stage.value = self.stages, self.stages[0]
                self.play.max = max(0, len(run.rounds) * len(self.stages) - 1)
            finally:
                self._moving = False
            if not run.rounds:
                self.tell("The text ended with its first token: there was no round.")
                self.picture.value = self.mask.value = self.numbers.value = ""
                return
        self._go(0)

    def _go(self, place: int) -> None:
        """Show step number `place`; beyond the ends there is none, and nothing changes."""
        if self._moving or not self.run.rounds or not 0 <= place <= self.play.max:
            return
        self._moving = True
        try:
            number, stage = divmod(place, len(self.stages))
            self.round.value, self.stage.value, self.play.value = number + 1, self.stages[stage], place
            self._list_nodes()
        finally:
            self._moving = False
        self._draw()

    def _list_nodes(self) -> None:
        one, chosen = self.run.rounds[self.round.value - 1], self.node.value
        tokens = one.tree.token.tolist()
        options = [NONE, *((f"{v}: {short(self.words(t))}", v) for v, t in enumerate(tokens))]
        if options != list(self.node.options):
            self.node.options = options
            self.node.value = chosen if chosen < len(tokens) else NOBODY

    def _draw(self) -> None:
        with self.guard():
            number, node = self.round.value - 1, self.node.value
            view = stage_view(self.run, number, self.stage.value, self.words)
            self.view, ring = view, node if view.numbered and node != NOBODY else None
            title = f"Round {number + 1} of {len(self.run.rounds)}: {self.stage.value}"
            text = f"Round {number + 1}. {stage_claim(view)}"
            told = tips(self.run, number, view, self.words)
            self.picture.value = framed(tree_svg(view, ring, title, told, text), "the tree")
            self.mask.value = framed(mask_svg(view, ring, f"Ancestor mask and cache. {text}"), "mask and cache")
            self.tell(text, lambda: stage_tree(view, ring, title))
            self.numbers.value = "" if node == NOBODY else table(node_numbers(self.run, number, node, self.words))
