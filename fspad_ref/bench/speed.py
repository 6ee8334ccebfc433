"""`python -m fspad_ref speed`: where the time of a round goes.

While a text is profiled the functions that a round calls carry labels (`record_function`), and torch's
profiler says how long each lasted. What a labelled function within another takes counts for the inner one alone:

    draft: tree       masks, the frontier's sort, reranking      target: layers     the forward pass over the tree
    draft: layer      forward passes                             target: lm_head
    draft: lm_head    and the k best children                    noise              position-keyed, where T > 0
    draw              processors, temperature, argmax            verify, cache      the walk; keeping its path
    rest              all other work of the loop

On a GPU a stage counts its kernels' time, and the rest is the time in which none of them ran. The profiler slows
decoding; by how much is part of the result.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function
from tqdm.auto import tqdm

from fspad_ref import generate, tree
from fspad_ref.bench.bench import BenchConfig, Speculative, load, timed
from fspad_ref.bench.record import save_record
from fspad_ref.cache import KVCache
from fspad_ref.data import prompt_ids
from fspad_ref.draft import Draft
from fspad_ref.errors import InputError
from fspad_ref.sampling import GumbelNoise, SamplingConfig
from fspad_ref.target import Target
from fspad_ref.verify import Verdict

GROW, OF_DRAFT, OF_TARGET = "draft: tree", "draft: lm_head", "target: lm_head"
STAGES = (GROW, "draft: layer", OF_DRAFT, "target: layers", OF_TARGET, "noise", "draw", "verify", "cache")


@contextmanager
def labelled(target: Target, draft: Draft) -> Iterator[None]:
    """Labels on the functions that the decoding loop calls, where it looks them up; restored on exit."""
    places = [
        (tree, "grow_tree"), (draft, "forward"), (tree, "top_children"), (target, "tree_features"),
        (target.lm_head, "forward"), (GumbelNoise, "rows"), (generate.Chooser, "every_node"), (generate, "verify"),
        (KVCache, "keep"), (Verdict, "read"),
    ]  # fmt: skip
    with ExitStack() as patches:
        for (owner, name), stage in zip(places, (*STAGES, "verify"), strict=True):
            patches.enter_context(mock.patch.object(owner, name, record_function(stage)(getattr(owner, name))))
        yield


def profile_rounds(
    target: Target, method: Speculative, prompts: Sequence[list[int]], sampling: SamplingConfig, max_new_tokens: int
) -> pd.DataFrame:
    """Columns: stage, the rest and the whole round last; ms per round, its share; rounds; slowdown by the profiler.

    Every text is decoded twice, without the profiler and with it. Raises InputError if no text is long enough for a
    round.
    """
    gpu, spent, slowdowns = target.device.type == "cuda", Counter(), []
    timed(target, method, prompts[0], 16, sampling)  # first calls pay for memory and kernels that later ones reuse
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * gpu
    for ids in prompts:
        _, seconds = timed(target, method, ids, max_new_tokens, sampling)
        with labelled(target, method.draft), profile(activities=activities) as found:
            _, watched = timed(target, method, ids, max_new_tokens, sampling)
        spent.update(stage_times(found.events(), gpu))
        slowdowns.append(watched / seconds - 1)
    if not (rounds := spent.pop("rounds", 0)):
        raise InputError("expected texts of at least one round, found none. Raise max_new_tokens.")
    names, whole = [*STAGES, "rest", "round"], spent["round"]
    return pd.DataFrame({
        "stage": names, "ms": [spent[name] / rounds / 1e3 for name in names],
        "share": [spent[name] / whole for name in names], "rounds": rounds, "slowdown": float(np.median(slowdowns)),
    })  # fmt: skip


def stage_times(events: Iterable, gpu: bool = False) -> Counter:
    """Microseconds by stage, of all rounds, from a profile's events; how many rounds; the prefill is left out."""
    events = [event for event in events if event.device_type == DeviceType.CPU]
    begin = min((event.time_range.start for event in events if event.name == GROW), default=np.inf)
    events = [event for event in events if event.time_range.start >= begin]
    spent: Counter = Counter()
    for event in events:
        if event.name in STAGES:
            time, outer = event.device_time_total if gpu else event.cpu_time_total, event.cpu_parent
            while outer is not None and outer.name not in STAGES:
                outer = outer.cpu_parent
            if outer is not None and (outer.name, event.name) == (OF_DRAFT, OF_TARGET):
                continue  # one and the same head
            spent[event.name] += time
            spent["rounds"] += event.name == GROW
            if outer is not None:
                spent[outer.name] -= time
    if events:
        spent["round"] = max(event.time_range.end for event in events) - begin
        spent["rest"] = spent["round"] - sum(spent[stage] for stage in STAGES)
    return spent


@dataclass(frozen=True)
class SpeedConfig(BenchConfig):
    """Profile the rounds of some drafts."""

    per_task: int | None = 1
    max_new_tokens: int = 64
    out: Path = Path("out/speed.json")


def speed(config: SpeedConfig) -> None:
    """Profile, print, write `config.out`."""
    target, questions, methods = load(config)
    prompts = [prompt_ids(target.tokenizer, [], question.turns[0]) for question in questions]
    stages = []
    for temperature in config.temperatures:
        for name, method in tqdm(methods.items(), desc=f"profile, T={temperature:g}"):
            sampling = SamplingConfig(temperature, seed=config.seed)
            found = profile_rounds(target, method, prompts, sampling, config.max_new_tokens)
            stages.append(found.assign(method=name, temperature=temperature))
    found = pd.concat(stages)
    save_record(config.out, {"config": config, "stages": found})
    print(found.to_string(index=False, float_format="%.3f"), config.out, sep="\n\n")
