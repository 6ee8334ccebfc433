"""`python -m fspad_ref study`: the claim, measured. Drafts of several seeds, trained in pairs, replayed, compared.

    1. record    the target answers all questions once, at every temperature (recordings.py)
    2. train     for every seed all kinds learn from the same batches, noise and features (trainings.py)
    3. replay    every draft over all recorded answers (lockstep.py): tau, and n-alpha on some of them (replay.py)
    4. compare   intervals over seeds and over questions, paired differences (statistics.py, comparison.py)

FSPAD's draft has about 1.76 times EAGLE's parameters. "eagle_wide" tells size from method: EAGLE with its MLP widened
until it has as many parameters as FSPAD.

Whatever is finished is not done again: a study that was interrupted goes on by the same call, within a training from
its last checkpoint. What belongs to another target or other settings lies in folders of other names (provenance.py).
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from fspad_ref.bench.bench import choose_questions
from fspad_ref.bench.record import code_hash, digest, fingerprint, jsonable, kept, plain, provenance
from fspad_ref.bench.replay import Recording, n_alpha, record_all, recording_key, replay_many
from fspad_ref.bench.statistics import (
    RESAMPLES,
    Counts,
    Estimate,
    bootstrap_difference,
    bootstrap_gain,
    bootstrap_tau,
    mean_tau,
    paired_difference,
    relative_gain,
    t_interval,
)
from fspad_ref.data import (
    CATEGORIES,
    AnswerConfig,
    Dialogue,
    Encoded,
    Question,
    data_hash,
    own_answers,
    read_dialogues,
    read_questions,
)
from fspad_ref.draft import KINDS, Draft, DraftConfig
from fspad_ref.errors import ConfigError
from fspad_ref.files import load_json, save_json
from fspad_ref.processes import Processes
from fspad_ref.target import Target
from fspad_ref.train import TrainConfig, train
from fspad_ref.tree import TreeConfig

# ---- data ----
#
# What drafts are trained on: dialogues of a file or of the built-in world, and the target's own answers to some.

def training_data(
    target: Target, file: Path | None, dialogues: int, own_answers: int, seed: int, cache: Path
) -> list[Dialogue | Encoded]:
    """The dialogues of a file; or without one, so many of the built-in world, and the target's answers to more.

    Half of those answers are greedy, half sampled at T=1. They are kept below `cache`, which other targets may share.
    """
    if file is not None:
        return list(read_dialogues(file))
    world = world_dialogues(range(dialogues + own_answers), seed)
    return world[:dialogues] + answered(target, world[dialogues:], AnswerConfig(), cache, group=len(CATEGORIES))


def world_dialogues(indices: Sequence[int], seed: int) -> list[Dialogue]:
    """Training dialogues of the built-in world's six tasks, which take turns."""
    from fspad_ref.world.stream import dialogue, place_of_task  # dialogues of other targets need no world

    return [Dialogue(dialogue(seed, place_of_task(index)).turns) for index in indices]


def answered(
    target: Target,
    asked: Sequence[Dialogue],
    settings: AnswerConfig,
    folder: Path,
    *,
    chunk: int | None = None,
    group: int = 1,
    processes: Processes | None = None,
) -> list[Encoded]:
    """The target's own answers to the questions of dialogues, whose answers play no part: one text a turn.

    chunk: dialogues a file below `folder`, so that an interrupted run goes on with the next file; None: one file a
        temperature. What is in a file is not asked again.
    group: dialogues of so many kinds take turns, and every temperature gets whole rounds of them.
    processes: those that share the work; all must see the folder.
    """
    if not asked:
        return []
    processes = processes or Processes()
    template = hashlib.sha256(repr(getattr(target.tokenizer, "chat_template", None)).encode()).hexdigest()[:16]
    about = {"weights": fingerprint(target.model), "dtype": str(target.dtype), "template": template,
             "max_new_tokens": settings.max_new_tokens, "top_k": 0, "top_p": 1.0, "batch": settings.batch}  # fmt: skip
    jobs = _jobs(asked, settings, chunk, group)

    def done(temperature: float, seed: int, dialogues: Sequence[Dialogue]) -> list[Encoded]:
        questions = [(one.system, [user for user, _ in one.turns]) for one in dialogues]
        text = hashlib.sha256(repr(questions).encode()).hexdigest()
        key = {**about, "temperature": temperature, "seed": seed, "dialogues": len(dialogues), "questions": text}

        def make() -> dict[str, list]:
            systems, conversations = zip(*questions, strict=True)
            found = own_answers(target, conversations, temperature, settings.max_new_tokens, settings.batch, seed,
                                systems=systems, quiet=not processes.main)  # fmt: skip
            return {"answers": [[list(ids), list(mask).index(True)] for ids, mask in found]}

        found = kept(folder / f"answers-{digest(key)}.json", key, make)["answers"]
        return [(ids, [place >= begin for place in range(len(ids))]) for ids, begin in found]

    for job in jobs[processes.rank :: processes.number]:
        done(*job)
    processes.wait()
    return [text for job in jobs for text in done(*job)]


def _jobs(
    asked: Sequence[Dialogue], settings: AnswerConfig, chunk: int | None, group: int
) -> list[tuple[float, int, Sequence[Dialogue]]]:
    """(temperature, seed, dialogues) of every file, temperature after temperature."""
    parts, jobs = len(settings.temperatures), []
    ends = [group * round(len(asked) * part / parts / group) for part in range(parts)] + [len(asked)]
    for temperature, begin, end in zip(settings.temperatures, ends, ends[1:], strict=False):
        for number, start in enumerate(range(begin, end, chunk or max(1, end - begin))):
            seed = settings.seed + 1000 * number  # the seeds between are those of later turns
            jobs.append((temperature, seed, asked[start : min(end, start + (chunk or end))]))
    return jobs


class RememberingTarget(Target):
    """A target that remembers the features of the rows it has seen: seeds that train on the same dialogues share them.

    Features of a row do not depend on what it is padded with, since padding stands on the right of causal attention;
    here they come back as zeros, where no loss and no attention of a real token looks. Padding is taken to be the zeros
    at a row's end, so this is for texts that do not end in token 0, as those of the built-in world never do.
    Memory: D numbers a token.
    """

    def __init__(self, target: Target, most: int = 4_000_000_000):
        self.__dict__ |= vars(target)
        self.rows: dict[bytes, Tensor] = {}
        self.room = most  # bytes left

    @torch.no_grad()
    def features(self, input_ids: Tensor, attention_mask: Tensor | None = None, cache=None) -> Tensor:
        """As `Target.features`; without mask and cache, from memory if every row is there."""
        if attention_mask is not None or cache is not None:
            return super().features(input_ids, attention_mask, cache)
        lengths = [int(row.nonzero().max()) + 1 if row.any() else len(row) for row in input_ids]
        names = [row[:length].cpu().numpy().tobytes() for row, length in zip(input_ids, lengths, strict=True)]
        if not all(name in self.rows for name in names):
            features = super().features(input_ids)
            for name, row, length in zip(names, features, lengths, strict=True):
                if name not in self.rows and self.room >= row[:length].nbytes:
                    self.rows[name] = row[:length].cpu().clone()
                    self.room -= self.rows[name].nbytes
            return features
        padded = torch.zeros(*input_ids.shape, self.config.hidden_size, dtype=self.dtype)
        for place, (name, length) in enumerate(zip(names, lengths, strict=True)):
            padded[place, :length] = self.rows[name]
        return padded.to(self.device)



# ---- trainings ----
#
# The drafts of a study: some seeds of every kind, each trained once and kept.
#
# All kinds of one seed learn in one training: same batches, same noise, same target features; only their weights differ,
# and each comes out as if it had been trained alone. So a kind that is asked for later is trained by itself, and is
# paired with the others all the same.
#
#     OUT/drafts-HASH/seed-S/KIND/      a trained draft, with training.json
#     OUT/drafts-HASH/seed-S/training-KIND+../    checkpoints of a training under way
#
# HASH stands for all that a training depends on, so drafts of another target, other data or other settings lie elsewhere.

Kind = Literal["eagle", "fs", "pad", "fspad", "eagle_wide"]
BASE, WIDE = "eagle", "eagle_wide"
CODE = ("batches", "draft", "learner", "loss", "processes", "recipe", "train")


def new_draft(kind: Kind, target: Target, seed: int = 0) -> Draft:
    """An untrained draft of that kind; equal seeds start the parts that kinds share from the same distribution."""
    sampling, alignment = KINDS[BASE if kind == WIDE else kind]
    width = widened(target.config.intermediate_size) if kind == WIDE else None
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Draft(DraftConfig(sampling, alignment, intermediate_size=width), target)


def widened(width: int) -> int:
    """The MLP width at which EAGLE has as many parameters as FSPAD has at width F, up to D of them.

    FSPAD's layer has 4 D F MLP weights and its sampler 3 D F and a norm of D; EAGLE's has 3 D F':  F' = (7 F + 1) / 3.
    """
    return round((7 * width + 1) / 3)


def training_key(target: Target, dialogues: Sequence[Dialogue | Encoded], training: TrainConfig) -> dict[str, Any]:
    """All that trained drafts depend on but their seed, as plain data."""
    return plain({
        **target.identity(),
        "weights": fingerprint(target.model),
        "dtype": str(target.dtype),
        "dialogues": [len(dialogues), data_hash(dialogues)],
        "training": asdict(training),
        "code": code_hash(*CODE),
    })  # fmt: skip


def trained(
    target: Target,
    dialogues: Sequence[Dialogue | Encoded],
    training: TrainConfig,
    kinds: Sequence[Kind],
    seed: int,
    folder: Path,
    progress: Callable[..., Any],
    features: Target | None = None,
) -> tuple[dict[str, Draft], list[dict[str, Any]]]:
    """The drafts of one seed, and a row about the training of each; what is not in `folder` yet is trained.

    features: where the training takes the target's features from, if not from the target itself.
    """
    folder = folder / f"seed-{seed}"
    _collect(folder)
    if rest := missing(folder, kinds):
        training = replace(training, seed=training.seed + seed)
        drafts = {kind: new_draft(kind, target, training.seed) for kind in rest}
        under_way = folder / f"training-{'+'.join(rest)}"
        with progress(total=training.steps, desc=f"train seed {seed}: {', '.join(rest)}", unit="step") as bar:
            train(features or target, drafts, dialogues, training, lambda now: bar.update(now.step - bar.n),
                  out=under_way, resume=True)  # fmt: skip
        _collect(folder)
    rows = [_row(kind, seed, load_json(folder / kind / "training.json")) for kind in kinds]
    return {kind: Draft.from_pretrained(folder / kind, target) for kind in kinds}, rows


def missing(folder: Path, kinds: Sequence[Kind]) -> list[Kind]:
    """The kinds that a seed's folder does not hold yet."""
    return [kind for kind in kinds if not (folder / kind / "training.json").exists()]


def _collect(folder: Path) -> None:
    """Move the drafts of finished trainings to their places, and remove the checkpoints that they came from.

    A draft is finished when its training.json is there: train writes that last.
    """
    for finished in sorted(folder.glob("training-*/*/training.json")):
        if not (folder / finished.parent.name).exists():
            os.replace(finished.parent, folder / finished.parent.name)
    for under_way in folder.glob("training-*"):
        if not missing(folder, under_way.name.removeprefix("training-").split("+")):
            shutil.rmtree(under_way)


def _row(kind: Kind, seed: int, record: Mapping[str, Any]) -> dict[str, Any]:
    names = ("step", "dialogues", "data_hash", "tokens", "positions", "versions")
    return {"method": kind, "seed": seed} | {name: record[name] for name in names}


def training_cost(
    target: Target, dialogues: Sequence[Dialogue | Encoded], training: TrainConfig, steps: int, kind: Kind, folder: Path
) -> dict[str, float]:
    """Median seconds a step of a kind trained alone: the draft's own, and the frozen target's, the same for all kinds.

    All kinds meet the same batches. Kept in a file, as it stands for one machine.
    """
    short = replace(training, steps=steps, evaluate_every=0)
    threads = {"threads": torch.get_num_threads(), "device": str(target.device)}
    key = training_key(target, dialogues, short) | threads

    def measured() -> dict[str, Any]:
        spent, of_target = [0.0], [0.0]  # after each step
        train(target, {kind: new_draft(kind, target)}, dialogues, short,
              lambda now: (spent.append(now.seconds), of_target.append(now.target_seconds)))  # fmt: skip
        frozen = np.diff(of_target)
        medians = {"draft": float(np.median(np.diff(spent) - frozen)), "target": float(np.median(frozen))}
        return {"seconds": medians}

    return kept(folder / f"cost-{kind}-{digest(key)}.json", key, measured)["seconds"]



# ---- comparison ----
#
# From counted rounds to claims: tau of every method with its intervals, paired differences, n-alpha, and their table.
#
# Everywhere `rounds` and the like hold one list a seed. tau is tokens a target forward, so that plain decoding has 1; the
# "mean" of several tasks weighs tasks alike.

MEAN = "mean"
POOLED = "all"
MAIN = ("fspad", "eagle")  # the claim
CONTROL = ("fspad", "eagle_wide")  # at equal parameters


@dataclass(frozen=True)
class Tau:
    """tau of one method on one task, or on "mean": of every seed, their mean, and both intervals."""

    method: str
    task: str
    temperature: float
    by_seed: list[float]
    over_seeds: Estimate
    over_questions: Estimate


@dataclass(frozen=True)
class Difference:
    """tau of `method` minus tau of `against`, paired; and as a gain, relative to `against`."""

    method: str
    against: str
    task: str
    temperature: float
    by_seed: list[float]
    over_seeds: Estimate
    over_questions: Estimate
    gain_over_seeds: Estimate
    gain_over_questions: Estimate


@dataclass(frozen=True)
class Alpha:
    """n-alpha of one method on one task, or on all of them pooled: of every seed, their mean and its interval."""

    method: str
    task: str
    temperature: float
    n: int
    by_seed: list[float]
    over_seeds: Estimate


def count(recordings: Sequence[Recording], rounds: Sequence[Sequence[int]], temperature: float) -> Counts:
    """Tokens after the first, and rounds, by question, its turns added up.

    rounds: a list a seed, which says how many rounds each recording took.
    """
    counts = {}
    for task in dict.fromkeys(one.category for one in recordings):
        mine = [i for i, one in enumerate(recordings) if (one.category, one.temperature) == (task, temperature)]
        row = {
            question: number for number, question in enumerate(dict.fromkeys(recordings[i].question_id for i in mine))
        }
        counts[task] = np.zeros((len(rounds), len(row), 2))
        for i in mine:
            at = row[recordings[i].question_id]
            counts[task][:, at, 0] += len(recordings[i].tokens) - 1
            counts[task][:, at, 1] += [of_seed[i] for of_seed in rounds]
    return counts


def _tasks(counts: Counts) -> Iterator[tuple[str, list[str]]]:
    """Every task and the tasks it stands for: itself, and for the mean all."""
    yield from ((task, [task]) for task in counts)
    yield MEAN, list(counts)


def _part(counts: Counts, tasks: Sequence[str]) -> Counts:
    return {task: counts[task] for task in tasks}


def taus(counts: Mapping[str, Counts], temperature: float, resamples: int) -> list[Tau]:
    """tau by method and task. counts: method -> its counts at this temperature."""
    rows = []
    for method, mine in counts.items():
        for task, tasks in _tasks(mine):
            part = _part(mine, tasks)
            by_seed = mean_tau(part).tolist()
            over_questions = bootstrap_tau(part, resamples=resamples)
            rows.append(Tau(method, task, temperature, by_seed, t_interval(by_seed), over_questions))
    return rows


def differences(
    counts: Mapping[str, Counts], pairs: Sequence[tuple[str, str]], temperature: float, resamples: int
) -> list[Difference]:
    """Paired differences by task, for every pair (method, against)."""
    rows = []
    for method, against in pairs:
        for task, tasks in _tasks(counts[method]):
            a, b = (_part(counts[name], tasks) for name in (method, against))
            x, y = mean_tau(a), mean_tau(b)
            rows.append(
                Difference(
                    method,
                    against,
                    task,
                    temperature,
                    by_seed=(x - y).tolist(),
                    over_seeds=paired_difference(x, y),
                    over_questions=bootstrap_difference(a, b, resamples=resamples),
                    gain_over_seeds=relative_gain(x, y),
                    gain_over_questions=bootstrap_gain(a, b, resamples=resamples),
                )
            )
    return rows


def alphas(counted: Mapping[str, Sequence[Mapping[str, Any]]], temperature: float) -> list[Alpha]:
    """n-alpha by method, task and n, as far as every seed had a chain that long to try.

    counted: method -> for every seed, by "temperature task", (accepted, tried) of 0-alpha, 1-alpha, ...
    """
    rows = []
    for method, seeds in counted.items():
        for task, table in _by_task(seeds, temperature).items():
            accepted, tried = np.moveaxis(table, -1, 0)  # (seeds, n + 1) each
            for n in np.flatnonzero((tried > 0).all(axis=0)).tolist():
                by_seed = (accepted[:, n] / tried[:, n]).tolist()
                rows.append(Alpha(method, task, temperature, n, by_seed, t_interval(by_seed)))
    return rows


def _by_task(seeds: Sequence[Mapping[str, Any]], temperature: float) -> dict[str, np.ndarray]:
    """Counts of all seeds by task, at one temperature, and of all tasks pooled."""
    names = [name.split(" ", 1) for name in seeds[0]]
    tasks = [task for at, task in names if at == f"{temperature:g}"]
    tables = {task: np.array([of[f"{temperature:g} {task}"] for of in seeds], dtype=float) for task in tasks}
    return tables | {POOLED: sum(tables.values())}


def compare(
    recordings: Sequence[Recording],
    measured: Mapping[str, Sequence[Mapping[str, Any]]],
    temperatures: Sequence[float],
    resamples: int,
) -> dict[str, list[dict[str, Any]]]:
    """tau, its paired differences, n-alpha and accepted tokens a round, as plain data.

    measured: method -> for every seed what `study.measure` says. Every method is held against the first of MAIN.
    """
    pairs = [(method, MAIN[1]) for method in measured if method != MAIN[1]]
    pairs += [CONTROL] if {*CONTROL} <= {*measured} else []
    rows: dict[str, list] = {"taus": [], "differences": [], "alphas": []}
    accepted = []
    for temperature in temperatures:
        counts = {method: count(recordings, [one["rounds"] for one in seeds], temperature)
                  for method, seeds in measured.items()}  # fmt: skip
        chains = {method: [one["chains"] for one in seeds] for method, seeds in measured.items()}
        rows["taus"] += taus(counts, temperature, resamples)
        rows["differences"] += differences(counts, pairs, temperature, resamples)
        rows["alphas"] += alphas(chains, temperature)
        for method, seeds in measured.items():
            for task, table in _by_task([one["accepted"] for one in seeds], temperature).items():
                accepted.append({"method": method, "task": task, "temperature": temperature,
                                 "rounds_by_seed": table.astype(int).tolist()})  # fmt: skip
    return {name: [asdict(row) for row in found] for name, found in rows.items()} | {"accepted": accepted}


# ---- plain text ----


def table(results: Mapping[str, Any]) -> str:
    """The results of a study (study.py), as they stand in its file, for reading: intervals are 95 %, over seeds."""
    methods = [draft["method"] for draft in results["drafts"]]
    temperatures = list(dict.fromkeys(row["temperature"] for row in results["taus"]))
    tasks = list(dict.fromkeys(row["task"] for row in results["taus"]))
    seeds = len(results["taus"][0]["by_seed"])
    lines = [f"tau: tokens a target forward (plain decoding has 1); means of {seeds} seeds"]
    for temperature in temperatures:
        at = {(row["method"], row["task"]): row for row in results["taus"] if row["temperature"] == temperature}
        lines.append(f"\nT={temperature:g}".ljust(13) + "".join(f"{task.split('_')[0][:13]:>14}" for task in tasks))
        for method in methods:
            values = (f"{at[method, task]['over_seeds']['value']:14.3f}" for task in tasks)
            lines.append(f"{method:12}" + "".join(values) + "  " + _bounds(at[method, MEAN]["over_seeds"], "{:.3f}"))
        lines += _difference_lines(results["differences"], temperature)
    return "\n".join([*lines, *_draft_lines(results, temperatures), *_alpha_lines(results["alphas"])])


def _bounds(estimate: Mapping[str, float | None], form: str) -> str:
    if estimate["low"] is None:
        return "[one seed]"
    return f"[{form.format(estimate['low'])}, {form.format(estimate['high'])}]"


def _difference_lines(rows: Sequence[Mapping[str, Any]], temperature: float) -> list[str]:
    """FSPAD against EAGLE by task, every other pair in the mean."""
    lines = [f"\nT={temperature:g}, difference of tau".ljust(44) + "over seeds        over questions    gain"]
    for row in rows:
        main = (row["method"], row["against"]) == MAIN
        if row["temperature"] == temperature and (main or row["task"] == MEAN):
            name = f"{row['method']} - {row['against']}, {row['task']}"
            bounds = (_bounds(row[over], "{:+.3f}") for over in ("over_seeds", "over_questions"))
            gain = f"{row['gain_over_seeds']['value']:+.1%} {_bounds(row['gain_over_seeds'], '{:+.1%}')}"
            lines.append(f"{name:34} {row['over_seeds']['value']:+.3f}  " + "  ".join([*bounds, gain]))
    return lines


def _draft_lines(results: Mapping[str, Any], temperatures: Sequence[float]) -> list[str]:
    """The ablation: what each draft has and costs, and its mean tau."""
    mean = {(r["method"], r["temperature"]): r["over_seeds"] for r in results["taus"] if r["task"] == MEAN}
    lines = ["\ndraft         parameters   s a step" + "".join(f"{f'mean tau, T={t:g}':>17}" for t in temperatures)]
    for draft in results["drafts"]:
        values = "".join(f"{mean[draft['method'], t]['value']:17.3f}" for t in temperatures)
        lines.append(f"{draft['method']:12}{draft['parameters']:12,}{draft['seconds_per_step']['draft']:11.4f}{values}")
    return lines


def _alpha_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [row for row in rows if row["task"] == POOLED]
    most = max((row["n"] for row in rows), default=-1)
    lines = ["\nn-alpha".ljust(21) + "".join(f"{n:8}" for n in range(most + 1))]
    for method, temperature in dict.fromkeys((row["method"], row["temperature"]) for row in rows):
        mine = [
            row["over_seeds"]["value"] for row in rows if (row["method"], row["temperature"]) == (method, temperature)
        ]
        lines.append(f"{method:12} T={temperature:<5g}" + "".join(f"{value:8.3f}" for value in mine))
    return lines



# ---- duel ----
#
# FSPAD against EAGLE-2 with one draft of each kind: how much more is accepted, and how often it is faster.
#
# A study has seeds to draw an interval from; the drafts that come with the repository have not. What remains is the
# chance of the questions, for what is counted, and the runs of a measurement, for what is timed.

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



# ---- study ----

CODE = ("draft", "tree", "sampling", "target", "lab.lockstep", "lab.replay")  # what a replay rests on
# Gains of FSPAD over EAGLE-2 in mean tau, by temperature: GRIFFIN (arXiv 2502.11018), table 1
PUBLISHED = {"0": (0.066, 0.080), "1": (0.058, 0.085)}
Progress = Callable[..., Any]


def _training() -> TrainConfig:
    return TrainConfig(steps=1000, tokens_per_batch=1024, learning_rate=4e-3, warmup_steps=60, evaluate_every=0,
                       checkpoint_every=100)  # fmt: skip


@dataclass(frozen=True)
class StudyConfig:
    """Train drafts of every kind with several seeds, replay them over the target's answers, compare them."""

    target: str = "data/old/target"
    """Folder or Hub id of the target."""
    questions: Path = Path("data/old/questions.jsonl")
    """Questions in Spec-Bench's format."""
    per_task: int | None = None
    """Questions a task, the first ones of the file; None takes all."""
    tasks: tuple[str, ...] = CATEGORIES
    """Which tasks."""
    kinds: tuple[Kind, ...] = get_args(Kind)
    """Which drafts; eagle, the baseline, must be among them."""
    seeds: int = 5
    """Trainings of each kind; an interval over seeds needs two or more."""
    data: Path | None = None
    """Dialogues to train on, JSON or JSONL; None takes those of the built-in world and the target's own answers."""
    dialogues: int = 8_000
    """How many dialogues of the built-in world."""
    own_answers: int = 480
    """How many more dialogues whose answers the target writes itself, half of them at T=0 and half at T=1."""
    temperatures: tuple[float, ...] = (0.0, 1.0)
    """Sampling temperatures."""
    tree: TreeConfig = field(default_factory=TreeConfig)
    max_new_tokens: int = 128
    """Longest answer."""
    noise_seed: int = 0
    """With question and turn, the key of each answer's noise."""
    alphas: int = 4
    """The largest n of n-alpha."""
    alpha_every: int = 5
    """n-alpha is counted on one answer in so many."""
    batch: int = 32
    """Answers recorded, and replayed, at once."""
    resamples: int = RESAMPLES
    """Resamples of the bootstrap over questions."""
    cost_steps: int = 20
    """Steps of each kind alone, to time what its training costs."""
    training: TrainConfig = field(default_factory=_training)
    """The training of every seed; seed s adds s to its seed. The last weights count."""
    device: str = "cpu"
    """Where to compute."""
    dtype: Literal["float64", "float32"] = "float32"
    """Precision of weights and arithmetic."""
    out: Path = Path("out/study")
    """Folder for recordings, checkpoints, drafts and replays."""
    results: Path = Path("out/study/study.json")
    """Where the results go."""

    def __post_init__(self) -> None:
        if BASE not in self.kinds or len(set(self.kinds)) < len(self.kinds) or not {*self.kinds} <= {*get_args(Kind)}:
            raise ConfigError(
                f"expected kinds among {', '.join(get_args(Kind))}, each once and {BASE} among them, found "
                f"{self.kinds}. Name the drafts to compare."
            )
        for name, least in (("seeds", 1), ("max_new_tokens", 2), ("alphas", 0), ("resamples", 100), ("cost_steps", 2),
                            ("alpha_every", 1), ("batch", 1)):  # fmt: skip
            if getattr(self, name) < least:
                raise ConfigError(f"expected {name} of at least {least}, found {getattr(self, name)}. Raise it.")
        if not self.temperatures:
            raise ConfigError("expected at least one temperature, found none. Name 0 for greedy decoding.")


def run_study(config: StudyConfig) -> None:
    """Say what it will take, do it, print the comparison, write `config.results`."""
    target = Target.from_pretrained(config.target, device=config.device, dtype=config.dtype)
    questions = choose_questions(read_questions(config.questions), config.tasks, config.per_task)
    dialogues = training_data(target, config.data, config.dialogues, config.own_answers, config.training.seed,
                              config.out)  # fmt: skip
    print(table(study(target, dialogues, questions, config)))
    print(f"Results: {config.results}")


def study(
    target: Target,
    dialogues: Sequence[Dialogue | Encoded],
    questions: Sequence[Question],
    config: StudyConfig,
    *,
    progress: Progress = tqdm,
    features: Target | None = None,
) -> dict[str, Any]:
    """Record, train, replay, compare; returns what it writes to `config.results`, as plain data.

    features: where trainings take the target's features from, see `features_of`.
    Raises InputError before any training if the questions allow no interval (two a task, answers of two tokens).
    """
    key = study_key(target, dialogues, questions, config)
    if config.results.exists() and (done := load_json(config.results)).get("key") == key:
        return done
    folder = config.out / f"drafts-{digest(key['training'])}"
    cost = {kind: training_cost(target, dialogues, config.training, config.cost_steps, kind, config.out)
            for kind in config.kinds}  # fmt: skip
    print(spoken(estimate(target, questions, config, cost, folder)))
    recordings = record_all(config.out, target, questions, config.temperatures, max_new_tokens=config.max_new_tokens,
                            seed=config.noise_seed, batch=config.batch, progress=progress)  # fmt: skip
    _check(recordings, config)
    features = features or features_of(target, config)
    rows, measured = [], {kind: [] for kind in config.kinds}
    for seed in range(config.seeds):
        drafts, of_seed = trained(target, dialogues, config.training, config.kinds, seed, folder, progress, features)
        rows += [row | {"seconds": row["step"] * sum(cost[row["method"]].values())} for row in of_seed]
        for kind, draft in drafts.items():
            file = folder / f"seed-{seed}" / kind / f"replay-{digest(key['replay'])}.json"
            measured[kind].append(measure(draft, recordings, config, file, key["replay"], progress))
    results = {
        "key": key,
        "provenance": provenance(target),
        "config": jsonable(config),
        "published_gains": PUBLISHED,
        "answers": len(recordings),
        "tokens": sum(len(one.tokens) for one in recordings),
        "drafts": [_of_draft(kind, target) | {"seconds_per_step": cost[kind]} for kind in config.kinds],
        "training": rows,
        **compare(recordings, measured, config.temperatures, config.resamples),
    }
    save_json(config.results, results)
    return load_json(config.results)


def features_of(target: Target, config: StudyConfig) -> Target:
    """Features are the same for all seeds, so they are remembered; but for texts from elsewhere, which may end in the
    token that RememberingTarget takes for padding."""
    return RememberingTarget(target) if config.data is None else target


def study_key(
    target: Target, dialogues: Sequence[Dialogue | Encoded], questions: Sequence[Question], config: StudyConfig
) -> dict[str, Any]:
    """All that the results depend on: what makes a study.json stale."""
    asked = recording_key(target, questions, config.temperatures, config.max_new_tokens, config.noise_seed)
    replayed = {"recordings": asked, "tree": asdict(config.tree), "alphas": [config.alphas, config.alpha_every],
                "code": code_hash(*CODE)}  # fmt: skip
    return {
        "training": training_key(target, dialogues, config.training),
        "replay": replayed,
        "kinds": list(config.kinds),
        "seeds": config.seeds,
        "resamples": config.resamples,
        "code": code_hash("lab.statistics", "lab.comparison"),
    }


def _check(recordings: Sequence[Recording], config: StudyConfig) -> None:
    """Hours later it would be too late: intervals of plain decoding, whose tau is 1, fail for the same reasons."""
    plain = [[len(one.tokens) - 1 for one in recordings]]
    for temperature in config.temperatures:
        bootstrap_tau(count(recordings, plain, temperature), resamples=config.resamples)


def _of_draft(kind: Kind, target: Target) -> dict[str, Any]:
    draft = new_draft(kind, target)
    parameters = sum(weight.numel() for weight in draft.parameters())
    return {"method": kind, "parameters": parameters, "intermediate_size": draft.config.intermediate_size}



# ---- measuring ----
def measure(
    draft: Draft,
    recordings: Sequence[Recording],
    config: StudyConfig,
    file: Path,
    key: dict[str, Any],
    progress: Progress = tqdm,
) -> dict[str, Any]:
    """Replayed, unless `file` holds just that: rounds of every recording, and by temperature and task

    accepted    how many rounds accepted 0, 1, .. levels draft tokens
    chains      n-alpha's (accepted, tried) for 0 .. alphas
    """

    def replayed() -> dict[str, Any]:
        def quiet(jobs, **settings):
            return progress(jobs, **settings | {"desc": f"replay {file.parent.parent.name} {file.parent.name}"})

        rounds = replay_many(draft, recordings, config.tree, config.batch, quiet)
        accepted: dict[str, torch.Tensor] = {}
        chains: dict[str, torch.Tensor] = {}
        for number, (one, of_rounds) in enumerate(zip(recordings, rounds, strict=True)):
            place = f"{one.temperature:g} {one.category}"
            histogram = torch.tensor(of_rounds, dtype=torch.long).bincount(minlength=config.tree.levels + 1)
            accepted[place] = accepted.get(place, 0) + histogram
            chains.setdefault(place, torch.zeros(config.alphas + 1, 2, dtype=torch.long))
            if number % config.alpha_every == 0:
                chains[place] += n_alpha(draft, one, config.alphas)
        counted = {"accepted": accepted, "chains": chains}
        plain = {what: {name: counts.tolist() for name, counts in found.items()} for what, found in counted.items()}
        return {"rounds": [len(of_rounds) for of_rounds in rounds]} | plain

    return kept(file, key | {"draft": fingerprint(draft)}, replayed)


