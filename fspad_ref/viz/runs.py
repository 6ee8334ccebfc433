"""Whole decodings with all their rounds: recorded, compared with plain decoding, remembered, cancellable.

A `Recorder` stands in the draft's place and grows the same trees, a `Watched` target in the target's place: they keep
what the package's own loop computes. The rest of a round (p, draws, walk) is worked out afterwards by the functions
that the loop uses, so recording takes no time while the clock runs.
"""

import functools
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fspad_ref.data import Question
from fspad_ref.draft import Draft
from fspad_ref.errors import ConfigError, FspadError
from fspad_ref.generate import Chooser, Generation, autoregressive_generate, speculative_generate
from fspad_ref.sampling import SamplingConfig, at_least_float32, choose, process_logits
from fspad_ref.target import Target
from fspad_ref.tree import DraftTree, DynamicTree, Grow, TreeConfig, rerank
from fspad_ref.verify import verify

Words = Callable[[int], str]  # token id -> its text
Stopped = Callable[[], bool]
Progress = Callable[[str], object]


class Cancelled(FspadError):
    """The reader has asked a decoding to stop."""


@dataclass(frozen=True)
class Settings:
    """One decoding. Draft and tree change only the speed, not the text."""

    prompt: tuple[int, ...]
    draft: str
    tree: TreeConfig = field(default_factory=TreeConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    max_new_tokens: int = 48

    @property
    def text(self) -> tuple:
        """What the text depends on."""
        return self.prompt, self.sampling, self.max_new_tokens


@dataclass(frozen=True)
class Round:
    """One round: N nodes in the tree, S nodes scored before reranking (without the root), both in level order.

    prefix: cache slots in use before the target's pass over the tree. scored: token, parent, depth, score, (S,) each,
    as `tree.expand` returns them. features (N, D): the target's. q, p (N,): the draft's and the target's probability of
    a node's token after its parent, 1 at the root. drawn (N,): the token drawn at each node. path: the nodes of the
    walk, root first. tokens: the accepted ones and the bonus token. kept: how many of them stay in the text.
    """

    prefix: int
    scored: tuple[Tensor, Tensor, Tensor, Tensor]
    tree: DraftTree
    features: Tensor
    q: list[float]
    p: list[float]
    drawn: list[int]
    path: list[int]
    tokens: list[int]
    kept: int

    @property
    def matches(self) -> list[bool]:
        """Whether a node's token was drawn at its parent, (N,); the root's was."""
        pairs = enumerate(zip(self.tree.parent.tolist(), self.tree.token.tolist(), strict=True))
        return [not v or self.drawn[up] == token for v, (up, token) in pairs]

    def children(self, node: int) -> list[int]:
        """The nodes directly below `node`. The walk continues with probability sum of p over them."""
        return [child for child, up in enumerate(self.tree.parent.tolist()) if up == node and child]


@dataclass(frozen=True)
class Run:
    """A whole text with its rounds. seconds, plain_seconds: one measurement each.

    parted: None if the text is plain decoding's, compared token by token; else the first place where it differs.
    """

    settings: Settings
    answer: Generation
    rounds: list[Round]
    seconds: float
    plain_seconds: float
    parted: int | None


class Workbench:
    """A target with its tokenizer, its drafts by name, questions, and the runs so far. words: token id -> text."""

    def __init__(self, target: Target, drafts: Mapping[str, Draft], questions: Sequence[Question] = ()):
        self.target, self.drafts, self.questions = target, dict(drafts), tuple(questions)
        self.words = functools.lru_cache(8192)(lambda token: target.tokenizer.decode([token]))
        self.runs: dict[Settings, Run] = {}
        self.plains: dict[tuple, tuple[Generation, float]] = {}  # Settings.text -> plain decoding and its seconds
        self.warm: set[str] = set()

    def run(self, settings: Settings, stopped: Stopped = lambda: False, progress: Progress = lambda text: None) -> Run:
        """Decode, or return the run that was made earlier. progress("fspad: 12 tokens") is called after every round.

        Raises Cancelled soon after stopped() has become true, ConfigError for an unknown draft, and what
        `speculative_generate` raises for a prompt or a length that does not fit.
        """
        if settings in self.runs:
            return self.runs[settings]
        if settings.draft not in self.drafts:
            raise ConfigError(f"expected one of the drafts {sorted(self.drafts)}, found {settings.draft!r}.")
        draft, target, few = self.drafts[settings.draft], self.target, min(4, settings.max_new_tokens)
        watch = functools.partial(_watch, stopped, progress)
        text = {"input_ids": list(settings.prompt), "eos_token_id": target.tokenizer.eos_token_id,
                "sampling": settings.sampling}  # fmt: skip
        if settings.draft not in self.warm:  # first calls pay for memory that later ones reuse: a few uncounted tokens
            autoregressive_generate(target, on_round=watch("warming up"), max_new_tokens=few, **text)
            speculative_generate(target, draft, tree=settings.tree, max_new_tokens=few, **text)
            self.warm.add(settings.draft)
        text["max_new_tokens"] = settings.max_new_tokens
        if settings.text not in self.plains:
            self.plains[settings.text] = self._timed(autoregressive_generate, target, on_round=watch("plain"), **text)
        plain, plain_seconds = self.plains[settings.text]
        watched, on_round = Watched(target), watch(settings.draft)
        recorder = Recorder(draft, settings.tree, watched)
        result, seconds = self._timed(speculative_generate, watched, recorder, on_round=on_round, **text)
        pairs = itertools.zip_longest(result.tokens, plain.tokens)
        parted = next((place for place, (one, other) in enumerate(pairs) if one != other), None)
        rounds = _rounds(settings, result, recorder)
        self.runs[settings] = Run(settings, result, rounds, seconds, plain_seconds, parted)
        return self.runs[settings]

    def _timed(self, decode: Callable[..., Generation], *models: Any, **text: Any) -> tuple[Generation, float]:
        self.target.synchronize()
        began = time.perf_counter()
        result = decode(*models, **text)
        self.target.synchronize()
        return result, time.perf_counter() - began


def _watch(stopped: Stopped, progress: Progress, name: str) -> Callable[[list[int], int], None]:
    """A callback for the decoding loops: asks whether to go on, and says how far the text has come."""
    text: list[int] = []

    def on_round(tokens: list[int], accepted: int) -> None:
        if stopped():
            raise Cancelled("stopped on request. Change a setting, or decode again.")
        text.extend(tokens)
        progress(f"{name}: {len(text)} tokens")

    return on_round


@torch.no_grad()
def distribution(logits: Tensor, sampling: SamplingConfig) -> Tensor:
    """p, (rows, V) -> (rows, V): what tokens are drawn from; in greedy decoding all of it is on one token."""
    scores = process_logits(at_least_float32(logits), sampling)
    if sampling.greedy:
        return F.one_hot(choose(scores, None).clamp(min=0), logits.shape[-1]).double()
    return scores.softmax(dim=-1)


# ---- recording ----


class Watched(Target):
    """The target itself; it keeps what its passes over trees return: features (N, D)."""

    def __init__(self, target: Target):
        self.__dict__ |= vars(target)
        self.passes: list[Tensor] = []

    def tree_features(self, tokens, depth, ancestors, cache) -> Tensor:
        self.passes.append(super().tree_features(tokens, depth, ancestors, cache))
        return self.passes[-1]


@dataclass(frozen=True)
class Recorder(DynamicTree):
    """Grows the trees of `DynamicTree` and keeps all scored nodes beside each tree: grown[i] = (scored, tree)."""

    target: Watched | None = None
    grown: list[tuple[tuple[Tensor, ...], DraftTree]] = field(default_factory=list)

    def start(self, longest: int) -> Grow:
        grow_all = DynamicTree(self.draft, replace(self.shape, total_tokens=self.shape.capacity)).start(longest)

        def grow(features: Tensor, token_ids: Tensor, *noise: Tensor) -> DraftTree:
            every = grow_all(features, token_ids, *noise)  # a tree of all that is scored, from which reranking chooses
            scored = every.token[1:], every.parent[1:], every.depth[1:], every.score[1:]
            self.grown.append((scored, rerank(token_ids[0, -1], *scored, self.shape)))
            return self.grown[-1][1]

        return grow


@torch.no_grad()
def _rounds(settings: Settings, result: Generation, recorder: Recorder) -> list[Round]:
    """The rounds, from what was kept. The text before each is the prompt and what earlier rounds emitted."""
    target, levels = recorder.target, recorder.levels
    chooser, text = Chooser(settings.sampling, target), [*settings.prompt, *result.tokens[:1]]
    rounds, left = [], len(result.tokens) - 1
    for (scored, tree), features in zip(recorder.grown, target.passes, strict=True):
        logits = target.lm_head(features)  # (N, D) -> (N, V)
        drawn = chooser.every_node(logits, tree, torch.tensor([text], device=target.device), levels)  # (N,)
        path, _, tokens = verify(tree, drawn, levels).read()
        p = distribution(logits, settings.sampling)[tree.parent, tree.token]  # (N, V) -> (N,)
        q = (tree.score - tree.score[tree.parent]).exp()  # (N,)
        p[0] = 1.0
        columns = (column.tolist() for column in (q, p, drawn, path))
        # the root is not in the cache yet
        rounds.append(Round(len(text) - 1, scored, tree, features, *columns, tokens, min(len(tokens), left)))
        text, left = text + tokens, left - rounds[-1].kept
    return rounds
