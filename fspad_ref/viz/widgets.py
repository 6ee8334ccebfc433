"""The explorer's widgets, for notebooks: they need ipywidgets, which comes with the extra `notebooks`.

    bench = Workbench(target, {"eagle": ..., "fspad": ...}, read_questions("../data/old/questions.jsonl"))
    explorer = Explorer(bench)                         prompt, drafts, sliders; decodes in the background
    TreeStepper(explorer.wait().run, bench.words)      one round after another, stage by stage, node by node
    TemperaturePanel(bench, explorer.run)              the law at a node, expected acceptance, tau
    CostPanel(bench)                                   what a round costs, and which tree is best
    BrokenPanel()                                      verification rules that are not lossless

A cell that ends with a widget shows it; `widget.show()` prints its claim under it as well. Where no kernel runs, a
picture and a line of text stand in for it.
"""

try:
    import ipywidgets  # noqa: F401
except ImportError as error:
    raise ImportError(
        "expected ipywidgets, which the explorer's widgets are made of, found no such package. Install the extra: "
        'pip install "fspad_ref[notebooks]", from a checkout pip install -e ".[notebooks]".'
    ) from error

from fspad_ref.viz.explorer.decode_panel import Explorer
from fspad_ref.viz.explorer.laws import recorded_taus
from fspad_ref.viz.explorer.number_panels import BrokenPanel, CostPanel, TemperaturePanel, tuned_prices
from fspad_ref.viz.explorer.prices import Acceptance, Prices
from fspad_ref.viz.explorer.runs import Run, Settings, Workbench
from fspad_ref.viz.explorer.stepper import TreeStepper

__all__ = [
    "Acceptance",
    "BrokenPanel",
    "CostPanel",
    "Explorer",
    "Prices",
    "Run",
    "Settings",
    "TemperaturePanel",
    "TreeStepper",
    "Workbench",
    "recorded_taus",
    "tuned_prices",
]
