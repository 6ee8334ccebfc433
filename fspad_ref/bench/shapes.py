"""Models of true shape with random weights: sizes, bytes, and the models themselves, made where they are to run.

What a token is worth (tau) needs trained weights; what a forward costs does not, as dense arithmetic takes its time
whatever the numbers are. So the time of decoding at the paper's sizes can be measured without a download. Decoding one
text is bound by memory: a step has to read every weight once, so

    least seconds of a step = bytes that it must read / bytes a second that the device can read        (the limit)

    plain step, verification    all of the target but the embedding table, and the keys and values of the prefix
    draft of L levels           L times: the draft, the target's lm_head, and the draft's keys and values

The embedding is read a row a token, which is nothing; activations of a few dozen rows stay in the device's own caches.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from fspad_ref.bench.record import jsonable, provenance
from fspad_ref.bench.static import (
    Noise,
    PlainStep,
    Round,
    StaticCache,
    Step,
    aligned,
    blocks,
    capture,
    node_features,
    prefilled,
    prefilled_draft,
    restore,
)
from fspad_ref.draft import KINDS, Draft, DraftConfig
from fspad_ref.errors import ConfigError
from fspad_ref.files import save_json
from fspad_ref.sampling import SamplingConfig
from fspad_ref.target import Target
from fspad_ref.tree import TreeConfig, ancestors

GIB = 2**30
RESERVE = GIB  # on a GPU: its context, workspaces of libraries, gaps between blocks


@dataclass(frozen=True)
class Shape:
    """Sizes of a target and its drafts, as their published configurations have them.

    draft_kv_heads: None for the target's. total_tokens: N of the published measurements.
    """

    vocab: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    positions: int
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5
    draft_kv_heads: int | None = None
    total_tokens: int = 60

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def embedding(self) -> int:
        """Parameters of the embedding table, and of the lm_head."""
        return self.vocab * self.hidden

    @property
    def target_parameters(self) -> int:
        """All of the target: embedding, layers (attention, MLP, two norms), last norm, lm_head."""
        a_layer = self._attention(self.kv_heads) + 3 * self.hidden * self.intermediate + 2 * self.hidden
        return 2 * self.embedding + self.layers * a_layer + self.hidden

    def draft_parameters(self, kind: str) -> int:
        """All of a draft; the embedding and lm_head that it borrows are the target's."""
        sampling, alignment = KINDS[kind]
        D, F = self.hidden, self.intermediate
        fuse, layer = 2 * D * D + D, self._attention(self.draft_kv_heads or self.kv_heads) + 3 * D * F + D
        return fuse + layer + (3 * D * F + D if sampling else 0) + (D * F if alignment else 0)

    def _attention(self, kv_heads: int) -> int:
        return 2 * self.hidden * self.head_dim * (self.heads + kv_heads)  # q and o; k and v

    def cache_numbers(self) -> int:
        """Numbers that the target's cache holds for one position."""
        return 2 * self.layers * self.kv_heads * self.head_dim

    def draft_cache_numbers(self) -> int:
        return 2 * (self.draft_kv_heads or self.kv_heads) * self.head_dim

    # --- bytes that must be read ---

    def step_bytes(self, prefix: int, width: int) -> int:
        """By one target forward, with its lm_head; width: bytes a number."""
        return (self.target_parameters - self.embedding + prefix * self.cache_numbers()) * width

    def draft_bytes(self, kind: str, levels: int, prefix: int, width: int) -> int:
        """By a draft of so many levels."""
        a_level = self.draft_parameters(kind) + self.embedding + prefix * self.draft_cache_numbers()
        return levels * a_level * width


LLAMA_7B = dict(vocab=32000, hidden=4096, intermediate=11008, layers=32, heads=32, kv_heads=32, positions=4096)
SHAPES = {
    "tiny": Shape(vocab=512, hidden=64, intermediate=128, layers=3, heads=4, kv_heads=2, positions=1024),
    "vicuna-7b": Shape(**LLAMA_7B),
    "llama2-7b": Shape(**LLAMA_7B),
    "vicuna-13b": Shape(32000, 5120, 13824, 40, 40, 40, 4096),
    "vicuna-33b": Shape(32000, 6656, 17920, 60, 52, 52, 2048, rms_norm_eps=1e-6, total_tokens=48),
    "llama3-8b": Shape(128256, 4096, 14336, 32, 32, 8, 8192, rope_theta=500000.0, draft_kv_heads=32),
    "llama3-70b": Shape(128256, 8192, 28672, 80, 64, 8, 8192, rope_theta=500000.0, total_tokens=48),
}

# (shape, kind of draft, temperature) -> (speedup, tau): means of three tasks with 60 nodes, on an A100, batch 1
PUBLISHED_SOURCE = "GRIFFIN, arXiv 2502.11018, Table 1 (A100): mean of three tasks"
PUBLISHED = {
    ("llama3-8b", "eagle", 0.0): (2.82, 4.54),
    ("llama3-8b", "fspad", 0.0): (3.02, 4.89),
    ("llama3-8b", "eagle", 1.0): (2.45, 4.27),
    ("llama3-8b", "fspad", 1.0): (2.74, 4.62),
    ("vicuna-7b", "eagle", 0.0): (3.72, 5.02),
    ("vicuna-7b", "fspad", 0.0): (3.90, 5.42),
    ("vicuna-7b", "eagle", 1.0): (3.29, 4.49),
    ("vicuna-7b", "fspad", 1.0): (3.42, 4.87),
    ("llama2-7b", "eagle", 0.0): (2.89, 4.82),
    ("llama2-7b", "fspad", 0.0): (3.07, 5.14),
    ("llama2-7b", "eagle", 1.0): (2.68, 4.65),
    ("llama2-7b", "fspad", 1.0): (2.86, 4.92),
}


# --- memory ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bill:
    """Bytes of device memory that a measurement needs at once: one target, one draft at a time.

    working: logits of all nodes in every precision that they pass through, noise, and, on a GPU, RESERVE.
    """

    target: int
    draft: int
    caches: int
    working: int

    @property
    def total(self) -> int:
        return sum(asdict(self).values())


def memory_bill(
    shape: Shape, kinds: tuple[str, ...], tree: TreeConfig, nodes: int, slots: int, dtype: torch.dtype, device: str
) -> Bill:
    """What measuring needs: trees of up to `nodes` nodes, caches of up to `slots` positions; three target caches."""
    width = dtype.itemsize
    logits = max(nodes, tree.top_k) * shape.vocab * (width + 4 + 4 * 8)  # as given, float32, and four times float64
    noise = 2 * 64 * shape.vocab * 8
    return Bill(
        target=shape.target_parameters * width,
        draft=max(shape.draft_parameters(kind) for kind in kinds) * width,
        caches=slots * (3 * shape.cache_numbers() + 2 * shape.draft_cache_numbers()) * width,
        working=logits + noise + (RESERVE if torch.device(device).type == "cuda" else 0),
    )


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be taken on the device; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    info = Path("/proc/meminfo")
    if info.exists():
        fields = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        if "MemAvailable" in fields:
            return int(fields["MemAvailable"].split()[0]) * 1024
    names = getattr(os, "sysconf_names", {})
    pages = next((name for name in ("SC_AVPHYS_PAGES", "SC_PHYS_PAGES") if name in names), None)
    return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE") if pages else None


def to_copy(device: torch.device) -> int:
    """Bytes for a large copy, far beyond any cache: 4 GiB on a GPU, else 256 MiB; a quarter of what is free at most."""
    free = free_memory(device)
    return min(4 * GIB if device.type == "cuda" else GIB // 4, GIB if free is None else free // 4)


def copy_bandwidth(
    device: torch.device, size: int, now: Callable[[], float] = time.perf_counter, repetitions: int = 10
) -> float:
    """Bytes a second of a copy of `size` bytes within the device: as many are read as written, and both count."""
    source = torch.randint(256, (size,), dtype=torch.uint8, device=device)
    copy = torch.zeros_like(source)
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    seconds = []
    for _ in range(repetitions + 2):
        wait()
        began = now()
        copy.copy_(source)
        wait()
        seconds.append(now() - began)
    del source, copy
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return 2 * size / statistics.median(seconds[2:])


def refuse_too_large(name: str, bill: Bill, device: torch.device) -> None:
    """Raises ConfigError, before anything is allocated, if the device has less memory free than the bill says."""
    free = free_memory(device)
    if free is None or bill.total <= free:
        return
    parts = ", ".join(f"{part} {size / GIB:.1f}" for part, size in asdict(bill).items())
    fitting = [other for other, shape in SHAPES.items() if shape.target_parameters < SHAPES[name].target_parameters]
    smaller = f"Choose a smaller shape ({', '.join(fitting)}), a" if fitting else "Choose a"
    raise ConfigError(
        f"expected {bill.total / GIB:.1f} GiB of memory on {device} for the shape {name} ({parts}), found "
        f"{free / GIB:.1f} GiB free. {smaller} narrower dtype, a shorter prefix, or a device with more memory."
    )


# --- models ----------------------------------------------------------------------------------------------------------


@contextmanager
def made_on(device: str | torch.device, dtype: torch.dtype) -> Iterator[None]:
    """New tensors come into being there and in that precision: no copy of the weights elsewhere, none in float32."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def llama_config(shape: Shape) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=shape.vocab, hidden_size=shape.hidden, intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        max_position_embeddings=shape.positions, rms_norm_eps=shape.rms_norm_eps, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
    )  # fmt: skip


def random_model(shape: Shape, device: str | torch.device, dtype: torch.dtype, seed: int = 0):
    """A `transformers` model of that shape with random weights."""
    torch.manual_seed(seed)
    with made_on(device, dtype):
        return AutoModelForCausalLM.from_config(llama_config(shape), dtype=dtype, attn_implementation="sdpa")


def random_draft(kind: str, shape: Shape, target: Target, seed: int = 0) -> Draft:
    """A draft of that kind with random weights, beside its target."""
    sampling, alignment = KINDS[kind]
    torch.manual_seed(seed)
    config = DraftConfig(sampling, alignment, num_kv_heads=shape.draft_kv_heads)
    with made_on(target.device, target.dtype):
        return Draft(config, target).eval().requires_grad_(False)


def published(name: str, kind: str) -> Mapping[float, tuple[float, float]]:
    """By temperature: (speedup, tau) of that draft on that target; empty where we know of none."""
    return {t: found for (shape, of, t), found in PUBLISHED.items() if (shape, of) == (name, kind)}



# ---- shape_report ----
#
# What the times of a true shape mean: the memory's limit, the goals, predicted against published speedups, the memory.
#
# Everything is computed from what `shape_bench.measure` has measured, as plain data.

# of a GPU with the name, in bfloat16, one text at a time, with CUDA graphs
GOALS_ON, PLAIN_STEP, VERIFICATION, VERIFIED, DRAFT, REST = "H200", 1.25, 1.15, 60, 1.3, 0.05
NOMINAL_TAU = 4.0  # tokens of a round whose noise is reckoned in, where no tau is given

Results = Mapping[str, Any]


def limits(results: Results) -> dict[str, Any]:
    """Least seconds by memory: of a target forward, and of every draft; with the bytes that they must read."""
    config, tree = results["config"], results["tree"]
    shape, width = SHAPES[config["shape"]], getattr(torch, config["dtype"]).itemsize
    step = shape.step_bytes(config["prefix"], width)
    drafts = {kind: shape.draft_bytes(kind, tree["depth"] + 1, config["prefix"], width) for kind in results["drafts"]}
    return {
        "forward": {"bytes": step, "seconds": step / results["bandwidth"]},
        "drafts": {kind: {"bytes": size, "seconds": size / results["bandwidth"]} for kind, size in drafts.items()},
    }


def round_seconds(results: Results, kind: str, temperature: str, tau: float) -> float:
    """Of a round that adds tau tokens, their noise included, which the host makes a block at a time."""
    return results["drafts"][kind]["round"][temperature] + tau * noise(results, temperature)


def plain_seconds(results: Results, temperature: str) -> float:
    """Of a step of plain decoding, its token's noise included."""
    return results["plain"][temperature] + noise(results, temperature)


def noise(results: Results, temperature: str) -> float:
    """Seconds for one token's noise: none where the most probable token is taken."""
    return results["noise"] if float(temperature) else 0.0


def rest(results: Results, kind: str, temperature: str, tau: float = NOMINAL_TAU) -> float:
    """Seconds of a round that are neither growing nor the target's forward."""
    forward = results["forward"][str(results["tree"]["total_tokens"])]
    return round_seconds(results, kind, temperature, tau) - results["drafts"][kind]["draft"] - forward


def predictions(results: Results) -> list[dict[str, Any]]:
    """By draft and temperature: the tau from which it pays, and the speedup at a published tau beside the published."""
    rows = []
    for kind, of in results["drafts"].items():
        known = {f"{t:g}": row for t, row in published(results["config"]["shape"], kind).items()}
        for temperature, seconds in of["round"].items():
            speedup, tau = known.get(temperature, (None, None))
            plain = plain_seconds(results, temperature)
            predicted = tau and tau * plain / round_seconds(results, kind, temperature, tau)
            rows.append({
                "draft": kind, "temperature": float(temperature), "tau": tau,
                "break_even_tau": seconds / results["plain"][temperature],  # tokens make noise in both loops alike
                "predicted": predicted, "published": speedup,
                "predicted_over_published": predicted and predicted / speedup,
                "source": PUBLISHED_SOURCE if tau else None,
            })  # fmt: skip
    return rows


def goals(results: Results) -> list[dict[str, Any]]:
    """What was aimed at on an H200 and what was found; elsewhere, or without graphs, a goal is "not measured"."""
    found: list[tuple[str, float | None, float]] = []
    least, forward = limits(results), results["forward"]
    steps = min(results["plain"].values())  # greedy, if that was measured
    found.append(("plain step over the memory's limit", steps / least["forward"]["seconds"], PLAIN_STEP))
    verified = forward.get(str(VERIFIED))
    found.append((f"forward of {VERIFIED} nodes over that of one", verified and verified / forward["1"], VERIFICATION))
    for kind, of in results["drafts"].items():
        over = of["draft"] / least["drafts"][kind]["seconds"]
        found.append((f"{kind}: draft of {results['tree']['depth'] + 1} levels over its limit", over, DRAFT))
        for temperature in of["round"]:
            share = rest(results, kind, temperature) / round_seconds(results, kind, temperature, NOMINAL_TAU)
            found.append((f"{kind}, T={temperature}: share of the rest in a round", share, REST))
    there = (
        GOALS_ON in str(results["provenance"]["hardware"])
        and results["graphs"]
        and results["config"]["dtype"] == "bfloat16"
        and results["config"]["shape"] != "tiny"
    )
    return [
        {"goal": name, "found": value, "at_most": bound,
         "verdict": ("met" if value <= bound else "not met") if there and value is not None else "not measured"}
        for name, value, bound in found
    ]  # fmt: skip


def results_table(results: Results) -> str:
    """Plain text: bandwidth, every time beside its limit, rounds, predictions, goals, memory."""
    config, about, least = results["config"], results["provenance"], limits(results)
    tree = results["tree"]
    lines = [
        f"{config['shape']}, random weights, {config['dtype']}, {about['hardware']}, prefix {config['prefix']}, "
        f"{'CUDA graphs' if results['graphs'] else 'no graphs'}",
        f"bandwidth of a large copy: {results['bandwidth'] / 1e9:.1f} GB/s",
        f"\n{'ms':34}{'measured':>10}{'limit':>10}{'ratio':>8}",
    ]

    def line(name: str, seconds: float, limit: float | None = None) -> None:
        beside = f"{1e3 * limit:10.3f}{seconds / limit:8.2f}" if limit else ""
        lines.append(f"{name:34}{1e3 * seconds:10.3f}{beside}")

    limit = least["forward"]["seconds"]
    for temperature, seconds in results["plain"].items():
        line(f"plain step, T={temperature}", seconds, limit)
    for nodes, seconds in results["forward"].items():
        line(f"forward of {nodes} nodes", seconds, limit)
    for kind, of in results["drafts"].items():
        line(f"{kind}: draft, {tree['depth'] + 1} levels", of["draft"], least["drafts"][kind]["seconds"])
        for temperature in of["round"]:
            seconds = round_seconds(results, kind, temperature, NOMINAL_TAU)
            line(f"{kind}: round of {tree['total_tokens']} nodes, T={temperature}", seconds)
            line(f"{kind}:   of it the rest, T={temperature}", rest(results, kind, temperature))
    lines += ["", *_predicted(results), "", *_aimed(results), "", _memory(results)]
    return "\n".join(lines)


def _predicted(results: Results) -> list[str]:
    lines = [f"{'speedup':18}{'pays from tau':>14}{'published tau':>14}{'predicted':>10}{'published':>10}{'ratio':>7}"]
    for row in predictions(results):
        beside = "   no published tau at hand"
        if row["tau"]:
            beside = f"{row['tau']:14.2f}{row['predicted']:10.2f}{row['published']:10.2f}"
            beside += f"{row['predicted_over_published']:7.2f}"
        name = f"{row['draft']}, T={row['temperature']:g}"
        lines.append(f"{name:18}{row['break_even_tau']:14.2f}{beside}")
    return [*lines, f"published: {PUBLISHED_SOURCE}"]


def _aimed(results: Results) -> list[str]:
    lines = [f"goals on an {GOALS_ON}, bfloat16, CUDA graphs"]
    for row in goals(results):
        value = "       -" if row["found"] is None else f"{row['found']:8.3f}"
        lines.append(f"{row['verdict']:14}{value}  at most {row['at_most']:<6g}{row['goal']}")
    return lines


def _memory(results: Results) -> str:
    parts = ", ".join(f"{part} {size / GIB:.2f}" for part, size in results["memory"].items() if size is not None)
    return f"memory in GiB: {parts}" + ("" if results["memory"]["peak"] else " (peak not measured on this device)")



# ---- shape_bench ----
#
# `python -m fspad_ref bench --shape NAME`: what decoding costs at a model's true shape, with random weights.
#
#     plain step     one token of plain decoding, read by the host
#     forward(N)     the target's forward over a tree of N nodes and its lm_head: verification; N = 1 is plain decoding's
#     draft          growing a tree: extension, levels with their heads, top-k, reranking
#     round          all of a round, read by the host; what is neither draft nor forward(N) is "the rest"
#     noise          position-keyed, for one token at a temperature; the host makes it a block at a time, between rounds
#
# Shapes are static, so on a GPU each is one CUDA graph (static_loop.py, graphs.py), plain decoding too; on a CPU the same
# functions run as they are. A round then takes the same time whatever it accepts, so that for any tau
#
#     speedup = tau * plain step / round        break-even tau = round / plain step
#
# which is held against published speedups at their own tau. Limits are those of memory (shapes.py) at the bandwidth that
# a large copy reaches here, bytes read and bytes written added up.

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


