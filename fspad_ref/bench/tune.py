"""`python -m fspad_ref tune`: the tree size that decodes fastest on this machine.

    1. record    let the target answer every second question
    2. replay    tau of every tree on these answers, from one big tree at every position
    3. predict   the speedup of every tree from its tau and from what a round costs here (costs.py)
    4. check     decode the other questions with the best few, in turn with plain decoding; the fastest wins

Predictions are made on questions other than those that check them, and neither are the benchmark's.

*One big tree tells every smaller tree's tau.* For each top_k the deepest tree is grown at every position of the answer,
and all scored nodes are kept. A tree of less depth scores the first of them in level order; one of N nodes keeps the
N - 1 best, and accepts as many as lie on the text. The rounds are then a walk over the positions.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from fspad_ref.bench.bench import Speculative, decode_questions, summarize
from fspad_ref.bench.costs import Costs, measure_costs, predict_speedup
from fspad_ref.bench.record import save_record
from fspad_ref.bench.replay import Recording, kept_on_text, record, scored_everywhere
from fspad_ref.bench.statistics import MEAN
from fspad_ref.data import Question, read_questions
from fspad_ref.draft import Draft
from fspad_ref.errors import ConfigError, InputError, require
from fspad_ref.sampling import SamplingConfig
from fspad_ref.target import Target
from fspad_ref.tree import TreeConfig


@dataclass(frozen=True)
class TuneConfig:
    """Choose the tree size that decodes fastest on this machine."""

    target: str = "data/target"  # folder or Hub id of the target
    draft: str = "data/drafts/fspad"  # folder of a draft made for that target
    questions: Path = Path("data/held_out.jsonl")  # in Spec-Bench's format; other ones than `bench` asks
    prompts: int = 36  # how many of them; every second one only checks the predictions
    max_new_tokens: int = 128  # longest answer
    temperature: float = 0.0  # sampling temperature
    top_k: tuple[int, ...] = (2, 3, 4, 6, 8, 10)  # values of top_k to try
    depth: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7)  # values of depth to try
    total_tokens: tuple[int, ...] = (8, 12, 16, 20, 24, 32, 48, 60, 96)  # values of total_tokens to try
    finalists: int = 4  # how many of the best predictions are checked in the real loop, beside the default tree
    repetitions: int = 20  # how often every cost is timed
    seed: int = 0  # with the prompt's number, the key of its answer's noise
    device: str = "cpu"  # where to compute
    dtype: Literal["float64", "float32", "bfloat16"] = "float32"  # precision of weights and arithmetic
    chat_format: str | None = None  # for a target without a chat template of its own: vicuna
    out: Path = Path("out/tune.json")  # where the result goes

    @property
    def trees(self) -> list[TreeConfig]:
        """All combinations that exist: the expansion must score as many nodes as the tree keeps."""
        sizes = itertools.product(self.top_k, self.depth, self.total_tokens)
        return [TreeConfig(k, depth, n) for k, depth, n in sizes if n <= TreeConfig(k, depth, 1).capacity]

    def __post_init__(self) -> None:
        found = self.prompts, self.finalists, len(self.trees)
        right, expected = self.prompts > 1 and min(found) > 0, "at least 2 prompts, 1 finalist and 1 tree"
        require(right, ConfigError, expected, found, "Raise what is too low.")


def tune(config: TuneConfig) -> pd.DataFrame:
    """Tune, print the best candidates, write `config.out`."""
    where = dict(device=config.device, dtype=config.dtype, chat_format=config.chat_format)
    target = Target.from_pretrained(config.target, **where)
    draft = Draft.from_pretrained(config.draft, target)
    asked = read_questions(config.questions)
    questions = asked[:: max(1, len(asked) // config.prompts)][: config.prompts]
    best, candidates, costs = tune_tree(target, draft, questions, config)
    save_record(config.out, {"config": config, "tree": best, "costs": costs, "candidates": candidates})
    shown = candidates[(candidates.index < 10) | candidates["measured"].notna()]
    print(f"{shown.to_string(index=False, float_format='%.2f')}\n\nfastest: {best}\nResult: {config.out}")
    return candidates


def tune_tree(
    target: Target, draft: Draft, questions: Sequence[Question], config: TuneConfig
) -> tuple[TreeConfig, pd.DataFrame, Costs]:
    """The four steps: the fastest tree, a table with a row for every tree, the best prediction first, and the costs.

    Columns: the fields of TreeConfig; tau by replay; predicted speedup, prefill included; for finalists measured,
    their speedup in the real loop on the other questions, its interval, and measured_tau.

    Raises InputError if all answers have a single token.
    """
    at = (config.temperature,)
    asked = dict(max_new_tokens=config.max_new_tokens, seed=config.seed)
    recordings = [one for one in record(target, questions[::2], at, **asked) if len(one.tokens) > 1]
    require(recordings, InputError, "an answer of at least 2 tokens", "none", "Give other prompts.")
    taus = replayed_taus(draft, recordings, config.trees)
    prompt, tokens = (np.mean([len(getattr(one, part)) for one in recordings]) for part in ("prompt", "tokens"))
    costs = measure_costs(
        target, draft, prompt=int(prompt), prefix=int(prompt + tokens / 2), total_tokens=config.total_tokens,
        top_k=config.top_k, sampling=SamplingConfig(config.temperature, seed=config.seed),
        repetitions=config.repetitions,
    )  # fmt: skip
    candidates = pd.DataFrame([
        asdict(tree) | {"tau": tau, "predicted": predict_speedup(costs, tree, tau, tokens)}
        for tree, tau in taus.items()
    ], index=list(map(str, taus))).sort_values("predicted", ascending=False)  # fmt: skip

    finalists = [tree for tree in taus if str(tree) in candidates.index[: config.finalists] or tree == TreeConfig()]
    methods = {str(tree): Speculative(draft, tree) for tree in finalists}
    checked = summarize(decode_questions(target, methods, questions[1::2], temperatures=at, **asked))
    checked = checked[checked["task"] == MEAN].set_index("method").rename(columns={
        "speedup": "measured", "speedup_low": "measured_low", "speedup_high": "measured_high", "tau": "measured_tau",
    })  # fmt: skip
    candidates = candidates.join(checked.filter(like="measured"))
    best = methods[candidates["measured"].idxmax()].tree
    return best, candidates.reset_index(drop=True), costs


def replayed_taus(
    draft: Draft, recordings: Sequence[Recording], trees: Sequence[TreeConfig], progress: Callable[..., Any] = tqdm
) -> dict[TreeConfig, float]:
    """tau of every tree on the recorded answers, exactly that of the real loop (near-ties in half precision aside)."""
    most, rounds = max(tree.total_tokens for tree in trees), dict.fromkeys(trees, 0)
    kind = {tree: replace(tree, depth=1, total_tokens=1) for tree in trees}  # trees of one kind are grown together
    deepest = {k: max(tree.depth for tree in trees if kind[tree] == k) for k in {*kind.values()}}
    jobs = [(one, k) for one in recordings for k in deepest]
    for one, k in progress(jobs, desc="replay", unit="answer"):
        score, on_text = scored_everywhere(draft, one, replace(k, depth=deepest[k]))  # two of (positions, scored)
        for depth in {tree.depth for tree in trees if kind[tree] == k}:
            first = replace(k, depth=depth).capacity - 1
            accepted = kept_on_text(score[:, :first], on_text[:, :first], most).cpu()  # (positions, up to most)
            for tree in trees:
                if (kind[tree], tree.depth) == (k, depth):
                    rounds[tree] += walk(accepted[:, tree.total_tokens - 1].tolist())
    gained = sum(len(one.tokens) - 1 for one in recordings)
    return {tree: gained / number for tree, number in rounds.items()}


def walk(accepted: Sequence[int]) -> int:
    """Rounds that a text takes when a round begun at position i accepts accepted[i] tokens and adds one."""
    count, place = 0, 0
    while place < len(accepted):
        place += accepted[place] + 1
        count += 1
    return count
