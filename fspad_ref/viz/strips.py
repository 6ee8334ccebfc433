"""A text token by token, each token marked by who proposed it: for the terminal, for plain text, for HTML.

Colour is never the only sign: tokens are also underlined, bold or struck through, which survives where colours do not.

>>> token_kinds(length=6, accepted=[2, 1])
['target', 'draft', 'draft', 'target', 'draft', 'target']
>>> mark(["the", " red", " fox"], ["target", "draft", "draft"], style="marks")
'the‹ red fox›'
"""

import html
import itertools
import os
from collections.abc import Sequence
from io import TextIOBase
from typing import Literal

from fspad_ref.errors import InputError, require

Style = Literal["colour", "marks", "plain"]

# kind of token -> what it is; terminal colours and marks, before and after; HTML tag and CSS
KINDS = {
    "draft": ("proposed by the draft, accepted", ("\x1b[1;4;32m", "\x1b[0m"), ("‹", "›"), "u", "background: #56B4E9"),
    "target": ("the target's own", ("", ""), ("", ""), "b", "background: #F8D48A; border-bottom: 3px double"),
    "rejected": ("proposed, rejected", ("\x1b[2;9m", "\x1b[0m"), ("[✗", "]"), "s", "color: #555555"),
    "prompt": ("prompt", ("", ""), ("", ""), "span", "color: #555555"),
}


def token_kinds(length: int, accepted: Sequence[int]) -> list[str]:
    """ "draft" or "target" for each of `length` new tokens of a text decoded in `len(accepted)` rounds.

    The first token is the target's own. Then each round gives its accepted tokens and one of the target's own (the
    bonus token), which the last round may lack. Raises InputError if the rounds do not add up to `length`.
    """
    kinds = ["target", *(kind for count in accepted for kind in ["draft"] * count + ["target"])]
    right = length in (len(kinds), len(kinds) - 1) or length == 0 and not accepted
    found = f"{len(accepted)} rounds that accepted {sum(accepted)} tokens, which make {len(kinds)}"
    require(right, InputError, f"rounds that add up to {length} tokens", found, "Give one number per round.")
    return kinds[:length]


def token_claim(kinds: Sequence[str]) -> str:
    """What the marks show, in one line."""
    draft, own = kinds.count("draft"), kinds.count("target")
    return f"{draft} of {draft + own} tokens were proposed by the draft and accepted; {own} are the target's own."


def style_for(stream: TextIOBase) -> Style:
    """How to mark tokens on `stream`: "colour" on a terminal, "marks" if NO_COLOR is set there or TERM is dumb.

    Anything else, a file or a pipe, gets the "plain" text.
    """
    if not stream.isatty():
        return "plain"
    return "marks" if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else "colour"


def mark(pieces: Sequence[str], kinds: Sequence[str], style: Style) -> str:
    """The text of `pieces` with every run of one kind marked: by colour and underline, by signs, or not at all."""
    text = ""
    for kind, group in itertools.groupby(zip(pieces, kinds, strict=True), key=lambda pair: pair[1]):
        run, (_, colour, signs, *_) = "".join(piece for piece, _ in group), KINDS[kind]
        before, after = {"colour": colour, "marks": signs, "plain": ("", "")}[style]
        text += f"{before}{run}{after}" if run else ""
    return text


def strip(pieces: Sequence[str], kinds: Sequence[str]) -> str:
    """The text as HTML with a legend; it wraps, can be selected and is read aloud as text.

    Raises InputError for lists of unequal length or an unknown kind.
    """
    if len(pieces) != len(kinds) or not set(kinds) <= set(KINDS):
        raise InputError(f"expected a kind of {[*KINDS]} for each of {len(pieces)} tokens, found {list(kinds)}.")

    def part(kind: str, text: str) -> str:
        meaning, _, _, tag, css = KINDS[kind]
        return f'<{tag} style="{css}; margin: 0 1px; padding: 0 1px" title="{meaning}">{text}</{tag}>'

    shown = (html.escape(piece).replace("\n", "⏎<br>") for piece in pieces)
    text = "".join(map(part, kinds, shown))
    legend = " &ensp; ".join(part(kind, KINDS[kind][0]) for kind in KINDS if kind in kinds)
    return (
        f'<div style="background: white; color: black; padding: 0.4em; line-height: 1.7"><div class="fspad-text" '
        f'style="white-space: pre-wrap">{text}</div><small>{legend}</small></div>'
    )


def visible(token: str, longest: int = 14) -> str:
    """One token on one line: blanks and line breaks made visible, never empty, long ones cut."""
    shown = token.replace(" ", "␣").replace("\n", "⏎").replace("\t", "→") or "∅"
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


class Pieces:
    """Token ids in, text out: what each token adds to the text so far.

    A token may end inside a character: then its piece is "", and the token that completes the character has all of
    it. Special tokens add nothing.
    """

    def __init__(self, tokenizer) -> None:
        self.tokenizer, self.ids, self.text = tokenizer, [], ""

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
