"""Many replays at once: the same rounds as `replay.replay`, a batch of texts in lockstep.

One replay is a long row of small draft forwards, whose time is that of starting them. Two facts let a batch share them:

    the draft has one layer, so keys and values of a pair on true features depend on that pair alone: one pass over
    the whole texts gives all that any round will ever find in the cache, and the outputs at every possible root
    texts know nothing of each other: round i of all of them is grown together, (B, k) rows a forward

What is grown is what `tree.expand` scores and `tree.rerank` keeps, ties included. Of a tree only the accepted count is
wanted, so there are no parents and ancestors here, but for every node whether the path to it is what the text says.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from fspad_ref.cache import KVCache
from fspad_ref.draft import Draft
from fspad_ref.lab.recordings import Recording
from fspad_ref.tree import TreeConfig, top_children


def replay_many(
    draft: Draft,
    recordings: Sequence[Recording],
    tree: TreeConfig,
    batch: int = 32,
    progress: Callable[..., Any] = tqdm,
) -> list[list[int]]:
    """For every recording what `replay(draft, recording, tree).accepted` is, up to near-ties below float64."""
    accepted: list[list[int]] = [[] for _ in recordings]
    order = sorted(range(len(recordings)), key=lambda i: len(recordings[i].tokens))  # alike, so that they end together
    order = [i for i in order if len(recordings[i].tokens) > 1]
    groups = [order[start : start + batch] for start in range(0, len(order), batch)]
    for group in progress(groups, desc="replay", unit=f"{batch} answers"):
        for i, of_rounds in zip(group, _replay_group(draft, [recordings[i] for i in group], tree), strict=True):
            accepted[i] = of_rounds
    return accepted


@dataclass
class _Texts:
    """B texts on their way. `last` is the place of a text's last token, `root` that of the present round's root.

    written (B, L + levels): the tokens, and -1 beyond the end. logit, aligned (B, P, D): the draft's outputs at every
    pair. cache: P pairs on true features, row for row.
    """

    number: Tensor
    root: Tensor
    last: Tensor
    written: Tensor
    logit: Tensor
    aligned: Tensor
    cache: KVCache

    def drop_finished(self) -> None:
        """Go on with the texts that have a token left to draft."""
        going = self.root < self.last
        if not going.all():
            for name in ("number", "root", "last", "written", "logit", "aligned"):
                setattr(self, name, getattr(self, name)[going])
            self.cache.kv = self.cache.kv[:, :, going]


@torch.no_grad()
def _replay_group(draft: Draft, group: Sequence[Recording], config: TreeConfig) -> list[list[int]]:
    texts = _begin(draft, group, config)
    accepted: list[list[int]] = [[] for _ in group]
    texts.drop_finished()
    while len(texts.root):
        counts = _accepted(draft, texts, config)
        for number, count in zip(texts.number.tolist(), counts.tolist(), strict=True):
            accepted[number].append(count)
        texts.root = texts.root + counts + 1
        texts.drop_finished()
    return accepted


def _begin(draft: Draft, group: Sequence[Recording], config: TreeConfig) -> _Texts:
    """One pass over the pairs (f_t, x_{t+1}) of all texts. Padding stands on the right: causal attention hides it."""
    device = draft.target.device
    tokens = [torch.tensor(one.prompt + one.tokens, device=device) for one in group]
    length = torch.tensor([len(one) for one in tokens], device=device)
    pairs = int(length.max()) - 2  # the last token is nobody's root
    written = F.pad(pad_sequence(tokens, batch_first=True, padding_value=-1), (0, config.levels), value=-1)
    ids = written[:, 1 : pairs + 1].clamp(min=0)
    features = pad_sequence([one.features for one in group], batch_first=True)[:, :pairs].to(device)  # (B, P, D)
    cache = draft.new_cache(pairs + config.depth * config.top_k, batch=len(group))
    out = draft(features, ids, cache=cache)
    start = torch.tensor([len(one.prompt) for one in group], device=device)
    number = torch.arange(len(group), device=device)
    return _Texts(number, start, length - 1, written, out.logit_feature, out.aligned_feature, cache)


def _accepted(draft: Draft, texts: _Texts, config: TreeConfig) -> Tensor:
    """Draft tokens that one round accepts, in every text, (B,): nodes of its tree on the text's own path."""
    score, on_text = _expand(draft, texts, config)
    best = score.sort(dim=1, descending=True, stable=True).indices[:, : config.total_tokens - 1]  # as in rerank
    return on_text.gather(1, best).sum(dim=1)


def _expand(draft: Draft, texts: _Texts, config: TreeConfig) -> tuple[Float[Tensor, "batch scored"], Tensor]:
    """`tree.expand` for B roots: (score, whether the path to the node is what the text says) of all scored nodes."""
    k, root, cache = config.top_k, texts.root, texts.cache
    rows = torch.arange(len(root), device=root.device)
    pairs, eye = cache.length, torch.eye(k, dtype=torch.bool, device=root.device).expand(len(root), k, k)
    level = torch.arange(1, config.levels + 1, device=root.device)
    wanted = texts.written.gather(1, root[:, None] + level)  # (B, levels): the text after the root
    seen = (torch.arange(pairs, device=root.device) < root[:, None])[:, None].expand(-1, k, -1)  # (B, k, P)

    scores, tokens = top_children(draft, texts.logit[rows, root - 1], k)  # (B, D) -> two of (B, k)
    right = tokens == wanted[:, :1]
    feature = texts.aligned[rows, root - 1][:, None].expand(-1, k, -1)  # (B, k, D)
    visible, found = eye, [(scores, right)]
    for step in range(config.depth):
        mask = torch.cat((seen, visible), dim=2)[:, None]  # (B, 1, k, P + (step + 1) k)
        out = draft(feature, tokens, mask, positions=(root + step)[:, None].expand(-1, k), cache=cache)
        log_q, token = top_children(draft, out.logit_feature, k)  # (B, k, k)
        candidates = (scores[..., None] + log_q).flatten(1)  # (B, k * k)
        on_text = (right[..., None] & (token == wanted[:, step + 1, None, None])).flatten(1)
        found.append((candidates, on_text))
        scores, best = (part[:, :k] for part in candidates.sort(dim=1, descending=True, stable=True))
        tokens, right, came_from = token.flatten(1).gather(1, best), on_text.gather(1, best), best // k
        feature = _rows(out.aligned_feature, came_from)
        visible = torch.cat((_rows(visible, came_from), eye), dim=2)
    cache.truncate(pairs)
    score, on_text = (torch.cat(part, dim=1) for part in zip(*found, strict=True))
    return score, on_text


def _rows(x: Tensor, chosen: Int[Tensor, "batch k"]) -> Tensor:
    """x[b, chosen[b]]: (B, k, W) -> (B, k, W)."""
    return x.gather(1, chosen[..., None].expand(-1, -1, x.shape[2]))
