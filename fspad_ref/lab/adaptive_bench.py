"""`python -m fspad_ref adaptive`: does the adaptive stop pay? Fixed and adaptive trees on the same questions, in turn.

    1. measure   what a level and a round cost here, hence the least gain worth a level (adaptive.price_of_a_level)
    2. decode    every question plainly, with fixed trees, and with adaptive ones of one and more times that price, one
                 method right after the other, in an order drawn anew, several times over
    3. compare   seconds of fixed over seconds of adaptive trees: above 1 the stop pays; beside it the same quotient as
                 the costs and the counted forwards predict it

What the stop can cost is in it too: a multiple of 0 grows every tree whole and still looks at every level.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm.auto import tqdm

from fspad_ref.checkpoint import save_json
from fspad_ref.corpus import CATEGORIES, Question, prompt_ids, read_questions
from fspad_ref.draft import Draft
from fspad_ref.errors import ConfigError
from fspad_ref.generate import Generation
from fspad_ref.lab.adaptive import AdaptiveTree, level_seconds, price_of_a_level
from fspad_ref.lab.baselines import DynamicTree, Method, Plain, Speculative
from fspad_ref.lab.bench import PLAIN, Answer, answer_with_all, choose_questions, warm_up
from fspad_ref.lab.costs import Costs
from fspad_ref.lab.provenance import jsonable, provenance
from fspad_ref.lab.speed import speed_rows
from fspad_ref.lab.timings import Terms, measure_costs
from fspad_ref.sampling import SamplingConfig
from fspad_ref.target import Target
from fspad_ref.tree import TreeConfig

RESAMPLES = 1000


@dataclass(frozen=True)
class AdaptiveConfig:
    """Compare fixed trees with ones whose expansion stops when its next level no longer pays."""

    target: str = "data/target"
    """Folder or Hub id of the target."""
    drafts: tuple[str, ...] = ("data/drafts/eagle", "data/drafts/fspad")
    """Folders of drafts made for that target; a draft is called by its folder's name."""
    questions: Path = Path("data/questions.jsonl")
    """Questions in Spec-Bench's format."""
    per_task: int | None = 2
    """Questions a task, the first ones of the file; None takes all."""
    tasks: tuple[str, ...] = CATEGORIES
    """Which tasks."""
    temperatures: tuple[float, ...] = (0.0, 1.0)
    """Sampling temperatures."""
    tree: TreeConfig = field(default_factory=TreeConfig)
    """The fixed trees, `tune` finds good ones; adaptive ones have their top_k and total_tokens."""
    depths: tuple[int, ...] = ()
    """Depths up to which adaptive trees may grow, deeper than fixed ones, say; none: the fixed trees' own."""
    multiples: tuple[float, ...] = (0.0, 1.0, 2.0)
    """Thresholds, as multiples of a level's price; 0 never stops, and shows what looking costs."""
    tau: float = 3.5
    """Acceptance length that the price is reckoned with; it enters in proportion."""
    clock: Literal["wall", "processor"] = "wall"
    """processor: seconds that this process computes, all threads added up, which no other load on the machine
    lengthens; for a CPU, with one thread."""
    repetitions: int = 3
    """How often every question is answered."""
    cost_repetitions: int = 20
    """How often every cost is timed."""
    max_new_tokens: int = 128
    """Longest answer."""
    seed: int = 0
    """With question and turn, the key of each answer's noise."""
    device: str = "cpu"
    """Where to compute."""
    dtype: Literal["float64", "float32", "bfloat16"] = "float32"
    """Precision of weights and arithmetic."""
    out: Path = Path("out/adaptive.json")
    """Where the results go."""

    @property
    def now(self) -> Callable[[], float]:
        return time.perf_counter if self.clock == "wall" else time.process_time

    @property
    def stops(self) -> list[tuple[int, float]]:
        """Depth and multiple of every adaptive tree."""
        return list(itertools.product(self.depths or (self.tree.depth,), self.multiples))

    def __post_init__(self) -> None:
        for depth in self.depths:
            replace(self.tree, depth=depth)  # refuses a depth that such a tree cannot have
        if self.repetitions < 1 or not self.temperatures or not self.multiples or min(self.multiples) < 0:
            raise ConfigError(
                "expected at least one repetition, one temperature and one multiple, none below 0, found "
                f"{self.repetitions}, {self.temperatures} and {self.multiples}. Name some."
            )
        if self.clock == "processor" and self.device != "cpu":
            raise ConfigError(f"expected the wall clock on {self.device}, found the processor's, which does not see "
                              "what a device computes. Use --clock wall.")  # fmt: skip


def adaptive(config: AdaptiveConfig, progress: Callable[..., Any] = tqdm) -> dict[str, Any]:
    """Measure, print a table, write `config.out`; returns what the file holds."""
    target = Target.from_pretrained(config.target, device=config.device, dtype=config.dtype)
    drafts = {Path(folder).name: Draft.from_pretrained(folder, target) for folder in config.drafts}
    questions = choose_questions(read_questions(config.questions), config.tasks, config.per_task)
    results = compare(target, drafts, questions, config, progress)
    print(table(results))
    save_json(config.out, results)
    print(f"Results: {config.out}")
    return results


def compare(
    target: Target,
    drafts: dict[str, Draft],
    questions: Sequence[Question],
    config: AdaptiveConfig,
    progress: Callable[..., Any] = tqdm,
) -> dict[str, Any]:
    """The results file as plain data: prices by draft, tau and speedup of every method, comparisons, answers."""
    began = time.monotonic()
    costs = {name: costs_of(target, draft, questions, config) for name, draft in drafts.items()}
    prices = {name: price_of_a_level(costs[name], config.tree, config.tau) for name in drafts}
    ways = methods(target, drafts, prices, config)
    warm_up(target, ways, questions[0])
    answers: list[Answer] = []
    forwards: dict[tuple[str, float], float] = {}
    passes = list(itertools.product(range(config.repetitions), config.temperatures))
    for place, (repetition, temperature) in enumerate(progress(passes, desc="decode", unit="pass")):
        for grower in growers(ways).values():
            grower.grown.clear()
        for number, question in enumerate(questions):
            place_of_all = place * len(questions) + number
            answers += timed_answers(target, ways, question, temperature, config, place_of_all, repetition)
        for name, grower in growers(ways).items():
            forwards[name, temperature] = sum(n * trees for n, trees in grower.grown.items()) / grower.grown.total()
    return {
        "provenance": provenance(target),
        "config": jsonable(config),
        "price_of_a_level": prices,
        "costs": {name: asdict(of) for name, of in costs.items()},
        "comparisons": [
            row(answers, costs[name], prices[name], name, depth, multiple, temperature, forwards, config.tree)
            for temperature in config.temperatures
            for name in drafts
            for depth, multiple in config.stops
        ],
        "summary": speed_rows(answers),
        "answers": [asdict(a) for a in answers],
        "seconds": time.monotonic() - began,
    }


def costs_of(target: Target, draft: Draft, questions: Sequence[Question], config: AdaptiveConfig) -> Costs:
    """Timed in the middle of such texts."""
    tree = config.tree
    prompts = [len(prompt_ids(target.tokenizer, [], question.turns[0])) for question in questions]
    terms = Terms(
        prompt=int(np.mean(prompts)),
        prefix=int(np.mean(prompts) + config.max_new_tokens / 3),
        sampling=SamplingConfig(config.temperatures[0], seed=config.seed),
        tree_sizes=sorted({1, tree.total_tokens}),
        draft_rows=sorted({1, 2, 4, tree.top_k, tree.levels + 2}),
    )
    return measure_costs(target, draft, terms, repetitions=config.cost_repetitions, now=config.now)


class Stopwatch:
    """A method, and the seconds of each of its answers by a clock of our choice."""

    def __init__(self, target: Target, method: Method, now: Callable[[], float]):
        self.target, self.method, self.now = target, method, now
        self.seconds: list[float] = []

    def decode(self, *args: Any) -> Generation:
        self.target.synchronize()
        began = self.now()
        result = self.method.decode(*args)
        self.target.synchronize()
        self.seconds.append(self.now() - began)
        return result


def timed_answers(
    target: Target,
    ways: dict[str, Method],
    question: Question,
    temperature: float,
    config: AdaptiveConfig,
    number: int,
    repetition: int,
) -> list[Answer]:
    """All turns of a question by all methods in turn, timed by the clock of the settings."""
    watches = {name: Stopwatch(target, way, config.now) for name, way in ways.items()}
    answers = answer_with_all(target, watches, question, temperature, config.max_new_tokens, config.seed,
                              number=number, repetition=repetition)  # fmt: skip
    return [replace(a, seconds=watches[a.method].seconds[a.turn]) for a in answers]


def called(draft: str, depth: int, multiple: float) -> str:
    """Name of a method with an adaptive stop."""
    return f"{draft} up to {depth} x{multiple:g}"


def methods(
    target: Target, drafts: dict[str, Draft], prices: dict[str, float], config: AdaptiveConfig
) -> dict[str, Method]:
    """Plain decoding, then every draft with fixed trees and with adaptive ones."""
    found: dict[str, Method] = {PLAIN: Plain(target)}
    for name, draft in drafts.items():
        found[name] = Speculative(DynamicTree(draft, config.tree))
        for depth, multiple in config.stops:
            grower = AdaptiveTree(draft, replace(config.tree, depth=depth), multiple * prices[name])
            found[called(name, depth, multiple)] = Speculative(grower)
    return found


def growers(ways: dict[str, Method]) -> dict[str, AdaptiveTree]:
    """Whoever grows trees with an adaptive stop, by method."""
    found = {name: way.grower for name, way in ways.items() if isinstance(way, Speculative)}
    return {name: grower for name, grower in found.items() if isinstance(grower, AdaptiveTree)}


def comparison(answers: Sequence[Answer], fixed_way: str, adaptive_way: str, temperature: float) -> dict[str, Any]:
    """Seconds of fixed trees over those of adaptive ones, all answers pooled, with a 95 % interval over questions.

    by_repetition: the ratio in every repetition. identical: answers whose tokens are plain decoding's.
    """
    fixed, stopped = ([a for a in answers if (a.method, a.temperature) == (way, temperature)]
                      for way in (fixed_way, adaptive_way))  # fmt: skip
    ids = list(dict.fromkeys(a.question_id for a in fixed))
    seconds = np.array([[sum(a.seconds for a in part if a.question_id == one) for one in ids]
                        for part in (fixed, stopped)])  # fmt: skip
    draws = np.random.default_rng(0).integers(len(ids), size=(RESAMPLES, len(ids)))
    resampled = seconds[0][draws].sum(1) / seconds[1][draws].sum(1)
    low, high = (float(x) for x in np.percentile(resampled, (2.5, 97.5)))
    by_repetition = [
        sum(a.seconds for a in fixed if a.repetition == n) / sum(a.seconds for a in stopped if a.repetition == n)
        for n in sorted({a.repetition for a in fixed})
    ]
    return {
        "temperature": temperature,
        "fixed_over_adaptive": float(seconds[0].sum() / seconds[1].sum()), "low": low, "high": high,
        "by_repetition": by_repetition, "pays": low > 1,
        "tau_fixed": _tau(fixed), "tau_adaptive": _tau(stopped),
        "identical": sum(a.identical for a in stopped), "answers": len(stopped),
    }  # fmt: skip


def row(
    answers: Sequence[Answer],
    costs: Costs,
    price: float,
    draft: str,
    depth: int,
    multiple: float,
    temperature: float,
    forwards: dict[tuple[str, float], float],
    fixed: TreeConfig,
) -> dict[str, Any]:
    """One comparison with what it is of, the forwards that were done, and what the cost model says of it."""
    way = called(draft, depth, multiple)
    found = comparison(answers, draft, way, temperature)
    done = forwards[way, temperature]
    predicted = predict(costs, fixed, done, found["tau_fixed"], found["tau_adaptive"])
    about = {"draft": draft, "depth": depth, "multiple": multiple, "threshold": multiple * price}
    return about | found | {"forwards_after_the_first": done, "predicted": predicted}


def predict(costs: Costs, fixed: TreeConfig, forwards: float, tau_fixed: float, tau_adaptive: float) -> float:
    """Seconds a token of fixed over adaptive trees: a round of these has so many forwards instead of `fixed.depth`.

    Both verify as many nodes here; an adaptive tree that stops at once has fewer, so this is a little too low.
    """
    a_round = costs.drafting(fixed, tau_fixed) + costs.verify(fixed.total_tokens) + costs.overhead(fixed)
    adaptive_round = a_round + (forwards - fixed.depth) * level_seconds(costs, fixed)
    return (a_round / tau_fixed) / (adaptive_round / tau_adaptive)


def _tau(answers: Sequence[Answer]) -> float:
    return sum(a.tokens - 1 for a in answers) / sum(a.rounds for a in answers)


def table(results: dict[str, Any]) -> str:
    """Plain text: a line a draft, temperature and threshold."""
    lines = [f"{'draft':10}{'T':>4}{'depth':>6}{'threshold':>10}{'forwards':>9}{'tau':>6}{'fixed':>7}"
             f"{'fixed/adaptive':>15}{'95 % interval':>16}{'predicted':>10}{'identical':>14}   pays"]  # fmt: skip
    for row in results["comparisons"]:
        interval = f"{row['low']:.3f} - {row['high']:.3f}"
        identical = f"{row['identical']} of {row['answers']}"
        lines.append(
            f"{row['draft']:10}{row['temperature']:4g}{row['depth']:6}{row['threshold']:10.3f}{row['forwards_after_the_first']:9.2f}"
            f"{row['tau_adaptive']:6.2f}{row['tau_fixed']:7.2f}{row['fixed_over_adaptive']:15.3f}{interval:>16}{row['predicted']:10.3f}"
            f"{identical:>14}   {'yes' if row['pays'] else 'no'}"
        )
    return "\n".join(lines)
