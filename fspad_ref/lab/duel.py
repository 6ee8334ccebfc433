"""FSPAD against EAGLE-2 with one draft of each kind: how much more is accepted, and how often it is faster.

A study has seeds to draw an interval from; the drafts that come with the repository have not. What remains is the
chance of the questions, for what is counted, and the runs of a measurement, for what is timed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fspad_ref.lab.comparison import MAIN, MEAN
from fspad_ref.lab.statistics import Counts, Estimate, bootstrap_gain


def gain(answers: Sequence[Mapping[str, Any]]) -> Estimate:
    """Gain in mean tau over the answers of a bench file, paired, with its interval over questions."""
    return bootstrap_gain(*(_counted(answers, method) for method in MAIN))


def _counted(answers: Sequence[Mapping[str, Any]], method: str) -> Counts:
    """task -> (1, questions, 2): tokens after the first and rounds, of all turns of a question together."""
    of: dict[str, dict[int, np.ndarray]] = {}
    for one in answers:
        if one["method"] == method:
            questions = of.setdefault(one["category"], {})
            spent = np.array([one["tokens"] - 1, one["rounds"]])
            questions[one["question_id"]] = questions.get(one["question_id"], 0) + spent
    return {task: np.stack([*questions.values()])[None] for task, questions in of.items()}


def runs_won(summary: Sequence[Mapping[str, Any]]) -> dict[float, tuple[int, int]]:
    """Temperature -> (runs in which FSPAD's mean speedup was the larger, runs), from the summary of speed.json.

    Two medians hide how near they are to each other; a tie is no win.
    """
    runs = {(row["method"], row["temperature"]): row["by_repetition"] for row in summary if row["task"] == MEAN}
    return {
        temperature: (sum(a > b for a, b in zip(*(runs[method, temperature] for method in MAIN), strict=True)),
                      len(runs[MAIN[0], temperature]))
        for temperature in dict.fromkeys(temperature for _, temperature in runs)
    }  # fmt: skip
