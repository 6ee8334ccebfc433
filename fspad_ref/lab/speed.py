"""How fast is it really? Every method in the real loop, in turn, several times over; and the cost model beside it.

All methods answer a question one right after the other, so that a machine that slows down slows all of them alike. Each
repetition gives a speedup of every method, six-task mean over plain decoding; what counts is their median, and their
range is shown.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from fspad_ref.checkpoint import load_json, save_json
from fspad_ref.corpus import Question
from fspad_ref.draft import Draft
from fspad_ref.errors import ConfigError
from fspad_ref.lab.baselines import Method
from fspad_ref.lab.bench import PLAIN, Answer, answer_with_all, summarize, warm_up
from fspad_ref.lab.costs import Costs, ideal_speedup, predict_speedup
from fspad_ref.lab.stages import profile_together
from fspad_ref.lab.timings import Terms, measure_together
from fspad_ref.sampling import SamplingConfig
from fspad_ref.target import Target
from fspad_ref.tree import TreeConfig


@dataclass(frozen=True)
class SpeedConfig:
    """How much to decode."""

    repetitions: int = 3
    temperatures: tuple[float, ...] = (0.0, 1.0)
    max_new_tokens: int = 128
    seed: int = 0
    cost_repetitions: int = 20

    def __post_init__(self) -> None:
        if self.repetitions < 1 or not self.temperatures:
            raise ConfigError(f"expected a repetition and a temperature or more, found {self.repetitions} and "
                              f"{self.temperatures}. Name some.")  # fmt: skip


def timed_answers(
    target: Target,
    methods: Mapping[str, Method],
    questions: Sequence[Question],
    config: SpeedConfig,
    file: Path,
    progress: Callable[..., Any] = tqdm,
) -> list[Answer]:
    """Every question by every method, `config.repetitions` times over; goes on after the answers in `file`."""
    answers = [Answer(**row) for row in load_json(file)] if file.exists() else []
    done = {(a.repetition, a.temperature, a.question_id) for a in answers}
    jobs = [(repetition, temperature, question) for repetition in range(config.repetitions)
            for temperature in config.temperatures for question in questions]  # fmt: skip
    rest = [job for job in enumerate(jobs) if (*job[1][:2], job[1][2].question_id) not in done]
    if rest:
        warm_up(target, methods, questions[0])
    for number, (repetition, temperature, question) in progress(rest, desc="decode", unit="question"):
        answers += answer_with_all(target, methods, question, temperature, config.max_new_tokens, config.seed,
                                   number=number, repetition=repetition)  # fmt: skip
        save_json(file, [asdict(a) for a in answers])
    return answers


def speed_rows(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """tau and speedup by method, temperature and task, and on "mean"; as `bench.Summary` says, and beside it

    by_repetition: the speedup in every repetition. speedup: their median. tokens_per_second: by median times, pooled.
    The interval of a speedup over questions is not among them, since it is not one of that median.
    """
    each = [summarize([a for a in answers if a.repetition == n], resamples=1)
            for n in sorted({a.repetition for a in answers})]  # fmt: skip
    rows = []
    middle = median_answers(answers)
    for place, row in enumerate(summarize(middle)):
        by_repetition = [summary[place].speedup for summary in each]
        mine = [a for a in middle if (a.method, a.temperature) == (row.method, row.temperature)
                and row.task in (a.category, "mean")]  # fmt: skip
        rate = sum(a.tokens for a in mine) / sum(a.seconds for a in mine)
        kept = {name: value for name, value in asdict(row).items() if name not in ("speedup_low", "speedup_high")}
        rows.append(kept | {"speedup": float(np.median(by_repetition)), "by_repetition": by_repetition,
                            "tokens_per_second": rate})  # fmt: skip
    return rows


def median_answers(answers: Sequence[Answer]) -> list[Answer]:
    """One of every answer, with the median of its seconds over the repetitions."""
    seconds: dict[tuple, list[float]] = {}
    first: dict[tuple, Answer] = {}
    for a in answers:
        place = a.method, a.temperature, a.question_id, a.turn
        first.setdefault(place, a)
        seconds.setdefault(place, []).append(a.seconds)
    return [replace(a, seconds=float(np.median(seconds[place])), repetition=0) for place, a in first.items()]


def model_rows(
    target: Target, trees: Mapping[str, tuple[Draft, TreeConfig]], answers: Sequence[Answer], config: SpeedConfig
) -> list[dict[str, Any]]:
    """The cost model held against the clock. trees: name of a method -> its draft and tree.

    All tasks pooled: measured is tokens a second over plain decoding's. predicted and ideal come from tau, the mean
    length of an answer, and terms timed one by one, those of all rows in turn; ideal has no overhead (costs.py).
    """
    middle = median_answers(answers)
    of = {(name, temperature): [a for a in middle if (a.method, a.temperature) == (name, temperature)]
          for name in (PLAIN, *trees) for temperature in config.temperatures}  # fmt: skip
    wanted = {}
    for (name, temperature), mine in of.items():
        if name != PLAIN:
            draft, tree = trees[name]
            rows = sorted({1, 2, tree.top_k, *range(1, tree.levels + 3, 2), tree.levels + 2})
            prompt, prefix = (int(np.mean([a.prompt + part * a.tokens for a in mine])) for part in (0, 0.5))
            wanted[name, temperature] = draft, Terms(
                prompt=prompt,
                prefix=prefix,
                sampling=SamplingConfig(temperature, seed=config.seed),
                tree_sizes=sorted({1, tree.total_tokens}),
                draft_rows=rows,
            )
    found = measure_together(target, wanted, config.cost_repetitions)
    return [_model_row(name, temperature, trees[name][1], of[PLAIN, temperature], of[name, temperature], costs)
            for (name, temperature), costs in found.items()]  # fmt: skip


def _model_row(
    name: str, temperature: float, tree: TreeConfig, plain: list[Answer], mine: list[Answer], costs: Costs
) -> dict[str, Any]:
    tau, tokens = _tau(mine), float(np.mean([a.tokens for a in mine]))
    measured, ideal = _rate(mine) / _rate(plain), ideal_speedup(costs, tree, tau, tokens)
    return {
        "method": name, "temperature": temperature, "tree": asdict(tree), "tau": tau, "tokens": tokens,
        "measured": measured, "predicted": predict_speedup(costs, tree, tau, tokens), "ideal": ideal,
        "measured_of_ideal": measured / ideal, "costs": asdict(costs),
    }  # fmt: skip


def _tau(answers: Sequence[Answer]) -> float:
    return sum(a.tokens - 1 for a in answers) / sum(a.rounds for a in answers)


def _rate(answers: Sequence[Answer]) -> float:
    return sum(a.tokens for a in answers) / sum(a.seconds for a in answers)


def stage_rows(
    target: Target,
    draft: Draft,
    trees: Mapping[str, TreeConfig],
    prompts: Sequence[list[int]],
    config: SpeedConfig,
    progress: Callable[..., Any] = tqdm,
) -> list[dict[str, Any]]:
    """Profiles of a round, by tree and temperature, as plain data; all take turns. trees: a name -> a tree."""
    wanted = {(name, temperature): (tree, SamplingConfig(temperature, seed=config.seed))
              for name, tree in trees.items() for temperature in config.temperatures}  # fmt: skip
    found = profile_together(target, draft, prompts, wanted, max_new_tokens=config.max_new_tokens,
                             eos_token_id=target.tokenizer.eos_token_id,
                             progress=lambda texts: progress(texts, desc="profile", unit="text"))  # fmt: skip
    return [{"name": name, "tree": asdict(trees[name]), "temperature": temperature} | asdict(profile)
            for (name, temperature), profile in found.items()]  # fmt: skip
