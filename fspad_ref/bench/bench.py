"""`python -m fspad_ref bench`: acceptance and speed on benchmark questions, from the real decoding loop.

    tau      tokens per forward pass of the target: sum over answers of (new tokens - 1), over the sum of rounds
    speedup  tokens per second over those of plain decoding on the same questions; calls are timed whole, with prefill

Plain decoding has tau 1. All methods answer a question one right after the other, in an order drawn anew, so that a
machine that slows down slows all of them alike. Every tree, whoever grew it, goes through the one loop of
`speculative_generate`, so plain and speculative decoding emit the same tokens for the same seed, greedy or sampled; the
summary counts in how many answers they did.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import pandas as pd
from torch import Tensor
from tqdm.auto import tqdm

from fspad_ref.bench.record import load_record, save_record
from fspad_ref.bench.statistics import MEAN, by_task, columns, gained, resampled, spread
from fspad_ref.data import CATEGORIES, Question, prompt_ids, read_questions
from fspad_ref.draft import Draft
from fspad_ref.errors import ConfigError, InputError
from fspad_ref.generate import Generation, autoregressive_generate, speculative_generate
from fspad_ref.sampling import SamplingConfig
from fspad_ref.target import Target
from fspad_ref.tree import Grower, TreeConfig

PLAIN = "plain decoding"
Ids, Eos = list[int] | Tensor, int | list[int] | None


@runtime_checkable
class Method(Protocol):
    """What a benchmark asks of a way to decode."""

    def decode(self, ids: Ids, max_new_tokens: int, sampling: SamplingConfig, eos: Eos = None) -> Generation: ...


@dataclass(frozen=True)
class Plain:
    """Plain decoding: the reference of every text, and of every speedup."""

    target: Target

    def decode(self, ids: Ids, max_new_tokens: int, sampling: SamplingConfig, eos: Eos = None) -> Generation:
        settings = dict(max_new_tokens=max_new_tokens, sampling=sampling, eos_token_id=eos)
        return autoregressive_generate(self.target, ids, **settings)


@dataclass(frozen=True)
class Speculative:
    """Speculative decoding with a draft and the size of its tree, or with a `Grower`, which has its own."""

    draft: Draft | Grower
    tree: TreeConfig | None = None

    def decode(self, ids: Ids, max_new_tokens: int, sampling: SamplingConfig, eos: Eos = None) -> Generation:
        settings = dict(max_new_tokens=max_new_tokens, sampling=sampling, eos_token_id=eos, tree=self.tree)
        return speculative_generate(self.draft.target, self.draft, ids, **settings)


# ---- questions ----


def choose_questions(questions: Sequence[Question], tasks: Sequence[str], per_task: int | None) -> list[Question]:
    """The first `per_task` questions of each task. Raises InputError for a task without questions, or no task."""
    found = list(dict.fromkeys(question.category for question in questions))
    if not tasks or not {*tasks} <= {*found}:
        raise InputError(f"expected tasks among {', '.join(found)}, found {', '.join(tasks) or 'none'}. Choose others.")
    return [question for task in tasks for question in [q for q in questions if q.category == task][:per_task]]


def noise_seed(seed: int, question_id: int, turn: int) -> int:
    """A seed of its own for every answer: with one for all, questions would share their noise."""
    digest = hashlib.sha256(f"{seed}/{question_id}/{turn}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def loops(tokens: Sequence[int]) -> bool:
    """Whether a text repeats itself, which is easy to guess."""
    return loop_start(tokens) < len(tokens)


def loop_start(tokens: Sequence[int], length: int = 8, times: int = 4) -> int:
    """The second place of the first `length` tokens in a row that stand at `times` places; without any, the length."""
    text = "".join(map(chr, tokens))  # a letter for every token, as str.count counts places that do not overlap
    repeated = (i for i in range(len(text) - length + 1) if text.count(text[i : i + length]) >= times)
    return next((text.find(text[i : i + length], i + length) for i in repeated), len(text))


# ---- answers ----


def decode_questions(
    target: Target, methods: Mapping[str, Method], questions: Sequence[Question], *,
    temperatures: Sequence[float] = (0.0, 1.0), max_new_tokens: int = 128, seed: int = 0,
    repetitions: int = 1, part: Path | None = None, progress: Callable[..., Any] = tqdm,
) -> pd.DataFrame:  # fmt: skip
    """Answer every turn of every question plainly and by every method; all of it `repetitions` times over.

    Returns a table with a row for every answer: method, seed (of a draft's training; here 0), temperature, task,
    question_id, turn, repetition, prompt (its length), tokens, rounds, seconds, identical (to plain decoding's), loops.

    part: a file that keeps the answers so far; an interrupted call goes on behind them.
    """
    methods = {PLAIN: Plain(target)} | dict(methods)
    rows = load_record(part).to_dict("records") if part and part.exists() else []
    done = {(row["repetition"], row["temperature"], row["question_id"]) for row in rows}
    jobs = [(n, temperature, q) for n in range(repetitions) for temperature in temperatures for q in questions]
    for method in methods.values():  # first calls pay for memory and kernels that later ones reuse
        timed(target, method, prompt_ids(target.tokenizer, [], questions[0].turns[0]), 16, SamplingConfig())
    for number, (repetition, temperature, question) in enumerate(progress(jobs, desc="decode", unit="question")):
        if (repetition, temperature, question.question_id) not in done:
            answered = answer_with_all(target, methods, question, temperature, max_new_tokens, seed, number)
            rows += [row | {"repetition": repetition} for row in answered]
            if part:
                save_record(part, pd.DataFrame(rows))
    return pd.DataFrame(rows)


def answer_with_all(
    target: Target, methods: Mapping[str, Method], question: Question, temperature: float,
    max_new_tokens: int, seed: int = 0, number: int = 0,
) -> list[dict[str, Any]]:  # fmt: skip
    """Every turn of a question by every method, PLAIN among them; later turns see plain decoding's earlier answers.

    number: the order of the methods is drawn from it. An order that rotated could fall in step with the tasks.
    """
    rows, history = [], []
    for turn, user in enumerate(question.turns):
        ids = prompt_ids(target.tokenizer, history, user)
        sampling = SamplingConfig(temperature, seed=noise_seed(seed, question.question_id, turn))
        order = np.random.default_rng(number).permutation(list(methods))
        results = {name: timed(target, methods[name], ids, max_new_tokens, sampling) for name in order}
        plain = results[PLAIN][0].tokens
        for name in methods:
            result, seconds = results[name]
            rows.append({
                "method": name, "seed": 0, "temperature": temperature, "task": question.category,
                "question_id": question.question_id, "turn": turn, "prompt": len(ids), "tokens": len(result.tokens),
                "rounds": len(result.accepted), "seconds": seconds, "identical": result.tokens == plain,
                "loops": loops(plain),
            })  # fmt: skip
        history.append((user, target.tokenizer.decode(plain, skip_special_tokens=True)))
    return rows


def timed(
    target: Target, method: Method, ids: list[int], max_new_tokens: int, sampling: SamplingConfig
) -> tuple[Generation, float]:
    """The answer to one prompt and the seconds it took, the whole call."""
    target.synchronize()
    began = time.perf_counter()
    result = method.decode(ids, max_new_tokens, sampling, target.tokenizer.eos_token_id)
    target.synchronize()
    return result, time.perf_counter() - began


# ---- tables ----


def median_seconds(answers: pd.DataFrame) -> pd.DataFrame:
    """One row of every answer, with the median of its seconds over the repetitions."""
    same = ["method", "seed", "temperature", "task", "question_id", "turn"]
    return answers.assign(seconds=answers.groupby(same)["seconds"].transform("median")).drop_duplicates(same)


def summarize(answers: pd.DataFrame) -> pd.DataFrame:
    """tau and speedup of every method by temperature and task, then their means over tasks as task "mean".

    Columns: temperature, task, method, tau, tau_low, tau_high, speedup, speedup_low, speedup_high, answers, identical.
    """
    rows = []
    for temperature, at in median_seconds(answers).groupby("temperature", sort=False):
        rate = resampled(at, "tokens", "seconds")
        speedup = {method: of_tasks / rate[PLAIN] for method, of_tasks in rate.items()}
        for (task, tau), (_, fast) in zip(by_task(at, gained(at)), by_task(at, speedup), strict=True):
            identical = at[(at["task"] == task) | (task == MEAN)].groupby("method")["identical"]
            rows += [{"temperature": temperature, "task": task, "method": method, **columns("tau", tau[method]),
                      **columns("speedup", fast[method]), "answers": identical.size()[method],
                      "identical": identical.sum()[method]} for method in tau]  # fmt: skip
    return pd.DataFrame(rows)


def table(summary: pd.DataFrame) -> str:
    """For reading: tau and speedup by task, and in how many answers the text is plain decoding's."""
    same = summary[summary["task"] == MEAN].groupby("method", sort=False)[["identical", "answers"]].sum()
    return "\n\n".join([spread(summary, "tau"), spread(summary, "speedup"), same.to_string()])


# ---- command ----


@dataclass(frozen=True)
class BenchConfig:
    """Decode benchmark questions with and without drafts; write a table with a row for every answer."""

    target: str = "data/target"  # folder or Hub id of the target
    drafts: tuple[str, ...] = ("data/drafts/eagle", "data/drafts/fspad")  # called by their folders' names
    questions: Path = Path("data/questions.jsonl")  # questions in Spec-Bench's format
    per_task: int | None = 10  # questions per task, the first ones of the file; None takes all
    tasks: tuple[str, ...] = CATEGORIES  # which tasks
    temperatures: tuple[float, ...] = (0.0, 1.0)  # sampling temperatures
    tree: TreeConfig = TreeConfig()
    tuned: tuple[Path, ...] = ()  # results of `tune`, one for each draft, whose trees are taken in place of `tree`
    max_new_tokens: int = 128  # longest answer
    repetitions: int = 1  # how often everything is timed; medians count
    seed: int = 0  # with question and turn, the key of each answer's noise
    device: str = "cpu"  # where to compute
    dtype: Literal["float64", "float32", "bfloat16"] = "float32"  # precision of weights and arithmetic
    chat_format: str | None = None  # for a target without a chat template of its own: vicuna
    out: Path = Path("out/bench.csv")  # where the table goes. What an interrupted run measured is kept beside it


def load(config: BenchConfig) -> tuple[Target, list[Question], dict[str, Speculative]]:
    """The target, the questions, and the drafts with their trees, by name."""
    names = [Path(folder).name for folder in config.drafts]
    if len({PLAIN, *names}) <= len(names) or len(config.tuned) not in (0, len(names)):
        raise ConfigError(f"expected folders of different names, none called {PLAIN!r}, and no tuned tree or one for "
                          f"each, found {names} and {len(config.tuned)} trees. Rename or name some.")  # fmt: skip
    where = dict(device=config.device, dtype=config.dtype, chat_format=config.chat_format)
    target = Target.from_pretrained(config.target, **where)
    questions = choose_questions(read_questions(config.questions), config.tasks, config.per_task)
    trees = [TreeConfig(**load_record(file)["tree"]) for file in config.tuned] or [config.tree] * len(names)
    drafts = [Draft.from_pretrained(folder, target) for folder in config.drafts]
    return target, questions, dict(zip(names, map(Speculative, drafts, trees), strict=True))


def bench(config: BenchConfig) -> pd.DataFrame:
    """Measure, print the summary, write `config.out`."""
    target, questions, methods = load(config)
    part = config.out.with_suffix(".part.csv")
    answers = decode_questions(
        target, methods, questions, temperatures=config.temperatures, max_new_tokens=config.max_new_tokens,
        seed=config.seed, repetitions=config.repetitions, part=part,
    )  # fmt: skip
    save_record(config.out, answers)
    part.unlink()
    print(f"{table(summarize(answers))}\n\nAnswers: {config.out}")
    return answers
