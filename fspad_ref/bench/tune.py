"""`python -m fspad_ref tune`: the tree size that decodes fastest on this machine.

    1. record    let the target answer half of the prompts, and grow big trees along the answers (calibration.py)
    2. measure   what every part of a round costs here (timings.py, costs.py)
    3. predict   for every top_k, depth, total_tokens the speedup, from its tau on the answers and the costs
    4. check     decode the other half of the prompts with the best few, in turn with plain decoding; the fastest wins

Predictions are made on prompts other than those that check them. Neither must be the benchmark's questions.
"""

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import isotonic_regression
from torch import Tensor
from tqdm.auto import tqdm

from fspad_ref.bench.bench import drawn_order
from fspad_ref.bench.costs import Costs, Terms, ideal_speedup, measure_costs, predict_speedup
from fspad_ref.bench.record import jsonable, provenance
from fspad_ref.bench.replay import text_features
from fspad_ref.data import prompt_ids, read_dialogues
from fspad_ref.draft import Draft
from fspad_ref.errors import CheckpointError, ConfigError, InputError
from fspad_ref.files import load_json, save_json
from fspad_ref.generate import Generation, autoregressive_generate, speculative_generate
from fspad_ref.sampling import SamplingConfig
from fspad_ref.target import Target
from fspad_ref.tree import DraftTree, TreeConfig, grow_tree

# ---- calibration ----
#
# What a draft's trees are worth: big trees grown along recorded texts, from which smaller ones are cut.
#
# The text of an answer does not depend on the draft. So one big tree is grown at *every* position of it, all scored
# nodes are kept with whether they lie on the text, and any smaller setting is then judged without the draft: cut its
# tree out of the big one, count the nodes on the text, jump to the root of the next round. Its tau is the real loop's
#
#     exactly        for the big tree's own top_k, with any depth up to its own and any total_tokens
#     approximately  for a smaller top_k: its frontier may hold a node that the big tree's frontier, full of children of
#                    rank >= top_k, has left out; then that node's children are missing. `exact` is the share of
#                    positions where this did not happen, and elsewhere tau is a little too low.
#
# (Up to near-ties below float64: a draft forward of 10 rows rounds otherwise than one of 4.)
#
# *Calibration.* A node's score s = sum log q is the draft's own opinion of exp(s), the probability that the node will be
# accepted. Counting over the big trees gives the truth: for each depth and child rank an isotonic regression of
# "on the text" on s, never falling, as reranking takes for granted.

RANKS = 3  # child ranks told apart by the calibration: best, second, all others


@dataclass(frozen=True)
class BigTree:
    """All that an expansion scored, root first, in level order; arrays of (nodes,).

    token, parent, depth, score: as in DraftTree. rank: place among its siblings, best 0. on_text: the path from the
    root to here is what the target wrote; at most one node a depth, and nothing beyond the end of the text.
    """

    token: np.ndarray
    parent: np.ndarray
    depth: np.ndarray
    rank: np.ndarray
    score: np.ndarray
    on_text: np.ndarray


@torch.no_grad()
def big_trees(draft: Draft, prompt: Sequence[int], tokens: Sequence[int], top_k: int, depth: int) -> list[BigTree]:
    """A big tree at every position of the text `tokens` that follows `prompt`; its last token is nobody's root."""
    config = full(top_k, depth)
    device = draft.target.device
    text = torch.tensor([*prompt, *tokens], device=device)  # (L,)
    features = text_features(draft.target, text.tolist())[None].to(device)  # (1, L - 1, D)
    drawn = F.pad(text, (0, config.levels), value=-1)  # beyond the end: no token
    cache = draft.new_cache(len(text) + depth * top_k)
    trees, seen = [], 0
    for root in range(len(prompt), len(text) - 1):
        grown = grow_tree(draft, features[:, seen:root], text[None, seen : root + 1], config, cache)
        trees.append(_big(grown, drawn[root + grown.depth], top_k))
        seen = root
    return trees


def full(top_k: int, depth: int) -> TreeConfig:
    """The tree that keeps every scored node."""
    return TreeConfig(top_k, depth, 1 + top_k + depth * top_k**2)


def _big(tree: DraftTree, written: Tensor, top_k: int) -> BigTree:
    """written (nodes,): the token of the text at each node's depth."""
    on_text = ((tree.token == written) | ~tree.ancestors).all(dim=-1)  # it and all above it carry the text's tokens
    rank = np.concatenate(([0], np.arange(len(tree) - 1) % top_k))  # siblings stand together, best first
    tensors = (tree.token, tree.parent, tree.depth, tree.score, on_text)
    token, parent, depth, score, on_text = (part.cpu().numpy() for part in tensors)
    return BigTree(token, parent, depth, rank, score, on_text)


# --- cutting ---------------------------------------------------------------------------------------------------------


def ranked(big: BigTree, top_k: int, depth: int) -> tuple[np.ndarray, bool]:
    """The nodes that a smaller expansion would score, best first, as `rerank` would keep them; and whether exactly.

    By the rule of `expand`: of the frontier's children those of rank < k, and of these the k best are the next
    frontier. False if a frontier node has no children in the big tree.
    """
    found, frontier, exact = [], np.array([0]), True
    for level in range(1, depth + 2):
        children = np.flatnonzero((big.depth == level) & (big.rank < top_k) & np.isin(big.parent, frontier))
        exact = exact and len(children) == top_k * len(frontier)
        found.append(children)
        frontier = children[np.argsort(-big.score[children], kind="stable")][:top_k]
    nodes = np.concatenate(found)
    return nodes[np.argsort(-big.score[nodes], kind="stable")], exact


def cut(big: BigTree, config: TreeConfig) -> tuple[np.ndarray, bool]:
    """The nodes of the tree of that size, root included, in level order; and whether it is exactly that tree."""
    best, exact = ranked(big, config.top_k, config.depth)
    return np.sort(np.concatenate(([0], best[: config.total_tokens - 1]))), exact


@dataclass(frozen=True)
class Forecast:
    """What a tree setting would reach on the recorded texts.

    tau: by walking the rounds. expected_tau: 1 + the calibrated probabilities of its nodes, summed, the mean over all
    positions: smoother, but positions where no round begins count too. exact: share of positions cut exactly.
    """

    tree: TreeConfig
    tau: float
    expected_tau: float
    exact: float


def forecast(
    texts: Sequence[Sequence[BigTree]], settings: Sequence[TreeConfig], calibration: "Calibration"
) -> list[Forecast]:
    """Every setting on every text (its big trees, one a position)."""
    settings = sorted(settings, key=lambda tree: (tree.top_k, tree.depth, tree.total_tokens))
    chances = [[calibration.of_tree(big) for big in text] for text in texts]
    positions = sum(len(text) for text in texts)
    results = []
    for (top_k, depth), group in groupby(settings, key=lambda tree: (tree.top_k, tree.depth)):
        cuts = [[ranked(big, top_k, depth) for big in text] for text in texts]
        exact = sum(is_exact for text in cuts for _, is_exact in text) / positions
        for tree in group:
            accepted, chance = [], []
            for text, its_cuts, its_chances in zip(texts, cuts, chances, strict=True):
                kept = [best[: tree.total_tokens - 1] for best, _ in its_cuts]
                accepted.append([int(big.on_text[nodes].sum()) for big, nodes in zip(text, kept, strict=True)])
                chance += [float(p[nodes].sum()) for p, nodes in zip(its_chances, kept, strict=True)]
            tau = positions / sum(map(rounds, accepted))
            results.append(Forecast(tree, tau, 1 + float(np.mean(chance)), exact))
    return results


def rounds(accepted: Sequence[int]) -> int:
    """Rounds that a text takes when a round begun at position i accepts accepted[i] tokens and adds one."""
    count, place = 0, 0
    while place < len(accepted):
        place += accepted[place] + 1
        count += 1
    return count


# --- calibrating -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Calibration:
    """P(node lies on the text | score, depth, rank), as steps of an isotonic regression.

    steps: (depth, min(rank, 2)) -> (scores ascending, probabilities never falling), straight lines between.
    acceptance (levels, k): of the nodes of that depth and rank whose parent is on the text, the share that is too
    (behind the last token none is); NaN where there are none.
    """

    steps: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]
    acceptance: np.ndarray

    def __call__(self, score: np.ndarray, depth: int, rank: int) -> np.ndarray:
        """The probability of nodes of one depth and rank, by their scores."""
        key = (depth, min(rank, RANKS - 1))
        if key not in self.steps:
            raise ConfigError(
                f"expected a depth and rank that were calibrated, found depth {depth}, rank {rank}. "
                "Calibrate with deeper or wider trees."
            )
        return np.interp(score, *self.steps[key])

    def of_tree(self, big: BigTree) -> np.ndarray:
        """The probability of every node; the root's is 1."""
        chance = np.ones(len(big.score))
        for (depth, rank), steps in self.steps.items():
            nodes = _of(big, depth, rank)
            chance[nodes] = np.interp(big.score[nodes], *steps)
        return chance


def calibrate(texts: Sequence[Sequence[BigTree]]) -> Calibration:
    """Fit on all positions of all texts."""
    trees = [big for text in texts for big in text]
    if not trees:
        raise ConfigError("expected texts of at least two tokens, found none. Give other prompts, or longer texts.")
    levels, top_k = int(trees[0].depth.max()), int(trees[0].rank.max()) + 1
    steps = {}
    for depth in range(1, levels + 1):
        for rank in range(min(RANKS, top_k)):
            chosen = [(big.score[nodes], big.on_text[nodes]) for big in trees for nodes in [_of(big, depth, rank)]]
            steps[depth, rank] = fit_steps(*(np.concatenate(part) for part in zip(*chosen, strict=True)))
    return Calibration(steps, _acceptance(trees, levels, top_k))


def fit_steps(score: np.ndarray, on_text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Isotonic regression of on_text (0 or 1) on the score: the two ends of every step."""
    x, where, count = np.unique(
        np.nan_to_num(score.astype(float), neginf=-1e9), return_inverse=True, return_counts=True
    )
    y = np.bincount(where, weights=on_text) / count
    fitted = isotonic_regression(y, weights=count).x
    ends = np.flatnonzero(np.diff(fitted, prepend=-1, append=2))  # where steps begin, and one past the last
    knots = np.unique(np.concatenate((ends[:-1], ends[1:] - 1)))
    return x[knots], fitted[knots]


def _of(big: BigTree, depth: int, rank: int) -> np.ndarray:
    """Which nodes belong to one step function."""
    return np.flatnonzero((big.depth == depth) & (np.minimum(big.rank, RANKS - 1) == rank))


def _acceptance(trees: Sequence[BigTree], levels: int, top_k: int) -> np.ndarray:
    """(levels, k): accepted over tried, by depth and child rank."""
    accepted, tried = np.zeros((levels, top_k)), np.zeros((levels, top_k))
    for big in trees:
        for counts, chosen in ((tried, big.on_text[big.parent]), (accepted, big.on_text)):
            nodes = np.flatnonzero(chosen)[1:]  # without the root, its own parent
            np.add.at(counts, (big.depth[nodes] - 1, big.rank[nodes]), 1)
    with np.errstate(invalid="ignore"):
        return accepted / tried



# ---- tuned ----
#
# What tuning found: candidates, the choice, its table and its file, which is reused on the same machine.

@dataclass(frozen=True)
class Candidate:
    """A tree size, what was predicted of it, and, for finalists, what came of it.

    tau, expected_tau, exact: see calibration.Forecast. predicted, ideal: speedups by the cost model, with and without
    overhead; prefill included. measured, measured_tau: in the real loop, on other prompts.
    """

    tree: TreeConfig
    tau: float
    expected_tau: float
    exact: float
    predicted: float
    ideal: float
    measured: float | None = None
    measured_tau: float | None = None

    @property
    def error(self) -> float | None:
        """Predicted over measured, minus 1."""
        return None if self.measured is None else self.predicted / self.measured - 1


@dataclass(frozen=True)
class Tuned:
    """The chosen tree, all candidates (best prediction first), and what the predictions rest on."""

    tree: TreeConfig
    candidates: list[Candidate]
    costs: Costs
    calibration: Calibration
    tokens: float

    @property
    def finalists(self) -> list[Candidate]:
        """Those that were measured, fastest first."""
        measured = [one for one in self.candidates if one.measured is not None]
        return sorted(measured, key=lambda one: -one.measured)


def save_tuned(path: str | Path, tuned: Tuned, target: Target, config: Mapping[str, Any]) -> None:
    """Write the choice, all candidates with predicted and measured, costs, calibration, provenance, and `config`."""
    calibration = {
        "acceptance": [[None if math.isnan(x) else x for x in row] for row in tuned.calibration.acceptance.tolist()],
        "steps": [
            {"depth": depth, "rank": rank, "score": score.tolist(), "probability": chance.tolist()}
            for (depth, rank), (score, chance) in tuned.calibration.steps.items()
        ],
    }
    save_json(
        path,
        {
            "tree": asdict(tuned.tree),
            "made_for": _machine(target),
            "provenance": provenance(target),
            "config": dict(config),
            "tokens": tuned.tokens,
            "candidates": [{**asdict(one), "error": one.error} for one in tuned.candidates],
            "costs": asdict(tuned.costs),
            "calibration": calibration,
        },
    )


def load_tuned(path: str | Path, target: Target) -> TreeConfig:
    """The tree that was chosen for this target, on this device and in this precision.

    Raises CheckpointError for a file of another kind, or made for another target or machine.
    """
    kept = load_json(path)
    try:
        tree, made_for = TreeConfig(**kept["tree"]), kept["made_for"]
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"expected a result of tuning in {path}, found something else ({error}). Tune again."
        ) from error
    here = _machine(target)
    if differing := [f"{name} {made_for.get(name)} (here: {here[name]})" for name in here
                     if made_for.get(name) != here[name]]:  # fmt: skip
        raise CheckpointError(
            f"expected a tree tuned for this target on this machine in {path}, found one for {'; '.join(differing)}. "
            "Tune again here."
        )
    return tree


def _machine(target: Target) -> dict[str, Any]:
    """What must be the same for a tuned tree to be the right one."""
    about = provenance(target)
    return {**target.identity(), **{name: about[name] for name in ("hardware", "threads", "dtype")},
            "device": target.device.type}  # fmt: skip


def table(tuned: Tuned, lines: int = 10) -> str:
    """Plain text: the best predictions, and of the finalists what was measured; then the acceptance by depth, rank."""
    head = f"{'top_k':>5}{'depth':>6}{'nodes':>6}{'tau':>7}{'ideal':>7}{'predicted':>10}{'measured':>10}{'error':>8}"
    rows = [head]
    for place, one in enumerate(tuned.candidates):
        if place >= lines and one.measured is None:
            continue
        tree = one.tree
        row = f"{tree.top_k:5}{tree.depth:6}{tree.total_tokens:6}{one.tau:7.2f}{one.ideal:7.2f}{one.predicted:10.2f}"
        rows.append(row if one.measured is None else row + f"{one.measured:10.2f}{one.error:+8.1%}")
    rows.append("\nacceptance by depth (rows) and child rank (columns), given that the parent was accepted")
    for depth, row in enumerate(tuned.calibration.acceptance, start=1):
        rows.append(f"{depth:5} " + "".join(f"{x:7.2f}" for x in row))
    tree = tuned.tree
    rows.append(f"\nfastest: top_k {tree.top_k}, depth {tree.depth}, total_tokens {tree.total_tokens}")
    return "\n".join(rows)



# ---- tune ----

Prompts = Sequence[Sequence[int]]
Clock = Callable[[], float]


@dataclass(frozen=True)
class TuneConfig:
    """Choose the tree size that decodes fastest on this machine."""

    target: str = "data/old/target"
    """Folder or Hub id of the target."""
    draft: str = "data/old/drafts/fspad"
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


