"""Medusa heads (arXiv 2401.10774), in the form of Medusa-1: the target stays frozen.

Head i looks at the feature f_t alone and guesses token t + 1 + i; token t + 1 itself is the target's to sample:

    x  =  f_t,   then block by block   x  <-  x + silu(W x + b)
    q_i(token t + 1 + i)  =  softmax(lm_head x)

W and b begin at zero, so every head begins as the target's own guess of token t + 1. One deviation from the paper: the
paper gives every head a trained copy of the output matrix; here all heads share the target's, frozen, and only W and b
are trained. That keeps the heads as small as a draft layer (D^2 a block instead of D V a head).

No head sees what another one guessed. So the tree is a product: at depth d every node has the same children, the best
guesses of head d, and its shape is static.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fspad_ref.batches import Batch, Encoded
from fspad_ref.checkpoint import check_names, load_json, load_tensors, save_json, save_tensors
from fspad_ref.corpus import Dialogue
from fspad_ref.errors import CheckpointError, ConfigError, TargetMismatch
from fspad_ref.lab.fit import OnStep, fit
from fspad_ref.lab.rates import Guesses
from fspad_ref.lab.static_tree import TreePlan
from fspad_ref.sampling import at_least_float32
from fspad_ref.target import Target
from fspad_ref.train import TrainConfig
from fspad_ref.tree import DraftTree, Grow, Grower, most_probable


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
