"""`python -m fspad_ref study`: does FSPAD guess better? Drafts of several seeds and kinds, trained alike and replayed.

    1. record    the target answers all questions once, at every temperature (replay.py)
    2. train     for every seed all kinds learn from the same batches, noise and features (train.py)
    3. replay    every draft over all recorded answers: tau, accepted counts, n-alpha
    4. compare   tau, paired differences and relative gains with their intervals (statistics.py)

FSPAD's draft has about 1.76 times the parameters of EAGLE's. The kind "eagle_wide" tells size from method: EAGLE with
its MLP widened until it has as many parameters as FSPAD.

    OUT/recordings/                        the target's answers
    OUT/features/                          the target's features of the dialogues (features.py)
    OUT/seed-S/steps-N/KIND/               a trained draft: config.json, model.safetensors, training.json
    OUT/seed-S/steps-N/KIND/replay.csv     its replay, a row for every answer
    OUT/seed-S/steps-N/trunk.safetensors   the training before its learning rate went down: a longer one goes on here
    OUT/NAME.csv                           replay of a given draft

The learning rate stays up until the last fifth of a training, so shorter ones are branches of the longest. Given drafts
(`--drafts`) are only replayed, once for each pair of noise weight and scale.

A file that exists is a result that exists: an interrupted study goes on by the same call, and what is to be measured
again, after a change of settings too, has to be deleted first.
"""

import itertools
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd
import torch
from tqdm.auto import tqdm

from fspad_ref.bench.bench import choose_questions, loops
from fspad_ref.bench.features import StoredFeatures
from fspad_ref.bench.record import load_record, save_record
from fspad_ref.bench.replay import Recording, n_alpha, record, replay_many
from fspad_ref.bench.statistics import MEAN, differences, spread, taus
from fspad_ref.data import CATEGORIES, Dialogue, Encoded, Question, frequent_tokens, read_dialogues, read_questions
from fspad_ref.draft import Draft
from fspad_ref.errors import ConfigError, require
from fspad_ref.target import Target
from fspad_ref.train import Kind, TrainConfig, new_draft, train
from fspad_ref.tree import TreeConfig

Progress = Callable[..., Any]
CONTROL = ("fspad", "eagle_wide")  # the comparison at equal size


@dataclass(frozen=True)
class StudyConfig:
    """Train drafts of every kind with several seeds, replay them over the target's answers, compare them."""

    target: str = "data/target"  # folder or Hub id of the target
    questions: Path = Path("data/questions.jsonl")  # questions in Spec-Bench's format
    per_task: int | None = None  # questions per task, the first ones of the file; None takes all
    tasks: tuple[str, ...] = CATEGORIES  # which tasks
    ids: Literal["all", "odd", "even"] = "all"  # which of the questions, by number
    drafts: tuple[str, ...] = ()  # folders of trained drafts, to replay instead of training any
    noise_weights: tuple[float, ...] = (0.0,)  # of these drafts' trees
    noise_scales: tuple[float, ...] = (1.0,)
    kinds: tuple[Kind, ...] = get_args(Kind)  # which drafts; the first is the baseline
    seeds: int = 3  # trainings of each kind
    data: Path = Path("data/dialogues.jsonl.gz")  # dialogues to train on; best the target's own answers
    features: Path | None = None  # folder that keeps the target's features (features.py); None: OUT/features
    temperatures: tuple[float, ...] = (0.0, 1.0)  # sampling temperatures
    tree: TreeConfig = TreeConfig()
    max_new_tokens: int = 128  # longest answer
    noise_seed: int = 0  # with question and turn, the key of each answer's noise
    alphas: int = 4  # the largest n of n-alpha
    batch: int = 32  # answers recorded, and replayed, at once
    steps: tuple[int, ...] = (2000,)  # lengths of training, ascending
    vocabulary: int | None = 8192  # of the drafts: so many of the answers' most frequent tokens; None: all
    width: int | None = None  # of the drafts' MLP and sampler; None: the target's
    training: TrainConfig = TrainConfig(evaluate_every=0)  # of seed 0; seed s adds s. `steps` decides over its lengths
    device: str = "cpu"  # where to compute
    dtype: Literal["float64", "float32", "bfloat16"] = "float32"  # precision of weights and arithmetic
    out: Path = Path("out/study")  # folder for recordings, checkpoints, drafts and replays
    results: Path = Path("out/study/study.csv")  # where the table of all answers goes

    def __post_init__(self) -> None:
        found = f"kinds {self.kinds}, {self.seeds} seeds, temperatures {self.temperatures}"
        right = len({*self.kinds}) == len(self.kinds) > 0 and self.seeds > 0 and self.temperatures
        require(right, ConfigError, "kinds to compare, each once, a seed and a temperature", found, "Name some.")


def run_study(config: StudyConfig) -> pd.DataFrame:
    """Do it, print the comparison, write `config.results`."""
    target = Target.from_pretrained(config.target, device=config.device, dtype=config.dtype)
    every, rest = config.ids == "all", int(config.ids == "odd")
    questions = [one for one in read_questions(config.questions) if every or one.question_id % 2 == rest]
    questions = choose_questions(questions, config.tasks, config.per_task)
    answers = study(target, [] if config.drafts else read_dialogues(config.data), questions, config)
    save_record(config.results, answers)
    print(f"{report(answers)}\n\nAnswers: {config.results}")
    return answers


def study(
    target: Target, dialogues: Sequence[Dialogue | Encoded], questions: Sequence[Question],
    config: StudyConfig, progress: Progress = tqdm,
) -> pd.DataFrame:  # fmt: skip
    """Record, train, replay; returns a row for every kind, seed and answer, see `replayed`."""
    recordings = record(target, questions, config.temperatures, max_new_tokens=config.max_new_tokens,
                        seed=config.noise_seed, batch=config.batch, folder=config.out / "recordings",
                        progress=progress)  # fmt: skip
    if config.drafts:
        return replay_given(target, recordings, config, progress)
    features, tables = StoredFeatures(target, config.features or config.out / "features"), []
    words = frequent_tokens(target.tokenizer, dialogues, config.vocabulary) if config.vocabulary else None
    for seed in range(config.seeds):
        trunk = None
        for steps in config.steps:
            folder = config.out / f"seed-{seed}" / f"steps-{steps}"
            train_missing(target, dialogues, config, seed, steps, folder, words, trunk, features, progress)
            trunk = folder / "trunk.safetensors"
            for kind in config.kinds:
                file = folder / kind / "replay.csv"
                if not file.exists():
                    draft = Draft.from_pretrained(folder / kind, target)
                    save_record(file, replayed(draft, recordings, config, progress))
                tables.append(load_record(file).assign(method=kind, seed=seed, steps=steps))
    return pd.concat(tables, ignore_index=True)


def replay_given(
    target: Target, recordings: Sequence[Recording], config: StudyConfig, progress: Progress
) -> pd.DataFrame:
    """The same for given drafts, each with trees of every noise weight and scale. A greedy answer has no noise."""
    tables = []
    for folder in config.drafts:
        draft = Draft.from_pretrained(folder, target)
        for weight, scale in itertools.product(config.noise_weights, config.noise_scales):
            name = Path(folder).name + (f" noise {weight:g} scale {scale:g}" if weight else "")
            file = config.out / f"{name}.csv"
            if not file.exists():
                tree = replace(config.tree, noise_weight=weight, noise_scale=scale)
                sampled = [one for one in recordings if one.temperature or not weight]
                save_record(file, replayed(draft, sampled, replace(config, tree=tree), progress))
            tables.append(load_record(file).assign(method=name, seed=0, steps=0))
    return pd.concat(tables, ignore_index=True)


# ---- training ----


def train_missing(
    target: Target, dialogues: Sequence[Dialogue | Encoded], config: StudyConfig, seed: int, steps: int, folder: Path,
    words: tuple[int, ...] | None = None, trunk: Path | None = None, features: StoredFeatures | None = None,
    progress: Progress = tqdm,
) -> None:  # fmt: skip
    """Train the kinds that `folder` lacks, together; an interrupted training goes on from its checkpoint, and a new one
    from the `trunk` of a shorter one, if that holds the same kinds.

    words: the drafts' vocabulary. Only the weights of the kinds differ, and each comes out as if it had been trained
    alone. So a kind that is asked for later is paired with the others all the same.
    """
    rest = [kind for kind in config.kinds if not (folder / kind / "training.json").exists()]
    if rest:
        lengths = {"steps": steps, "decay_steps": max(1, steps // 5)}
        training = replace(config.training, seed=config.training.seed + seed, **lengths)
        drafts = {kind: new_draft(kind, target, training.seed, words, config.width) for kind in rest}
        under_way = folder / "training"
        start = trunk if rest == [*config.kinds] and trunk and trunk.exists() else None
        with progress(total=steps, desc=f"train seed {seed}: {', '.join(rest)}", unit="step") as bar:
            train(target, drafts, dialogues, training, lambda now: bar.update(now.step - bar.n), features_of=features,
                  out=under_way, resume=True, start=start)  # fmt: skip
        for kind in rest:
            os.replace(under_way / kind, folder / kind)
        if rest == [*config.kinds]:
            os.replace(under_way / "trunk.safetensors", folder / "trunk.safetensors")
        shutil.rmtree(under_way)


# ---- replaying ----


def replayed(
    draft: Draft, recordings: Sequence[Recording], config: StudyConfig, progress: Progress = tqdm
) -> pd.DataFrame:
    """A row for every recording: task, question_id, turn, temperature, tokens, rounds, loops, and

    accepted_0 .. accepted_levels    how many rounds accepted so many draft tokens
    right_n, tried_n                 n-alpha's counts, for n = 0 .. alphas
    """
    rounds, rows = replay_many(draft, recordings, config.tree, config.batch, progress), []
    for one, accepted in zip(recordings, rounds, strict=True):
        histogram = torch.tensor(accepted, dtype=torch.long).bincount(minlength=config.tree.levels + 1).tolist()
        row = {name: getattr(one, name) for name in ("task", "question_id", "turn", "temperature")}
        row |= {"tokens": len(one.tokens), "rounds": len(accepted), "loops": loops(one.tokens)}
        row |= {f"accepted_{count}": number for count, number in enumerate(histogram)}
        for n, (right, tried) in enumerate(n_alpha(draft, one, config.alphas).tolist()):
            row |= {f"right_{n}": right, f"tried_{n}": tried}
        rows.append(row)
    return pd.DataFrame(rows)


# ---- comparing ----


def pairs(answers: pd.DataFrame) -> list[tuple[str, str]]:
    """Every kind against the first, and FSPAD against the control of equal size."""
    first, *kinds = answers["method"].unique()
    return [(kind, first) for kind in kinds] + [CONTROL] * ({*CONTROL} <= {*kinds})


def alphas(answers: pd.DataFrame) -> pd.DataFrame:
    """n-alpha of every method by temperature, all tasks and seeds pooled; columns are n = 0, 1, ..."""
    sums = answers.groupby(["temperature", "method"], sort=False).sum(numeric_only=True)
    right, tried = (sums.filter(regex=rf"^{name}_\d+$") for name in ("right", "tried"))
    return right.set_axis(range(right.shape[1]), axis=1) / tried.to_numpy()


def report(answers: pd.DataFrame) -> str:
    """For reading: of the longest training tau, differences, gains, n-alpha, intervals of 95 %; tau against length."""
    curve = pd.concat([taus(some).assign(steps=steps) for steps, some in answers.groupby("steps")])
    curve = curve[curve["task"] == MEAN].pivot(index=["temperature", "steps"], columns="method", values="tau")
    answers = answers[answers["steps"] == answers["steps"].max()]
    compared, both = differences(answers, pairs(answers)), ["method", "against"]
    forms = {"difference": "{:+.3f}", "gain": "{:+.1%}"} if len(compared) else {}
    return "\n\n".join([
        spread(taus(answers), "tau"), *(spread(compared, name, both, form) for name, form in forms.items()),
        f"n-alpha\n{alphas(answers).to_string(float_format='%.3f')}",
        f"mean tau by length of training\n{curve.to_string(float_format='%.2f')}",
    ])  # fmt: skip
