"""`python -m fspad_ref tune`: the tree size that decodes fastest on this machine.

    1. record    let the target answer half of the prompts, and grow big trees along the answers (calibration.py)
    2. measure   what every part of a round costs here (timings.py, costs.py)
    3. predict   for every top_k, depth, total_tokens the speedup, from its tau on the answers and the costs
    4. check     decode the other half of the prompts with the best few, in turn with plain decoding; the fastest wins

Predictions are made on prompts other than those that check them. Neither must be the benchmark's questions.
"""

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm.auto import tqdm

from fspad_ref.corpus import prompt_ids, read_dialogues
from fspad_ref.draft import Draft
from fspad_ref.errors import ConfigError, InputError
from fspad_ref.generate import Generation, autoregressive_generate, speculative_generate
from fspad_ref.lab.bench import drawn_order
from fspad_ref.lab.calibration import Forecast, big_trees, calibrate, forecast
from fspad_ref.lab.costs import Costs, ideal_speedup, predict_speedup
from fspad_ref.lab.provenance import jsonable
from fspad_ref.lab.timings import Terms, measure_costs
from fspad_ref.lab.tuned import Candidate, Tuned, save_tuned, table
from fspad_ref.sampling import SamplingConfig
from fspad_ref.target import Target
from fspad_ref.tree import TreeConfig

Prompts = Sequence[Sequence[int]]
Clock = Callable[[], float]


@dataclass(frozen=True)
class TuneConfig:
    """Choose the tree size that decodes fastest on this machine."""

    target: str = "data/target"
    """Folder or Hub id of the target."""
    draft: str = "data/drafts/fspad"
    """Folder of a draft made for that target."""
    data: Path | None = None
    """Dialogues, JSON or JSONL, whose first questions are the prompts; None takes questions of the built-in world."""
    prompts: int = 36
    """How many prompts; the second half of them only checks the predictions."""
    max_new_tokens: int = 128
    """Longest answer."""
    temperature: float = 0.0
    """Sampling temperature."""
    top_k: tuple[int, ...] = (2, 3, 4, 6, 8, 10)
    """Values of top_k to try."""
    depth: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7)
    """Values of depth to try."""
    total_tokens: tuple[int, ...] = (8, 12, 16, 20, 24, 32, 48, 60, 96)
    """Values of total_tokens to try."""
    finalists: int = 4
    """How many of the best predictions are checked in the real loop."""
    repetitions: int = 20
    """How often every cost is timed."""
    seed: int = 0
    """With the prompt's number, the key of its answer's noise."""
    device: str = "cpu"
    """Where to compute."""
    dtype: Literal["float64", "float32", "bfloat16"] = "float32"
    """Precision of weights and arithmetic."""
    chat_format: str | None = None
    """The target's prompt format if it brings no chat template: vicuna. None takes the target's own template."""
    out: Path | None = None
    """Where the results go; by default out/tune/DEVICE.json."""

    @property
    def file(self) -> Path:
        return self.out or Path("out/tune") / f"{self.device.replace(':', '-')}.json"

    @property
    def trees(self) -> list[TreeConfig]:
        """All combinations that exist: the expansion must score as many nodes as the tree keeps."""
        return [
            TreeConfig(k, depth, n)
            for k, depth, n in itertools.product(self.top_k, self.depth, self.total_tokens)
            if n <= 1 + k + depth * k**2
        ]

    def __post_init__(self) -> None:
        if self.prompts < 2 or self.finalists < 1 or not self.trees:
            raise ConfigError(
                f"expected at least 2 prompts, 1 finalist and 1 tree, found {self.prompts}, {self.finalists} and "
                f"{len(self.trees)}. Raise what is too low."
            )


def tune(config: TuneConfig, prompts: Prompts | None = None) -> Tuned:
    """Tune, print a table, write `config.file`. `prompts`, token ids, take the place of `config.data`."""
    target = Target.from_pretrained(
        config.target, device=config.device, dtype=config.dtype, chat_format=config.chat_format
    )
    draft = Draft.from_pretrained(config.draft, target)
    if prompts is None:
        prompts = tuning_prompts(target, config)
    tuned = tune_tree(target, draft, prompts, config)
    print(table(tuned))
    save_tuned(config.file, tuned, target, {**jsonable(config), "kind": draft.config.kind})
    print(f"Results: {config.file}")
    return tuned


def tuning_prompts(target: Target, config: TuneConfig) -> list[list[int]]:
    """The prompts that a tuning asks, encoded."""
    return [prompt_ids(target.tokenizer, [], question) for question in _questions(config)]


def _questions(config: TuneConfig) -> list[str]:
    """First turns, by default of the built-in world's held-out side, task after task in turn: both halves hold all."""
    if config.data is not None:
        return [one.turns[0][0] for one in read_dialogues(config.data)[: config.prompts]]
    from fspad_ref.world.stream import further_questions  # drafts of other targets need no world

    return further_questions(config.prompts)


def tune_tree(
    target: Target, draft: Draft, prompts: Prompts, config: TuneConfig, now: Clock = time.perf_counter
) -> Tuned:
    """The four steps on `config.prompts` of these prompts.

    Raises InputError for fewer than two, or if all answers have a single token.
    """
    prompts = [list(ids) for ids in prompts[: config.prompts]]
    if len(prompts) < 2:
        raise InputError(f"expected at least 2 prompts, found {len(prompts)}. Give more.")
    half = len(prompts) // 2
    recorded = record(target, prompts[:half], config)
    top_k, depth = max(config.top_k), max(config.depth)
    texts = [big_trees(draft, *one, top_k, depth) for one in tqdm(recorded, desc="grow")]
    calibration = calibrate(texts)
    costs = _costs(target, draft, recorded, config, now)
    tokens = float(np.mean([len(tokens) for _, tokens in recorded]))
    candidates = predict(forecast(texts, config.trees, calibration), costs, tokens)
    candidates = check(target, draft, prompts[half:], candidates, config, now)
    best = max((one for one in candidates if one.measured is not None), key=lambda one: one.measured)
    return Tuned(best.tree, candidates, costs, calibration, tokens)


def record(target: Target, prompts: Prompts, config: TuneConfig) -> list[tuple[list[int], list[int]]]:
    """(prompt, the target's answer), without answers of a single token, which have no round."""
    pairs = []
    for number, ids in enumerate(tqdm(prompts, desc="record")):
        pairs.append((list(ids), _decode(target, None, ids, None, config, number).tokens))
    kept = [(ids, tokens) for ids, tokens in pairs if len(tokens) > 1]
    if not kept:
        raise InputError("expected an answer of at least 2 tokens, found none. Give other prompts.")
    return kept


def _costs(target: Target, draft: Draft, recorded: Sequence[tuple], config: TuneConfig, now: Clock) -> Costs:
    """Measured at the length of the recorded texts in mid-answer, for every size that the candidates ask for."""
    deepest = max(config.depth)
    terms = Terms(
        prompt=int(np.mean([len(prompt) for prompt, _ in recorded])),
        prefix=int(np.mean([len(prompt) + len(tokens) / 2 for prompt, tokens in recorded])),
        sampling=SamplingConfig(config.temperature, seed=config.seed),
        tree_sizes=sorted({1, *config.total_tokens}),
        draft_rows=sorted({*range(1, deepest + 2, 2), deepest + 2, *config.top_k}),  # tau is deepest + 2 at most
    )
    return measure_costs(target, draft, terms, repetitions=config.repetitions, now=now)


def predict(forecasts: Sequence[Forecast], costs: Costs, tokens: float) -> list[Candidate]:
    """The cost model's speedup of every tree on texts of so many tokens, the best first."""
    candidates = [
        Candidate(
            **vars(one),
            predicted=predict_speedup(costs, one.tree, one.tau, tokens),
            ideal=ideal_speedup(costs, one.tree, one.tau, tokens),
        )
        for one in forecasts
    ]
    return sorted(candidates, key=lambda one: -one.predicted)


def check(
    target: Target, draft: Draft, prompts: Prompts, candidates: Sequence[Candidate], config: TuneConfig, now: Clock
) -> list[Candidate]:
    """Measure the first few candidates, and EAGLE-2's own tree if it is among them, in turn with plain decoding."""
    finalists = list(candidates[: config.finalists])
    finalists += [one for one in candidates[config.finalists :] if one.tree == TreeConfig()]
    methods = [None, *(one.tree for one in finalists)]
    totals = {method: np.zeros(4) for method in methods}  # seconds, tokens, tokens - 1, rounds
    short = dataclasses.replace(config, max_new_tokens=min(16, config.max_new_tokens))
    for method in methods:
        _decode(target, draft, prompts[0], method, short, 0)  # warm-up
    for number, ids in enumerate(tqdm(prompts, desc="check")):
        for method in drawn_order(methods, number):
            target.synchronize()
            began = now()
            result = _decode(target, draft, ids, method, config, number)
            target.synchronize()
            length = len(result.tokens)
            totals[method] += now() - began, length, length - 1, len(result.accepted)
    if not totals[None][2]:
        raise InputError("expected an answer of at least 2 tokens to check with, found none. Give other prompts.")
    rate = {method: tokens / seconds for method, (seconds, tokens, _, _) in totals.items()}
    measured = {
        one.tree: dict(
            measured=float(rate[one.tree] / rate[None]), measured_tau=float(totals[one.tree][2] / totals[one.tree][3])
        )
        for one in finalists
    }
    return [dataclasses.replace(one, **measured.get(one.tree, {})) for one in candidates]


def _decode(
    target: Target, draft: Draft | None, ids: Sequence[int], tree: TreeConfig | None, config: TuneConfig, number: int
) -> Generation:
    """Plainly without a tree. Every prompt has noise of its own."""
    settings: dict[str, Any] = dict(
        max_new_tokens=config.max_new_tokens,
        eos_token_id=target.tokenizer.eos_token_id if target.tokenizer else None,
        sampling=SamplingConfig(config.temperature, seed=config.seed + number),
    )
    if tree is None:
        return autoregressive_generate(target, list(ids), **settings)
    return speculative_generate(target, draft, list(ids), tree=tree, **settings)
