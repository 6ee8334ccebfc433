"""What decoding costs at a published model's shape: times with random weights, held against the memory's limit.

What a token is worth (tau) needs trained weights; what a forward costs does not, as dense arithmetic takes its time
whatever the numbers are. Decoding one text is bound by memory, since a step has to read every weight once:

    least seconds of a step = bytes that it must read / bytes per second that the device can read        (the limit)

    plain step, verification    all of the target but the embedding table, and the keys and values of the prefix
    growth, over L levels       L times: the draft, the target's lm_head, and the draft's keys and values

All loops run in static shapes, on a GPU as one CUDA graph each (static.py). So a round takes the same time whatever it
accepts, and for any tau, with the noise that each token costs at a temperature, between rounds,

    speedup = tau * (plain step + noise) / (round + tau * noise)        pays_from_tau = round / plain step
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import psutil
import torch
from torch import Tensor, nn
from torch.utils import benchmark
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.modeling_utils import local_torch_dtype

from fspad_ref.bench.record import save_record
from fspad_ref.bench.static import PlainStep, capture, first_step, node_features, restore
from fspad_ref.draft import KINDS, Draft, DraftConfig
from fspad_ref.errors import ConfigError
from fspad_ref.sampling import GumbelNoise, SamplingConfig
from fspad_ref.target import Target
from fspad_ref.tree import TreeConfig, ancestors

GIB = 2**30
RESERVE = GIB  # on a GPU: its context, workspaces of libraries, gaps between blocks

FIELDS = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
          "num_key_value_heads", "max_position_embeddings")  # fmt: skip
SHAPES = {
    "tiny": (512, 64, 128, 3, 4, 2, 1024),
    "llama2-7b": (32000, 4096, 11008, 32, 32, 32, 4096),
    "vicuna-7b": (32000, 4096, 11008, 32, 32, 32, 4096),
    "vicuna-13b": (32000, 5120, 13824, 40, 40, 40, 4096),
    "vicuna-33b": (32000, 6656, 17920, 60, 52, 52, 2048),
    "llama3-8b": (128256, 4096, 14336, 32, 32, 8, 8192),
    "llama3-70b": (128256, 8192, 28672, 80, 64, 8, 8192),
}
DRAFT_KV_HEADS = {"llama3-8b": 32}  # of published drafts, where they are not the target's


@dataclass(frozen=True)
class ShapeConfig:
    """Time decoding at a published model's shape, with random weights, and hold it against the memory's limit."""

    # whose sizes; tiny is for trying it out
    shape: Literal["tiny", "llama2-7b", "vicuna-7b", "vicuna-13b", "vicuna-33b", "llama3-8b", "llama3-70b"] = "tiny"
    kinds: tuple[Literal["eagle", "fs", "pad", "fspad"], ...] = ("eagle", "fspad")  # which drafts, one after the other
    tree: TreeConfig = TreeConfig()
    nodes: tuple[int, ...] = (1, 8, 24, 96)  # sizes of trees that verification is timed for, besides the tree's own
    prefix: int = 512  # tokens of the text before what is timed
    seconds: float = 1.0  # how long each is timed; what counts is the median
    device: str = "cpu"  # where to compute
    dtype: Literal["float64", "float32", "bfloat16", "float16"] = "bfloat16"  # precision of weights and arithmetic
    out: Path = Path("out/shape.json")  # where the results go


def random_model(name: str, device: torch.device | str, dtype: torch.dtype) -> LlamaForCausalLM:
    """A model of that shape with random weights, made where it is to run: there is never a copy elsewhere."""
    config = LlamaConfig(**dict(zip(FIELDS, SHAPES[name], strict=True)), tie_word_embeddings=False)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")


def random_draft(name: str, kind: str, target: Target) -> Draft:
    """A draft of that kind with random weights, beside its target."""
    with torch.device(target.device), local_torch_dtype(target.dtype):
        return Draft(DraftConfig(*KINDS[kind], num_kv_heads=DRAFT_KV_HEADS.get(name)), target).requires_grad_(False)


class _Unstored(Target):
    """A target without numbers, whose sizes can be counted."""

    def __init__(self, model: nn.Module):
        self.model, self.config, self.devices = model, model.config, ()
        self.embed, self.lm_head = model.get_input_embeddings(), model.get_output_embeddings()
        self.vocab_size, self.max_positions = model.config.vocab_size, model.config.max_position_embeddings

    def identity(self) -> dict:
        return {}


def memory_bill(config: ShapeConfig, kind: str) -> tuple[dict[str, int], dict[str, int]]:
    """In bytes: the parts of the memory that decoding needs, and what a target forward and growing a tree must read.

    caches: three of the target and two of the draft may be alive at once. work: logits, 40 bytes each in the precisions
    that they pass through, two blocks of noise, RESERVE. Counted on models without storage: at once for any shape.
    """
    target = _Unstored(random_model(config.shape, "meta", getattr(torch, config.dtype)))
    draft = random_draft(config.shape, kind, target)
    weights, own = (sum(weight.nbytes for weight in model.parameters()) for model in (target.model, draft))
    cache, draft_cache = (model.new_cache(1).kv.nbytes for model in (target, draft))  # of one position
    embedding, levels = target.embed.weight.nbytes, config.tree.levels
    nodes = max(*config.nodes, config.tree.total_tokens, config.tree.depth * config.tree.top_k)
    caches = (config.prefix + 2 * nodes) * (3 * cache + 2 * draft_cache)
    work = target.vocab_size * (40 * nodes + 16 * GumbelNoise.BLOCK) + (RESERVE if config.device != "cpu" else 0)
    reads = {"forward": weights - embedding + config.prefix * cache,
             "growth": levels * (own + embedding + config.prefix * draft_cache)}  # fmt: skip
    return {"target": weights, "draft": own, "caches": caches, "work": work}, reads


def median_seconds(run: Callable[[], Any], at_least: float) -> float:
    """Of one call, called for `at_least` seconds; torch's timer warms up, and waits for a GPU."""
    timer = benchmark.Timer("run()", globals={"run": run}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=at_least).median


def copy_bandwidth(device: torch.device, seconds: float) -> float:
    """Bytes per second of a large copy within the device: as many are read as written, and both count."""
    size = 2 * GIB if device.type == "cuda" else GIB // 4
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    copy = torch.ones_like(source)
    return 2 * size / median_seconds(lambda: copy.copy_(source), seconds)


@torch.no_grad()
def measure(target: Target, config: ShapeConfig, bandwidth: float) -> list[dict[str, Any]]:
    """A row per part, with its seconds and what applies of draft, temperature, nodes and limit.

        plain step     one token of plain decoding, read by the host
        forward        the target's forward over a tree of N nodes, with its lm_head: verification
        growth         the draft grows a tree: extension, levels with their heads, top-k, reranking
        round          all of a round, read by the host
        noise          of one token at a temperature; the host makes it a block at a time, between rounds
    """
    tree, prefix, rows = config.tree, config.prefix, []
    prompt = torch.randint(target.vocab_size, (1, prefix), device=target.device)
    begin = partial(first_step, target, prompt=prompt, tree=tree, room=max(*config.nodes, tree.total_tokens))
    reads = {kind: memory_bill(config, kind)[1] for kind in config.kinds}
    least = reads[config.kinds[0]]["forward"]

    def add(part: str, run: Callable[[], Any], read: int | None = None, **what: Any) -> None:
        seconds = median_seconds(run, config.seconds)
        limit = {"limit": read / bandwidth, "ratio": seconds * bandwidth / read} if read else {}
        rows.append({"part": part, **what, "seconds": seconds, **limit})

    def again(run: Callable[[], Tensor], state: list[Tensor]) -> Callable[[], Tensor]:
        """`run` as a graph that puts its state back in the end: it always begins behind the prompt."""
        kept = [tensor.clone() for tensor in state]

        def whole() -> Tensor:
            result = run()
            restore(state, kept)
            return result

        return capture(whole, state, target.device)

    def add_step(part: str, step: PlainStep, **what: Any) -> float:
        run = again(step.run, step.state)
        add(part, lambda: (step.prepare(prefix + 1), run().tolist()), **what)
        return rows[-1]["seconds"]

    plain_seconds = {}
    for temperature in (0.0, 1.0):
        plain, _ = begin(draft=None, sampling=SamplingConfig(temperature))
        plain_seconds[temperature] = add_step("plain step", plain, temperature=temperature, read=least)
    for nodes in sorted({*config.nodes, tree.total_tokens}):
        token = torch.zeros(nodes, dtype=torch.long, device=target.device)
        depth, above = (torch.arange(nodes, device=target.device) > 0).long(), ancestors(token, 1)  # below the root

        def forward(token=token, depth=depth, above=above) -> Tensor:
            logits = target.lm_head(node_features(target, token, depth, above, plain.cache))
            plain.cache.truncate(0)
            return logits

        add("forward", again(forward, []), least, nodes=nodes)
    for kind in config.kinds:
        draft = random_draft(config.shape, kind, target)
        for temperature in plain_seconds:
            step, _ = begin(draft=draft, sampling=SamplingConfig(temperature))
            seconds = add_step("round", step, draft=kind, temperature=temperature, nodes=tree.total_tokens)
            rows[-1]["pays_from_tau"] = seconds / plain_seconds[temperature]
        grow = again(lambda step=step: step.grow().token, [step.draft_cache.held])
        add("growth", grow, reads[kind]["growth"], draft=kind, nodes=tree.total_tokens)
    noise, first = GumbelNoise(0, target.vocab_size, target.device), count(0, GumbelNoise.BLOCK)
    add("noise", lambda: noise.rows(next(first), GumbelNoise.BLOCK))
    rows[-1]["seconds"] /= GumbelNoise.BLOCK - tree.levels  # the rounds that fit into a block begin at these positions
    return rows


def results_table(results: Mapping[str, Any]) -> str:
    """What a results file holds, as text."""
    memory = ", ".join(f"{part} {size / GIB:.2f}" for part, size in results["memory"].items())
    times = pd.DataFrame(results["times"]).to_string(index=False, na_rep="")
    config = results["config"]
    head = f"{config['shape']} with random weights, {config['dtype']}, {config['device']}, prefix {config['prefix']}"
    return "\n\n".join([head, times, f"memory in GiB: {memory}"])


def bench_shape(config: ShapeConfig) -> dict[str, Any]:
    """Measure, print a table, write `config.out`; returns what it holds.

    Raises ConfigError, before anything is allocated, where there is no such device or too little memory.
    """
    device = torch.device(config.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("expected a CUDA device, found none. Use --device cpu, with --shape tiny.")
    memory = max((memory_bill(config, kind)[0] for kind in config.kinds), key=lambda needs: needs["draft"])
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if (needed := sum(memory.values())) > free:
        raise ConfigError(f"expected {needed / GIB:.1f} GiB of memory for {config.shape}, found {free / GIB:.1f} GiB "
                          "free. Choose a smaller shape, a narrower dtype, or a larger device.")  # fmt: skip
    bandwidth = copy_bandwidth(device, config.seconds)
    target = Target(random_model(config.shape, device, getattr(torch, config.dtype)))
    times = measure(target, config, bandwidth)
    results = {"config": asdict(config), "memory": memory, "bandwidth": bandwidth, "times": times}
    save_record(config.out, results)
    print(results_table(results), f"\n\nResults: {config.out}")
    return results
