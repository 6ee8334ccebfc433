"""The errors a user of the package may want to catch.

Each message says three things: what was expected, what was found, and what to do about it. All of them derive from
`FspadError`, and from the built-in exception a reader would guess, so `except ValueError` works too.
"""

from typing import Any


class FspadError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigError(FspadError, ValueError):
    """A setting is outside its range, or two settings contradict each other."""


class InputError(FspadError, ValueError):
    """A prompt, a data file or a row of logits that cannot be worked with."""


class CheckpointError(FspadError, ValueError):
    """A file of weights or settings is missing, damaged, or not of the expected kind."""


class SaveError(FspadError, OSError):
    """A file could not be written: a full disk, a failing rename, a folder without permission. `errno` says which."""


class TargetMismatch(FspadError, ValueError):
    """A draft was made for a target other than the one it is used with."""


class UnsupportedTarget(FspadError, TypeError):
    """A target whose cache cannot roll back, whose attention cannot take a tree mask, or whose structure differs."""


class NonFiniteLoss(FspadError, ArithmeticError):
    """A training loss became NaN or infinite."""


def require(condition: Any, kind: type[FspadError], expected: str, found: Any, advice: str) -> None:
    """Raise an error of this kind unless the condition holds."""
    if not condition:
        raise kind(f"expected {expected}, found {found}. {advice}")
