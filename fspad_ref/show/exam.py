"""`python -m fspad_ref check-target`: the built-in target's answers to the held-out questions, and whether they do."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fspad_ref.corpus import read_questions
from fspad_ref.world.exam import check_target

# task -> (column of the scores, least share): whole answers, but single sentences where a turn has several to translate
GOALS = {
    "qa": ("right", 0.90),
    "rag": ("right", 0.90),
    "math_reasoning": ("right", 0.85),
    "translation": ("parts", 0.85),
}


@dataclass(frozen=True)
class ExamConfig:
    """Let a target answer the held-out questions greedily, score what can be checked, and compare with the goals."""

    target: Path = Path("data/target")
    """Folder of the target."""
    questions: Path = Path("data/questions.jsonl")
    """Questions with the strings that right answers contain."""
    samples: int = 1
    """Answers to print, right and wrong ones of each task."""
    max_new_tokens: int = 160
    """Longest answer, in tokens."""
    batch: int = 40
    """Questions answered at once."""
    device: str = "cpu"
    """Where to compute: cpu, cuda, cuda:1, ..."""
    json: Path | None = None
    """File for the scores and all answers."""


def exam(config: ExamConfig) -> bool:
    """Print the scores. True if every goal is met, which the exit status says, too."""
    table = check_target(
        config.target,
        read_questions(config.questions),
        device=config.device,
        batch=config.batch,
        max_new_tokens=config.max_new_tokens,
        samples=config.samples,
        json_output=config.json,
    )
    missed = goals_missed(table)
    print("\n".join(missed) or "Every goal is met.")
    return not missed


def goals_missed(table: Mapping[str, Mapping[str, float]]) -> list[str]:
    """One line for each goal that the scores miss."""
    lines = []
    for task, (column, least) in GOALS.items():
        if task in table and table[task][column] < least:
            lines.append(f"{task}: {table[task][column]:.1%} {column}, below the goal of {least:.0%}")
    return lines
