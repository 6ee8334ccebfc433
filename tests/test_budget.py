"""Compact stays compact: the method, the whole package and the tests keep within their numbers of lines of Python."""

from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent


@pytest.mark.parametrize("pattern, most", [("fspad_ref/*.py", 3000), ("fspad_ref/**/*.py", 8000), ("tests/*.py", 5500)])
def test_lines_of_python_stay_within_the_budget(pattern, most):
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in TOP.glob(pattern)}
    largest = ", ".join(f"{path.relative_to(TOP)} {lines[path]}" for path in sorted(lines, key=lines.get)[:-9:-1])
    total = sum(lines.values())
    assert 0 < total <= most, f"expected at most {most} lines in {pattern}, found {total}. The largest: {largest}"
