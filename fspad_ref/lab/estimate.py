"""What a study will take, before it begins: each part is tried for a moment, and multiplied by what is left to do."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fspad_ref.corpus import Question, prompt_ids
from fspad_ref.lab.lockstep import replay_many
from fspad_ref.lab.many import answer_many
from fspad_ref.lab.recordings import Recording
from fspad_ref.lab.trainings import missing, new_draft
from fspad_ref.sampling import SamplingConfig
from fspad_ref.target import Target

TRIAL = 12  # tokens of the trial's answers
ASSUMED_TAU = 4.0  # of drafts that are yet to be trained
ASSUMED_LENGTH = 0.5  # of an answer, relative to the longest allowed


def estimate(
    target: Target, questions: Sequence[Question], config: Any, cost: Mapping[str, Mapping[str, float]], drafts: Path
) -> dict[str, float]:
    """Minutes of recording, training and replaying. config: a StudyConfig. cost: by kind, seconds of a training step.

    Trainings that are finished do not count; recordings and replays do, as if none were there. The batch decodes until
    its longest answer ends; the replay's time goes with rounds, which are assumed for a tau of 4.
    """
    eos = target.tokenizer.eos_token_id
    turns = sum(len(question.turns) for question in questions) * len(config.temperatures)
    batches = -(-turns // config.batch)
    prompts = [prompt_ids(target.tokenizer, [], question.turns[0]) for question in questions[: config.batch]]
    law = [SamplingConfig(max(config.temperatures), seed=number) for number in range(len(prompts))]
    answers, recording = _timed(lambda: answer_many(target, prompts, law, TRIAL, eos))
    recordings = [Recording(0, "trial", 0, 0.0, prompt, tokens, features)
                  for prompt, (tokens, features) in zip(prompts, answers, strict=True)]  # fmt: skip
    draft = new_draft(config.kinds[-1], target).eval()
    rounds, replaying = _timed(lambda: replay_many(draft, recordings, config.tree, config.batch, _silent))
    a_round = replaying / max(1, max(map(len, rounds)))  # of a whole batch
    rest = [missing(drafts / f"seed-{seed}", config.kinds) for seed in range(config.seeds)]
    steps = sum(max(of["target"] for of in cost.values()) * bool(kinds) + sum(cost[kind]["draft"] for kind in kinds)
                for kinds in rest)  # fmt: skip
    rounds_each = ASSUMED_LENGTH * config.max_new_tokens / ASSUMED_TAU
    return {
        "recording": batches * recording / TRIAL * config.max_new_tokens / 60,
        "training": steps * config.training.steps / 60,
        "replaying": config.seeds * len(config.kinds) * batches * a_round * rounds_each / 60,
    }


def spoken(minutes: Mapping[str, float]) -> str:
    """One line for the terminal."""
    parts = ", ".join(f"{name} {value:.1f}" for name, value in minutes.items())
    return f"About {sum(minutes.values()):.0f} minutes at most: {parts}. Ctrl-C stops it, the same call goes on."


def _timed(job: Callable[[], Any]) -> tuple[Any, float]:
    """Result and seconds of the second of two calls: the first pays for memory and kernels."""
    job()
    began = time.perf_counter()
    with torch.no_grad():
        return job(), time.perf_counter() - began


def _silent(jobs, **_):
    return jobs
