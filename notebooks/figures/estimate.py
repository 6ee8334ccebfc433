"""A mean with its interval."""

from typing import NamedTuple


class Estimate(NamedTuple):
    """`value`, and the 95 % interval from `low` to `high`."""

    value: float
    low: float
    high: float
