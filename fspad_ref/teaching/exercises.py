"""What chapters show and ask: checks, figures with alternative text, source code, exercises that check themselves."""

import ast
import base64
import inspect
import io
import itertools
import json
import re
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line works without matplotlib
    from matplotlib.figure import Figure


def check(name: str, condition: object) -> None:
    """Print "name: True", or raise AssertionError. `condition` has one truth value: a bool, a tensor of one element."""
    if not bool(condition):
        raise AssertionError(f"{name}: expected True, found {condition!r}")
    print(f"{name}: True")


def claim(text: str) -> None:
    """Print what the figure above shows."""
    print(f"Figure: {text}")


def show_figure(figure: "Figure", text: str) -> None:
    """Show `figure` in a notebook, with `text` under it and as its alternative text."""
    from IPython.display import display  # only notebooks need Jupyter

    data, metadata = small_png(figure, text)
    display(data | {"text/plain": str(figure)}, raw=True, metadata=metadata)
    claim(text)


def small_png(figure: "Figure", text: str) -> tuple[dict, dict]:
    """For notebooks, data and metadata: the figure with `text` as its alternative text.

    A PNG of 1.5 times the figure's size, sharp on dense screens, in 256 colours: a third of the bytes.
    """
    from PIL import Image  # installed with matplotlib

    full, small = io.BytesIO(), io.BytesIO()
    figure.savefig(full, format="png", dpi=1.5 * figure.dpi)
    palette = Image.open(full).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    palette.save(small, format="png", optimize=True)
    width, height = (round(side * figure.dpi) for side in figure.get_size_inches())
    data = {"image/png": base64.b64encode(small.getvalue()).decode()}
    return data, {"image/png": {"width": width, "height": height, "alt": text}}


def show_source(function: Callable) -> None:
    """Show the source code of a function of the package, without its docstring."""
    from IPython.display import display

    source = textwrap.dedent(inspect.getsource(function))
    definition, lines = ast.parse(source).body[0], source.splitlines()
    if ast.get_docstring(definition):
        del lines[definition.body[0].lineno - 1 : definition.body[0].end_lineno]
    code = "\n".join(lines)
    display({"text/markdown": f"```python\n{code}\n```", "text/plain": code}, raw=True)


def check_answer(name: str, answer: object, test: Callable[[object], object]) -> None:
    """Say whether the reader's `answer` to an exercise passes `test`; `...` stands for an answer not yet given."""
    if answer is ...:
        print(f"{name}: waiting for your answer")
    else:
        print(f"{name}: {'right' if test(answer) else 'not right yet'}")


def check_solutions(notebook: str | Path, namespace: Mapping[str, object]) -> None:
    """Run every folded solution of `notebook` with the check above it; raise AssertionError where one fails.

    A solution is the Python block in a markdown cell with <details>; the code cell just above it calls `check_answer`.
    Both run in a copy of `namespace`, the notebook's globals(), so the reader's own answers stay as they are.
    """
    cells = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
    passed = []

    def insist(name: str, answer: object, test: Callable[[object], object]) -> None:
        if answer is ... or not test(answer):
            raise AssertionError(f"{name}: the folded solution does not pass the check above it")
        passed.append(name)

    folded = [pair for pair in itertools.pairwise(cells) if "<details>" in "".join(pair[1]["source"])]
    for check_cell, solution in folded:
        scope = dict(namespace) | {"check_answer": insist}
        exec(re.search(r"```python\n(.*?)```", "".join(solution["source"]), re.DOTALL)[1], scope)
        exec("".join(check_cell["source"]), scope)
    check(f"{len(passed)} of {len(folded)} folded solutions pass their checks", 0 < len(passed) == len(folded))
