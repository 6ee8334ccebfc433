"""Ways to decode, side by side under one call: method.decode(ids, max_new_tokens, sampling, eos) -> Generation.

    Plain                  one token a target forward
    Speculative(grower)    a tree a round, from DynamicTree (EAGLE-2, FSPAD), StaticTree (EAGLE-1) or MedusaTree
    TransformersGenerate   prompt lookup, assisted generation, plain `generate`: see assisted.py

Every tree, whoever grew it, goes through the one loop of `speculative_generate`, so every method of the first two kinds
emits the very tokens of plain decoding for the same seed, greedy or sampled.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from torch import Tensor
from tqdm.auto import tqdm

from fspad_ref.bench.record import jsonable, provenance
from fspad_ref.data import CATEGORIES, Question, prompt_ids, read_questions
from fspad_ref.draft import Draft
from fspad_ref.errors import ConfigError, InputError
from fspad_ref.files import save_json
from fspad_ref.generate import Generation, autoregressive_generate, speculative_generate
from fspad_ref.sampling import SamplingConfig
from fspad_ref.target import Target
from fspad_ref.tree import DynamicTree, Grower, TreeConfig

__all__ = ["DynamicTree", "Method", "Plain", "Speculative"]


@runtime_checkable
class Method(Protocol):
    """What a benchmark asks of a way to decode."""

    def decode(
        self, ids: list[int] | Tensor, max_new_tokens: int, sampling: SamplingConfig, eos: int | list[int] | None
    ) -> Generation: ...


@dataclass(frozen=True)
class Plain:
    """Plain decoding: the reference of every text, and of every speedup."""

    target: Target

    def decode(
        self,
        ids: list[int] | Tensor,
        max_new_tokens: int,
        sampling: SamplingConfig,
        eos: int | list[int] | None = None,
    ) -> Generation:
        return autoregressive_generate(
            self.target, ids, max_new_tokens=max_new_tokens, eos_token_id=eos, sampling=sampling
        )


@dataclass(frozen=True)
class Speculative:
    """Speculative decoding with the trees of one grower."""

    grower: Grower

    def decode(
        self,
        ids: list[int] | Tensor,
        max_new_tokens: int,
        sampling: SamplingConfig,
        eos: int | list[int] | None = None,
    ) -> Generation:
        return speculative_generate(
            self.grower.target, self.grower, ids, max_new_tokens=max_new_tokens, eos_token_id=eos, sampling=sampling
        )



# ---- bench ----
#
# Acceptance and speedup of drafts on benchmark questions, from the real decoding loop.
#
#     tau      tokens a target forward: sum over answers of (new tokens - 1), over the sum of rounds; plain decoding has 1
#     speedup  tokens a second over those of plain decoding on the same questions; a call is timed whole, prefill included
#
# All methods answer a question one right after the other, in an order drawn anew, so that a machine that slows down
# slows all of them alike. Intervals are bootstrapped over questions: 95 %, percentiles of 1,000 resamples.

PLAIN = "vanilla"


@dataclass(frozen=True)
class BenchConfig:
    """Decode benchmark questions with and without drafts, and write what was measured.

    With --shape NAME the command times decoding at a real model's sizes instead, on random weights; its own options:
    bench --shape tiny --help.
    """

    target: str = "data/old/target"
    """Folder or Hub id of the target."""
    drafts: tuple[str, ...] = ("data/old/drafts/eagle", "data/old/drafts/fspad")
    """Folders of drafts made for that target; a draft is called by its folder's name."""
    questions: Path = Path("data/old/questions.jsonl")
    """Questions in Spec-Bench's format."""
    per_task: int | None = 10
    """Questions a task, the first ones of the file; None takes all."""
    tasks: tuple[str, ...] = CATEGORIES
    """Which tasks."""
    temperatures: tuple[float, ...] = (0.0, 1.0)
    """Sampling temperatures."""
    tree: TreeConfig = field(default_factory=TreeConfig)
    max_new_tokens: int = 128
    """Longest answer."""
    seed: int = 0
    """With question and turn, the key of each answer's noise."""
    device: str = "cpu"
    """Where to compute."""
    dtype: Literal["float64", "float32", "bfloat16"] = "float32"
    """Precision of weights and arithmetic."""
    chat_format: str | None = None
    """The target's prompt format if it brings no chat template: vicuna. None takes the target's own template."""
    out: Path = Path("out/bench.json")
    """Where the results go."""
    preset: Literal["none", "paper"] = "none"
    """paper: regenerate every recorded result instead; its own options: bench --preset paper --help."""


@dataclass(frozen=True)
class Answer:
    """One answer by one method. identical: the same tokens as plain decoding. prompt: tokens of the prompt."""

    question_id: int
    category: str
    turn: int
    temperature: float
    method: str
    tokens: int
    rounds: int
    seconds: float
    identical: bool
    prompt: int = 0
    repetition: int = 0


@dataclass(frozen=True)
class Summary:
    """One method on one task, or on "mean", the mean over tasks; with 95 % intervals. The module says what is what."""

    task: str
    method: str
    temperature: float
    tau: float
    tau_low: float
    tau_high: float
    speedup: float
    speedup_low: float
    speedup_high: float
    answers: int
    identical: int


def bench(config: BenchConfig) -> None:
    """Measure, print a table, write `config.out`."""
    target = Target.from_pretrained(
        config.target, device=config.device, dtype=config.dtype, chat_format=config.chat_format
    )
    names = [Path(folder).name for folder in config.drafts]
    if len({PLAIN, *names}) <= len(names):
        raise ConfigError(f"expected folders of different names, none called {PLAIN!r}, found {names}. Rename one.")
    drafts = {name: Draft.from_pretrained(folder, target) for name, folder in zip(names, config.drafts, strict=True)}
    questions = choose_questions(read_questions(config.questions), config.tasks, config.per_task)
    answers = decode_questions(
        target,
        drafts,
        questions,
        temperatures=config.temperatures,
        tree=config.tree,
        max_new_tokens=config.max_new_tokens,
        seed=config.seed,
    )
    results = results_of(target, config, answers)
    print(table([Summary(**row) for row in results["summary"]]))
    save_json(config.out, results)
    print(f"Results: {config.out}")


def results_of(target: Target, config: BenchConfig, answers: Sequence["Answer"]) -> dict[str, Any]:
    """What a results file holds, as plain data."""
    return {
        "provenance": provenance(target),
        "config": jsonable(config),
        "summary": [asdict(row) for row in summarize(answers)],
        "answers": [asdict(a) for a in answers],
    }


def choose_questions(questions: Sequence[Question], tasks: Sequence[str], per_task: int | None) -> list[Question]:
    """The first `per_task` questions of each task. Raises InputError for a task without questions, or no task."""
    if not tasks:
        raise InputError(f"expected at least one task, found none. Choose among {', '.join(CATEGORIES)}.")
    chosen = []
    for task in tasks:
        of_task = [question for question in questions if question.category == task]
        if not of_task:
            found = ", ".join(sorted({question.category for question in questions}))
            raise InputError(f"expected questions of task {task!r}, found only {found}. Choose among those.")
        chosen += of_task[:per_task]
    return chosen


def decode_questions(
    target: Target,
    drafts: Mapping[str, Draft],
    questions: Sequence[Question],
    *,
    temperatures: Sequence[float],
    tree: TreeConfig,
    max_new_tokens: int,
    seed: int = 0,
    progress: Callable[..., Any] = tqdm,
) -> list[Answer]:
    """Answer every turn of every question plainly and with every draft."""
    methods: dict[str, Method] = {PLAIN: Plain(target)}
    methods |= {name: Speculative(DynamicTree(draft, tree)) for name, draft in drafts.items()}
    jobs = [(temperature, question) for temperature in temperatures for question in questions]
    warm_up(target, methods, questions[0])
    answers: list[Answer] = []
    for number, (temperature, question) in enumerate(progress(jobs, desc="decode", unit="question")):
        answers += answer_with_all(target, methods, question, temperature, max_new_tokens, seed, number=number)
    return answers


def answer_with_all(
    target: Target,
    methods: Mapping[str, Method],
    question: Question,
    temperature: float,
    max_new_tokens: int,
    seed: int = 0,
    *,
    number: int = 0,
    repetition: int = 0,
) -> list[Answer]:
    """Every turn of a question by every method in turn; later turns see plain decoding's earlier answers.

    methods: plain decoding, called PLAIN, among them. number: the order of the methods is drawn from it.
    """
    answers: list[Answer] = []
    history: list[tuple[str, str]] = []
    for turn, user in enumerate(question.turns):
        ids = prompt_ids(target.tokenizer, history, user)
        sampling = SamplingConfig(temperature, seed=noise_seed(seed, question.question_id, turn))
        results = {name: timed(target, methods[name], ids, max_new_tokens, sampling)
                   for name in drawn_order(list(methods), number)}  # fmt: skip
        plain = results[PLAIN][0]
        for name in methods:
            result, seconds = results[name]
            counted = len(result.tokens), len(result.accepted), seconds, result.tokens == plain.tokens
            answers.append(
                Answer(question.question_id, question.category, turn, temperature, name, *counted, len(ids), repetition)
            )
        history.append((user, target.tokenizer.decode(plain.tokens, skip_special_tokens=True)))
    return answers


def timed(
    target: Target, method: Method, ids: list[int], max_new_tokens: int, sampling: SamplingConfig
) -> tuple[Generation, float]:
    """The answer to one prompt and the seconds it took, the whole call."""
    target.synchronize()
    began = time.perf_counter()
    result = method.decode(ids, max_new_tokens, sampling, target.tokenizer.eos_token_id)
    target.synchronize()
    return result, time.perf_counter() - began


def warm_up(target: Target, methods: Mapping[str, Method], question: Question) -> None:
    """First calls pay for memory and kernels that later ones reuse; they are not counted."""
    ids = prompt_ids(target.tokenizer, [], question.turns[0])
    for method in methods.values():
        timed(target, method, ids, 16, SamplingConfig())


def drawn_order(methods: Sequence[Any], number: int) -> list[Any]:
    """The methods in an order of their own for every number. One that rotated could fall in step with the tasks."""
    return [methods[place] for place in np.random.default_rng(number).permutation(len(methods))]


def noise_seed(seed: int, question_id: int, turn: int) -> int:
    """A seed of its own for every answer: with one for all, questions would share their noise."""
    digest = hashlib.sha256(f"{seed}/{question_id}/{turn}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def summarize(answers: Sequence[Answer], resamples: int = 1000) -> list[Summary]:
    """tau and speedup of every method by temperature and task, then their means over tasks as task "mean"."""
    rng = np.random.default_rng(0)
    rows = []
    temperatures, methods, tasks = (
        list(dict.fromkeys(getattr(a, key) for a in answers)) for key in ("temperature", "method", "category")
    )
    for temperature in temperatures:
        by_task: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {method: [] for method in methods}
        for task in tasks:
            chosen = [a for a in answers if a.category == task and a.temperature == temperature]
            ids = list(dict.fromkeys(a.question_id for a in chosen))
            # one draw of questions for all methods: row 0 is the sample itself, then the resamples
            draws = np.vstack([np.arange(len(ids)), rng.integers(len(ids), size=(resamples, len(ids)))])
            plain = _rate(_by_question(chosen, PLAIN, ids), draws)
            for method in methods:
                counts = _by_question(chosen, method, ids)  # (questions, [tokens - 1, rounds, seconds, tokens])
                tau = counts[:, 0][draws].sum(1) / counts[:, 1][draws].sum(1)
                speedup = _rate(counts, draws) / plain
                by_task[method].append((tau, speedup))
                rows.append(_row(task, method, temperature, tau, speedup, [a for a in chosen if a.method == method]))
        for method in methods:
            tau, speedup = (np.mean(part, axis=0) for part in zip(*by_task[method], strict=True))
            mine = [a for a in answers if a.method == method and a.temperature == temperature]
            rows.append(_row("mean", method, temperature, tau, speedup, mine))
    return rows


def _by_question(answers: Sequence[Answer], method: str, ids: Sequence[int]) -> np.ndarray:
    sums = {question_id: np.zeros(4) for question_id in ids}
    for a in answers:
        if a.method == method:
            sums[a.question_id] += (a.tokens - 1, a.rounds, a.seconds, a.tokens)
    return np.array([sums[question_id] for question_id in ids])


def _rate(counts: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Tokens a second of each resample."""
    return counts[:, 3][draws].sum(1) / counts[:, 2][draws].sum(1)


def _row(
    task: str, method: str, temperature: float, tau: np.ndarray, speedup: np.ndarray, answers: list[Answer]
) -> Summary:
    low_high = [float(x) for part in (tau[1:], speedup[1:]) for x in np.percentile(part, (2.5, 97.5))]
    return Summary(
        task,
        method,
        temperature,
        float(tau[0]),
        *low_high[:2],
        float(speedup[0]),
        *low_high[2:],
        len(answers),
        sum(a.identical for a in answers),
    )


def table(summaries: Sequence[Summary]) -> str:
    """Plain text: a line a method, tau and speedup by task, and in how many answers the text is plain decoding's."""
    lines = []
    for temperature in dict.fromkeys(row.temperature for row in summaries):
        at = [row for row in summaries if row.temperature == temperature]
        tasks = list(dict.fromkeys(row.task for row in at))
        lines.append(f"\nT={temperature:g}    tau (tokens a target forward) / speedup over {PLAIN}")
        lines.append(f"{'':16}" + "".join(f"{task.split('_')[0][:13]:>14}" for task in tasks) + "     identical")
        for method in dict.fromkeys(row.method for row in at):
            mine = {row.task: row for row in at if row.method == method}
            cells = [f"{mine[task].tau:.2f} / {mine[task].speedup:.2f}" for task in tasks]
            cells.append(f"{mine['mean'].identical} of {mine['mean'].answers}")
            lines.append(f"{method:16}" + "".join(f"{cell:>14}" for cell in cells))
    return "\n".join(lines)


