"""How fast is it really? Every method in the real loop, in turn, several times over; and the cost model beside it.

All methods answer a question one right after the other, so that a machine that slows down slows all of them alike. Each
repetition gives a speedup of every method, six-task mean over plain decoding; what counts is their median, and their
range is shown.
"""

import functools
import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from tqdm.auto import tqdm

from fspad_ref import generate, tree
from fspad_ref.bench.bench import PLAIN, Answer, Method, answer_with_all, summarize, warm_up
from fspad_ref.bench.costs import Costs, Terms, ideal_speedup, measure_together, predict_speedup
from fspad_ref.cache import KVCache
from fspad_ref.data import Question
from fspad_ref.draft import Draft
from fspad_ref.errors import ConfigError, InputError
from fspad_ref.files import load_json, save_json
from fspad_ref.sampling import SamplingConfig
from fspad_ref.target import Target
from fspad_ref.tree import TreeConfig

# ---- stages ----
#
# Where a round of speculative decoding spends its time, stage by stage.
#
# The loop knows nothing of this: for the length of a `with`, the functions that it calls by name are replaced by ones
# that tell a clock where the time goes. The clock has a stack of stages and time runs on the topmost alone, so nothing
# is counted twice and the stages of a round add up to the round.
#
#     function           stage
#     grow_tree          rest; every call of it begins a round
#       draft.forward    draft extension: the newly accepted pairs, in the first round the whole prompt
#       expand           expand: masks, the frontier's sort, gathering what it inherits
#         draft.forward  draft levels
#         top_children   top-k: its lm_head is "draft head", the rest of it is log-softmax and top-k
#       rerank           rerank, with the ancestor mask
#     tree_features      target forward
#     lm_head            target head
#     every_node         draw: processors, temperature, noise, argmax
#     verify             accept; so is what follows it up to `keep`: the round's one copy to the host
#     keep               cache
#     all else           rest: the loop's own Python, up to the next round
#
# The heads belong to the two models' forwards, as the step of plain decoding has its lm_head too; all else is outside.
# On a GPU the clock waits for the device at every border, so a stage pays for the kernels that it launched.

FORWARDS = ("draft extension", "draft levels", "draft head", "target forward", "target head")
OUTSIDE = ("expand", "top-k", "rerank", "draw", "accept", "cache", "rest")
STAGES = FORWARDS + OUTSIDE


class StageClock:
    """Charges time to the stage on top of a stack.

    rounds: seconds by stage, one dict a round. calls: how often each stage was entered, in all rounds.
    """

    def __init__(self, wait: Callable[[], None], now: Callable[[], float]):
        self.wait, self.now = wait, now
        self.rounds: list[dict[str, float]] = []
        self.calls: Counter[str] = Counter()
        self.stack = ["rest"]
        self.last = math.nan

    def mark(self) -> None:
        """The time since the last mark goes to the topmost stage; before the first round (the prefill) to none."""
        self.wait()
        now = self.now()
        if self.rounds:
            self.rounds[-1][self.stack[-1]] += now - self.last
        self.last = now

    def timed(self, function: Callable, stage: str | Mapping[str, str], then: str | None) -> Callable:
        """`function`, charged to `stage`.

        stage: a name; or, where it depends on who calls, caller's stage -> name, with "" for all other callers.
        then: the stage of what the caller itself does next, if that changes.
        """

        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            self.mark()
            caller = self.stack[-1]
            name = stage if isinstance(stage, str) else stage.get(caller, stage[""])
            self.stack.append(name)
            self.calls[name] += bool(self.rounds)
            try:
                return function(*args, **kwargs)
            finally:
                self.mark()
                self.stack.pop()
                if then:
                    self.stack[-1] = then

        return wrapper

    def starts_round(self, grow: Callable) -> Callable:
        """`grow`, each call of which ends the round before it and begins a new one."""

        @functools.wraps(grow)
        def wrapper(*args, **kwargs):
            self.mark()
            self.rounds.append(dict.fromkeys(STAGES, 0.0))
            return timed(*args, **kwargs)

        timed = self.timed(grow, "rest", None)
        return wrapper


@contextmanager
def timed_stages(target: Target, draft: Draft, now: Callable[[], float] = time.perf_counter) -> Iterator[StageClock]:
    """A clock that runs while this target and draft decode, one text; everything is restored on exit.

    Other threads must not decode meanwhile: the functions are replaced for the whole process.
    """
    clock = StageClock(target.synchronize, now)
    places: list[tuple] = [  # where the loop looks a function up, its name there, its stage, its caller's next stage
        (draft, "forward", {"expand": "draft levels", "": "draft extension"}, None),
        (tree, "expand", "expand", None),
        (tree, "top_children", "top-k", None),
        (tree, "rerank", "rerank", None),
        (target, "tree_features", "target forward", None),
        (target.lm_head, "forward", {"top-k": "draft head", "": "target head"}, None),
        (generate.Chooser, "every_node", "draw", None),
        (generate, "verify", "accept", "accept"),
        (KVCache, "keep", "cache", "rest"),
    ]
    with ExitStack() as patches:
        for owner, name, stage, then in places:
            patches.enter_context(mock.patch.object(owner, name, clock.timed(getattr(owner, name), stage, then)))
        patches.enter_context(mock.patch.object(tree, "grow_tree", clock.starts_round(tree.grow_tree)))
        yield clock
        clock.mark()  # the end of the last round


@dataclass(frozen=True)
class Spread:
    """Median and quartiles over rounds."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class StageProfile:
    """What `profile_rounds` measured.

    seconds: by stage, a round. round: the whole round. outside: all but the two models' forwards, in seconds.
    outside_share: the same as a share of its round. rounds: how many. slowdown: the timers' own cost, seconds of
    decoding with them over seconds without, minus 1; median over texts.
    """

    seconds: dict[str, Spread]
    round: Spread
    outside: Spread
    outside_share: Spread
    rounds: int
    slowdown: float


def profile_rounds(
    target: Target,
    draft: Draft,
    prompts: Sequence[Sequence[int]],
    *,
    tree: TreeConfig | None = None,
    sampling: SamplingConfig | None = None,
    max_new_tokens: int = 64,
    eos_token_id: int | None = None,
    now: Callable[[], float] = time.perf_counter,
) -> StageProfile:
    """Profile the rounds of decoding these prompts with one tree, at one temperature; see `profile_together`."""
    wanted = {"": (tree or TreeConfig(), sampling or SamplingConfig())}
    return profile_together(target, draft, prompts, wanted, max_new_tokens=max_new_tokens, eos_token_id=eos_token_id,
                            now=now)[""]  # fmt: skip


def profile_together(
    target: Target,
    draft: Draft,
    prompts: Sequence[Sequence[int]],
    wanted: Mapping[Any, tuple[TreeConfig, SamplingConfig]],
    *,
    max_new_tokens: int = 64,
    eos_token_id: int | None = None,
    now: Callable[[], float] = time.perf_counter,
    progress: Callable[..., Any] = iter,
) -> dict[Any, StageProfile]:
    """Profile the rounds of decoding these prompts, with several trees or laws that take turns, by name.

    Every text is decoded twice, with the timers and without, in an order that changes from text to text. What the
    timers cost is thus part of the result, `slowdown`: a round makes 11 + 3 depth timed calls, each of which reads the
    clock twice, and on a GPU waits twice, which keeps Python from running ahead.

    Raises InputError if no text is long enough for a round.
    """
    rounds: dict[Any, list[dict[str, float]]] = {name: [] for name in wanted}
    ratios: dict[Any, list[float]] = {name: [] for name in wanted}
    calls: dict[Any, Counter[str]] = {name: Counter() for name in wanted}

    def decode(name: Any, ids: Sequence[int], timers: bool) -> float:
        """Seconds of one text; with timers its rounds are kept."""
        tree, sampling = wanted[name]
        with timed_stages(target, draft, now) if timers else nullcontext() as clock:
            target.synchronize()
            began = now()
            generate.speculative_generate(target, draft, list(ids), max_new_tokens=max_new_tokens, sampling=sampling,
                                          eos_token_id=eos_token_id, tree=tree)  # fmt: skip
            target.synchronize()
            spent = now() - began
        if clock:
            rounds[name] += clock.rounds
            calls[name] += clock.calls
        return spent

    for ids, name in itertools.product(prompts[:1], wanted):
        decode(name, ids, False)  # first calls pay for memory and kernels that later ones reuse
    for number, ids in enumerate(progress(prompts)):
        for name in wanted:
            found = {timers: decode(name, ids, timers) for timers in (number % 2 == 0, number % 2 == 1)}
            ratios[name].append(found[True] / found[False])
    for name in wanted:
        _check(rounds[name], calls[name])
    return {name: summarize_stages(rounds[name], float(np.median(ratios[name])) - 1) for name in wanted}


def _check(rounds: list[dict[str, float]], calls: Counter[str]) -> None:
    if not rounds:
        raise InputError(
            "expected texts of at least one round, found none. Give prompts whose answers are longer, or raise "
            "max_new_tokens."
        )
    if silent := sorted(set(STAGES) - set(calls)):
        raise RuntimeError(
            f"expected every stage of the loop to be entered, found none of {', '.join(silent)}: the loop calls "
            "them by other names now. Correct the places in timed_stages."
        )


def summarize_stages(rounds: Sequence[Mapping[str, float]], slowdown: float = 0.0) -> StageProfile:
    """Medians and quartiles over rounds, each round a dict of seconds by stage."""
    by_stage = {stage: np.array([one[stage] for one in rounds]) for stage in STAGES}
    whole = sum(by_stage.values())
    outside = sum(by_stage[stage] for stage in OUTSIDE)
    return StageProfile(
        seconds={stage: _spread(values) for stage, values in by_stage.items()},
        round=_spread(whole),
        outside=_spread(outside),
        outside_share=_spread(outside / whole),
        rounds=len(rounds),
        slowdown=slowdown,
    )


def _spread(values: np.ndarray) -> Spread:
    low, median, high = np.percentile(values, (25, 50, 75))
    return Spread(float(median), float(low), float(high))


def table(profile: StageProfile) -> str:
    """Plain text: a line a stage, in milliseconds a round; medians need not add up."""

    def line(name: str, spread: Spread) -> str:
        share = spread.median / profile.round.median
        return f"{name:16}{1e3 * spread.median:9.3f}{1e3 * spread.low:9.3f}{1e3 * spread.high:9.3f}{share:8.1%}"

    share = profile.outside_share
    return "\n".join(
        [
            f"{'ms a round':16}{'median':>9}{'quarter':>9}{'three q.':>9}{'share':>8}",
            *(line(stage, profile.seconds[stage]) for stage in STAGES),
            line("outside forwards", profile.outside),
            line("round", profile.round),
            f"outside the two models' forwards: {share.median:.1%} of a round (quartiles {share.low:.1%} to "
            f"{share.high:.1%}), {profile.rounds} rounds; the timers slow decoding by {profile.slowdown:.1%}",
        ]
    )



# ---- speed ----

@dataclass(frozen=True)
class SpeedConfig:
    """How much to decode."""

    repetitions: int = 3
    temperatures: tuple[float, ...] = (0.0, 1.0)
    max_new_tokens: int = 128
    seed: int = 0
    cost_repetitions: int = 20

    def __post_init__(self) -> None:
        if self.repetitions < 1 or not self.temperatures:
            raise ConfigError(f"expected a repetition and a temperature or more, found {self.repetitions} and "
                              f"{self.temperatures}. Name some.")  # fmt: skip


def timed_answers(
    target: Target,
    methods: Mapping[str, Method],
    questions: Sequence[Question],
    config: SpeedConfig,
    file: Path,
    progress: Callable[..., Any] = tqdm,
) -> list[Answer]:
    """Every question by every method, `config.repetitions` times over; goes on after the answers in `file`."""
    answers = [Answer(**row) for row in load_json(file)] if file.exists() else []
    done = {(a.repetition, a.temperature, a.question_id) for a in answers}
    jobs = [(repetition, temperature, question) for repetition in range(config.repetitions)
            for temperature in config.temperatures for question in questions]  # fmt: skip
    rest = [job for job in enumerate(jobs) if (*job[1][:2], job[1][2].question_id) not in done]
    if rest:
        warm_up(target, methods, questions[0])
    for number, (repetition, temperature, question) in progress(rest, desc="decode", unit="question"):
        answers += answer_with_all(target, methods, question, temperature, config.max_new_tokens, config.seed,
                                   number=number, repetition=repetition)  # fmt: skip
        save_json(file, [asdict(a) for a in answers])
    return answers


def speed_rows(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """tau and speedup by method, temperature and task, and on "mean"; as `bench.Summary` says, and beside it

    by_repetition: the speedup in every repetition. speedup: their median. tokens_per_second: by median times, pooled.
    The interval of a speedup over questions is not among them, since it is not one of that median.
    """
    each = [summarize([a for a in answers if a.repetition == n], resamples=1)
            for n in sorted({a.repetition for a in answers})]  # fmt: skip
    rows = []
    middle = median_answers(answers)
    for place, row in enumerate(summarize(middle)):
        by_repetition = [summary[place].speedup for summary in each]
        mine = [a for a in middle if (a.method, a.temperature) == (row.method, row.temperature)
                and row.task in (a.category, "mean")]  # fmt: skip
        rate = sum(a.tokens for a in mine) / sum(a.seconds for a in mine)
        kept = {name: value for name, value in asdict(row).items() if name not in ("speedup_low", "speedup_high")}
        rows.append(kept | {"speedup": float(np.median(by_repetition)), "by_repetition": by_repetition,
                            "tokens_per_second": rate})  # fmt: skip
    return rows


def median_answers(answers: Sequence[Answer]) -> list[Answer]:
    """One of every answer, with the median of its seconds over the repetitions."""
    seconds: dict[tuple, list[float]] = {}
    first: dict[tuple, Answer] = {}
    for a in answers:
        place = a.method, a.temperature, a.question_id, a.turn
        first.setdefault(place, a)
        seconds.setdefault(place, []).append(a.seconds)
    return [replace(a, seconds=float(np.median(seconds[place])), repetition=0) for place, a in first.items()]


def model_rows(
    target: Target, trees: Mapping[str, tuple[Draft, TreeConfig]], answers: Sequence[Answer], config: SpeedConfig
) -> list[dict[str, Any]]:
    """The cost model held against the clock. trees: name of a method -> its draft and tree.

    All tasks pooled: measured is tokens a second over plain decoding's. predicted and ideal come from tau, the mean
    length of an answer, and terms timed one by one, those of all rows in turn; ideal has no overhead (costs.py).
    """
    middle = median_answers(answers)
    of = {(name, temperature): [a for a in middle if (a.method, a.temperature) == (name, temperature)]
          for name in (PLAIN, *trees) for temperature in config.temperatures}  # fmt: skip
    wanted = {}
    for (name, temperature), mine in of.items():
        if name != PLAIN:
            draft, tree = trees[name]
            rows = sorted({1, 2, tree.top_k, *range(1, tree.levels + 3, 2), tree.levels + 2})
            prompt, prefix = (int(np.mean([a.prompt + part * a.tokens for a in mine])) for part in (0, 0.5))
            wanted[name, temperature] = draft, Terms(
                prompt=prompt,
                prefix=prefix,
                sampling=SamplingConfig(temperature, seed=config.seed),
                tree_sizes=sorted({1, tree.total_tokens}),
                draft_rows=rows,
            )
    found = measure_together(target, wanted, config.cost_repetitions)
    return [_model_row(name, temperature, trees[name][1], of[PLAIN, temperature], of[name, temperature], costs)
            for (name, temperature), costs in found.items()]  # fmt: skip


def _model_row(
    name: str, temperature: float, tree: TreeConfig, plain: list[Answer], mine: list[Answer], costs: Costs
) -> dict[str, Any]:
    tau, tokens = _tau(mine), float(np.mean([a.tokens for a in mine]))
    measured, ideal = _rate(mine) / _rate(plain), ideal_speedup(costs, tree, tau, tokens)
    return {
        "method": name, "temperature": temperature, "tree": asdict(tree), "tau": tau, "tokens": tokens,
        "measured": measured, "predicted": predict_speedup(costs, tree, tau, tokens), "ideal": ideal,
        "measured_of_ideal": measured / ideal, "costs": asdict(costs),
    }  # fmt: skip


def _tau(answers: Sequence[Answer]) -> float:
    return sum(a.tokens - 1 for a in answers) / sum(a.rounds for a in answers)


def _rate(answers: Sequence[Answer]) -> float:
    return sum(a.tokens for a in answers) / sum(a.seconds for a in answers)


def stage_rows(
    target: Target,
    draft: Draft,
    trees: Mapping[str, TreeConfig],
    prompts: Sequence[list[int]],
    config: SpeedConfig,
    progress: Callable[..., Any] = tqdm,
) -> list[dict[str, Any]]:
    """Profiles of a round, by tree and temperature, as plain data; all take turns. trees: a name -> a tree."""
    wanted = {(name, temperature): (tree, SamplingConfig(temperature, seed=config.seed))
              for name, tree in trees.items() for temperature in config.temperatures}  # fmt: skip
    found = profile_together(target, draft, prompts, wanted, max_new_tokens=config.max_new_tokens,
                             eos_token_id=target.tokenizer.eos_token_id,
                             progress=lambda texts: progress(texts, desc="profile", unit="text"))  # fmt: skip
    return [{"name": name, "tree": asdict(trees[name]), "temperature": temperature} | asdict(profile)
            for (name, temperature), profile in found.items()]  # fmt: skip


