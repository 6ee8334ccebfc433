"""Small things a chapter and the terminal say: checks, claims, tokens marked by where they came from.

>>> check("2 + 2 is 4", 2 + 2 == 4)
2 + 2 is 4: True
>>> token_kinds(length=6, accepted=[2, 1])
['target', 'draft', 'draft', 'target', 'draft', 'target']
>>> mark(["the", " red", " fox"], ["target", "draft", "draft"], style="marks")
'the‹ red fox›'
"""

import itertools
import os
from collections.abc import Sequence
from io import TextIOBase
from typing import Literal

from fspad_ref.errors import InputError

Style = Literal["colour", "marks", "plain"]

# Bold green and underlined: seen without colours, too.
ACCEPTED, END = "\x1b[1;4;32m", "\x1b[0m"


def check(name: str, condition: object) -> None:
    """Print "name: True", or raise AssertionError: a notebook cell that says something holds, and shows that it does.

    `condition` is anything with one truth value: a bool, a tensor of one element.
    """
    if not bool(condition):
        raise AssertionError(f"{name}: expected True, found {condition!r}")
    print(f"{name}: True")


def claim(text: str) -> None:
    """Print what the figure above shows, as its alternative text. Compared when the notebook is tested."""
    print(f"Figure: {text}")


def token_kinds(length: int, accepted: Sequence[int]) -> list[str]:
    """"draft" or "target" for each of `length` new tokens of an answer decoded in `len(accepted)` rounds.

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
