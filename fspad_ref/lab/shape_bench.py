"""`python -m fspad_ref bench --shape NAME`: what decoding costs at a model's true shape, with random weights.

    plain step     one token of plain decoding, read by the host
    forward(N)     the target's forward over a tree of N nodes and its lm_head: verification; N = 1 is plain decoding's
    draft          growing a tree: extension, levels with their heads, top-k, reranking
    round          all of a round, read by the host; what is neither draft nor forward(N) is "the rest"
    noise          position-keyed, for one token at a temperature; the host makes it a block at a time, between rounds

Shapes are static, so on a GPU each is one CUDA graph (static_loop.py, graphs.py), plain decoding too; on a CPU the same
functions run as they are. A round then takes the same time whatever it accepts, so that for any tau

    speedup = tau * plain step / round        break-even tau = round / plain step

which is held against published speedups at their own tau. Limits are those of memory (shapes.py) at the bandwidth that
a large copy reaches here, bytes read and bytes written added up.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any, Literal

import torch

from fspad_ref.checkpoint import save_json
from fspad_ref.draft import KINDS, Draft
from fspad_ref.errors import ConfigError
from fspad_ref.lab.graphs import StaticCache, aligned, capture, restore
from fspad_ref.lab.provenance import jsonable, provenance
from fspad_ref.lab.shape_report import goals, limits, predictions, results_table
from fspad_ref.lab.shapes import (
    SHAPES,
    Bill,
    copy_bandwidth,
    memory_bill,
    random_draft,
    random_model,
    refuse_too_large,
    to_copy,
)
from fspad_ref.lab.static_loop import Noise, PlainStep, Round, Step, blocks, node_features, prefilled, prefilled_draft
from fspad_ref.sampling import SamplingConfig
from fspad_ref.target import Target
from fspad_ref.tree import TreeConfig, ancestors

Clock = Callable[[], float]


@dataclass(frozen=True)
class ShapeConfig:
    """Measure decoding at a model's true shape, with random weights, and hold it against the memory's limit."""

    shape: Literal["tiny", "vicuna-7b", "llama2-7b", "vicuna-13b", "vicuna-33b", "llama3-8b", "llama3-70b"] = "tiny"
    """Whose sizes; tiny is for trying it out."""
    weights: Literal["random"] = "random"
    """What the weights are: times do not depend on them."""
    kinds: tuple[str, ...] = ("eagle", "fspad")
    """Which drafts, one after the other: eagle, fs, pad, fspad."""
    top_k: int = 10
    """k of the trees."""
    depth: int = 5
    """Depth of the trees; they have a level more."""
    total_tokens: int | None = None
    """N of the trees; None for that of the published measurements, 60, or 48 for the two largest shapes."""
    nodes: tuple[int, ...] = (1, 8, 24, 60, 96)
    """Sizes of trees that verification is timed for, besides N."""
    prefix: int = 512
    """Tokens of the text before what is timed."""
    temperatures: tuple[float, ...] = (0.0, 1.0)
    """Sampling temperatures."""
    repetitions: int = 20
    """How often each is timed; what counts is the median."""
    burst: int = 8
    """Runs in a row under one reading of the clock."""
    copied: int | None = None
    """Bytes that the bandwidth is measured with; None for 4 GiB on a GPU, 256 MiB elsewhere, if as much is free."""
    graphs: bool = True
    """On a GPU, CUDA graphs; without them, Python starts every kernel."""
    device: str = "cpu"
    """Where to compute."""
    dtype: Literal["float64", "float32", "bfloat16", "float16"] = "bfloat16"
    """Precision of weights and arithmetic."""
    out: Path | None = None
    """Where the results go; by default out/shape-SHAPE-DEVICE.json."""

    def __post_init__(self) -> None:
        few = {name: getattr(self, name) for name in ("prefix", "repetitions", "burst")}
        if min(few.values()) < 1 or not self.nodes or min(self.nodes) < 1 or not self.temperatures:
            raise ConfigError(f"expected prefix, repetitions, burst and nodes of at least 1, and a temperature, found "
                              f"{few}, {self.nodes} and {self.temperatures}. Raise what is too low.")  # fmt: skip
        if not self.kinds or not {*self.kinds} <= {*KINDS}:
            raise ConfigError(f"expected kinds among {', '.join(KINDS)}, found {self.kinds}. Name some.")
        if self.slots > SHAPES[self.shape].positions:
            raise ConfigError(f"expected a prefix and rounds within the {SHAPES[self.shape].positions} positions of "
                              f"{self.shape}, found {self.slots}. Lower prefix, burst or nodes.")  # fmt: skip

    @property
    def file(self) -> Path:
        return self.out or Path("out") / f"shape-{self.shape}-{self.device.replace(':', '-')}.json"

    @property
    def tree(self) -> TreeConfig:
        return TreeConfig(self.top_k, self.depth, self.total_tokens or SHAPES[self.shape].total_tokens)

    @property
    def sizes(self) -> list[int]:
        """Trees that verification is timed for."""
        return sorted({1, *self.nodes, self.tree.total_tokens})

    @property
    def room(self) -> int:
        """Tokens that a burst of rounds can add to the text."""
        return (self.burst + 1) * (self.tree.levels + 1)

    @property
    def slots(self) -> int:
        """Positions of the largest cache."""
        of_draft = self.tree.levels + 1 + self.tree.depth * self.tree.top_k
        return aligned(self.prefix + 1 + self.room + max(*self.sizes, of_draft))


def bench_shape(config: ShapeConfig, now: Clock = time.perf_counter) -> dict[str, Any]:
    """Measure, print a table, write `config.file`; returns what it holds.

    Raises ConfigError, before anything is allocated, where there is no such device or too little memory.
    """
    device, dtype, shape = torch.device(config.device), getattr(torch, config.dtype), SHAPES[config.shape]
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"expected a CUDA device for --device {config.device}, found none. Use --device cpu, with "
                          "--shape tiny.")  # fmt: skip
    bill = memory_bill(shape, config.kinds, config.tree, max(config.sizes), config.slots, dtype, config.device)
    refuse_too_large(config.shape, bill, device)
    bandwidth = copy_bandwidth(device, config.copied or to_copy(device), now)  # first, while the memory is free
    target = Target(random_model(shape, device, dtype))
    results = measure(target, config, bandwidth, bill, now)
    print(results_table(results))
    save_json(config.file, results)
    print(f"Results: {config.file}")
    return results


@torch.no_grad()
def measure(
    target: Target, config: ShapeConfig, bandwidth: float, bill: Bill, now: Clock = time.perf_counter
) -> dict[str, Any]:
    """The results file as plain data; seconds are medians."""
    timer = Timer(target, config, now)
    text = torch.randint(target.vocab_size, (1, config.prefix + 1), device=target.device)
    plain, forward = plain_steps(target, config, text, timer), forwards(target, config, text, timer)
    drafts = {}
    for kind in config.kinds:
        draft = random_draft(kind, SHAPES[config.shape], target)
        drafts[kind] = rounds(target, draft, config, text, timer)
        del draft  # one at a time is what the bill reckons with
    cuda = target.device.type == "cuda"
    peak = torch.cuda.max_memory_allocated(target.device) if cuda else None
    results = {
        "provenance": provenance(target) | {"cuda": torch.version.cuda if cuda else None},
        "config": jsonable(config),
        "tree": asdict(config.tree),
        "sizes": asdict(SHAPES[config.shape]),
        "graphs": config.graphs and cuda,
        "bandwidth": bandwidth,
        "memory": asdict(bill) | {"total": bill.total, "peak": peak},
        "plain": {f"{t:g}": seconds for t, seconds in plain.items()},
        "forward": {str(nodes): seconds for nodes, seconds in forward.items()},
        "noise": noise_seconds(target, config, timer),
        "drafts": drafts,
    }
    return results | {"limits": limits(results), "predictions": predictions(results), "goals": goals(results)}


class Timer:
    """Medians of bursts, the device waited for before and after; warmed up."""

    WARM_UP = 2

    def __init__(self, target: Target, config: ShapeConfig, now: Clock):
        self.wait, self.now, self.config = target.synchronize, now, config

    def __call__(self, run: Callable[[], Any], before: Callable[[], Any] = lambda: None) -> float:
        """Seconds of one run; `before` is called before every burst, outside the clock."""

        def burst() -> None:
            for _ in range(self.config.burst):
                run()

        return self.of_burst(burst, before)

    def of_burst(self, burst: Callable[[], Any], before: Callable[[], Any]) -> float:
        seconds = []
        for repetition in range(self.WARM_UP + self.config.repetitions):
            before()
            self.wait()
            began = self.now()
            burst()
            self.wait()
            if repetition >= self.WARM_UP:
                seconds.append((self.now() - began) / self.config.burst)
        return statistics.median(seconds)


def plain_steps(target: Target, config: ShapeConfig, text: torch.Tensor, timer: Timer) -> dict[float, float]:
    """Seconds of a step of plain decoding, by temperature."""
    found = {}
    for temperature in config.temperatures:
        cache, _ = prefilled(target, text[:, :-1], config.room, 1)
        step = PlainStep(target, SamplingConfig(temperature), cache, int(text[0, -1]))
        found[temperature] = time_loop(step, text.shape[1], timer, config)
    return found


def forwards(target: Target, config: ShapeConfig, text: torch.Tensor, timer: Timer) -> dict[int, float]:
    """Seconds of a forward over a tree of N nodes with its heads, by N."""
    filled, _ = prefilled(target, text, 1, max(config.sizes))
    cache, found = StaticCache(filled), {}
    for nodes in config.sizes:
        tokens = torch.randint(target.vocab_size, (nodes,), device=target.device)
        parent = torch.zeros_like(tokens)  # all children of the root: any tree costs the same
        depth, above = (torch.arange(nodes, device=target.device) > 0).long(), ancestors(parent, 1)

        def run(tokens=tokens, depth=depth, above=above):
            logits = target.lm_head(node_features(target, tokens, depth, above, cache))
            cache.truncate(0)
            return logits

        found[nodes] = timer(graphed(run, [], target, config))
    return found


def noise_seconds(target: Target, config: ShapeConfig, timer: Timer) -> float:
    """Seconds for one token's noise, of a block that the host has made between rounds."""
    noise, place = Noise(SamplingConfig(1.0), target, config.tree.levels), count(0, 10**6)
    return timer(lambda: noise.prepare(next(place))) / (noise.block - noise.ahead)


def rounds(target: Target, draft: Draft, config: ShapeConfig, text: torch.Tensor, timer: Timer) -> dict[str, Any]:
    """{"draft": seconds, "round": {temperature: seconds}} of one draft."""
    found: dict[str, Any] = {"parameters": sum(weight.numel() for weight in draft.parameters()), "round": {}}
    prompt, tree = text[:, :-1], config.tree
    for temperature in config.temperatures:
        cache, features = prefilled(target, prompt, config.room, max(tree.total_tokens, tree.levels + 1))
        draft_cache = prefilled_draft(draft, features, text, config.room, tree)
        step = Round(target, draft, tree, SamplingConfig(temperature), cache, draft_cache, features[0, -1],
                     int(text[0, -1]))  # fmt: skip
        step.noise.prepare(text.shape[1])
        if "draft" not in found:
            found["draft"] = timer(graphed(lambda step=step: grow_only(step), [], target, config))
        found["round"][f"{temperature:g}"] = time_loop(step, text.shape[1], timer, config)
    return found


def grow_only(step: Round) -> torch.Tensor:
    """A round's growing, without moving on."""
    held = step.draft_cache.held.clone()
    nodes = step.grow()
    step.draft_cache.held.copy_(held)
    return nodes.token


def time_loop(step: Step, length: int, timer: Timer, config: ShapeConfig) -> float:
    """Seconds of one run of a step, the host's reading and its own Python with it."""
    step.noise.prepare(length)
    kept = [tensor.clone() for tensor in step.state]
    run = graphed(step.run, step.state, step.target, config)

    def burst() -> None:
        for _ in islice(blocks(step, run, length), config.burst):
            pass

    def rewind() -> None:
        restore(step.state, kept)
        step.noise.prepare(length)  # noise is timed for itself

    return timer.of_burst(burst, rewind)


def graphed(run: Callable, state: Sequence[torch.Tensor], target: Target, config: ShapeConfig) -> Callable:
    return capture(run, state, target.device) if config.graphs else run
