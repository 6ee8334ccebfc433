"""The claim, measured: drafts of several seeds, trained in pairs, replayed over the same answers, and compared.

For every seed all kinds learn in one training: same batches, same noise, same target features; only their weights
differ. Then every draft is replayed (replay.py) over the target's answers to all questions, which gives tau and n-alpha
with intervals over seeds and over questions (statistics.py).

FSPAD's draft has about 1.76 times EAGLE's parameters. "eagle_wide" tells size from method: EAGLE with its MLP widened
until it has as many parameters as FSPAD.

    OUT/recordings.json, .safetensors    the target's answers
    OUT/cost-KIND.json                   seconds a training step
    OUT/seed-S/                          checkpoints; KIND/ holds a trained draft and its replay.json
    OUT/results.json                     everything that was measured, with its provenance

Whatever is finished is not done again: a study that was interrupted goes on by the same call.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from tqdm.auto import tqdm

from fspad_ref.batches import Encoded
from fspad_ref.checkpoint import load_json, save_json
from fspad_ref.corpus import Dialogue, Question
from fspad_ref.draft import KINDS, Draft, DraftConfig
from fspad_ref.errors import ConfigError
from fspad_ref.lab.comparison import alphas, count, differences, taus
from fspad_ref.lab.provenance import jsonable, provenance
from fspad_ref.lab.recordings import Recording, fingerprint, recorded, recording_key
from fspad_ref.lab.replay import n_alpha, replay
from fspad_ref.lab.statistics import RESAMPLES, bootstrap_tau
from fspad_ref.resume import TrainRecord
from fspad_ref.target import Target
from fspad_ref.train import TrainConfig, train
from fspad_ref.tree import TreeConfig

Kind = Literal["eagle", "fs", "pad", "fspad", "eagle_wide"]
BASE, WIDE = "eagle", "eagle_wide"


@dataclass(frozen=True)
class StudyConfig:
    """What to train, and what to measure it on."""

    out: Path = Path("out/study")
    """Folder for recordings, drafts and results."""
    kinds: tuple[Kind, ...] = get_args(Kind)
    """Which drafts; eagle, the baseline, must be among them."""
    seeds: int = 5
    """Trainings of each kind; two or more, for an interval."""
    temperatures: tuple[float, ...] = (0.0, 1.0)
    """Sampling temperatures."""
    tree: TreeConfig = field(default_factory=TreeConfig)
    max_new_tokens: int = 128
    """Longest answer."""
    noise_seed: int = 0
    """With question and turn, the key of each answer's noise."""
    alphas: int = 4
    """The largest n of n-alpha."""
    resamples: int = RESAMPLES
    """Resamples of the bootstrap over questions."""
    cost_steps: int = 20
    """Steps of each kind alone, to time what its training costs."""
    training: TrainConfig = field(default_factory=TrainConfig)
    """The training of every seed; seed s adds s to its seed."""

    def __post_init__(self) -> None:
        if BASE not in self.kinds or len(set(self.kinds)) < len(self.kinds) or not {*self.kinds} <= {*get_args(Kind)}:
            raise ConfigError(
                f"expected kinds among {', '.join(get_args(Kind))}, each once and {BASE} among them, found "
                f"{self.kinds}. Name the drafts to compare."
            )
        for name, least in (("seeds", 2), ("max_new_tokens", 2), ("alphas", 0), ("resamples", 100), ("cost_steps", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"expected {name} of at least {least}, found {getattr(self, name)}. Raise it.")
        if not self.temperatures:
            raise ConfigError("expected at least one temperature, found none. Name 0 for greedy decoding.")


def study(
    target: Target,
    dialogues: Sequence[Dialogue | Encoded],
    questions: Sequence[Question],
    config: StudyConfig,
    *,
    prompts: Sequence[Sequence[int]] = (),
    progress: Callable[..., Any] = tqdm,
) -> dict[str, Any]:
    """Record, train, replay, compare; returns what it writes to OUT/results.json, as plain data.

    dialogues, prompts: as `train` takes them; the draft with the best tau on the prompts is the one that counts.
    Raises InputError before any training if the questions allow no interval (two a task, answers of two tokens).
    """
    asked = dict(max_new_tokens=config.max_new_tokens, seed=config.noise_seed)
    key = recording_key(target, questions, config.temperatures, **asked)
    recordings = recorded(config.out / "recordings.json", target, questions, config.temperatures, progress=progress,
                          **asked)  # fmt: skip
    _check(recordings, config)
    cost = training_cost(target, dialogues, config, key["weights_hash"])
    trained, measured = [], {kind: [] for kind in config.kinds}
    for seed in range(config.seeds):
        drafts, record = train_seed(target, dialogues, config, seed, prompts, progress)
        trained.append(_of_training(seed, record))
        for kind, draft in drafts.items():
            folder = config.out / f"seed-{seed}" / kind
            measured[kind].append(measure(draft, recordings, config, folder / "replay.json", key, progress))
    results = {
        "provenance": provenance(target),
        "config": jsonable(config),
        "recordings": key | {"answers": len(recordings), "tokens": sum(len(one.tokens) for one in recordings)},
        "drafts": [_of_draft(kind, target) | {"seconds_per_step": cost[kind]} for kind in config.kinds],
        "training": trained,
        **compare(recordings, measured, config),
    }
    save_json(config.out / "results.json", results)
    return load_json(config.out / "results.json")


def _check(recordings: Sequence[Recording], config: StudyConfig) -> None:
    """Hours later it would be too late: intervals of plain decoding, whose tau is 1, fail for the same reasons."""
    plain = [[len(one.tokens) - 1 for one in recordings]]
    for temperature in config.temperatures:
        bootstrap_tau(count(recordings, plain, temperature), resamples=config.resamples)


# ---- training ----


def fresh(kind: Kind, target: Target, seed: int = 0) -> Draft:
    """An untrained draft of that kind, whose weights follow from the seed."""
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


def train_seed(
    target: Target,
    dialogues: Sequence[Dialogue | Encoded],
    config: StudyConfig,
    seed: int,
    prompts: Sequence[Sequence[int]],
    progress: Callable[..., Any],
) -> tuple[dict[str, Draft], TrainRecord]:
    """All kinds in one training, or what an earlier call finished of it."""
    training = replace(config.training, seed=config.training.seed + seed)
    drafts = {kind: fresh(kind, target, training.seed) for kind in config.kinds}
    with progress(total=training.steps, desc=f"train, seed {seed}", unit="step") as bar:
        record = train(target, drafts, dialogues, training, lambda now: bar.update(now.step - bar.n), prompts=prompts,
                       out=config.out / f"seed-{seed}", resume=True)  # fmt: skip
    return drafts, record


def training_cost(
    target: Target, dialogues: Sequence[Dialogue | Encoded], config: StudyConfig, weights_hash: str
) -> dict[str, float]:
    """Median seconds a step of each kind, trained alone; without the frozen target's share, which is the same for all.

    All kinds meet the same batches.
    """
    training = replace(config.training, steps=config.cost_steps, evaluate_every=0)

    def seconds(kind: Kind) -> float:
        spent = [0.0]  # after each step
        train(target, {kind: fresh(kind, target)}, dialogues, training,
              lambda now: spent.append(now.seconds - now.target_seconds))  # fmt: skip
        return float(np.median(np.diff(spent)))

    key = {"weights_hash": weights_hash, "training": asdict(training)}
    kept = {}
    for kind in config.kinds:
        kept |= _kept(config.out / f"cost-{kind}.json", key, lambda kind=kind: {kind: seconds(kind)})
    return {kind: kept[kind] for kind in config.kinds}


def _of_training(seed: int, record: TrainRecord) -> dict[str, Any]:
    names = ("step", "dialogues", "data_hash", "tokens", "positions", "seconds", "target_seconds", "evaluation_seconds",
             "best", "versions")  # fmt: skip
    return {"seed": seed} | {name: getattr(record, name) for name in names}


def _of_draft(kind: Kind, target: Target) -> dict[str, Any]:
    draft = fresh(kind, target)
    parameters = sum(weight.numel() for weight in draft.parameters())
    return {"method": kind, "parameters": parameters, "intermediate_size": draft.config.intermediate_size}


# ---- measuring ----


def measure(
    draft: Draft,
    recordings: Sequence[Recording],
    config: StudyConfig,
    file: Path,
    recorded_as: dict[str, Any],
    progress: Callable[..., Any] = tqdm,
) -> dict[str, Any]:
    """Replayed, unless `file` holds just that: rounds of every recording, and by temperature

    accepted    how many rounds accepted 0, 1, .. levels draft tokens
    chains      n-alpha's (accepted, tried) for 0 .. alphas
    """

    def replayed() -> dict[str, Any]:
        rounds = []
        accepted = {name: torch.zeros(config.tree.levels + 1, dtype=torch.long) for name in _names(config)}
        chains = {name: torch.zeros(config.alphas + 1, 2, dtype=torch.long) for name in _names(config)}
        for one in progress(recordings, desc=f"replay {file.parent}", unit="answer"):
            of_rounds = torch.tensor(replay(draft, one, config.tree).accepted, dtype=torch.long)
            rounds.append(len(of_rounds))
            accepted[f"{one.temperature:g}"] += of_rounds.bincount(minlength=config.tree.levels + 1)
            chains[f"{one.temperature:g}"] += n_alpha(draft, one, config.alphas)
        counted = {"accepted": accepted, "chains": chains}
        plain = {what: {name: table.tolist() for name, table in tables.items()} for what, tables in counted.items()}
        return {"rounds": rounds} | plain

    key = {"draft": fingerprint(draft), "recordings": recorded_as, "tree": asdict(config.tree), "alphas": config.alphas}
    return _kept(file, key, replayed)


def _names(config: StudyConfig) -> list[str]:
    return [f"{temperature:g}" for temperature in config.temperatures]


def compare(
    recordings: Sequence[Recording], measured: dict[str, list[dict[str, Any]]], config: StudyConfig
) -> dict[str, list[dict[str, Any]]]:
    """tau, its paired differences, n-alpha and accepted tokens a round, as plain data.

    measured: kind -> for every seed what `measure` says.
    """
    pairs = [(kind, BASE) for kind in config.kinds if kind != BASE]
    pairs += [("fspad", WIDE)] if {"fspad", WIDE} <= {*config.kinds} else []
    rows: dict[str, list] = {"taus": [], "differences": [], "alphas": []}
    accepted = []
    for temperature, name in zip(config.temperatures, _names(config), strict=True):
        rounds = {kind: [one["rounds"] for one in seeds] for kind, seeds in measured.items()}
        chains = {kind: [one["chains"][name] for one in seeds] for kind, seeds in measured.items()}
        counts = {kind: count(recordings, of_seeds, temperature) for kind, of_seeds in rounds.items()}
        rows["taus"] += taus(counts, temperature, config.resamples)
        rows["differences"] += differences(counts, pairs, temperature, config.resamples)
        rows["alphas"] += alphas(chains, temperature)
        for kind, seeds in measured.items():
            of_seeds = [one["accepted"][name] for one in seeds]
            accepted.append({"method": kind, "temperature": temperature, "rounds_by_seed": of_seeds})
    return {name: [asdict(row) for row in found] for name, found in rows.items()} | {"accepted": accepted}


def _kept(file: Path, key: Any, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `file` holds if it was made under this key, else what `make` returns, then saved there."""
    key = json.loads(json.dumps(key))  # as the file will give it back
    if file.exists() and (kept := load_json(file)).get("key") == key:
        return kept
    save_json(file, {"key": key} | make())
    return load_json(file)
