"""Where the two losses of a draft meet, and whether they agree there.

The feature loss and the logit loss are differentiated one at a time, over the same pairs, and their gradients are
compared by the cosine of the angle between them:

    cos(a, b) = sum_i a_i b_i / (|a| |b|)        1: the same way; 0: neither helps nor hurts; -1: opposed

A negative cosine means that a small step down one loss climbs the other. Three places are looked at: the output of the
layer's last linear map, the weights of that map, and the trunk, which is all weights before it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fspad_ref.data import Batch, trained_positions
from fspad_ref.draft import Draft, DraftOutput
from fspad_ref.errors import InputError
from fspad_ref.loss import partial_alignment_loss
from fspad_ref.target import Target

LAST_MAP = "layer.down.weight"  # the map that partial alignment splits
WEIGHTS = ("last map", "trunk")
PLACES = ("output", *WEIGHTS)


@dataclass(frozen=True)
class Pairs:
    """What a draft reads and should answer at every position but the last of some dialogues.

    features: f_t. next_ids: token t+1. teacher: f_{t+1}. mask: where tokens t+1 and t+2 are both response.
    """

    features: Float[Tensor, "batch seq hidden"]
    next_ids: Int[Tensor, "batch seq"]
    teacher: Float[Tensor, "batch seq hidden"]
    mask: Bool[Tensor, "batch seq"]


def pairs_of(target: Target, batch: Batch) -> Pairs:
    """One forward of the target over a batch, shifted into pairs as in training, without noise.

    Raises InputError if the batch trains no position.
    """
    ids, mask = batch.input_ids.to(target.device), trained_positions(batch.response).to(target.device)
    if not mask.any():
        raise InputError("expected a batch with two response tokens in a row, found none. Check the response masks.")
    features = target.features(ids)  # (B, T) -> (B, T, D)
    return Pairs(features[:, :-1], ids[:, 1:], features[:, 1:], mask)


# --- gradients -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LossGradient:
    """The gradient of one loss, not weighted.

    output: of the last linear map, before the residual is added; D wide, or 2D with two heads.
    parameters: by name; zeros where the loss does not reach.
    """

    output: Float[Tensor, "batch seq width"]
    parameters: dict[str, Tensor]

    def at(self, place: str) -> Float[Tensor, "n"]:
        """The gradient at one of PLACES, as one long vector."""
        if place == "output":
            return self.output.flatten()
        chosen = [value for name, value in self.parameters.items() if (name == LAST_MAP) == (place == "last map")]
        return torch.cat([value.flatten() for value in chosen])


def loss_gradients(draft: Draft, pairs: Pairs) -> tuple[LossGradient, LossGradient]:
    """The gradients of the feature loss and of the logit loss; the draft and its `.grad` stay as they were."""
    outputs: list[Tensor] = []
    hook = draft.layer.down.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    try:
        out = draft(pairs.features, pairs.next_ids)
    finally:
        hook.remove()
    loss = partial_alignment_loss(out, pairs.teacher, draft.lm_head, pairs.mask)
    weights = dict(draft.named_parameters())
    places = [outputs[0], *weights.values()]
    both = []
    for one in (loss.feature, loss.logit):
        first, *rest = torch.autograd.grad(one, places, retain_graph=True, materialize_grads=True)
        both.append(LossGradient(first, dict(zip(weights, rest, strict=True))))
    return both[0], both[1]


def gradient_cosines(draft: Draft, pairs: Pairs) -> dict[str, float]:
    """The cosine between the two losses' gradients at each of PLACES; 0 where one of them vanishes."""
    feature, logit = loss_gradients(draft, pairs)
    return {place: float(F.cosine_similarity(feature.at(place), logit.at(place), dim=0)) for place in PLACES}


def position_cosines(draft: Draft, pairs: Pairs) -> Float[Tensor, "n"]:
    """The same at the output, for each trained position by itself."""
    feature, logit = loss_gradients(draft, pairs)
    return F.cosine_similarity(feature.output[pairs.mask], logit.output[pairs.mask], dim=-1)  # (M, D) -> (M,)


class Meeting(NamedTuple):
    """How two losses meet in some weights.

    same: mean cosine of their gradients on the same batch. across: the cosine of their mean gradients (see `across`),
    with its standard error.
    """

    same: float
    across: float
    error: float


def meetings(draft: Draft, batches: Sequence[Pairs]) -> dict[str, Meeting]:
    """The meeting of the two losses in the last map and in the trunk, over several batches."""
    gradients = [loss_gradients(draft, pairs) for pairs in batches]
    found = {}
    for place in WEIGHTS:
        feature, logit = (torch.stack([pair[loss].at(place) for pair in gradients]) for loss in (0, 1))  # (K, n)
        same = float(F.cosine_similarity(feature, logit, dim=1).mean())
        found[place] = Meeting(same, *across(feature, logit))
    return found


def across(a: Float[Tensor, "rows n"], b: Float[Tensor, "rows n"]) -> tuple[float, float]:
    """The cosine between the means that the rows of a and of b scatter around, if row i of both has the same noise.

        mean_{i != j} <a_i, b_j>  /  sqrt( mean_{i != j} <a_i, a_j>  *  mean_{i != j} <b_i, b_j> )

    Products of different rows only: noise of different batches is independent, so each mean is unbiased for the product
    of the means. An estimate may pass 1 or -1 by its own error. NaN if a mean cannot be told from noise (a product
    below the root is not positive), 0 if a and b share no coordinate. Returned with a standard error by which its sign
    can be judged: that of the upper product, by the jackknife (from the means that leave out one batch each), divided
    by the root. Raises InputError for fewer than three rows.
    """
    count = len(a)
    if count < 3:
        raise InputError(f"expected gradients of at least three batches, found {count}. Give more batches.")
    a, b = a.double(), b.double()
    ab, aa, bb = a @ b.T, a @ a.T, b @ b.T  # (K, n), (K, n) -> (K, K)
    if not ab.any():
        return 0.0, 0.0
    squares = _between(aa), _between(bb)
    root = math.sqrt(squares[0] * squares[1]) if min(squares) > 0 else math.nan
    rows = torch.arange(count, device=a.device)
    without = torch.tensor([_between(ab[rows != i][:, rows != i]) for i in range(count)], dtype=torch.float64)
    error = ((count - 1) * (without - without.mean()).square().mean()).sqrt()
    return _between(ab) / root, float(error) / root


def _between(products: Float[Tensor, "rows rows"]) -> float:
    """Mean of the products of different rows: those off the diagonal."""
    count = len(products)
    return float((products.sum() - products.diagonal().sum()) / (count * (count - 1)))


# --- what the heads have become --------------------------------------------------------------------------------------


class HeadScore(NamedTuple):
    """How a guess x of a feature f compares with it.

    distance: mean of |x - f| over positions and coordinates. divergence: mean KL(p || q) in nats, p from f, q from x.
    agreement: share of positions where both give the same token the largest logit.
    """

    distance: float
    divergence: float
    agreement: float


@torch.no_grad()
def score_head(guess: Float[Tensor, "batch seq hidden"], pairs: Pairs, lm_head) -> HeadScore:
    """Scores over the trained positions."""
    guess, truth = guess[pairs.mask], pairs.teacher[pairs.mask]  # (B, T, D) -> (M, D)
    log_q, log_p = (F.log_softmax(lm_head(x), dim=-1) for x in (guess, truth))  # (M, D) -> (M, V)
    divergence = F.kl_div(log_q, log_p, log_target=True, reduction="batchmean")
    agreement = (log_q.argmax(-1) == log_p.argmax(-1)).float().mean()
    return HeadScore(float((guess - truth).abs().mean()), float(divergence), float(agreement))


@torch.no_grad()
def second_step(draft: Draft, pairs: Pairs, fed: Float[Tensor, "batch seq hidden"]) -> tuple[DraftOutput, Pairs]:
    """Guesses of f_{t+1} from a pair whose feature is a guess: `fed` at t - 1, where f_t was to be guessed.

    Every position t is taken for the second step of a draft that began at t - 1: the pairs before it are true. As in a
    draft tree this is one forward with a mask, over 2T pairs, the true ones and behind them the fed ones; a fed pair
    sees the true pairs before its position, and itself. Returned with the guesses: the pairs, with a mask of the
    positions where the step before was trained, too.
    """
    T, device = pairs.next_ids.shape[1], fed.device
    # the row of position 0, which nothing was guessed for, keeps its true feature and is masked
    fed = torch.cat((pairs.features[:, :1], fed[:, :-1]), dim=1)  # (B, T, D): moved to where it is read
    itself = torch.eye(T, dtype=torch.bool, device=device)
    before = torch.ones(T, T, dtype=torch.bool, device=device).tril(-1)
    visible = torch.cat((torch.cat((before | itself, before), 0), torch.cat((itself & before, itself), 0)), 1)
    out = draft(
        torch.cat((pairs.features, fed), dim=1),  # (B, 2T, D)
        pairs.next_ids.repeat(1, 2),  # (B, 2T)
        visible[None, None],  # (1, 1, 2T, 2T)
        positions=torch.arange(T, device=device).repeat(2)[None],
    )
    mask = pairs.mask & F.pad(pairs.mask, (1, -1))  # (B, T): t, and t - 1
    guesses = DraftOutput(*(x[:, T:] for x in out))  # (B, 2T, D) -> (B, T, D)
    return guesses, Pairs(pairs.features, pairs.next_ids, pairs.teacher, mask)
