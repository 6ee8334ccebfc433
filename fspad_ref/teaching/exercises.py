"""What chapters show and ask: checks, figures with alternative text, source code, exercises that check themselves."""

import ast
import base64
import inspect
import io
import itertools
import json
import os
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from io import TextIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fspad_ref.errors import InputError

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

    width, height = (round(side * figure.dpi) for side in figure.get_size_inches())
    data = {"image/png": base64.b64encode(small_png(figure)).decode(), "text/plain": str(figure)}
    display(data, raw=True, metadata={"image/png": {"width": width, "height": height, "alt": text}})
    claim(text)


def small_png(figure: "Figure") -> bytes:
    """A PNG of 1.5 times the figure's size, sharp on dense screens, in 256 colours: a third of the bytes."""
    from PIL import Image  # installed with matplotlib

    full, small = io.BytesIO(), io.BytesIO()
    figure.savefig(full, format="png", dpi=1.5 * figure.dpi)
    palette = Image.open(full).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    palette.save(small, format="png", optimize=True)
    return small.getvalue()


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


# ---- tokens marked by who proposed them: moves to viz/strips.py ----

Style = Literal["colour", "marks", "plain"]
ACCEPTED, END = "\x1b[1;4;32m", "\x1b[0m"  # bold green and underlined: visible without colours, too


def token_kinds(length: int, accepted: Sequence[int]) -> list[str]:
    """ "draft" or "target" for each of `length` new tokens of an answer decoded in `len(accepted)` rounds.

    The first token is the target's own (from the prefill); then each round gives its accepted drafted tokens
    and one more of the target's own, which the last round may lack (end of the answer, or of the budget).
    Raises InputError if the rounds do not add up to `length`.
    """
    kinds = ["target"]
    for count in accepted:
        kinds += ["draft"] * count + ["target"]
    if length not in (len(kinds), len(kinds) - 1) and not (length == 0 and not accepted):
        raise InputError(f"{len(accepted)} rounds with {sum(accepted)} accepted tokens make {len(kinds)}, not {length}")
    return kinds[:length]


def style_for(stream: TextIOBase) -> Style:
    """How to mark tokens on `stream`: "colour" on a terminal, "marks" if NO_COLOR is set there or TERM is dumb.

    Anything else, a file or a pipe, gets the "plain" text.
    """
    if not stream.isatty():
        return "plain"
    return "marks" if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else "colour"


def mark(pieces: Sequence[str], kinds: Sequence[str], style: Style) -> str:
    """The text of `pieces` with every run of accepted draft tokens underlined in green, or between ‹ and ›."""
    before, after = {"colour": (ACCEPTED, END), "marks": ("‹", "›"), "plain": ("", "")}[style]
    text = ""
    for kind, group in itertools.groupby(zip(pieces, kinds, strict=True), key=lambda pair: pair[1]):
        run = "".join(piece for piece, _ in group)
        text += f"{before}{run}{after}" if kind == "draft" and run else run
    return text


class Pieces:
    """Token ids in, text out: what each token adds to the text so far.

    A token may end inside a character; then its piece is "" and the token that completes the character
    has it whole. Special tokens add nothing.
    """

    def __init__(self, tokenizer) -> None:
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self.text = ""

    def push(self, token: int) -> str:
        self.ids.append(token)
        # decoded from the start: what a token adds (a space, say) may depend on those before it
        text = self.tokenizer.decode(self.ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if text.endswith("\ufffd"):
            return ""
        piece, self.text = text[len(self.text) :], text
        return piece


def pieces(tokenizer, ids: Sequence[int]) -> list[str]:
    """The text that each of `ids` adds; joined, the whole text."""
    stream = Pieces(tokenizer)
    return [stream.push(token) for token in ids]
