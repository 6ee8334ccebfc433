"""The other methods that a fair comparison needs.

    TransformersGenerate   transformers' own `generate`: plain, with prompt lookup, or assisted by a small model
    MedusaTree             a static tree of what Medusa's heads guess from the target's last feature
    StaticTree             EAGLE's draft with a static tree, as in EAGLE-1

The assistant and the heads learn from the drafts' own batches, for as many steps. A folder that exists is a trained
rival: delete it to train again.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, get_cosine_schedule_with_warmup

from fspad_ref.bench.bench import Method, Speculative
from fspad_ref.bench.replay import acceptance_rates, draft_guesses
from fspad_ref.cache import KVCache
from fspad_ref.data import Batch, Encoded
from fspad_ref.draft import Draft
from fspad_ref.errors import ConfigError
from fspad_ref.generate import Generation, prepare_prompt
from fspad_ref.sampling import SamplingConfig, at_least_float32
from fspad_ref.target import Target
from fspad_ref.tree import DraftTree, Grow, Grower, ancestors, most_probable, top_children


@dataclass(frozen=True)
class TransformersGenerate:
    """`model.generate` of the target with some settings, plain by default; only the counting is ours.

    A *round* is a target forward after the prefill, as everywhere here. But transformers lets the prefill check drafted
    tokens too, which cost no round. Greedy text is that of plain decoding. At a temperature transformers draws from
    torch's global generator: the text has the same distribution, but is another one.
    """

    target: Target
    settings: Mapping[str, Any] = field(default_factory=dict)

    @torch.no_grad()
    def decode(self, ids: list[int] | Tensor, max_new_tokens: int, sampling: SamplingConfig,
               eos: int | list[int] | None = None) -> Generation:  # fmt: skip
        """Result as in `speculative_generate`; `.accepted` holds, for each round, its tokens less one."""
        prompt = prepare_prompt(self.target, ids, max_new_tokens, extra=0)  # (1, T)
        drawing = dict(temperature=float(sampling.temperature), top_p=float(sampling.top_p), top_k=sampling.top_k)
        sizes: list[int] = []  # of what `generate` streams: first the prompt, then the tokens of each target forward
        counter = SimpleNamespace(put=lambda tokens: sizes.append(tokens.numel()), end=lambda: None)
        with torch.random.fork_rng([self.target.device] if self.target.device.type == "cuda" else []):
            torch.manual_seed(sampling.seed)
            text = self.target.model.generate(
                prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=max_new_tokens, eos_token_id=eos,
                # Unused at batch 1, but an assistant would not see prompt tokens of this id, unless it also ends texts.
                pad_token_id=eos[0] if isinstance(eos, list) else eos,
                repetition_penalty=1.0,  # a model's own generation settings may have another
                streamer=counter, do_sample=not sampling.greedy, **({} if sampling.greedy else drawing),
                **self.settings,
            )  # fmt: skip
        return Generation(text[0, prompt.shape[1] :].tolist(), [n - 1 for n in sizes[2:]])


def new_assistant(target: Target, seed: int = 0) -> LlamaForCausalLM:
    """A fresh Llama of two narrow layers in float32, for the target's tokens and positions."""
    config = LlamaConfig(
        vocab_size=target.vocab_size, max_position_embeddings=target.max_positions, tie_word_embeddings=True,
        hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        bos_token_id=target.config.bos_token_id, eos_token_id=target.config.eos_token_id,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).to(target.device)


def assistant_loss(assistant: LlamaForCausalLM, ids: Int[Tensor, "batch seq"], response: Bool[Tensor, "batch seq"]
                   ) -> Float[Tensor, ""]:  # fmt: skip
    """Mean of - log q(x_{t+1} | x_0 .. x_t) over the tokens x_{t+1} of the response, in nats.

    Padding stands on the right, where causal attention hides it: no mask is needed for it.
    """
    return assistant(input_ids=ids, labels=ids.masked_fill(~response, -100), use_cache=False).loss


# --- Medusa's heads --------------------------------------------------------------------------------------------------


class Medusa(nn.Module, PyTorchModelHubMixin):
    """Medusa-1 (arXiv 2401.10774) on a frozen target: head i = 1 .. K guesses token t + 1 + i from f_t alone.

        x_i  =  f_t + silu(W_i f_t + b_i)        q_i(token t + 1 + i)  =  softmax(lm_head x_i)

    Token t + 1 is the target's to sample. W and b begin at zero, so every head begins as the target's own guess of it.
    One deviation from the paper, where every head trains a copy of the output matrix: here all share the target's.

    Files are huggingface_hub's: save_pretrained(folder), from_pretrained(folder, target=target). Heads of another
    target of that width are not refused: they guess badly, but the text stays right.
    """

    def __init__(self, target: Target, heads: int = 5):
        super().__init__()
        self.target, self.heads = target, heads
        D, like = target.config.hidden_size, dict(device=target.device, dtype=target.dtype)
        self.weight = nn.Parameter(torch.zeros(heads, D, D, **like))
        self.bias = nn.Parameter(torch.zeros(heads, 1, D, **like))

    def forward(self, features: Float[Tensor, "rows hidden"]) -> Float[Tensor, "heads rows hidden"]:
        """What lm_head turns into the guesses of head 1 .. K at every row."""
        x = features.expand(self.heads, -1, -1)  # (M, D) -> (K, M, D)
        return x + F.silu(torch.baddbmm(self.bias, x, self.weight))

    def guesses(self, features: Float[Tensor, "1 n hidden"], ids: Int[Tensor, "1 n"], ranks: int) -> Iterator[Tensor]:
        """The guesses along a text, for `acceptance_rates`: head d at depth d."""
        last = ids.shape[1] - 1
        for d, x in zip(range(1, last), self(features[0]), strict=False):  # x (T, D)
            yield most_probable(self.target.lm_head(x[: last - d]), ranks)[1]  # (T - 1 - d, R)


def medusa_loss(
    medusa: Medusa, ids: Int[Tensor, "batch seq"], response: Bool[Tensor, "batch seq"], decay: float = 0.8
) -> Float[Tensor, ""]:
    """sum_i decay^i * mean cross-entropy of head i, in nats              (Medusa, section 2.2.1, equation 1)

    Head i is trained at t where tokens t + 1 .. t + 1 + i are all response; a head without such a place adds 0.
    """
    (B, T), target = ids.shape, medusa.target
    x = medusa(target.features(ids).flatten(0, 1)).unflatten(1, (B, T))  # (B, T) -> (B T, D) -> (K, B, T, D)
    total = x.new_zeros(())
    for i in range(1, min(medusa.heads, T - 2) + 1):
        run = response[:, 1:].unfold(1, i + 1, 1).all(dim=-1)  # (B, T - 1 - i): all of t + 1 .. t + 1 + i response?
        logits = at_least_float32(target.lm_head(x[i - 1, :, : T - 1 - i][run]))  # (m, D) -> (m, V)
        wanted = ids[:, i + 1 :][run]  # (m,)
        total = total + decay**i * F.cross_entropy(logits, wanted, reduction="sum") / max(1, len(wanted))
    return total


# --- static trees ----------------------------------------------------------------------------------------------------


def static_shape(rates: Float[Tensor, "levels ranks"] | Sequence[Sequence[float]], nodes: int) -> tuple[tuple, ...]:
    """The shape of `nodes` nodes, root included, with the largest expected number of accepted tokens.

    A shape holds a path of child ranks per node, parents first: (0, 1) is the second best guess after the best one.
    rates[d - 1, r], which `acceptance_rates` measures, is the probability that a node of depth d and rank r is accepted
    once its parent is. If ranks are independent, then

        P(node accepted) = product of the rates along its path        E[accepted] = sum of P over the nodes

    so the best N nodes are those of largest P: no child has more than its parent, hence they hang together (Medusa,
    section 2.3.3). What no static tree can do is look at the draft's confidence, which is EAGLE-2's whole point.
    Raises ConfigError for impossible rates and for too many nodes.

    >>> static_shape([[0.6, 0.3], [0.5, 0.1]], nodes=4)
    ((0,), (1,), (0, 0))
    """
    rows = torch.as_tensor(rates, dtype=torch.float64).tolist()
    capacity = sum(len(rows[0]) ** depth for depth in range(len(rows) + 1))
    if not all(0 <= rate <= 1 for row in rows for rate in row) or not 1 < nodes <= capacity:
        raise ConfigError(f"expected rates in [0, 1] and 2 to {capacity} nodes, found {rows} and {nodes}.")
    # (-P, depth, path): of equal nodes the shallower first, so that a parent always comes before its children
    frontier, chosen = [(-1.0, 0, ())], []
    while len(chosen) < nodes:
        p, depth, path = heapq.heappop(frontier)
        chosen.append(path)
        for rank, rate in enumerate(rows[depth] if depth < len(rows) else ()):
            heapq.heappush(frontier, (p * rate, depth + 1, (*path, rank)))
    return tuple(chosen[1:])  # the root is in every shape


@dataclass(frozen=True)
class TreePlan:
    """A shape as index tensors, made once: growing a tree then needs no loop over nodes.

    Nodes are in level order, the root (all 0) first; within a level those with children come first.
    by_level: (start, middle, end) for each depth from 1 on: nodes start .. end - 1, with children up to middle - 1.
    levels: below the root. total_tokens: N, root included. ranks: the most guesses that any node needs.
    """

    rank: Int[Tensor, "nodes"]
    parent: Int[Tensor, "nodes"]
    depth: Int[Tensor, "nodes"]
    ancestors: Bool[Tensor, "nodes nodes"]
    by_level: tuple[tuple[int, int, int], ...]
    levels: int
    total_tokens: int
    ranks: int

    def tree(self, token: Int[Tensor, "nodes"], log_q: Float[Tensor, "nodes"]) -> DraftTree:
        """The tree of this shape with these tokens; log_q is each node's own, 0 at the root."""
        score = torch.where(self.ancestors, log_q, 0.0).sum(dim=-1)  # (N, N) -> (N,): sum along the path
        return DraftTree(token, self.parent, self.depth, score, self.ancestors)


def plan_tree(shape: Sequence[tuple[int, ...]], device: torch.device | str = "cpu") -> TreePlan:
    """Index tensors for a shape."""
    parents = {path[:-1] for path in shape}
    paths = [(), *sorted(shape, key=lambda path: (len(path), path not in parents, path))]
    place = {path: i for i, path in enumerate(paths)}
    nodes = [(path[-1] if path else 0, place[path[:-1]], len(path)) for path in paths]
    rank, parent, depth = torch.tensor(nodes, device=device).T  # (N,) each
    starts, levels = depth.bincount().cumsum(0).tolist(), int(depth[-1])
    by_level = tuple((a, a + sum(path in parents for path in paths[a:b]), b) for a, b in pairwise(starts))
    above = ancestors(parent, levels)  # (N, N)
    return TreePlan(rank, parent, depth, above, by_level, levels, len(paths), int(rank.max()) + 1)


@dataclass(frozen=True)
class StaticTree(Grower):
    """Grows trees of a fixed shape, from a Draft of any kind, for `speculative_generate`."""

    shape: TreePlan

    def start(self, longest: int) -> Grow:
        return partial(self.grow, self.draft.new_cache(longest + self.shape.total_tokens))

    @torch.no_grad()
    def grow(self, cache: KVCache, features: Float[Tensor, "1 seq hidden"], token_ids: Int[Tensor, "1 seq_plus_1"]
             ) -> DraftTree:  # fmt: skip
        """One forward per level; the arguments are those of `tree.grow_tree`."""
        draft, plan, device = self.draft, self.shape, token_ids.device
        out = draft(features, token_ids[:, 1:], cache=cache)
        prefix = cache.length
        u, g = out.logit_feature[0, -1:], out.aligned_feature[:, -1:]  # (1, D), (1, 1, D): the root's row
        tokens, log_qs = [token_ids[0, -1:]], [at_least_float32(u.new_zeros(1))]
        visible = torch.empty(1, 0, dtype=torch.bool, device=device)  # (rows, entries): what of the tree each row sees
        above = 0  # the node of the last forward's first row
        for step, (start, middle, end) in enumerate(plan.by_level):
            log_q, guess = top_children(draft, u, plan.ranks)  # (rows, D) -> two of (rows, ranks)
            where = plan.parent[start:end] - above, plan.rank[start:end]
            tokens.append(guess[where])
            log_qs.append(log_q[where])
            if middle == start:  # no node of this level has children
                break
            row, n, above = where[0][: middle - start], middle - start, start
            visible = torch.cat((visible[row], torch.eye(n, dtype=torch.bool, device=device)), dim=1)
            mask = F.pad(visible, (prefix, 0), value=True)[None, None]  # and all of the prefix
            positions = torch.full((1, n), prefix + step, device=device)
            out = draft(g[:, row], tokens[-1][None, :n], mask, positions=positions, cache=cache)
            u, g = out.logit_feature[0], out.aligned_feature
        cache.truncate(prefix)  # the tree's own entries stand on guessed features
        return plan.tree(torch.cat(tokens), torch.cat(log_qs))


@dataclass(frozen=True)
class MedusaTree(Grower):
    """Grows trees of Medusa's best guesses: at depth d all nodes have the same children, as no head sees another's."""

    shape: TreePlan

    def start(self, longest: int) -> Grow:
        return self.grow

    def grow(self, features: Float[Tensor, "1 seq hidden"], token_ids: Int[Tensor, "1 seq_plus_1"]) -> DraftTree:
        """The tree below the last token, which was sampled from the last feature."""
        logits = self.draft.target.lm_head(self.draft(features[0, -1:])[:, 0])  # (1, D) -> (K, D) -> (K, V)
        log_q, guess = most_probable(logits, self.shape.ranks)  # (K, ranks) each
        where = self.shape.depth[1:] - 1, self.shape.rank[1:]  # head and rank of every node below the root
        return self.shape.tree(torch.cat((token_ids[0, -1:], guess[where])), F.pad(log_q[where], (1, 0)))


def fit(model: nn.Module, loss: Callable[[nn.Module, Tensor, Tensor], Tensor], batches: Iterable[Batch], steps: int,
        learning_rate: float) -> list[float]:  # fmt: skip
    """Minimise `loss(model, ids, response)`, a batch per step, as drafts are trained; returns the losses.

    Raises RuntimeError for gradients that are not finite, ConfigError for half precision, where small updates vanish.
    """
    weights = list(model.parameters())
    if any(weight.dtype.itemsize < 4 for weight in weights):
        raise ConfigError("expected weights in float32 to train, found half precision. Load the target in float32.")
    optimizer = torch.optim.AdamW(weights, learning_rate, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 20, steps)
    losses, device = [], weights[0].device
    for batch in tqdm(islice(batches, steps), total=steps, desc=f"train {type(model).__name__}", unit="step"):
        value = loss(model, batch.input_ids.to(device), batch.response.to(device))
        value.backward()
        clip_grad_norm_(weights, 0.5, error_if_nonfinite=True)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(value.item())
    return losses


def rivals(
    eagle: Draft, folder: Path, batches: Callable[[], Iterable[Batch]], steps: int, texts: Sequence[Encoded], nodes: int
) -> dict[str, Method]:
    """The methods by name. Assistant and heads are loaded from `folder`, and trained first if they are not there.

    Args:
        eagle: the draft of the static tree; its target is everyone's.
        batches: the drafts' own, from the beginning at every call; each model sees the first `steps` of them.
        texts: answers of the target, not to the benchmark's questions, which give the static trees' rates.
        nodes: N of the static trees.
    """
    target = eagle.target
    learned = {"medusa": (Medusa, medusa_loss, 1e-3), "assistant": (new_assistant, assistant_loss, 3e-3)}
    for name, (make, loss, learning_rate) in learned.items():
        if not (folder / name).exists():
            model, unfinished = make(target), folder / f"{name}.unfinished"
            fit(model, loss, batches(), steps, learning_rate)
            model.save_pretrained(unfinished)
            unfinished.rename(folder / name)
    medusa = Medusa.from_pretrained(folder / "medusa", target=target, strict=True)
    assistant = AutoModelForCausalLM.from_pretrained(folder / "assistant", dtype=target.dtype).to(target.device).eval()
    product, static = (
        plan_tree(static_shape(acceptance_rates(target, guesses, texts, levels), nodes), target.device)
        for guesses, levels in ((medusa.guesses, medusa.heads), (partial(draft_guesses, eagle), 6))
    )
    return {
        "generate": TransformersGenerate(target),
        # drafted are the tokens that followed the last two where these stood before
        "prompt_lookup": TransformersGenerate(target, dict(prompt_lookup_num_tokens=10, max_matching_ngram_size=2)),
        # how long its chains are, the assistant's generation_config says
        "assisted": TransformersGenerate(target, dict(assistant_model=assistant)),
        "medusa": Speculative(MedusaTree(medusa, product)),
        "eagle_static": Speculative(StaticTree(eagle, static)),
    }
