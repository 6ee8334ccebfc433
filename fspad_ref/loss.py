"""The two losses of draft training, and partial alignment, which lets them stop fighting.

With mask m_t = 1 where both tokens t+1 and t+2 belong to a response, and target feature f_{t+1} frozen
(FSPAD; EAGLE, section 3.2):

    L_feature = sum_t m_t mean_D SmoothL1(g_t, f_{t+1}) / sum_t m_t
    L_logit   = - sum_t m_t sum_V softmax(lm_head f_{t+1}) log softmax(lm_head u_t) / sum_t m_t
    L         = feature_weight * L_feature + logit_weight * L_logit

EAGLE has u = g: one vector must look like the feature *and* be confident. FSPAD gives each loss its own head.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fspad_ref.draft import Draft, DraftOutput
from fspad_ref.sampling import at_least_float32


class DraftLoss(NamedTuple):
    """Scalars: the weighted sum that is minimised, and its two parts (feature: SmoothL1; logit: nats)."""

    total: Float[Tensor, ""]
    feature: Float[Tensor, ""]
    logit: Float[Tensor, ""]


def feature_loss(
    aligned: Float[Tensor, "batch seq hidden"], target_features: Float[Tensor, "batch seq hidden"], mask: Tensor
) -> Float[Tensor, ""]:
    """Mean SmoothL1 (beta = 1) between aligned features g and target features; 0 under an all-zero mask."""
    each = F.smooth_l1_loss(aligned, target_features, reduction="none").mean(dim=-1)  # (B, T, D) -> (B, T)
    return masked_mean(each, mask)


def logit_loss(
    logit_feature: Float[Tensor, "batch seq hidden"], target_features: Float[Tensor, "batch seq hidden"],
    lm_head: Callable[[Tensor], Tensor], mask: Tensor, draft: Draft | None = None, log_partition: Tensor | None = None,
) -> Float[Tensor, ""]:  # fmt: skip
    """Cross-entropy of the draft's token distribution against the target's, in nats; 0 under an all-zero mask.

    Only rows under the mask go through lm_head: at a vocabulary of 128,000 the others would cost more than the draft.
    draft: of one with a vocabulary V' of its own, - sum_{w in V'} p(w) log q(w): p is not renormalised, so a position
    counts by p(V'), and one whose probability lies outside teaches nothing.
    log_partition (B, T): log sum_V exp of the target's logits, where it is known; only V' of them are computed then.
    """
    chosen = mask.bool()
    own = draft is not None and draft.vocabulary is not None
    if own and log_partition is not None:
        p = (at_least_float32(draft.lm_head(target_features[chosen])) - log_partition[chosen][:, None]).exp()  # (M, V')
    else:
        p = F.softmax(at_least_float32(lm_head(target_features[chosen])), dim=-1)  # (B, T, D) -> (M, D) -> (M, V)
        p = p[:, draft.vocabulary] if own else p
    lm_head = draft.lm_head if own else lm_head
    log_q = F.log_softmax(at_least_float32(lm_head(logit_feature[chosen])), dim=-1)
    return -(p * log_q).sum() / chosen.sum().clamp(min=1)


def partial_alignment_loss(
    out_draft: DraftOutput, target_features: Float[Tensor, "batch seq hidden"],
    lm_head: Callable[[Tensor], Tensor], mask: Tensor, feature_weight: float = 1.0, logit_weight: float = 0.1,
    draft: Draft | None = None, log_partition: Tensor | None = None,
) -> DraftLoss:  # fmt: skip
    """FSPAD's loss; with u = g it is EAGLE's.

    Args:
        out_draft: u and g, (B, T, D) each, for the pairs (f_t, e_{t+1}).
        target_features: f_{t+1}, i.e. the target's features shifted by one.
        lm_head: the target's frozen output map, (..., D) -> (..., V).
        mask: (B, T), 1 where tokens t+1 and t+2 belong to a response.
        draft: the draft, if it may have a vocabulary of its own.
        log_partition: (B, T), log sum_V exp(lm_head f_{t+1}) where it is known; see logit_loss.
    """
    target_features = target_features.detach()
    feature = feature_loss(out_draft.aligned_feature, target_features, mask)
    logit = logit_loss(out_draft.logit_feature, target_features, lm_head, mask, draft, log_partition)
    return DraftLoss(feature_weight * feature + logit_weight * logit, feature, logit)


def masked_mean(values: Float[Tensor, "batch seq"], mask: Tensor) -> Float[Tensor, ""]:
    """Mean over the positions under the mask; 0 if there are none."""
    chosen = mask.bool()
    # where, not a product: 0 * inf would be NaN
    return torch.where(chosen, values, 0.0).sum() / chosen.sum().clamp(min=1)
