"""Whole decodings: settings -> a `Run` with all its rounds, checked against plain decoding, remembered, cancellable."""

import functools
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import torch

from fspad_ref.data import Question, prompt_ids
from fspad_ref.draft import Draft
from fspad_ref.errors import ConfigError, FspadError
from fspad_ref.generate import Chooser, Generation, autoregressive_generate, prepare_prompt, speculative_generate
from fspad_ref.sampling import SamplingConfig, process_logits
from fspad_ref.target import Target
from fspad_ref.tree import TreeConfig
from fspad_ref.viz.explorer.records import Recorder, Round, Watched, rounds_of

Stopped = Callable[[], bool]
Progress = Callable[[str], object]


class Cancelled(FspadError):
    """The reader has asked a decoding to stop."""


@dataclass(frozen=True)
class Settings:
    """One decoding. The text depends on prompt, sampling and max_new_tokens; draft and tree decide the speed alone."""

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
class Plain:
    """What plain decoding wrote, and the seconds it took."""

    tokens: tuple[int, ...]
    seconds: float


@dataclass(frozen=True)
class Run:
    """A whole text. seconds: of the speculative call. accepted: per round, drafted tokens that stayed in the text.

    parted: None if the text is plain decoding's; else the first place where it is not, and how far the best two scores
    are apart there (rounding can swap them if that is next to nothing).
    """

    settings: Settings
    tokens: tuple[int, ...]
    accepted: tuple[int, ...]
    rounds: tuple[Round, ...]
    seconds: float
    plain: Plain
    parted: tuple[int, float] | None

    @property
    def tau(self) -> float:
        """Tokens a target forward, as `Generation.tau`."""
        return Generation(list(self.tokens), list(self.accepted)).tau

    @property
    def forwards(self) -> int:
        """Target forwards, the one over the prompt included; plain decoding needs one a token."""
        return 1 + len(self.rounds)

    @property
    def speedup(self) -> float:
        """How many times as fast as plain decoding, by one measurement of each."""
        return self.plain.seconds / self.seconds


class Memory:
    """Results by key; of more than `most` the one unused for longest is forgotten. Failures are not kept."""

    def __init__(self, most: int):
        self.most, self.lock, self.held = most, Lock(), OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        with self.lock:
            if key in self.held:
                self.held.move_to_end(key)
                return self.held[key]
        made = make()
        with self.lock:
            self.held[key] = made
            while len(self.held) > self.most:
                self.held.popitem(last=False)
        return made


class Workbench:
    """A target, its drafts by name, held-out questions, and the runs made so far (the last `most` of them).

    encode: prompt text -> token ids; words: token id -> text. By default the target's chat template and tokenizer.
    """

    def __init__(
        self,
        target: Target,
        drafts: Mapping[str, Draft],
        questions: Sequence[Question] = (),
        *,
        encode: Callable[[str], Sequence[int]] | None = None,
        words: Callable[[int], str] | None = None,
        most: int = 32,
    ):
        if not drafts:
            raise ConfigError("expected at least one draft, found none. Give a mapping of names to drafts.")
        self.target, self.drafts, self.questions = target, dict(drafts), tuple(questions)
        self.encode = encode or (lambda text: prompt_ids(target.tokenizer, [], text))
        self.words = functools.lru_cache(8192)(words or (lambda token: target.tokenizer.decode([token])))
        self.eos = target.tokenizer.eos_token_id if target.tokenizer else None
        self.runs, self.plains, self.warm = Memory(most), Memory(most), set()

    def run(self, settings: Settings, stopped: Stopped = lambda: False, progress: Progress = lambda text: None) -> Run:
        """Decode, or remember. progress("...") is told how far it has come; a run once made is remembered.

        Raises Cancelled soon after stopped() has become true, ConfigError for an unknown draft, and whatever
        `speculative_generate` raises for a prompt or a length that does not fit.
        """
        if settings.draft not in self.drafts:
            raise ConfigError(
                f"expected a draft named one of {sorted(self.drafts)}, found {settings.draft!r}. Choose one of them."
            )
        return self.runs.get(settings, lambda: self._run(settings, _Watch(stopped, progress)))

    def _run(self, settings: Settings, watch: "_Watch") -> Run:
        self._warm_up(settings, watch)
        plain = self.plains.get(settings.text, lambda: self._plain(settings, watch))
        watched = Watched(self.target)
        grower = Recorder(self.drafts[settings.draft], settings.tree, watched)
        result, seconds = self._timed(
            lambda: speculative_generate(watched, grower, on_round=watch.of(settings.draft), **self._text(settings))
        )
        rounds = rounds_of(self.target, settings.prompt, settings.sampling, result, grower)
        parted = self._parting(settings, tuple(result.tokens), plain.tokens)
        return Run(settings, tuple(result.tokens), tuple(result.accepted), rounds, seconds, plain, parted)

    def _plain(self, settings: Settings, watch: "_Watch") -> Plain:
        result, seconds = self._timed(
            lambda: autoregressive_generate(self.target, on_round=watch.of("plain"), **self._text(settings))
        )
        return Plain(tuple(result.tokens), seconds)

    def _text(self, settings: Settings) -> dict[str, Any]:
        return {"input_ids": list(settings.prompt), "max_new_tokens": settings.max_new_tokens,
                "eos_token_id": self.eos, "sampling": settings.sampling}  # fmt: skip

    def _timed(self, decode: Callable[[], Generation]) -> tuple[Generation, float]:
        self.target.synchronize()
        began = time.perf_counter()
        result = decode()
        self.target.synchronize()
        return result, time.perf_counter() - began

    def _warm_up(self, settings: Settings, watch: "_Watch") -> None:
        """First calls pay for memory and kernels that later ones reuse: a few tokens, not counted, once a draft.

        It is also where a prompt or a tree that does not fit is refused, before plain decoding has taken its time.
        """
        watch.check()
        draft = self.drafts[settings.draft]
        prepare_prompt(self.target, list(settings.prompt), settings.max_new_tokens, extra=settings.tree.levels)
        if settings.tree.top_k > draft.config.vocab_size:
            raise ConfigError(
                f"expected top_k <= {draft.config.vocab_size}, the size of the vocabulary, found "
                f"{settings.tree.top_k}. Lower top_k."
            )
        if settings.draft not in self.warm:
            text = self._text(settings) | {"max_new_tokens": min(4, settings.max_new_tokens)}
            autoregressive_generate(self.target, **text)
            speculative_generate(self.target, draft, tree=settings.tree, **text)
            self.warm.add(settings.draft)

    @torch.no_grad()
    def _parting(self, settings: Settings, found: tuple[int, ...], plain: tuple[int, ...]) -> tuple[int, float] | None:
        if found == plain:
            return None
        pairs = enumerate(zip(found, plain, strict=False))
        place = next((i for i, (one, other) in pairs if one != other), min(len(found), len(plain)))
        text = torch.tensor([[*settings.prompt, *plain[:place]]], device=self.target.device)  # (1, T)
        chooser = Chooser(settings.sampling, self.target)
        scores = process_logits(self.target.lm_head(self.target.features(text)[:, -1]), settings.sampling)  # (1, V)
        if chooser.noise is not None:
            scores = scores + chooser.noise.rows(text.shape[1], 1)
        first, second = scores[0].topk(2).values.tolist()
        return place, first - second


@dataclass(frozen=True)
class _Watch:
    """Asks between rounds whether to go on, and says how far the text has come."""

    stopped: Stopped
    progress: Progress

    def check(self) -> None:
        if self.stopped():
            raise Cancelled("expected to go on, found a wish to stop. Change a setting, or run again.")

    def of(self, name: str) -> Callable[[list[int], int], None]:
        count = 0

        def on_round(tokens: list[int], accepted: int) -> None:
            nonlocal count
            self.check()
            count += len(tokens)
            self.progress(f"{name}: {count} tokens")

        return on_round
