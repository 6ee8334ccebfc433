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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from fspad_ref.draft import KINDS, Draft, DraftConfig
from fspad_ref.errors import ConfigError
from fspad_ref.target import Target
from fspad_ref.tree import TreeConfig

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
