"""The built-in world: a small invented universe of text for the six tasks of Spec-Bench.

A grammar and a lexicon (``data/lexicon``) write dialogues without end: English to German translation,
questions about an invented country, arithmetic, passages to quote and to summarise, conversation.
Every task is a function ``task(dice, held) -> Exchange``; `dice.held_out` alone decides what training never sees.
"""

from pathlib import Path

from fspad_ref.errors import InputError

DATA = Path(__file__).resolve().parents[2] / "data"


def data_file(name: str) -> Path:
    """Path of ``data/<name>``; raises InputError if this copy of the package came without it."""
    path = DATA / name
    if not path.exists():
        raise InputError(
            f"expected the built-in world's file {name!r} in {DATA}, found nothing there; "
            "install the package from a checkout of its repository with `pip install -e .`"
        )
    return path
