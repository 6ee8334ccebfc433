"""Top-k accuracy by depth: how often the token that the target writes is among the draft's k best, d guesses ahead.

For a recorded answer every place t from the last token of the prompt on is taken for the start of a draft. It knows
f_0 .. f_t and x_1 .. x_{t+1}, and guesses d tokens ahead along the answer: at depth 2 and below it reads its own
aligned features in place of the target's, but the answer's true tokens.

    accuracy[d - 1, i] = share of the places t with x_{t+1+d} among the ks[i] most probable tokens at depth d

Nothing here is conditional: a place counts at depth d whatever was guessed before. The rates of rates.py ask only where
the guesses before were right; those are what acceptance is made of, these are what a training improves.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fspad_ref.draft import Draft
from fspad_ref.errors import InputError
from fspad_ref.lab.rates import draft_guesses
from fspad_ref.lab.recordings import Recording


@torch.no_grad()
def top_k_accuracy(
    draft: Draft, recordings: Sequence[Recording], depth: int = 5, ks: Sequence[int] = (1, 3, 10)
) -> Float[Tensor, "depth ks"]:
    """The table of accuracies, pooled over the recordings; float64 on the CPU.

    Raises InputError if no recorded answer is longer than `depth` tokens.
    """
    right, tried = torch.zeros(depth, len(ks), dtype=torch.float64), torch.zeros(depth, 1, dtype=torch.float64)
    for one in recordings:
        ids = torch.tensor([one.prompt + one.tokens], device=draft.target.device)  # (1, L)
        # the last feature is not recorded, since no guess is made from it
        features = F.pad(one.features, (0, 0, 0, 1)).to(ids.device)[None]  # (L - 1, D) -> (1, L, D)
        start = len(one.prompt)  # place of the answer's first token
        for d, logits in enumerate(draft_guesses(draft, depth)(features, ids), start=1):
            wanted = ids[0, start + d :]  # (places,)
            best = logits[start - 1 :].topk(max(ks), dim=-1).indices  # (places, V) -> (places, K)
            hit = best == wanted[:, None]
            right[d - 1] += torch.stack([hit[:, :k].any(dim=1).sum() for k in ks]).cpu()
            tried[d - 1] += len(wanted)
    if not tried.all():
        raise InputError(f"expected an answer of more than {depth} tokens, found none. Record longer answers.")
    return right / tried
