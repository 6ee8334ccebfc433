"""Small pieces of HTML and SVG for what changes under a slider.

SVG is written in milliseconds where a figure takes most of a second; it is sharp at every size, and the <title> of a
part is what the browser shows while the pointer rests on it: no script, and nothing loaded from anywhere. Everything
stands on white with dark ink, so it reads alike on light and dark themes.
"""

import html
from collections.abc import Sequence

from fspad_ref.viz.style import BLACK, BLUE, ORANGE, SKY, VERMILION
from fspad_ref.viz.tree_views import Role

FONT = "'DejaVu Sans', Verdana, 'Segoe UI', Helvetica, Arial, sans-serif"
POINTED = f"<style>.fspad-part:hover > .fspad-edge {{stroke: {VERMILION}; stroke-width: 3px}}</style>"
DASHES = {"-": "", ":": "2 3", "--": "6 3"}
LEAST = 0.75  # of its size, then text would be too small
STEP = 8  # pixels between the lines of a hatch
WIDEST = 0.62  # of the font's size: what a letter takes at most, on average

# kind of token -> (look, what it is); a colour and a line under it each
TOKENS = {
    "draft": (f"background: {SKY}; border-bottom: 3px solid {BLUE}", "proposed by the draft, accepted"),
    "target": (
        f"background: repeating-linear-gradient(135deg, {ORANGE} 0 5px, #F5C765 5px 8px); "
        f"border-bottom: 3px double {BLACK}",
        "the target's own",
    ),
}


def framed(content: str, label: str, height: str = "46em") -> str:
    """On white, in a box as wide as its place, which scrolls what does not fit; the keyboard reaches it."""
    style = f"width: 0; min-width: 100%; overflow: auto; max-height: {height}; background: white; color: black"
    return f'<div style="{style}" tabindex="0" role="group" aria-label="{html.escape(label)}">{content}</div>'


def svg(width: float, height: float, body: str, label: str) -> str:
    """A drawing of that size in pixels, in a narrow place down to LEAST of it; `label` is its alternative text."""
    size = f"width: 100%; max-width: {width:.0f}px; min-width: {LEAST * width:.0f}px; height: auto"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'aria-label="{html.escape(label)}" style="display: block; {size}; background: white; font-family: {FONT}" '
        f'dominant-baseline="central">{POINTED}{body}</svg>'
    )


def part(body: str, tip: str) -> str:
    """A part of a drawing that tells `tip` when the pointer rests on it."""
    return f'<g class="fspad-part">{body}<title>{html.escape(tip)}</title></g>'


def box(x: float, y: float, width: float, height: float, look: Role) -> str:
    """A rectangle with a role's fill, edge, corners and hatch."""
    colour, style, thick = look.edge
    dash = f' stroke-dasharray="{DASHES[style]}"' if DASHES[style] else ""
    round_ = ' rx="6"' if look.corner == "round" else ""
    return (
        f'<rect class="fspad-edge" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"{round_} '
        f'fill="{look.fill}" stroke="{colour}" stroke-width="{thick}"{dash}/>{_hatch(x, y, width, height, look.hatch)}'
    )


def _hatch(x: float, y: float, width: float, height: float, pattern: str) -> str:
    """Diagonals through a box, faint enough for text on top: rising for "/", crossed for "x"."""
    if not pattern:
        return ""
    lines = []
    for foot in range(STEP - int(height), int(width), STEP):  # where a line meets the lower edge, or would
        ends = max(foot, 0), min(foot + height, width)
        lines += ["ML"[i] + f"{x + end:.0f} {y + height - end + foot:.0f}" for i, end in enumerate(ends)]
        if "x" in pattern:
            lines += ["ML"[i] + f"{x + end:.0f} {y + end - foot:.0f}" for i, end in enumerate(ends)]
    return f'<path d="{"".join(lines)}" fill="none" stroke="black" stroke-opacity="0.22" pointer-events="none"/>'


def ring(x: float, y: float, width: float, height: float) -> str:
    """The mark of what is selected."""
    where = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect {where} fill="none" stroke="{VERMILION}" stroke-width="4" pointer-events="none"/>'


def words(
    x: float, y: float, text: str, size: float = 11, anchor: str = "middle", colour: str = BLACK, room: float = 0
) -> str:
    """A line of text with its middle at height y. What may take more than `room` pixels is squeezed into them."""
    fit = f' textLength="{room:.0f}" lengthAdjust="spacingAndGlyphs"' if 0 < room < WIDEST * size * len(text) else ""
    where = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"'
    return f'<text {where} fill="{colour}"{fit} pointer-events="none">{html.escape(text)}</text>'


def legend(entries: Sequence[tuple[Role | None, str]], y: float, width: float, columns: int) -> str:
    """Swatches with what they mean, in rows of `columns`; None has no swatch."""
    parts = []
    for place, (look, label) in enumerate(entries):
        left, middle = 10 + (width - 10) / columns * (place % columns), y + 20 * (place // columns)
        parts.append(
            (box(left, middle - 6, 22, 12, look) if look else "") + words(left + 30, middle, label, 11, "start")
        )
    return "".join(parts)


def strip(tokens: Sequence[str], kinds: Sequence[str], title: str, label: str) -> str:
    """A text, token by token, each marked by its kind ("draft" or "target"); it can be selected and read aloud."""
    marks = "".join(
        f'<span style="{TOKENS[kind][0]}; margin: 1px; padding: 0 1px; display: inline-block" '
        f'title="{html.escape(TOKENS[kind][1])}">{html.escape(_seen(token))}</span>'
        for token, kind in zip(tokens, kinds, strict=True)
    )
    shown = [kind for kind in TOKENS if kind in kinds]
    keys = "".join(f'<span style="{TOKENS[kind][0]}">&emsp;</span> {TOKENS[kind][1]} &emsp;' for kind in shown)
    text = f'<div class="fspad-text" style="font-family: monospace; white-space: pre-wrap">{marks}</div>'
    head = f'<div style="font-weight: bold">{html.escape(title)}</div>'
    body = f'<div style="padding: 0.3em; line-height: 1.7">{head}{text}<div style="font-size: 90%">{keys}</div></div>'
    return framed(body, label)


def _seen(token: str) -> str:
    """A token as it can be seen: never empty, without line breaks."""
    return token.replace("\n", "⏎").replace("\t", "→") or "∅"
