"""Recordings: the target's answers to benchmark questions, with its features at every position.

With position-keyed noise the text of an answer follows from (target, prompt, seed): no draft and no tree changes it. So
it is decoded once, plainly, one forward gives its features, and any number of drafts are replayed over it (replay.py).
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from fspad_ref.checkpoint import load_json, load_tensors, save_json, save_tensors
from fspad_ref.corpus import Question, prompt_ids
from fspad_ref.errors import CheckpointError
from fspad_ref.lab.bench import noise_seed
from fspad_ref.lab.many import answer_many
from fspad_ref.lab.provenance import code_hash, digest, fingerprint
from fspad_ref.sampling import SamplingConfig
from fspad_ref.target import Target


@dataclass(frozen=True)
class Recording:
    """One answer of the target, and what a draft needs to be replayed over it.

    prompt, tokens: token ids; `tokens` are the new ones, EOS included if it came.
    features (L - 1, D): f at every position of prompt + tokens but the last, on the CPU.
    """

    question_id: int
    category: str
    turn: int
    temperature: float
    prompt: list[int]
    tokens: list[int]
    features: Float[Tensor, "seq hidden"]


def record(
    target: Target,
    questions: Sequence[Question],
    temperatures: Sequence[float],
    *,
    max_new_tokens: int = 128,
    seed: int = 0,
    batch: int = 1,
    progress: Callable[..., Any] = tqdm,
) -> list[Recording]:
    """Let the target answer every turn of every question, plainly: the texts of `bench.decode_questions`.

    Same noise, same stop, same history (later turns see the earlier answers), hence the same tau when replayed.
    batch: questions answered at once (many.py); the texts are the same.
    """
    groups = [questions[start : start + batch] for start in range(0, len(questions), batch)]
    jobs = [(temperature, group) for temperature in temperatures for group in groups]
    recordings = []
    for temperature, group in progress(jobs, desc="record", unit=f"{batch} questions"):
        recordings += _record_group(target, group, temperature, max_new_tokens, seed)
    return recordings


def _record_group(
    target: Target, questions: Sequence[Question], temperature: float, max_new_tokens: int, seed: int
) -> list[Recording]:
    """Turn by turn: first turns of all, then second turns; returned question by question."""
    eos = target.tokenizer.eos_token_id
    histories: list[list[tuple[str, str]]] = [[] for _ in questions]
    made: dict[tuple[int, int], Recording] = {}
    for turn in range(max(len(question.turns) for question in questions)):
        asked = [i for i, question in enumerate(questions) if turn < len(question.turns)]
        prompts = [prompt_ids(target.tokenizer, histories[i], questions[i].turns[turn]) for i in asked]
        samplings = [SamplingConfig(temperature, seed=noise_seed(seed, questions[i].question_id, turn)) for i in asked]
        answers = answer_many(target, prompts, samplings, max_new_tokens, eos)
        for i, prompt, (tokens, features) in zip(asked, prompts, answers, strict=True):
            one = questions[i]
            made[i, turn] = Recording(one.question_id, one.category, turn, temperature, prompt, tokens, features)
            histories[i].append((one.turns[turn], target.tokenizer.decode(tokens, skip_special_tokens=True)))
    return [made[place] for place in sorted(made)]


# ---- files ----


def record_all(
    folder: Path,
    target: Target,
    questions: Sequence[Question],
    temperatures: Sequence[float],
    *,
    max_new_tokens: int = 128,
    seed: int = 0,
    batch: int = 32,
    progress: Callable[..., Any] = tqdm,
) -> list[Recording]:
    """All recordings, from files of `batch` questions each below `folder`; what is there is not made again.

    Files of one target and one way of asking share a folder named after these, so that none is ever mixed up.
    """
    asked = dict(max_new_tokens=max_new_tokens, seed=seed)
    groups = [questions[start : start + batch] for start in range(0, len(questions), batch)]
    parts = [(temperature, number, group) for temperature in temperatures for number, group in enumerate(groups)]
    key = recording_key(target, [], (), **asked) | {"batch": batch, "code": code_hash("sampling", "target", "lab.many")}
    folder = folder / f"recordings-{digest(key)}"
    recordings = []
    for temperature, number, group in progress(parts, desc="record", unit=f"{batch} questions"):
        name = f"T{temperature:g}-{number:03}-{digest([one.question_id for one in group])}.json"
        recordings += recorded(folder / name, target, group, (temperature,), batch=batch, progress=_silent, **asked)
    return recordings


def _silent(jobs, **_):
    return jobs


def recorded(
    path: str | Path,
    target: Target,
    questions: Sequence[Question],
    temperatures: Sequence[float],
    *,
    max_new_tokens: int = 128,
    seed: int = 0,
    batch: int = 1,
    progress: Callable[..., Any] = tqdm,
) -> list[Recording]:
    """The recordings in the file `path`; if there is no such file they are made, as `record` says, and saved there."""
    key = recording_key(target, questions, temperatures, max_new_tokens, seed)
    if not Path(path).exists():
        made = record(target, questions, temperatures, max_new_tokens=max_new_tokens, seed=seed, batch=batch,
                      progress=progress)  # fmt: skip
        save_recordings(path, made, key)
    return load_recordings(path, key)


def recording_key(
    target: Target, questions: Sequence[Question], temperatures: Sequence[float], max_new_tokens: int, seed: int
) -> dict[str, Any]:
    """All that recordings depend on, as plain data."""
    asked = repr([(q.question_id, q.category, q.turns) for q in questions])
    return {
        **target.identity(),
        "weights_hash": fingerprint(target.model),
        "dtype": str(target.dtype),
        "questions_hash": hashlib.sha256(asked.encode()).hexdigest()[:16],
        "temperatures": list(temperatures),
        "max_new_tokens": max_new_tokens,
        "seed": seed,
    }


def save_recordings(path: str | Path, recordings: Sequence[Recording], key: dict[str, Any]) -> None:
    """Write `path` (JSON: the key, and what was asked) and, beside it, token ids and features as safetensors.

    The JSON comes last and names the other file, whose name follows from the key: a kill leaves no mixed pair.
    """
    path = Path(path)
    tensors = path.with_name(f"{path.stem}-{hashlib.sha256(repr(key).encode()).hexdigest()[:8]}.safetensors")
    ids = [one.prompt + one.tokens for one in recordings]
    flat = {
        "ids": torch.tensor([token for text in ids for token in text], dtype=torch.int32),
        "features": torch.cat([one.features for one in recordings]),
    }
    rows = []
    for one in recordings:
        row = {name: value for name, value in vars(one).items() if name not in ("prompt", "tokens", "features")}
        rows.append(row | {"prompt": len(one.prompt), "tokens": len(one.tokens)})
    save_tensors(tensors, flat)
    save_json(path, {"key": key, "tensors": tensors.name, "recordings": rows})


def load_recordings(path: str | Path, key: dict[str, Any]) -> list[Recording]:
    """Read what save_recordings wrote. Raises CheckpointError, naming what differs, if it belongs to another key."""
    path = Path(path)
    kept = load_json(path)
    old = kept.get("key", {})
    differing = [
        f"{name} was {old.get(name)!r} and is now {key.get(name)!r}"
        for name in sorted(old.keys() | key.keys())
        if old.get(name) != key.get(name)
    ]
    if differing:
        raise CheckpointError(
            f"expected recordings of this target and these settings in {path}, found others: {'; '.join(differing)}. "
            "Remove the file to record anew, or choose another one."
        )
    tensors = load_tensors(path.parent / kept["tensors"])
    lengths = [row["prompt"] + row["tokens"] for row in kept["recordings"]]
    ids = tensors["ids"].split(lengths)
    features = tensors["features"].split([length - 1 for length in lengths])
    return [
        Recording(**row | {"prompt": text[: row["prompt"]], "tokens": text[row["prompt"] :], "features": part})
        for row, text, part in zip(kept["recordings"], (one.tolist() for one in ids), features, strict=True)
    ]
