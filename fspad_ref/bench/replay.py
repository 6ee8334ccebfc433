"""Replay: the acceptance of any draft, from draft forwards alone.

With position-keyed noise the text of an answer follows from (target, prompt, seed): no draft and no tree changes it. So
every answer is *recorded* once, decoded plainly, with the target's features at every position. Over a known text a
draft's rounds are a walk:

    grow    the draft's tree on the true features before the root, with the text's own noise if it looks at the noise
    walk    at every node v, "drawn" is the text's own token: y_v = x_{r + depth(v) + 1}, where the root is x_r
    move    r <- r + accepted + 1

tau and accepted counts are those of the real loop, exactly in float64; below it up to near-ties between tokens, since
the features come from one forward instead of many. Times are not: the clock needs the real loop.

A single replay is a long row of small draft forwards. Many roots share them: those of texts in lockstep
(`replay_many`), or all positions of one text (`scored_everywhere`). The draft has one layer, so keys and values of a
pair on true features depend on that pair alone: one pass over a text gives all that any round will ever find in the
cache, and the outputs at every root. From there the trees of R roots are grown together, (R, k) rows per forward.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from fspad_ref.bench.answers import answers
from fspad_ref.bench.bench import noise_seed
from fspad_ref.cache import KVCache
from fspad_ref.data import Encoded, Question, prompt_ids
from fspad_ref.draft import Draft
from fspad_ref.errors import CheckpointError, InputError
from fspad_ref.files import save_atomic
from fspad_ref.generate import autoregressive_generate
from fspad_ref.sampling import GumbelNoise, SamplingConfig, at_least_float32, choose, process_logits
from fspad_ref.target import Target
from fspad_ref.tree import TreeConfig, top_children, weighted_noise

# ---- recordings ----


@dataclass(frozen=True)
class Recording:
    """One answer of the target, and what a draft needs to be replayed over it.

    seed: the key of its noise. prompt, tokens: token ids; `tokens` are the new ones, EOS included if it came.
    features (L - 1, D): f at every position of prompt + tokens but the last, on the CPU.
    """

    question_id: int
    task: str
    turn: int
    temperature: float
    seed: int
    prompt: list[int]
    tokens: list[int]
    features: Float[Tensor, "seq hidden"]


def record(
    target: Target, questions: Sequence[Question], temperatures: Sequence[float], *,
    max_new_tokens: int = 128, seed: int = 0, batch: int = 32, folder: Path | None = None,
    progress: Callable[..., Any] = tqdm,
) -> list[Recording]:  # fmt: skip
    """Let the target answer every turn of every question, plainly: the texts of `bench.decode_questions`.

    Same noise, same stop, same history (later turns see the earlier answers), hence the same tau when replayed.
    batch: questions answered at once, and in one file of `folder`, if there is one; what is there is not made again.
    """
    groups = [questions[start : start + batch] for start in range(0, len(questions), batch)]
    jobs = [(temperature, *job) for temperature in temperatures for job in enumerate(groups)]
    recordings = []
    for temperature, number, group in progress(jobs, desc="record", unit=f"{batch} questions"):
        file = Path(folder or "") / f"T{temperature:g}-{number:03}.safetensors"
        if folder and file.exists():
            made = load_recordings(file)
        else:
            made = _answer(target, group, temperature, max_new_tokens, seed)
            if folder:
                save_recordings(file, made)
        if {one.question_id for one in made} != {one.question_id for one in group}:
            raise CheckpointError(f"expected answers to these questions in {file}, found others. Remove its folder.")
        recordings += made
    return recordings


def _answer(
    target: Target, questions: Sequence[Question], temperature: float, max_new_tokens: int, seed: int
) -> list[Recording]:
    """Turn by turn: first turns of all, then second turns; returned question by question."""
    histories: list[list[tuple[str, str]]] = [[] for _ in questions]
    made: dict[tuple[int, int], Recording] = {}
    for turn in range(max(len(question.turns) for question in questions)):
        asked = [i for i, question in enumerate(questions) if turn < len(question.turns)]
        prompts = [prompt_ids(target.tokenizer, histories[i], questions[i].turns[turn]) for i in asked]
        samplings = [SamplingConfig(temperature, seed=noise_seed(seed, questions[i].question_id, turn)) for i in asked]
        texts = answers(target, prompts, samplings, max_new_tokens, target.tokenizer.eos_token_id)
        for i, prompt, sampling, tokens in zip(asked, prompts, samplings, texts, strict=True):
            features = text_features(target, prompt + tokens)
            if not is_drawn(target, prompt, tokens, features, sampling):
                settings = dict(max_new_tokens=max_new_tokens, eos_token_id=target.tokenizer.eos_token_id)
                tokens = autoregressive_generate(target, prompt, sampling=sampling, **settings).tokens
                features = text_features(target, prompt + tokens)
            question = questions[i]
            made[i, turn] = Recording(question.question_id, question.category, turn, temperature, sampling.seed, prompt,
                                      tokens, features)  # fmt: skip
            histories[i].append((question.turns[turn], target.tokenizer.decode(tokens, skip_special_tokens=True)))
    return [made[place] for place in sorted(made)]


@torch.no_grad()
def is_drawn(target: Target, prompt: list[int], tokens: list[int], features: Tensor, sampling: SamplingConfig) -> bool:
    """Whether every token of an answer is the one that these features and the seed's noise draw.

    A batch rounds differently from a single text, and at a near-tie another token can win.
    """
    logits = at_least_float32(target.lm_head(features[len(prompt) - 1 :].to(target.device)))  # (new, V)
    noise = None
    if not sampling.greedy:
        noise = GumbelNoise(sampling.seed, target.vocab_size, target.device).rows(len(prompt), len(tokens))
    return choose(process_logits(logits, sampling), noise).tolist() == tokens


def text_features(target: Target, ids: Sequence[int]) -> Float[Tensor, "seq hidden"]:
    """f at every position of a text but the last, (L - 1, D), by one forward, on the CPU."""
    return target.features(torch.tensor([list(ids[:-1])], device=target.device))[0].cpu()  # (1, L - 1) -> (L - 1, D)


def save_recordings(path: str | Path, recordings: Sequence[Recording]) -> None:
    """Write features, and in the file's metadata all else, as safetensors."""
    rows = [{name: value for name, value in vars(one).items() if name != "features"} for one in recordings]
    features = {str(number): one.features.contiguous() for number, one in enumerate(recordings)}
    save_atomic(path, lambda partial: save_file(features, partial, {"recordings": json.dumps(rows)}))


def load_recordings(path: str | Path) -> list[Recording]:
    """Read what save_recordings wrote."""
    with safe_open(path, "pt") as file:
        rows = json.loads(file.metadata()["recordings"])
        return [Recording(**row, features=file.get_tensor(str(number))) for number, row in enumerate(rows)]


# ---- rounds ----


@torch.no_grad()
def replay_many(
    draft: Draft, recordings: Sequence[Recording], tree: TreeConfig, batch: int = 32,
    progress: Callable[..., Any] = tqdm,
) -> list[list[int]]:  # fmt: skip
    """For every recording what `speculative_generate` would accept in each of its rounds; `batch` texts in lockstep.

    A round that the end of the text cuts short counts the drafted tokens that stay, as there.
    """
    accepted: list[list[int]] = [[] for _ in recordings]
    order = sorted(range(len(recordings)), key=lambda i: len(recordings[i].tokens))  # alike, so that they end together
    order = [i for i in order if len(recordings[i].tokens) > 1]  # others have no round
    alike = [[i for i in order if recordings[i].temperature == T] for T in {one.temperature for one in recordings}]
    groups = [some[start : start + batch] for some in alike for start in range(0, len(some), batch)]
    for group in progress(groups, desc="replay", unit=f"{batch} answers"):
        texts = Texts.read(draft, [recordings[i] for i in group], tree)
        number, root, cache = torch.arange(len(group), device=texts.start.device), texts.start, texts.cache
        while len(number):
            scored = expand_many(draft, texts, number, root, cache, tree)
            count = kept_on_text(*scored, tree.total_tokens)[:, -1]  # (R,)
            for text, tokens in zip(number.tolist(), count.tolist(), strict=True):
                accepted[group[text]].append(tokens)
            root = root + count + 1
            going = root < texts.last[number]  # a token is left to draft
            number, root, cache.kv = number[going], root[going], cache.kv[:, :, going]
    return accepted


def replayed_tau(draft: Draft, recordings: Sequence[Recording], tree: TreeConfig) -> float:
    """tau over all recordings: tokens per round, the first token of each answer aside."""
    rounds = replay_many(draft, recordings, tree, progress=partial(tqdm, disable=True))
    return sum(len(one.tokens) - 1 for one in recordings) / max(1, sum(map(len, rounds)))


@torch.no_grad()
def scored_everywhere(
    draft: Draft, recording: Recording, config: TreeConfig, batch: int = 32
) -> tuple[Float[Tensor, "rows scored"], Bool[Tensor, "rows scored"]]:
    """`expand_many` for a root at every position of the answer but its last, `batch` of them at once."""
    texts = Texts.read(draft, [recording], config)
    found = []
    for roots in torch.arange(int(texts.start), int(texts.last), device=texts.start.device).split(batch):
        cache = draft.new_cache(texts.cache.capacity, batch=len(roots))
        cache.kv.copy_(texts.cache.kv)  # the text's own entries, for every root
        cache.truncate(texts.cache.length)
        found.append(expand_many(draft, texts, torch.zeros_like(roots), roots, cache, config))
    score, on_text = (torch.cat(part) for part in zip(*found, strict=True))
    return score, on_text


def kept_on_text(
    score: Float[Tensor, "rows scored"], on_text: Bool[Tensor, "rows scored"], total_tokens: int
) -> Int[Tensor, "rows kept"]:
    """Column n: how many of the n best scored nodes lie on the text, n = 0 .. total_tokens - 1: what a round accepts
    whose tree has n nodes besides its root. Sorted as `tree.rerank` does, ties included."""
    best = score.sort(dim=1, descending=True, stable=True).indices[:, : total_tokens - 1]
    return F.pad(on_text.gather(1, best).long().cumsum(dim=1), (1, 0))


def n_alpha(draft: Draft, recording: Recording, n: int) -> Int[Tensor, "n_plus_1 2"]:
    """Counts for 0-alpha .. n-alpha, n >= 1: row s holds (accepted, tried); their quotient is s-alpha, sums pool texts.

    s-alpha is the share of right tokens at step s of a chain, whose input holds s features of the draft's own, among
    the chains whose earlier tokens were all right (EAGLE, section 4). Chains start wherever the real loop could.
    """
    starts = len(recording.tokens) - 1
    if starts < 1:
        return torch.zeros(n + 1, 2, dtype=torch.long)
    _, right = scored_everywhere(draft, recording, TreeConfig(top_k=1, depth=n, total_tokens=1))
    right = right.cpu()  # (starts, n + 1): this guess and all before it
    reached = F.pad(right[:, :-1], (1, 0), value=True)
    inside = torch.arange(starts)[:, None] + torch.arange(n + 1) < starts  # the text has a token there
    return torch.stack((right.sum(dim=0), (reached & inside).sum(dim=0)), dim=1)


@dataclass
class Texts:
    """B texts, and one pass of the draft over all their pairs (f_t, x_{t+1}).

    written (B, L + levels): the tokens, and -1 beyond the end. start, last (B,): the places of the answer's first token
    and of its last. logit, aligned (B, P, D): the draft's outputs at every pair. cache: P pairs on true features.
    temperature: of all texts. noise: of each.
    """

    written: Int[Tensor, "rows length"]
    start: Int[Tensor, "rows"]
    last: Int[Tensor, "rows"]
    logit: Float[Tensor, "rows pairs hidden"]
    aligned: Float[Tensor, "rows pairs hidden"]
    cache: KVCache
    temperature: float
    noise: list[GumbelNoise]

    @classmethod
    def read(cls, draft: Draft, group: Sequence[Recording], config: TreeConfig) -> "Texts":
        """Padding stands on the right: causal attention hides it."""
        device = draft.target.device
        tokens = [torch.tensor(one.prompt + one.tokens, device=device) for one in group]
        start = torch.tensor([len(one.prompt) for one in group], device=device)
        last = torch.tensor([len(one) - 1 for one in tokens], device=device)
        pairs = int(last.max()) - 1  # the last token is nobody's root
        written = F.pad(pad_sequence(tokens, batch_first=True, padding_value=-1), (0, config.levels), value=-1)
        features = pad_sequence([one.features for one in group], batch_first=True)[:, :pairs].to(device)  # (B, P, D)
        cache = draft.new_cache(pairs + config.depth * config.top_k, batch=len(group))
        out = draft(features, written[:, 1 : pairs + 1].clamp(min=0), cache=cache)
        T, noise = group[0].temperature, [GumbelNoise(one.seed, draft.target.vocab_size, device) for one in group]
        return cls(written, start, last, out.logit_feature, out.aligned_feature, cache, T, noise)

    def ahead(self, number: Int[Tensor, "rows"], root: Int[Tensor, "rows"], config: TreeConfig) -> Tensor | None:
        """`Chooser.ahead` for R roots: (levels, R, 1, V)."""
        if not (self.temperature and config.looks_at_noise):
            return None
        places = zip(number.tolist(), root.tolist(), strict=True)
        rows = [self.noise[text].rows(place + 1, config.levels) for text, place in places]
        return self.temperature * torch.stack(rows, dim=1)[:, :, None]


def expand_many(
    draft: Draft, texts: Texts, number: Int[Tensor, "rows"], root: Int[Tensor, "rows"], cache: KVCache,
    config: TreeConfig,
) -> tuple[Float[Tensor, "rows scored"], Bool[Tensor, "rows scored"]]:  # fmt: skip
    """`tree.expand` for R roots, each at place root[i] of text number[i], row i of the cache.

    Returns the score of every node, in level order, and whether the path to it is what the text says. Only accepted
    counts are wanted, so there are no parents and ancestors here.
    """
    k, device, pairs = config.top_k, root.device, cache.length
    eye = torch.eye(k, dtype=torch.bool, device=device).expand(len(root), k, k)
    level = torch.arange(1, config.levels + 1, device=device)
    wanted = texts.written[number[:, None], root[:, None] + level]  # (R, levels): the text after the root
    seen = (torch.arange(pairs, device=device) < root[:, None])[:, None].expand(-1, k, -1)  # (R, k, P)

    noise, scale = weighted_noise(draft, texts.ahead(number, root, config), config), config.noise_scale
    first = top_children(draft, texts.logit[number, root - 1][:, None], k, noise[0], scale)  # two of (R, 1, k)
    scores, tokens = (part[:, 0] for part in first)  # (R, k)
    right = tokens == wanted[:, :1]
    feature = texts.aligned[number, root - 1][:, None].expand(-1, k, -1)  # (R, k, D)
    visible, found = eye, [(scores, right)]
    for step in range(config.depth):
        mask = torch.cat((seen, visible), dim=2)[:, None]  # (R, 1, k, P + (step + 1) k)
        out = draft(feature, tokens, mask, positions=(root + step)[:, None].expand(-1, k), cache=cache)
        log_q, token = top_children(draft, out.logit_feature, k, noise[step + 1], scale)  # (R, k, k)
        candidates = (scores[..., None] + log_q).flatten(1)  # (R, k * k)
        on_text = (right[..., None] & (token == wanted[:, step + 1, None, None])).flatten(1)
        found.append((candidates, on_text))
        # the next frontier: the k best of the k * k, and what each inherits from its parent
        scores, best = (part[:, :k] for part in candidates.sort(dim=1, descending=True, stable=True))
        tokens, right, came_from = token.flatten(1).gather(1, best), on_text.gather(1, best), best // k
        feature = torch.take_along_dim(out.aligned_feature, came_from[..., None], dim=1)
        visible = torch.cat((torch.take_along_dim(visible, came_from[..., None], dim=1), eye), dim=2)
    cache.truncate(pairs)
    score, on_text = (torch.cat(part, dim=1) for part in zip(*found, strict=True))
    return score, on_text


# ---- rates: how often the guess of each rank is right ----

# (features (1, T, D), token ids (1, T), R) -> for depth d = 1, 2, ... the R best guesses of x_{t+1+d}, (T - 1 - d, R)
Guesses = Callable[[Tensor, Tensor, int], Iterator[Tensor]]


def draft_guesses(
    draft: Draft, features: Float[Tensor, "1 n hidden"], ids: Int[Tensor, "1 n"], ranks: int, levels: int = 6
) -> Iterator[Tensor]:
    """The guesses of an EAGLE-like draft along a text, from all places t at once.

    At depth d the row of place t holds the pair (the draft's guess of f_{t+d-1}, x_{t+d}) at position t + d - 1, and
    sees the true pairs up to t and its own rows of the depths before, as in a tree.
    """
    pairs, device = ids.shape[1] - 1, ids.device
    cache = draft.new_cache(pairs * levels)
    u, g = draft(features[:, :-1], ids[:, 1:], cache=cache)
    yield top_children(draft, u[0, :-1], ranks)[1]
    visible = torch.ones(pairs, pairs, dtype=torch.bool, device=device).tril()  # row t: the true pairs up to t
    for d in range(2, min(levels, pairs - 1) + 1):
        rows = pairs - d
        visible = torch.cat((visible[:rows], torch.eye(rows, dtype=torch.bool, device=device)), dim=1)
        positions = torch.arange(d - 1, pairs - 1, device=device)[None]
        u, g = draft(g[:, :rows], ids[:, d:-1], visible[None, None], positions=positions, cache=cache)
        yield top_children(draft, u[0], ranks)[1]


@torch.no_grad()
def acceptance_rates(
    target: Target, guesses: Guesses, texts: Iterable[Encoded], levels: int = 6, ranks: int = 10
) -> Float[Tensor, "levels ranks"]:
    """rates[d - 1, r]: how often the guess of rank r at depth d is right, where all above it were among the guesses.

    texts: (token ids, which of them are response) pairs, such as `data.encode` gives. A depth that no text reached has
    rates 0. Raises InputError if no text has two response tokens in a row.
    """
    right, tried = torch.zeros(levels, ranks, dtype=torch.float64), torch.zeros(levels, 1, dtype=torch.float64)
    for tokens, response in texts:
        ids = torch.tensor([list(tokens)], device=target.device)  # (1, T)
        inside = torch.tensor(list(response), device=target.device)  # (T,)
        followed = inside[1:]  # (T - 1,): is x_{t+1} response, and all guessed so far?
        for d, guessed in zip(range(1, levels + 1), guesses(target.features(ids), ids, ranks), strict=False):
            wanted = ids[0, d + 1 :]  # (T - 1 - d,)
            asked = followed[: len(wanted)] & inside[d + 1 :]
            hit = (guessed == wanted[:, None]) & asked[:, None]  # (T - 1 - d, R)
            tried[d - 1] += asked.sum().cpu()
            right[d - 1] += hit.sum(dim=0).cpu()
            followed = hit.any(dim=-1)
    if tried[0] == 0:
        raise InputError("expected texts with two response tokens in a row, found none. Check the response masks.")
    return right / tried.clamp(min=1)
