"""Where the nodes of a drawn tree stand, and the box with a word in it that stands for one of them."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from figures.style_old import DARK, PLATE


def tree_rows(parent: Sequence[int]) -> list[float]:
    """The height of every node: leaves one below the other, a parent in the middle of its children.

    Args:
        parent: of every node its parent's number; node 0 is the root, and its entry is not read.
    """
    children = [[v for v in range(1, len(parent)) if parent[v] == node] for node in range(len(parent))]
    row, leaves = [0.0] * len(parent), 0

    def place(node: int) -> None:
        nonlocal leaves
        if not children[node]:
            row[node], leaves = float(leaves), leaves + 1
            return
        for child in children[node]:
            place(child)
        row[node] = (row[children[node][0]] + row[children[node][-1]]) / 2

    place(0)
    return row


def word_box(axes: Axes, x: float, y: float, text: str, face: str, hatch: str) -> None:
    """A box of width 0.4 and height 0.42 around (x, y), filled and hatched, and its word on a white plate."""
    shape = {"boxstyle": "round,pad=0,rounding_size=0.06", "edgecolor": DARK, "hatch": hatch, "zorder": 2}
    axes.add_patch(FancyBboxPatch((x - 0.2, y - 0.21), 0.4, 0.42, facecolor=face, **shape))
    axes.text(x, y, text, ha="center", va="center", zorder=3, bbox=PLATE)
