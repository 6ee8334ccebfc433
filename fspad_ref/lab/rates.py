"""How often a guess is right, by its depth in the tree and its rank among its siblings.

For a text x_0 .. x_{T-1} of the target, every place t inside a response is taken for the root's: the guesser knows
f_0 .. f_t and x_{t+1}, and guesses x_{t+2}, x_{t+3}, ... along the true text. Then

    rates[d - 1, r] = P(x_{t+1+d} is the guess of rank r at depth d | at depths 1 .. d - 1 the text was guessed)

where *guessed* means: among the ranks of the table. On greedy answers of the target these are the rates of greedy
decoding, on answers sampled at a temperature those of that temperature.

With one rank a depth is asked only where all before it were the best guess: rates[d - 1, 0] is then EAGLE's
(d - 1)-alpha. replay.py counts that for one draft, on features already recorded and from the answer's places alone,
which is quicker; here any guesser goes, Medusa's heads too, and every rank is told apart.
"""

from collections.abc import Callable, Iterable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fspad_ref.batches import Encoded
from fspad_ref.draft import Draft
from fspad_ref.errors import InputError
from fspad_ref.target import Target

# (features (1, T, D), token ids (1, T)) -> for depth d = 1, 2, ... logits (T - 1 - d, V), whose row t guesses x_{t+1+d}
Guesses = Callable[[Tensor, Tensor], Iterator[Tensor]]


@torch.no_grad()
def acceptance_rates(
    target: Target, guesses: Guesses, texts: Iterable[Encoded], levels: int = 6, ranks: int = 10
) -> Float[Tensor, "levels ranks"]:
    """The table of rates, float64 on the CPU; a depth that no text reached has rates 0.

    Args:
        guesses: `draft_guesses(draft, levels)`, or `medusa_guesses(heads)`.
        texts: (token ids, which of them are response) pairs, such as `corpus.encode` gives.

    Raises InputError if no text has two response tokens in a row.
    """
    right = torch.zeros(levels, ranks, dtype=torch.float64)
    tried = torch.zeros(levels, dtype=torch.float64)
    for tokens, response in texts:
        ids = torch.tensor([list(tokens)], device=target.device)  # (1, T)
        inside = torch.tensor(list(response), device=target.device)  # (T,)
        followed = inside[1:]  # (T - 1,): is x_{t+1} response, and all guessed so far?
        for d, logits in zip(range(1, levels + 1), guesses(target.features(ids), ids), strict=False):
            wanted = ids[0, d + 1 :]  # (T - 1 - d,)
            asked = followed[: len(wanted)] & inside[d + 1 :]
            hit = (logits.topk(ranks, dim=-1).indices == wanted[:, None]) & asked[:, None]  # (T - 1 - d, R)
            tried[d - 1] += asked.sum().cpu()
            right[d - 1] += hit.sum(dim=0).cpu()
            followed = hit.any(dim=-1)
    if tried[0] == 0:
        raise InputError("expected texts with two response tokens in a row, found none. Check the response masks.")
    return right / tried.clamp(min=1)[:, None]


def draft_guesses(draft: Draft, levels: int = 6) -> Guesses:
    """The guesses of an EAGLE-like draft, which feeds its own features back from depth 2 on.

    All places of a text at once. At depth d the row of place t holds the pair (the draft's guess of f_{t+d-1}, x_{t+d})
    at position t + d - 1, and sees the true pairs up to t and its own rows of the depths before, as in a tree.
    """

    def guess(features: Float[Tensor, "1 seq hidden"], ids: Int[Tensor, "1 seq"]) -> Iterator[Tensor]:
        n, device = ids.shape[1] - 1, ids.device  # true pairs
        depths = range(2, min(levels, n - 1) + 1)
        cache = draft.new_cache(n + sum(n - d for d in depths))
        out = draft(features[:, :-1], ids[:, 1:], cache=cache)
        rows = n - 1
        yield draft.lm_head(out.logit_feature[0, :rows])
        visible = torch.ones(n, n, dtype=torch.bool, device=device).tril()  # row t: the true pairs up to t
        for d in depths:
            rows = n - d
            own = torch.eye(rows, dtype=torch.bool, device=device)
            visible = torch.cat((visible[:rows], own), dim=1)
            positions = torch.arange(d - 1, d - 1 + rows, device=device)[None]
            out = draft(out.aligned_feature[:, :rows], ids[:, d : d + rows], visible[None, None],
                        positions=positions, cache=cache)  # fmt: skip
            yield draft.lm_head(out.logit_feature[0])

    return guess
