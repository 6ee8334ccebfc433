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

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from tqdm.auto import tqdm

from fspad_ref.batches import Encoded
from fspad_ref.checkpoint import load_json, save_json
from fspad_ref.corpus import CATEGORIES, Dialogue, Question, read_questions
from fspad_ref.draft import Draft
from fspad_ref.errors import ConfigError
from fspad_ref.lab.bench import choose_questions
from fspad_ref.lab.comparison import compare, count, table
from fspad_ref.lab.data import RememberingTarget, training_data
from fspad_ref.lab.estimate import estimate, spoken
from fspad_ref.lab.lockstep import replay_many
from fspad_ref.lab.provenance import code_hash, digest, fingerprint, jsonable, kept, provenance
from fspad_ref.lab.recordings import Recording, record_all, recording_key
from fspad_ref.lab.replay import n_alpha
from fspad_ref.lab.statistics import RESAMPLES, bootstrap_tau
from fspad_ref.lab.trainings import BASE, Kind, new_draft, trained, training_cost, training_key
from fspad_ref.target import Target
from fspad_ref.train import TrainConfig
from fspad_ref.tree import TreeConfig

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

    target: str = "data/target"
    """Folder or Hub id of the target."""
    questions: Path = Path("data/questions.jsonl")
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
