"""Recordings: the target's answers to benchmark questions, with its features at every position.

With position-keyed noise the text of an answer follows from (target, prompt, seed): no draft and no tree changes it. So
it is decoded once, plainly, one forward gives its features, and any number of drafts are replayed over it (replay.py).
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm
from transformers import LogitsProcessor, LogitsProcessorList

from fspad_ref.bench.bench import noise_seed
from fspad_ref.bench.record import code_hash, digest, fingerprint
from fspad_ref.cache import KVCache
from fspad_ref.data import Encoded, Question, prompt_ids
from fspad_ref.draft import Draft
from fspad_ref.errors import CheckpointError, InputError
from fspad_ref.files import load_json, load_tensors, save_json, save_tensors
from fspad_ref.generate import Generation, autoregressive_generate
from fspad_ref.sampling import GumbelNoise, SamplingConfig, at_least_float32, choose, process_logits
from fspad_ref.target import Target
from fspad_ref.tree import TreeConfig, grow_tree, top_children
from fspad_ref.verify import verify


@dataclass(frozen=True)
class Recording:
    """One answer of the target, and what a draft needs to be replayed over it.

    prompt, tokens: token ids; `tokens` are the new ones, EOS included if it came.
    features (L - 1, D): f at every position of prompt + tokens but the last, on the CPU.
    """

    question_id: int
    category: str
    turn: int
    temperature: float
    prompt: list[int]
    tokens: list[int]
    features: Float[Tensor, "seq hidden"]


def record(
    target: Target,
    questions: Sequence[Question],
    temperatures: Sequence[float],
    *,
    max_new_tokens: int = 128,
    seed: int = 0,
    batch: int = 1,
    progress: Callable[..., Any] = tqdm,
) -> list[Recording]:
    """Let the target answer every turn of every question, plainly: the texts of `bench.decode_questions`.

    Same noise, same stop, same history (later turns see the earlier answers), hence the same tau when replayed.
    batch: questions answered at once (many.py); the texts are the same.
    """
    groups = [questions[start : start + batch] for start in range(0, len(questions), batch)]
    jobs = [(temperature, group) for temperature in temperatures for group in groups]
    recordings = []
    for temperature, group in progress(jobs, desc="record", unit=f"{batch} questions"):
        recordings += _record_group(target, group, temperature, max_new_tokens, seed)
    return recordings


def _record_group(
    target: Target, questions: Sequence[Question], temperature: float, max_new_tokens: int, seed: int
) -> list[Recording]:
    """Turn by turn: first turns of all, then second turns; returned question by question."""
    eos = target.tokenizer.eos_token_id
    histories: list[list[tuple[str, str]]] = [[] for _ in questions]
    made: dict[tuple[int, int], Recording] = {}
    for turn in range(max(len(question.turns) for question in questions)):
        asked = [i for i, question in enumerate(questions) if turn < len(question.turns)]
        prompts = [prompt_ids(target.tokenizer, histories[i], questions[i].turns[turn]) for i in asked]
        samplings = [SamplingConfig(temperature, seed=noise_seed(seed, questions[i].question_id, turn)) for i in asked]
        answers = answer_many(target, prompts, samplings, max_new_tokens, eos)
        for i, prompt, (tokens, features) in zip(asked, prompts, answers, strict=True):
            one = questions[i]
            made[i, turn] = Recording(one.question_id, one.category, turn, temperature, prompt, tokens, features)
            histories[i].append((one.turns[turn], target.tokenizer.decode(tokens, skip_special_tokens=True)))
    return [made[place] for place in sorted(made)]


# ---- files ----


def record_all(
    folder: Path,
    target: Target,
    questions: Sequence[Question],
    temperatures: Sequence[float],
    *,
    max_new_tokens: int = 128,
    seed: int = 0,
    batch: int = 32,
    progress: Callable[..., Any] = tqdm,
) -> list[Recording]:
    """All recordings, from files of `batch` questions each below `folder`; what is there is not made again.

    Files of one target and one way of asking share a folder named after these, so that none is ever mixed up.
    """
    asked = dict(max_new_tokens=max_new_tokens, seed=seed)
    groups = [questions[start : start + batch] for start in range(0, len(questions), batch)]
    parts = [(temperature, number, group) for temperature in temperatures for number, group in enumerate(groups)]
    key = recording_key(target, [], (), **asked) | {"batch": batch, "code": code_hash("sampling", "target", "lab.many")}
    folder = folder / f"recordings-{digest(key)}"
    recordings = []
    for temperature, number, group in progress(parts, desc="record", unit=f"{batch} questions"):
        name = f"T{temperature:g}-{number:03}-{digest([one.question_id for one in group])}.json"
        recordings += recorded(folder / name, target, group, (temperature,), batch=batch, progress=_silent, **asked)
    return recordings


def _silent(jobs, **_):
    return jobs


def recorded(
    path: str | Path,
    target: Target,
    questions: Sequence[Question],
    temperatures: Sequence[float],
    *,
    max_new_tokens: int = 128,
    seed: int = 0,
    batch: int = 1,
    progress: Callable[..., Any] = tqdm,
) -> list[Recording]:
    """The recordings in the file `path`; if there is no such file they are made, as `record` says, and saved there."""
    key = recording_key(target, questions, temperatures, max_new_tokens, seed)
    if not Path(path).exists():
        made = record(target, questions, temperatures, max_new_tokens=max_new_tokens, seed=seed, batch=batch,
                      progress=progress)  # fmt: skip
        save_recordings(path, made, key)
    return load_recordings(path, key)


def recording_key(
    target: Target, questions: Sequence[Question], temperatures: Sequence[float], max_new_tokens: int, seed: int
) -> dict[str, Any]:
    """All that recordings depend on, as plain data."""
    asked = repr([(q.question_id, q.category, q.turns) for q in questions])
    return {
        **target.identity(),
        "weights_hash": fingerprint(target.model),
        "dtype": str(target.dtype),
        "questions_hash": hashlib.sha256(asked.encode()).hexdigest()[:16],
        "temperatures": list(temperatures),
        "max_new_tokens": max_new_tokens,
        "seed": seed,
    }


def save_recordings(path: str | Path, recordings: Sequence[Recording], key: dict[str, Any]) -> None:
    """Write `path` (JSON: the key, and what was asked) and, beside it, token ids and features as safetensors.

    The JSON comes last and names the other file, whose name follows from the key: a kill leaves no mixed pair.
    """
    path = Path(path)
    tensors = path.with_name(f"{path.stem}-{hashlib.sha256(repr(key).encode()).hexdigest()[:8]}.safetensors")
    ids = [one.prompt + one.tokens for one in recordings]
    flat = {
        "ids": torch.tensor([token for text in ids for token in text], dtype=torch.int32),
        "features": torch.cat([one.features for one in recordings]),
    }
    rows = []
    for one in recordings:
        row = {name: value for name, value in vars(one).items() if name not in ("prompt", "tokens", "features")}
        rows.append(row | {"prompt": len(one.prompt), "tokens": len(one.tokens)})
    save_tensors(tensors, flat)
    save_json(path, {"key": key, "tensors": tensors.name, "recordings": rows})


def load_recordings(path: str | Path, key: dict[str, Any]) -> list[Recording]:
    """Read what save_recordings wrote. Raises CheckpointError, naming what differs, if it belongs to another key."""
    path = Path(path)
    kept = load_json(path)
    old = kept.get("key", {})
    differing = [
        f"{name} was {old.get(name)!r} and is now {key.get(name)!r}"
        for name in sorted(old.keys() | key.keys())
        if old.get(name) != key.get(name)
    ]
    if differing:
        raise CheckpointError(
            f"expected recordings of this target and these settings in {path}, found others: {'; '.join(differing)}. "
            "Remove the file to record anew, or choose another one."
        )
    tensors = load_tensors(path.parent / kept["tensors"])
    lengths = [row["prompt"] + row["tokens"] for row in kept["recordings"]]
    ids = tensors["ids"].split(lengths)
    features = tensors["features"].split([length - 1 for length in lengths])
    return [
        Recording(**row | {"prompt": text[: row["prompt"]], "tokens": text[row["prompt"] :], "features": part})
        for row, text, part in zip(kept["recordings"], (one.tolist() for one in ids), features, strict=True)
    ]



# ---- replay ----
#
# Acceptance by replay: the rounds of any draft, from draft forwards alone.
#
# The text of an answer does not depend on the draft (recordings.py), so a draft's rounds are a walk along a known text:
#
#     grow    the draft's tree on the true features before the root, by the very calls of `speculative_generate`
#     walk    at every node v, "drawn" is the text's own token: y_v = x_{r + depth(v) + 1}, where the root is x_r
#     move    r <- r + accepted + 1
#
# tau, accepted counts and n-alpha are those of the real loop, exactly in float64; below it up to near-ties between
# tokens, since the features come from one forward instead of many. Times are not: the clock needs the real loop.

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



# ---- lockstep ----
#
# Many replays at once: the same rounds as `replay.replay`, a batch of texts in lockstep.
#
# One replay is a long row of small draft forwards, whose time is that of starting them. Two facts let a batch share them:
#
#     the draft has one layer, so keys and values of a pair on true features depend on that pair alone: one pass over
#     the whole texts gives all that any round will ever find in the cache, and the outputs at every possible root
#     texts know nothing of each other: round i of all of them is grown together, (B, k) rows a forward
#
# What is grown is what `tree.expand` scores and `tree.rerank` keeps, ties included. Of a tree only the accepted count is
# wanted, so there are no parents and ancestors here, but for every node whether the path to it is what the text says.

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



# ---- rates ----
#
# How often a guess is right, by its depth in the tree and its rank among its siblings.
#
# For a text x_0 .. x_{T-1} of the target, every place t inside a response is taken for the root's: the guesser knows
# f_0 .. f_t and x_{t+1}, and guesses x_{t+2}, x_{t+3}, ... along the true text. Then
#
#     rates[d - 1, r] = P(x_{t+1+d} is the guess of rank r at depth d | at depths 1 .. d - 1 the text was guessed)
#
# where *guessed* means: among the ranks of the table. On greedy answers of the target these are the rates of greedy
# decoding, on answers sampled at a temperature those of that temperature.
#
# With one rank a depth is asked only where all before it were the best guess: rates[d - 1, 0] is then EAGLE's
# (d - 1)-alpha. replay.py counts that for one draft, on features already recorded and from the answer's places alone,
# which is quicker; here any guesser goes, Medusa's heads too, and every rank is told apart.

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



# ---- top_k ----
#
# Top-k accuracy by depth: how often the token that the target writes is among the draft's k best, d guesses ahead.
#
# For a recorded answer every place t from the last token of the prompt on is taken for the start of a draft. It knows
# f_0 .. f_t and x_1 .. x_{t+1}, and guesses d tokens ahead along the answer: at depth 2 and below it reads its own
# aligned features in place of the target's, but the answer's true tokens.
#
#     accuracy[d - 1, i] = share of the places t with x_{t+1+d} among the ks[i] most probable tokens at depth d
#
# Nothing here is conditional: a place counts at depth d whatever was guessed before. The rates of rates.py ask only where
# the guesses before were right; those are what acceptance is made of, these are what a training improves.

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



# ---- many ----
#
# Plain decoding of many prompts at once, for recordings: the same tokens as one by one, in a fraction of the time.
#
# The batch is `transformers` own greedy `generate`; a logits processor adds our position-keyed noise, and the argmax
# of scores + noise is the draw of sampling.py, so every answer keeps its own seed whatever batch it is in.
#
# A batch rounds otherwise than a single text, and a near-tie could fall the other way. So every answer is checked against
# one forward over its whole text, which recordings need anyway for the features: if any of its tokens is not the one
# that this forward draws, the answer is decoded again by the plain loop.

Answer = tuple[list[int], Tensor]  # new tokens; features (L - 1, D) of prompt and answer but for the last token


def answer_many(
    target: Target, prompts: Sequence[list[int]], samplings: Sequence[SamplingConfig], max_new_tokens: int, eos: int
) -> list[Answer]:
    """Every prompt's answer under its own sampling settings, which may differ in their seeds alone."""
    guesses = _batch(target, prompts, samplings, max_new_tokens, eos) if len(prompts) > 1 else [None]
    answers = []
    for prompt, sampling, tokens in zip(prompts, samplings, guesses, strict=True):
        features = tokens and text_features(target, prompt + tokens)
        if tokens is None or not is_drawn(target, prompt, tokens, features, sampling):
            tokens = autoregressive_generate(
                target, prompt, max_new_tokens=max_new_tokens, eos_token_id=eos, sampling=sampling
            ).tokens
            features = text_features(target, prompt + tokens)
        answers.append((tokens, features))
    return answers


def text_features(target: Target, ids: Sequence[int]) -> Float[Tensor, "seq hidden"]:
    """f at every position of a text but the last, (L - 1, D), by one forward, on the CPU."""
    return target.features(torch.tensor([list(ids[:-1])], device=target.device))[0].cpu()  # (1, L - 1) -> (L - 1, D)


@torch.no_grad()
def is_drawn(
    target: Target, prompt: Sequence[int], tokens: Sequence[int], features: Tensor, sampling: SamplingConfig
) -> bool:
    """Whether every token of the answer is the one that these features and the seed's noise draw."""
    logits = at_least_float32(target.lm_head(features[len(prompt) - 1 :].to(target.device)))  # (new, V)
    noise = None
    if not sampling.greedy:
        noise = GumbelNoise(sampling.seed, target.vocab_size, target.device).rows(len(prompt), len(tokens))
    return choose(process_logits(logits, sampling), noise).tolist() == list(tokens)


def _batch(
    target: Target, prompts: Sequence[list[int]], samplings: Sequence[SamplingConfig], limit: int, eos: int
) -> list[list[int]]:
    width = max(map(len, prompts))
    # Padding stands on the left, so that every answer begins at `width`.
    ids = torch.tensor([[eos] * (width - len(p)) + p for p in prompts], device=target.device)  # (B, T)
    seen = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=target.device)
    keyed = _KeyedNoise(target, [width - len(p) for p in prompts], samplings)
    # Stated in full: what is left out comes from the model's own generation settings.
    text = target.model.generate(
        ids, attention_mask=seen, max_new_tokens=limit, eos_token_id=eos, pad_token_id=eos, do_sample=False,
        repetition_penalty=1.0, logits_processor=LogitsProcessorList([keyed]),
    )  # fmt: skip
    return [row[: row.index(eos) + 1] if eos in row else row for row in text[:, width:].tolist()]


class _KeyedNoise(LogitsProcessor):
    """Scores whose argmax is the draw of sampling.py, row by row."""

    def __init__(self, target: Target, padding: Sequence[int], samplings: Sequence[SamplingConfig]):
        self.law, self.padding = samplings[0], padding
        self.noise = [GumbelNoise(one.seed, target.vocab_size, target.device) for one in samplings]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self.law.greedy:
            return scores
        position = input_ids.shape[1]
        rows = [noise.rows(position - pad, 1) for noise, pad in zip(self.noise, self.padding, strict=True)]
        return process_logits(scores, self.law) + torch.cat(rows)  # two of (B, V)


