"""What the other methods need before they can be measured: a small assistant, Medusa's heads, static tree shapes.

Both models learn from the drafts' own dialogues, as many steps of as many tokens. Shapes come from acceptance rates on
texts that the target has written to other questions than the benchmark's.
"""

import dataclasses
import heapq
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.generation.streamers import BaseStreamer

from fspad_ref.bench.bench import PLAIN, DynamicTree, Method, Plain, Speculative
from fspad_ref.bench.record import code_hash, digest
from fspad_ref.bench.replay import Guesses, acceptance_rates, answer_many, draft_guesses
from fspad_ref.bench.study import training_key
from fspad_ref.cache import KVCache
from fspad_ref.data import Batch, Dialogue, Encoded, batches
from fspad_ref.draft import Draft
from fspad_ref.errors import CheckpointError, ConfigError, NonFiniteLoss, TargetMismatch
from fspad_ref.files import check_names, load_json, load_tensors, save_json, save_tensors
from fspad_ref.generate import Generation, prepare_prompt
from fspad_ref.sampling import SamplingConfig, at_least_float32
from fspad_ref.target import Target
from fspad_ref.train import TrainConfig
from fspad_ref.tree import DraftTree, Grow, Grower, TreeConfig, ancestors, most_probable, top_children

# ---- fit ----
#
# One plain training loop for what the baselines learn: Medusa's heads, the small model of assisted generation.
#
# The batches are those of the drafts' own training: for the same seed, `tokens_per_batch` and `max_length` they hold the
# same dialogues in the same order, so that methods can be compared at equal data and equal steps.

OnStep = Callable[[int, float], None]


def fit(
    model: nn.Module,
    loss_of: Callable[[Batch], Tensor],
    target: Target,
    dialogues: Sequence[Dialogue | Encoded],
    config: TrainConfig,
    on_step: OnStep | None = None,
) -> list[float]:
    """Minimise `loss_of(batch)` over the model's weights with AdamW; returns the loss of every step.

    Of `config` it takes steps, batch size, learning rate and its schedule, weight decay, clipping and seed; noise, loss
    weights, evaluation and checkpoints belong to drafts. on_step: called with (steps done, loss).

    Raises ConfigError for half-precision weights, NonFiniteLoss (nothing of that step is applied), InputError for
    dialogues that cannot be used.
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    if any(weight.dtype not in (torch.float32, torch.float64) for weight in weights):
        raise ConfigError("expected float32 or float64 weights to train, found half precision, in which small updates "
                          "round to nothing. Load the target with dtype='float32'.")  # fmt: skip
    optimizer = torch.optim.AdamW(weights, lr=0.0, betas=config.betas, weight_decay=config.weight_decay)
    limit = min(config.max_length, target.max_positions)
    data = batches(dialogues, target.tokenizer, config.tokens_per_batch, limit, target.vocab_size, config.seed)
    losses = []
    model.train()
    for step in range(config.steps):
        loss = loss_of(next(data))
        loss.backward()
        norm = clip_grad_norm_(weights, config.clip_at if config.clip == "norm" else math.inf)
        if not (loss.isfinite() and norm.isfinite()):
            raise NonFiniteLoss(f"expected a finite loss and gradient, found {loss.item()} and norm {norm.item()} at "
                                f"step {step}. Lower the learning rate, and train again.")  # fmt: skip
        if config.clip == "value":
            clip_grad_value_(weights, config.clip_at)
        optimizer.param_groups[0]["lr"] = config.learning_rate_at(step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if on_step:
            on_step(step + 1, losses[-1])
    model.eval()
    return losses



# ---- static_tree ----
#
# EAGLE with its static tree (EAGLE-1, arXiv 2401.15077): the same draft, but the tree's shape is fixed in advance.
#
# A *shape* is a set of paths of child ranks: (0,) is the draft's best guess after the root, (0, 1) the second best guess
# after that one. EAGLE-1 and Medusa ship such a table by hand; ours is computed. If rates[d - 1, r] is the probability
# that a node of depth d and rank r is accepted once its parent is, and ranks are independent, then
#
#     P(node accepted) = product of the rates along its path        E[accepted] = sum of P over the nodes
#
# so the best shape of N nodes is the N - 1 nodes of largest P: no child has more than its parent, hence they hang
# together (Medusa, arXiv 2401.10774, section 2.3.3; cf. Sequoia, arXiv 2402.12374). What a static tree cannot do is look
# at the draft's actual confidence, which is EAGLE-2's whole point.

Shape = tuple[tuple[int, ...], ...]  # paths of child ranks, the root's empty path left out


def static_shape(rates: Float[Tensor, "levels ranks"] | Sequence[Sequence[float]], nodes: int) -> Shape:
    """The shape of `nodes` nodes, root included, with the largest expected number of accepted tokens.

    Args:
        rates: rates[d - 1, r], acceptance of a node of depth d and rank r given its parent's, in [0, 1];
            `lab.rates.acceptance_rates` measures them.
        nodes: N, at most 1 + R + R^2 + ... for a table of R ranks.

    Returns the paths, parents before children. Raises ConfigError for rates outside [0, 1] or too many nodes.

    >>> static_shape([[0.6, 0.3], [0.5, 0.1]], nodes=4)
    ((0,), (1,), (0, 0))
    """
    table = torch.as_tensor(rates, dtype=torch.float64)
    if table.dim() != 2 or not bool(((table >= 0) & (table <= 1)).all()):
        raise ConfigError(
            f"expected a table (levels, ranks) of rates in [0, 1], found shape {tuple(table.shape)} with values from "
            f"{table.min():.3g} to {table.max():.3g}. Measure it with acceptance_rates."
        )
    levels, ranks = table.shape
    capacity = sum(ranks**depth for depth in range(levels + 1))
    if not 1 < nodes <= capacity:
        raise ConfigError(
            f"expected 2 to {capacity} nodes, which {levels} levels of {ranks} ranks can hold, found {nodes}. "
            "Change the number of nodes, or measure more levels or ranks."
        )
    rows = table.tolist()
    # (-P, depth, path): of equal nodes the shallower first, so that a parent always comes before its children
    frontier = [(-p, 1, (rank,)) for rank, p in enumerate(rows[0])]
    heapq.heapify(frontier)
    chosen = []
    while len(chosen) < nodes - 1:
        p, depth, path = heapq.heappop(frontier)
        chosen.append(path)
        for rank, rate in enumerate(rows[depth] if depth < levels else ()):
            heapq.heappush(frontier, (p * rate, depth + 1, (*path, rank)))
    return tuple(sorted(chosen, key=lambda path: (len(path), path)))


@dataclass(frozen=True)
class Level:
    """The n nodes of one depth, in terms of the forward that guesses them.

    row (n,): the parent's row in that forward, which holds only nodes that have children.
    rank (n,): which of the parent's guesses a node is.
    ranks: the most guesses that any parent of this level needs.
    inner (m,): the places, within this level, of the nodes that have children: the rows of the next forward.
    visible (m, entries): what each of those sees of the tree entries in the draft's cache, itself included.
    """

    row: Int[Tensor, "n"]
    rank: Int[Tensor, "n"]
    ranks: int
    inner: Int[Tensor, "rows"]
    visible: Bool[Tensor, "rows entries"]


@dataclass(frozen=True)
class TreePlan:
    """A shape as index tensors, made once: growing a tree then needs no loop over nodes.

    rank, parent, depth (N,) and ancestors (N, N) are those of the nodes in level order, the root (all 0) first.
    by_level: one Level for each depth, from 1 on.
    """

    rank: Int[Tensor, "nodes"]
    parent: Int[Tensor, "nodes"]
    depth: Int[Tensor, "nodes"]
    ancestors: Bool[Tensor, "nodes nodes"]
    by_level: tuple[Level, ...]

    @property
    def levels(self) -> int:
        """Levels below the root."""
        return len(self.by_level)

    @property
    def total_tokens(self) -> int:
        """N, root included."""
        return self.rank.shape[0]

    @property
    def ranks(self) -> int:
        """The most guesses that any node needs."""
        return max(level.ranks for level in self.by_level)

    @property
    def inner(self) -> int:
        """Nodes with children, the root not counted: what the tree adds to the draft's cache while it grows."""
        return sum(level.inner.shape[0] for level in self.by_level)

    def tree(self, token: Int[Tensor, "nodes"], log_q: Float[Tensor, "nodes"]) -> DraftTree:
        """The tree of this shape with these tokens; log_q is each node's own, 0 at the root."""
        score = torch.where(self.ancestors, log_q, 0.0).sum(dim=-1)  # (N, N) -> (N,): sum along the path
        return DraftTree(token, self.parent, self.depth, score, self.ancestors)


def plan_tree(shape: Shape, device: torch.device | str = "cpu") -> TreePlan:
    """Index tensors for a shape. Raises ConfigError for a shape that is empty, repeats a path or lacks a parent."""
    paths = [(), *sorted(shape, key=lambda path: (len(path), path))]
    number = {path: i for i, path in enumerate(paths)}
    orphans = [path for path in paths[1:] if not path or path[:-1] not in number or path[-1] < 0]
    if len(paths) < 2 or len(number) < len(paths) or orphans:
        raise ConfigError(
            f"expected a shape of distinct paths of child ranks, each with its parent, found {len(shape)} paths, "
            f"{len(paths) - len(number)} repeated, without parent: {orphans[:3]}. Make it with static_shape."
        )
    depth = torch.tensor([len(path) for path in paths])
    parent = torch.tensor([number[path[:-1]] for path in paths])
    rank = torch.tensor([path[-1] if path else 0 for path in paths])
    above = ancestors(parent, int(depth.max()))  # (N, N)
    has_children = torch.zeros(len(paths), dtype=torch.bool)
    has_children[parent[1:]] = True
    levels, rows = [], torch.tensor([0])  # rows: the nodes of the forward that guesses the level; first, the root
    for d in range(1, int(depth.max()) + 1):
        nodes = (depth == d).nonzero()[:, 0]
        inner = has_children[nodes].nonzero()[:, 0]
        entries = (has_children & (depth >= 1) & (depth <= d)).nonzero()[:, 0]  # in the cache after the next forward
        levels.append(
            Level(
                row=torch.searchsorted(rows, parent[nodes]).to(device),
                rank=rank[nodes].to(device),
                ranks=int(rank[nodes].max()) + 1,
                inner=inner.to(device),
                visible=above[nodes[inner]][:, entries].to(device),
            )
        )
        rows = nodes[inner]
    return TreePlan(rank.to(device), parent.to(device), depth.to(device), above.to(device), tuple(levels))


@torch.no_grad()
def grow_static_tree(
    draft: Draft,
    features: Float[Tensor, "1 seq hidden"],
    token_ids: Int[Tensor, "1 seq_plus_1"],
    plan: TreePlan,
    cache: KVCache | None = None,
) -> DraftTree:
    """The draft tree of a fixed shape that continues `token_ids`; arguments and result as in `tree.grow_tree`.

    One draft forward a level, over the nodes that have children; no number travels to the host.
    """
    if plan.ranks > draft.config.vocab_size:
        raise ConfigError(
            f"expected child ranks below {draft.config.vocab_size}, the size of the vocabulary, found "
            f"{plan.ranks - 1}. Use a table of rates with fewer ranks."
        )
    if cache is None:
        cache = draft.new_cache(features.shape[1] + plan.inner)
    out = draft(features, token_ids[:, 1:], cache=cache)
    prefix = cache.length
    u, g = out.logit_feature[0, -1:], out.aligned_feature[:, -1:]  # (1, D), (1, 1, D): the root's row
    tokens, log_qs = [token_ids[0, -1:]], []
    for step, level in enumerate(plan.by_level):
        log_q, guess = top_children(draft, u, level.ranks)  # (rows, D) -> two of (rows, ranks)
        tokens.append(guess[level.row, level.rank])
        log_qs.append(log_q[level.row, level.rank])
        if step + 1 == plan.levels:
            break
        mask = F.pad(level.visible, (prefix, 0), value=True)[None, None]  # the tree entries, and all of the prefix
        positions = torch.full((1, level.inner.shape[0]), prefix + step, device=u.device)
        out = draft(g[:, level.row[level.inner]], tokens[-1][None, level.inner], mask, positions=positions, cache=cache)
        u, g = out.logit_feature[0], out.aligned_feature
    cache.truncate(prefix)  # the tree's own entries stand on guessed features
    return plan.tree(torch.cat(tokens), torch.cat((log_qs[0].new_zeros(1), *log_qs)))


@dataclass(frozen=True)
class StaticTree(Grower):
    """Grows trees of a fixed shape, from a Draft of any kind, for `generate.speculative_generate`."""

    shape: TreePlan

    def start(self, longest: int) -> Grow:
        cache = self.draft.new_cache(longest + self.shape.inner)
        return lambda features, token_ids: grow_static_tree(self.draft, features, token_ids, self.shape, cache)



# ---- assisted ----
#
# Baselines that `transformers` has itself: prompt lookup, assisted generation, and its plain `generate`.
#
# They run as they are, under the same call as our own methods, and only the counting is ours. A *round* is a target
# forward after the first one, which is the prefill; so tau = (tokens - 1) / rounds, as everywhere here. One thing to know
# when reading it: `transformers` lets the prefill check drafted tokens too, and what it accepts there costs no round.
#
# Greedy text is that of plain decoding. At a temperature `transformers` draws from torch's global generator, seeded here
# from the sampling seed: the law of the text is the same, the text is another one; tau and speed remain comparable.

@dataclass(frozen=True)
class TransformersGenerate:
    """`model.generate` of the target with some settings; made by `plain_generate`, `prompt_lookup`, `assisted`."""

    target: Target
    settings: Mapping[str, Any] = field(default_factory=dict)

    @torch.no_grad()
    def decode(
        self,
        ids: list[int] | Tensor,
        max_new_tokens: int,
        sampling: SamplingConfig,
        eos: int | list[int] | None = None,
    ) -> Generation:
        """Result as in `generate.speculative_generate`; `.accepted` is, a round, its tokens less one."""
        prompt = prepare_prompt(self.target, ids, max_new_tokens, extra=0)  # (1, T)
        if max_new_tokens == 0:
            return Generation()
        law = dict(do_sample=False)
        if not sampling.greedy:
            law = dict(do_sample=True, temperature=float(sampling.temperature),
                       top_p=float(sampling.top_p), top_k=sampling.top_k)  # fmt: skip
        counter = _Counter()
        ends = [] if eos is None else torch.as_tensor(eos).flatten().tolist()
        cuda = [self.target.device] if self.target.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(sampling.seed)
            text = self.target.model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=max_new_tokens,
                eos_token_id=eos,
                # Unused at batch 1, but an assistant would not see prompt tokens of this id, unless it also ends texts.
                pad_token_id=ends[0] if ends else None,
                repetition_penalty=1.0,  # a model's own generation settings may have another
                streamer=counter,
                **law,
                **self.settings,
            )
        return Generation(text[0, prompt.shape[1] :].tolist(), [n - 1 for n in counter.tokens[1:]])


class _Counter(BaseStreamer):
    """Told by `generate` of the prompt, and then of the tokens of each target forward; remembers how many."""

    def __init__(self) -> None:
        self.prompt: int | None = None
        self.tokens: list[int] = []

    def put(self, value: Tensor) -> None:
        if self.prompt is None:
            self.prompt = value.numel()
        else:
            self.tokens.append(value.numel())

    def end(self) -> None:
        """Nothing is buffered."""


def plain_generate(target: Target) -> TransformersGenerate:
    """`transformers`' own plain loop: how far our vanilla baseline is from what people usually run."""
    return TransformersGenerate(target)


def prompt_lookup(target: Target, tokens: int = 10, ngram: int = 2) -> TransformersGenerate:
    """Prompt lookup: drafts what followed the last n-gram where it stood in the text before.

    tokens: drafted a round. ngram: the longest n-gram looked up. The defaults are `transformers`' own.
    """
    return TransformersGenerate(target, dict(prompt_lookup_num_tokens=tokens, max_matching_ngram_size=ngram))


def assisted(
    target: Target, assistant: PreTrainedModel, tokens: int | None = None, threshold: float | None = None
) -> TransformersGenerate:
    """Assisted generation: a small language model of the same vocabulary drafts a chain.

    tokens: drafted a round at most. threshold: stop a chain where the assistant is less sure than this. None keeps
    `transformers`' defaults. The values are written into the assistant's generation_config, where `generate` looks for
    them: of two methods with one assistant object the later one's hold for both.

    Raises TargetMismatch if the vocabularies differ in size.
    """
    if assistant.config.vocab_size != target.vocab_size:
        raise TargetMismatch(f"expected an assistant with the target's {target.vocab_size} tokens, found "
                             f"{assistant.config.vocab_size}. Train one with train_assistant.")  # fmt: skip
    if tokens is not None:
        assistant.generation_config.num_assistant_tokens = tokens
    if threshold is not None:
        assistant.generation_config.assistant_confidence_threshold = threshold
    return TransformersGenerate(target, dict(assistant_model=assistant))


# ---- the small language model that assists ----


@dataclass(frozen=True)
class AssistantConfig:
    """Sizes of the assistant, a Llama; vocabulary, positions and special tokens are the target's."""

    layers: int = 2
    hidden: int = 128
    intermediate: int = 256
    heads: int = 4


def new_assistant(target: Target, config: AssistantConfig, seed: int = 0) -> LlamaForCausalLM:
    """A fresh assistant in float32 on the target's device."""
    llama = LlamaConfig(
        vocab_size=target.vocab_size,
        hidden_size=config.hidden,
        intermediate_size=config.intermediate,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        max_position_embeddings=target.max_positions,
        tie_word_embeddings=True,
        bos_token_id=target.config.bos_token_id,
        eos_token_id=target.config.eos_token_id,
        pad_token_id=target.config.pad_token_id,
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(llama).float().to(target.device)


def train_assistant(
    target: Target,
    assistant: LlamaForCausalLM,
    dialogues: Sequence[Dialogue | Encoded],
    config: TrainConfig,
    on_step: OnStep | None = None,
    prompt_weight: float = 0.1,
) -> list[float]:
    """Train it on the drafts' own batches; returns the loss of every step. Settings: see `fit`.

    prompt_weight: weight of a token of the prompt, where one of the response has 1.
    """

    def loss_of(batch: Batch) -> Tensor:
        ids, response = batch.input_ids.to(target.device), batch.response.to(target.device)
        # Padding stands on the right, where causal attention hides it: no mask is needed for it.
        logits = assistant(input_ids=ids, use_cache=False).logits  # (B, T) -> (B, T, V)
        return weighted_loss(logits, ids, response, prompt_weight)

    return fit(assistant, loss_of, target, dialogues, config, on_step)


def weighted_loss(
    logits: Float[Tensor, "batch seq vocab"],
    ids: Int[Tensor, "batch seq"],
    response: Bool[Tensor, "batch seq"],
    prompt_weight: float,
) -> Float[Tensor, ""]:
    """- sum_t w_{t+1} log q(x_{t+1}) / sum_t w_{t+1}, in nats.

    w is 1 on response tokens, prompt_weight on others, and 0 behind a row's last response token, where padding begins.
    """
    real = response.flip(1).cumsum(dim=1).flip(1) > 0  # (B, T)
    weight = torch.where(response, 1.0, prompt_weight * real)[:, 1:].flatten()  # (B, T) -> (B * (T - 1),)
    each = F.cross_entropy(at_least_float32(logits[:, :-1].flatten(0, 1)), ids[:, 1:].flatten(), reduction="none")
    return (weight * each).sum() / weight.sum()


def save_assistant(assistant: LlamaForCausalLM, target: Target, folder: str | Path) -> None:
    """Write it in Hugging Face's layout, with the target's tokenizer if that has one."""
    assistant.save_pretrained(folder)
    if target.tokenizer is not None:
        target.tokenizer.save_pretrained(folder)


def load_assistant(folder: str | Path, target: Target) -> PreTrainedModel:
    """Load what `save_assistant` wrote, in the target's precision, on its device.

    Raises CheckpointError for a folder without a sound model, TargetMismatch for one with another tokenizer.
    """
    dtype = str(target.dtype).removeprefix("torch.")
    small = Target.from_pretrained(str(folder), device=str(target.device), dtype=dtype)
    if small.identity()["tokenizer_hash"] != target.identity()["tokenizer_hash"]:
        raise TargetMismatch(f"expected an assistant with the target's own tokenizer, found another in {folder}. "
                             "Train one with train_assistant.")  # fmt: skip
    return small.model



# ---- medusa ----
#
# Medusa heads (arXiv 2401.10774), in the form of Medusa-1: the target stays frozen.
#
# Head i looks at the feature f_t alone and guesses token t + 1 + i; token t + 1 itself is the target's to sample:
#
#     x  =  f_t,   then block by block   x  <-  x + silu(W x + b)
#     q_i(token t + 1 + i)  =  softmax(lm_head x)
#
# W and b begin at zero, so every head begins as the target's own guess of token t + 1. One deviation from the paper: the
# paper gives every head a trained copy of the output matrix; here all heads share the target's, frozen, and only W and b
# are trained. That keeps the heads as small as a draft layer (D^2 a block instead of D V a head).
#
# No head sees what another one guessed. So the tree is a product: at depth d every node has the same children, the best
# guesses of head d, and its shape is static.

@dataclass(frozen=True)
class MedusaConfig:
    """How many heads and how deep; sizes and fingerprints left at None are taken from the target.

    Args:
        heads: K, places guessed beyond the target's own token.
        blocks: residual blocks a head; the paper has one.
        hidden_size, vocab_size, tokenizer_hash, embedding_hash: the target's, by which heads refuse another target.
    """

    heads: int = 5
    blocks: int = 1
    hidden_size: int | None = None
    vocab_size: int | None = None
    tokenizer_hash: str | None = None
    embedding_hash: str | None = None

    def __post_init__(self) -> None:
        if self.heads < 1 or self.blocks < 1:
            raise ConfigError(f"expected at least one head and one block, found {self.heads} and {self.blocks}. "
                              "Set both to 1 or more.")  # fmt: skip

    def resolve(self, target: Target) -> "MedusaConfig":
        """Fill in what is None from the target. Raises TargetMismatch where the two contradict each other."""
        of_target = {"hidden_size": target.config.hidden_size, "vocab_size": target.vocab_size, **target.identity()}
        of_target = {name: value for name, value in of_target.items() if value is not None}
        faults = [
            f"{name} {getattr(self, name)} (target: {value})"
            for name, value in of_target.items()
            if getattr(self, name) not in (None, value)
        ]
        if faults:
            raise TargetMismatch(f"expected Medusa heads made for this target, found {'; '.join(faults)}. "
                                 "Load the target they were trained on, or train heads for this one.")  # fmt: skip
        return dataclasses.replace(self, **of_target)


class MedusaHeads(nn.Module):
    """K heads, computed together: the weights of a block are stacked, (K, D, D) and (K, 1, D)."""

    def __init__(self, config: MedusaConfig, target: Target):
        super().__init__()
        self.config = config = config.resolve(target)
        # In a tuple, so that the target's weights become no part of this module: nothing to train, move or save.
        self._target = (target,)
        K, D = config.heads, config.hidden_size
        like = dict(device=target.device, dtype=target.dtype)
        self.weight = nn.ParameterList(torch.zeros(K, D, D, **like) for _ in range(config.blocks))
        self.bias = nn.ParameterList(torch.zeros(K, 1, D, **like) for _ in range(config.blocks))

    @property
    def target(self) -> Target:
        return self._target[0]

    def forward(self, features: Float[Tensor, "rows hidden"]) -> Float[Tensor, "heads rows hidden"]:
        """What lm_head turns into the guesses of head 1 .. K at every row."""
        x = features.expand(self.config.heads, -1, -1)  # (M, D) -> (K, M, D)
        for weight, bias in zip(self.weight, self.bias, strict=True):
            x = x + F.silu(torch.baddbmm(bias, x, weight))
        return x

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors, each atomically."""
        folder = Path(folder)
        save_tensors(folder / "model.safetensors", self.state_dict())
        save_json(folder / "config.json", {"model_type": "fspad_ref_medusa", **dataclasses.asdict(self.config)})

    @classmethod
    def from_pretrained(cls, folder: str | Path, target: Target) -> "MedusaHeads":
        """Load what save_pretrained wrote. Raises CheckpointError or TargetMismatch, before anything is used."""
        folder = Path(folder)
        settings = load_json(folder / "config.json")
        names = {field.name for field in dataclasses.fields(MedusaConfig)}
        kind = settings.pop("model_type", None)
        if kind != "fspad_ref_medusa" or set(settings) != names:
            raise CheckpointError(f"expected model_type 'fspad_ref_medusa' and the settings of MedusaConfig in "
                                  f"{folder / 'config.json'}, found {kind!r} and {sorted(settings)}. Give the folder "
                                  "of saved Medusa heads.")  # fmt: skip
        heads = cls(MedusaConfig(**settings), target)
        tensors = load_tensors(folder / "model.safetensors")
        check_names(tensors, heads.state_dict(), folder)
        heads.load_state_dict(tensors)
        return heads.eval()


def medusa_loss(
    heads: MedusaHeads,
    features: Float[Tensor, "batch seq hidden"],
    ids: Int[Tensor, "batch seq"],
    response: Bool[Tensor, "batch seq"],
    decay: float = 0.8,
) -> Float[Tensor, ""]:
    """sum_i decay^i * mean cross-entropy of head i, in nats              (Medusa, section 2.2.1, equation 1)

    Head i is trained at t where tokens t + 1 .. t + 1 + i are all response; a head without such a place adds 0.
    """
    near = ahead(response, 1)  # (B, T - 1): is token t + 1 response?
    hidden = heads(features[:, :-1][near])  # (B, T - 1, D) -> (M, D) -> (K, M, D)
    run, total = near, features.new_zeros(())
    for i, x in enumerate(hidden, start=1):
        run = run & ahead(response, i + 1)  # (B, T - 1): and so on up to token t + 1 + i?
        logits = at_least_float32(heads.target.lm_head(x[run[near]]))  # (M, D) -> (m, D) -> (m, V)
        wanted = ahead(ids, i + 1)[run]  # (m,)
        total = total + decay**i * F.cross_entropy(logits, wanted, reduction="sum") / max(1, wanted.shape[0])
    return total


def ahead(x: Tensor, by: int) -> Tensor:
    """x_{t + by} at t = 0 .. T - 2, and 0 or False where the row has ended: (B, T) -> (B, T - 1)."""
    return F.pad(x, (0, by))[:, by : by + x.shape[1] - 1]


def train_medusa(
    target: Target,
    heads: MedusaHeads,
    dialogues: Sequence[Dialogue | Encoded],
    config: TrainConfig,
    on_step: OnStep | None = None,
    decay: float = 0.8,
) -> list[float]:
    """Train the heads on the features of the frozen target; returns the loss of every step. Settings: see `fit`."""

    def loss_of(batch: Batch) -> Tensor:
        ids, response = batch.input_ids.to(target.device), batch.response.to(target.device)
        return medusa_loss(heads, target.features(ids), ids, response, decay)

    return fit(heads, loss_of, target, dialogues, config, on_step)


def medusa_guesses(heads: MedusaHeads) -> Guesses:
    """The heads' guesses along a text, for `rates.acceptance_rates`: head d at depth d."""

    def guess(features: Float[Tensor, "1 seq hidden"], ids: Int[Tensor, "1 seq"]) -> Iterator[Tensor]:
        last = ids.shape[1] - 1
        for d, x in zip(range(1, last), heads(features[0]), strict=False):  # x (T, D)
            yield heads.target.lm_head(x[: last - d])  # (T - 1 - d, V)

    return guess


@torch.no_grad()
def grow_medusa_tree(
    heads: MedusaHeads, feature: Float[Tensor, "hidden"], root: Int[Tensor, ""], plan: TreePlan
) -> DraftTree:
    """The tree of the heads' best guesses after `root`, the token that was sampled from `feature`.

    Raises ConfigError for a plan with more levels than there are heads, or more ranks than tokens.
    """
    if plan.levels > heads.config.heads or plan.ranks > heads.config.vocab_size:
        raise ConfigError(
            f"expected a shape of at most {heads.config.heads} levels and {heads.config.vocab_size} ranks, found "
            f"{plan.levels} and {plan.ranks}. Make the shape from these heads' own rates."
        )
    logits = heads.target.lm_head(heads(feature[None])[:, 0])  # (1, D) -> (K, D) -> (K, V)
    log_q, guess = most_probable(logits, plan.ranks)  # (K, ranks) each
    head, rank = plan.depth[1:] - 1, plan.rank[1:]
    token = torch.cat((root[None], guess[head, rank]))
    return plan.tree(token, torch.cat((log_q.new_zeros(1), log_q[head, rank])))


@dataclass(frozen=True)
class MedusaTree(Grower):
    """Grows Medusa's trees for `generate.speculative_generate`; draft is MedusaHeads.

    There is no cache: every round starts from one feature.
    """

    shape: TreePlan

    def start(self, longest: int) -> Grow:
        return lambda features, token_ids: grow_medusa_tree(self.draft, features[0, -1], token_ids[0, -1], self.shape)



# ---- rivals ----

# transformers' own methods draw from another generator: at a temperature the law of the text is ours, the text is not
OTHER_TEXT = ("generate", "prompt_lookup", "assisted")
ASSISTANT_RATE, MEDUSA_RATE = 3e-3, 1e-3  # learning rates
LEVELS, RANKS = 6, 10  # of the tables of rates
FIXED = " (fixed tree)"


@dataclass(frozen=True)
class Rivals:
    """The trained parts of other methods."""

    assistant: PreTrainedModel
    heads: MedusaHeads


def rivals(
    target: Target,
    dialogues: Sequence[Dialogue | Encoded],
    training: TrainConfig,
    assistant: AssistantConfig,
    folder: Path,
    progress: Callable[..., Any],
) -> Rivals:
    """Assistant and Medusa heads below `folder`, trained if they are not there."""
    rates = {"assistant": ASSISTANT_RATE, "medusa": MEDUSA_RATE}
    key = training_key(target, dialogues, training) | {"assistant": vars(assistant), "rates": rates}
    folder = folder / f"rivals-{digest(key | {'code': code_hash('lab.fit', 'lab.medusa', 'lab.assisted')})}"
    if not (folder / "medusa" / "config.json").exists():
        heads = MedusaHeads(MedusaConfig(), target)
        with progress(total=training.steps, desc="train Medusa's heads", unit="step") as bar:
            train_medusa(target, heads, dialogues, replace(training, learning_rate=MEDUSA_RATE),
                         lambda step, loss: bar.update(step - bar.n))  # fmt: skip
        heads.save_pretrained(folder / "medusa")
    if not (folder / "assistant" / "tokenizer_config.json").exists():
        small = new_assistant(target, assistant, training.seed)
        with progress(total=training.steps, desc="train the assistant", unit="step") as bar:
            train_assistant(target, small, dialogues, replace(training, learning_rate=ASSISTANT_RATE),
                            lambda step, loss: bar.update(step - bar.n))  # fmt: skip
        save_assistant(small, target, folder / "assistant")  # the tokenizer comes last
    small = load_assistant(folder / "assistant", target)
    return Rivals(small, MedusaHeads.from_pretrained(folder / "medusa", target))


def methods(
    target: Target,
    drafts: dict[str, Draft],
    others: Rivals,
    prompts: Sequence[list[int]],
    tuned: TreeConfig,
    fixed: TreeConfig,
    max_new_tokens: int,
) -> dict[str, Method]:
    """Everything that is measured, by name: plain decoding, transformers' methods, static trees, and our drafts.

    The drafts come with the tuned tree; EAGLE-2 and FSPAD also with the fixed one. Static trees have as many nodes as
    the tuned one. prompts: questions whose answers give the rates; not those of the benchmark.
    """
    law = [SamplingConfig()] * len(prompts)
    answers = answer_many(target, prompts, law, max_new_tokens, target.tokenizer.eos_token_id)
    texts = [(prompt + tokens, [False] * len(prompt) + [True] * len(tokens))
             for prompt, (tokens, _) in zip(prompts, answers, strict=True)]  # fmt: skip
    levels = min(LEVELS, others.heads.config.heads)
    of_eagle = acceptance_rates(target, draft_guesses(drafts["eagle"], LEVELS), texts, LEVELS, RANKS)
    of_heads = acceptance_rates(target, medusa_guesses(others.heads), texts, levels, RANKS)
    static, product = (plan_tree(static_shape(rates, tuned.total_tokens), target.device)
                       for rates in (of_eagle, of_heads))  # fmt: skip
    found: dict[str, Method] = {
        PLAIN: Plain(target),
        "generate": plain_generate(target),
        "prompt_lookup": prompt_lookup(target),
        "assisted": assisted(target, others.assistant),
        "medusa": Speculative(MedusaTree(others.heads, product)),
        "eagle_static": Speculative(StaticTree(drafts["eagle"], static)),
    }
    found |= {name: Speculative(DynamicTree(draft, tuned)) for name, draft in drafts.items()}
    return found | {name + FIXED: Speculative(DynamicTree(drafts[name], fixed)) for name in ("eagle", "fspad")}


