"""The map of the book: which idea each chapter treats, and which modules hold it.

The map is drawn from `BOOK`, and the tests hold that against the files.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from figures.idea_plots import PLAIN, box
from fspad_ref.viz.style import BLUE, DARK, GREEN, ORANGE, SKY, VERMILION, styled


@dataclass(frozen=True)
class Chapter:
    """One chapter: its number and idea, the part of the book, and the modules (files, or folders with a slash)."""

    number: int
    idea: str
    part: str
    modules: tuple[str, ...]


MODULES = (
    "sampling.py",
    "cache.py",
    "target.py",
    "draft.py",
    "loss.py",
    "tree.py",
    "verify.py",
    "generate.py",
    "train.py",
    "official.py",
    "adapter.py",
    "lab/",
    "show/",
)
PARTS = {"speculative decoding": (SKY, ""), "FSPAD": (ORANGE, "///"), "in use": (GREEN, "...")}
BOOK = (
    Chapter(0, "guess a tree, check it in one pass", "speculative decoding", ("generate.py",)),
    Chapter(1, "the law of the text stays the target's", "speculative decoding", ("sampling.py", "verify.py")),
    Chapter(2, "what a feature knows, and what it cannot", "FSPAD", ("target.py",)),
    Chapter(3, "feature sampling: the token gates the feature", "FSPAD", ("draft.py",)),
    Chapter(4, "partial alignment: two vectors for two jobs", "FSPAD", ("draft.py", "loss.py")),
    Chapter(5, "training a draft, four ways", "FSPAD", ("train.py",)),
    Chapter(6, "growing the tree of guesses", "speculative decoding", ("tree.py",)),
    Chapter(7, "checking a tree without a loop", "speculative decoding", ("verify.py", "cache.py")),
    Chapter(8, "acceptance, speed, and when it pays", "in use", ("lab/",)),
    Chapter(9, "the explorer: one round under a lens", "in use", ("show/",)),
    Chapter(10, "real models and published drafts", "in use", ("official.py", "adapter.py")),
)


@styled
def book_map(book: Sequence[Chapter] = BOOK) -> Figure:
    """Chapters with their ideas on the left, modules on the right in the order in which to read them."""
    figure = Figure(figsize=(8.2, 0.44 * len(MODULES) + 0.9), layout="constrained")
    axes = figure.subplots()
    step = (len(MODULES) - 1) / (len(book) - 1)  # both columns have the same height
    for place, chapter in enumerate(book):
        fill, hatch = PARTS[chapter.part]
        box(axes, 0.04, place * step, f"{chapter.number:02}", fill, hatch, width=0.06)
        box(axes, 0.315, place * step, "", *PLAIN, width=0.47)
        axes.text(0.095, place * step, chapter.idea, va="center", fontsize=9.5, zorder=3)
        for module in chapter.modules:
            axes.plot((0.555, 0.835), (place * step, MODULES.index(module)), color=_line(fill), linewidth=1.6, zorder=1)
    for place, module in enumerate(MODULES):
        box(axes, 0.915, place, module, *PLAIN, width=0.15)
    for x, text in ((0.01, "chapter and idea"), (0.84, "module")):
        axes.text(x, -0.9, text, va="center", weight="bold")
    axes.set(xlim=(0, 1), ylim=(len(MODULES) - 0.5, -1.3))
    axes.axis("off")
    handles = [Patch(facecolor=f, hatch=h, edgecolor=DARK, label=part) for part, (f, h) in PARTS.items()]
    figure.legend(handles=handles, loc="outside lower left", ncols=3)
    return figure


def map_claim(book: Sequence[Chapter] = BOOK) -> str:
    """How many chapters and modules there are, and which parts of the book treat what."""
    parts = [f"{part} in {', '.join(f'{c.number:02}' for c in book if c.part == part)}" for part in PARTS]
    modules = {module for chapter in book for module in chapter.modules}
    return f"{len(book)} chapters, {len(modules)} modules: {'; '.join(parts)}."


def _line(fill: str) -> str:
    return {SKY: BLUE, ORANGE: VERMILION}.get(fill, fill)  # thin lines need the darker neighbour
