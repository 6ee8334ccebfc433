"""Acceptance by replay: the rounds of any draft, from draft forwards alone.

The text of an answer does not depend on the draft (recordings.py), so a draft's rounds are a walk along a known text:

    grow    the draft's tree on the true features before the root, by the very calls of `speculative_generate`
    walk    at every node v, "drawn" is the text's own token: y_v = x_{r + depth(v) + 1}, where the root is x_r
    move    r <- r + accepted + 1

tau, accepted counts and n-alpha are those of the real loop, exactly in float64; below it up to near-ties between
tokens, since the features come from one forward instead of many. Times are not: the clock needs the real loop.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from fspad_ref.draft import Draft
from fspad_ref.generate import Generation
from fspad_ref.lab.recordings import Recording
from fspad_ref.tree import TreeConfig, grow_tree, top_children
from fspad_ref.verify import verify


@torch.no_grad()
def replay(draft: Draft, recording: Recording, tree: TreeConfig | None = None) -> Generation:
    """What `speculative_generate` returns for this draft, prompt and seed: the text, and accepted counts by round.

    A round that the end of the text cuts short counts the drafted tokens that stay, as there: beyond the end "drawn"
    is -1, which no node carries.
    """
    config = tree or TreeConfig()
    text, features = _on_device(draft, recording)  # (L,), (L - 1, D)
    last = len(text) - 1
    drawn = F.pad(text, (0, config.levels), value=-1)
    cache = draft.new_cache(len(text) + config.depth * config.top_k)
    result = Generation(tokens=list(recording.tokens))
    seen, root = 0, len(recording.prompt)  # pairs that the draft has seen; place of the root, a token already certain
    while root < last:
        grown = grow_tree(draft, features[None, seen:root], text[None, seen : root + 1], config, cache)
        verdict = verify(grown, drawn[root + 1 + grown.depth], config.levels)
        result.accepted.append(int(verdict.accepted))
        seen, root = root, root + result.accepted[-1] + 1
    return result


def n_alpha(draft: Draft, recording: Recording, n: int) -> Int[Tensor, "n_plus_1 2"]:
    """Counts for 0-alpha .. n-alpha: row s holds (accepted, tried), whose quotient is s-alpha; summed, they pool texts.

    A chain that starts at position t of the text drafts, with g the draft's own aligned features,

        step 0    (f_0, x_1) .. (f_t, x_{t+1})                              -> token t+2
        step s    the same, then (g_0, x_{t+2}) .. (g_{s-1}, x_{t+s+1})     -> token t+s+2

    and s-alpha is the share of right tokens at step s among the chains whose earlier tokens were all right (EAGLE,
    section 4). Chains start wherever the real loop could: from the last position of the prompt on.
    """
    start = _starts(recording)  # (K,): t
    text = F.pad(torch.tensor(recording.prompt + recording.tokens), (0, n + 2), value=-1)
    step = torch.arange(n + 1)[:, None]
    answer = text[start + step + 2]  # (n + 1, K); -1 beyond the end
    right = chain_tokens(draft, recording, n).cpu() == answer
    accepted = right.cumprod(dim=0).bool()  # this one and all before it
    reached = torch.cat((torch.ones_like(accepted[:1]), accepted[:-1]))
    tried = reached & (answer >= 0)
    return torch.stack((accepted.sum(dim=1), tried.sum(dim=1)), dim=1)


@torch.no_grad()
def chain_tokens(draft: Draft, recording: Recording, n: int) -> Int[Tensor, "n_plus_1 starts"]:
    """The draft's best token at step s of the chain that starts at position t, for all s <= n and all t at once.

    Step 0 is one teacher-forced pass. In step s all K chains go through the draft as K rows of one forward; row k sees
    the pairs on true features up to its start, and of the guessed ones its own s, the present one included:

        columns   [ pair 0 .. pair t_k | later pairs | step 1: row k only | ... | step s: row k only ]

    The tokens fed in are the text's, as they are in a chain of which all was accepted. Beyond the end of the text the
    result means nothing.
    """
    text, features = _on_device(draft, recording)  # (L,), (L - 1, D)
    start = _starts(recording).to(text.device)  # (K,): t
    if len(start) == 0:
        return text.new_zeros(n + 1, 0)
    pairs = len(text) - 2  # (f_t, x_{t+1}) for t = 0 .. L - 3: the last one drafts the last token
    text = F.pad(text, (0, n))  # beyond the end any token will do: nothing there is counted
    cache = draft.new_cache(pairs + n * len(start))
    out = draft(features[None, :pairs], text[None, 1 : pairs + 1], cache=cache)
    u, g = (part[0, start] for part in out)  # (1, pairs, D) -> (K, D)
    tokens = [top_children(draft, u, 1)[1][:, 0]]
    before = torch.arange(pairs, device=text.device) <= start[:, None]  # (K, pairs)
    own = torch.eye(len(start), dtype=torch.bool, device=text.device)  # (K, K)
    for step in range(1, n + 1):
        mask = torch.cat((before, own.repeat(1, step)), dim=1)[None, None]  # (1, 1, K, pairs + step * K)
        out = draft(g[None], text[None, start + step + 1], mask, positions=(start + step)[None], cache=cache)
        u, g = (part[0] for part in out)
        tokens.append(top_children(draft, u, 1)[1][:, 0])
    return torch.stack(tokens)  # (n + 1, K)


def _starts(recording: Recording) -> Tensor:
    """t of every pair (f_t, x_{t+1}) from which a chain can draft a token of the answer, (K,)."""
    return torch.arange(max(len(recording.tokens) - 1, 0)) + len(recording.prompt) - 1


def _on_device(draft: Draft, recording: Recording) -> tuple[Tensor, Tensor]:
    device = draft.target.device
    text = torch.tensor(recording.prompt + recording.tokens, device=device)
    return text, recording.features.to(device)
