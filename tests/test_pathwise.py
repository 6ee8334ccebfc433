"""Losslessness token by token: one target, one prompt, one seed - one text, whoever drafts, or nobody.

Position-keyed noise makes "lossless" an equation between two lists of tokens, at any temperature. Here it is tried
with five kinds of draft. Two are real networks: one trained for some steps, one random. Three are stand-ins
(`StandIn`), which know the target and propose

    oracle      what the target finds most probable: long blocks are accepted, the cache is compacted again and again
    adversary   what the target finds least probable: whole trees are rejected
    uniform     any tokens at all, alike at every node: ties everywhere

A stand-in's cache holds the tokens themselves, so it can read the text before each of its nodes back from there. If
the loop kept a wrong entry, the oracle would look up another text and stop being accepted.
"""

from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from conftest import tiny_draft, tiny_target
from fspad_ref.lab.adaptive import AdaptiveTree
from torch import nn
from transformers import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

import fspad_ref.generate
from fspad_ref import Draft, SamplingConfig, Target, TreeConfig, autoregressive_generate, speculative_generate
from fspad_ref.cache import KVCache
from fspad_ref.draft import DraftOutput
from fspad_ref.generate import Chooser
from fspad_ref.train import TrainConfig, train
from fspad_ref.tree import DynamicTree

PROMPT = [2, 7, 5, 11, 3]
LENGTH = 14
TREES = {"bushy": TreeConfig(4, 3, 20), "chain": TreeConfig(1, 5, 7), "all nodes": TreeConfig(3, 2, 22)}
SAMPLINGS = [
    SamplingConfig(),
    SamplingConfig(0.3, seed=1),
    SamplingConfig(1.0, top_p=0.9, seed=2),
    SamplingConfig(1.0, seed=3),
    SamplingConfig(1.7, top_p=0.6, seed=4),
]


def attentive_target(seed: int, dtype: torch.dtype = torch.float64, **sizes) -> Target:
    """A random target whose tokens hang on what stands where before them, computed in `dtype` throughout.

    Queries and keys are enlarged: attention in a freshly drawn model is nearly even, and would hide a wrong position.
    Llama's own norm rounds to float32 on the way, so torch's takes its place.
    """
    target = tiny_target(seed, dtype, **sizes)
    for layer in target.backbone.layers:
        for name, factor in (("q", 3), ("k", 3), ("o", 2)):
            getattr(layer.self_attn, f"{name}_proj").weight.mul_(factor)
        layer.input_layernorm = norm_like(layer.input_layernorm)
        layer.post_attention_layernorm = norm_like(layer.post_attention_layernorm)
    target.backbone.norm = norm_like(target.backbone.norm)
    return target


def norm_like(norm: nn.Module) -> nn.Module:
    new = nn.RMSNorm(norm.weight.shape[0], norm.variance_epsilon, dtype=norm.weight.dtype).requires_grad_(False)
    new.weight.copy_(norm.weight)
    return new


class StandIn(Draft):
    """A draft whose logits are `factor` times the target's: 1 the oracle, -1 the adversary, 0 uniform.

    Its features are logits, its head is the identity. It never sees the first token of a text (a draft's pairs begin
    with the second), so `first` names it.
    """

    def __init__(self, target: Target, factor: float, first: int = PROMPT[0]):
        nn.Module.__init__(self)
        self._target, self.factor, self.first = (target,), factor, first
        self.config = SimpleNamespace(vocab_size=target.vocab_size)
        self.known = {}

    lm_head = staticmethod(lambda logits: logits)

    def new_cache(self, capacity, batch=1):
        return KVCache(1, 1, 1, capacity, dtype=self.target.dtype)

    def forward(self, features, next_token_ids, attention_mask=None, *, positions=None, cache=None):
        new = next_token_ids.shape[1]
        entries = next_token_ids.to(self.target.dtype).view(1, 1, -1, 1)
        tokens = cache.write(0, entries, entries)[0].flatten().long()  # (cached + new,)
        # of new pairs of the text only the last one's guess is used; of a tree's nodes each one's
        everything = torch.ones(1, len(tokens), dtype=torch.bool)
        rows = everything if attention_mask is None else attention_mask.view(new, -1)  # (rows, cached + new)
        texts = [(self.first, *tokens[row].tolist()) for row in rows]  # of one length: nodes of one depth
        if new_texts := [text for text in texts if text not in self.known]:
            features = self.target.features(torch.tensor(new_texts))[:, -1]  # (new texts, D)
            self.known |= zip(new_texts, self.factor * self.target.lm_head(features), strict=True)
        logits = torch.stack([self.known[text] for text in texts])[None]  # (1, rows, V)
        return DraftOutput(logits, logits)


def trained_draft(target: Target) -> Draft:
    """A few steps on the target's own texts: enough to be right now and then."""
    draft = tiny_draft(target, feature_sampling=True, partial_alignment=True)
    sampled = [
        autoregressive_generate(target, [*PROMPT[:2], t], max_new_tokens=30, sampling=SamplingConfig(0.3, seed=t))
        for t in range(12)
    ]
    dialogues = [([*PROMPT[:2], t, *text.tokens], [False] * 3 + [True] * 30) for t, text in enumerate(sampled)]
    train(target, {"d": draft}, dialogues, TrainConfig(steps=40, tokens_per_batch=200, warmup_steps=4))
    return draft


FACTORS = {"oracle": 1.0, "adversary": -1.0, "uniform": 0.0}
MAKERS = {"trained": trained_draft, "random": tiny_draft}
MAKERS |= {kind: partial(StandIn, factor=factor) for kind, factor in FACTORS.items()}


@pytest.fixture(scope="module", params=[0, 1], ids=lambda seed: f"target {seed}")
def world(request):
    """A target, its plain texts, and its five drafts."""
    target = attentive_target(request.param)
    mine = [SAMPLINGS[0], *(SAMPLINGS[3:] if request.param else SAMPLINGS[1:3])]
    plain = {s: autoregressive_generate(target, PROMPT, max_new_tokens=LENGTH, sampling=s).tokens for s in mine}
    return target, plain, {kind: make(target) for kind, make in MAKERS.items()}


# --- the text is the target's, whoever drafts ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MAKERS)
def test_every_draft_gives_the_text_of_plain_decoding(world, kind):
    target, plain, drafts = world
    for sampling, text in plain.items():
        for name, tree in TREES.items():
            settings = dict(max_new_tokens=LENGTH, sampling=sampling, tree=tree)
            fast = speculative_generate(target, drafts[kind], PROMPT, **settings)
            assert fast.tokens == text, f"law broken: the text is the target's ({kind} draft, {name} tree, {sampling})"


@pytest.mark.parametrize("least_gain", [0.3, 0.9])
@pytest.mark.parametrize("kind", MAKERS)
def test_wherever_growing_stops_the_text_is_that_of_plain_decoding(world, kind, least_gain):
    """Trees whose depth hangs on the draft's confidence, other in every round (lab/adaptive.py)."""
    target, plain, drafts = world
    for sampling, text in plain.items():
        grower = AdaptiveTree(drafts[kind], TREES["bushy"], least_gain)
        fast = speculative_generate(target, grower, PROMPT, max_new_tokens=LENGTH, sampling=sampling)
        assert fast.tokens == text, f"law broken: the text is the target's ({kind} draft, {sampling}, {grower.grown})"


def test_the_drafts_are_as_good_and_as_bad_as_they_should_be(world):
    """Else the test above would compare five times the same thing. Greedy, tokens accepted of the most possible."""
    target, _, drafts = world
    total = dict.fromkeys(drafts, 0)
    for tree in TREES.values():
        for kind, draft in drafts.items():
            result = speculative_generate(target, draft, PROMPT, max_new_tokens=LENGTH, tree=tree)
            total[kind] += sum(result.accepted)
            if kind == "oracle":  # where reranking drops nothing, every path reaches the deepest level
                least = tree.levels if tree.total_tokens == tree.capacity else 2
                assert min(result.accepted[:-1]) >= least
    assert total["adversary"] == 0 and total["oracle"] > total["trained"] > total["random"], total


# --- the caches hold what a fresh prefill would write ---------------------------------------------------------------


@dataclass(frozen=True)
class Inspector(DynamicTree):
    """Grows EAGLE-2's trees, and in every round holds both caches against fresh ones and poisons what is cut off."""

    made: list[KVCache] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)  # accepted by the round before; in the first, the prompt

    def start(self, longest):
        grow, text = super().start(longest), torch.empty(1, 0, dtype=torch.long)
        cache, draft_cache = self.made[-2:]

        def inspected(features, token_ids):
            nonlocal text
            self.kept.append(features.shape[1] - 1)
            text = torch.cat((text[:, :-1], token_ids), dim=1)  # the old root comes again; the new one is in no cache
            fresh, fresh_draft = (model.new_cache(text.shape[1] - 1) for model in (self.target, self.draft))
            expected = self.target.features(text[:, :-1], cache=fresh)
            self.draft(expected, text[:, 1:], cache=fresh_draft)
            nodes = grow(features, token_ids)
            for found, wanted in ((cache, fresh), (draft_cache, fresh_draft)):
                assert found.length == wanted.length, "law broken: a cache holds as many tokens as the text"
                ours, theirs = (one.kv[..., : wanted.length, :] for one in (found, wanted))
                assert ours.allclose(theirs, rtol=0, atol=1e-10), "law broken: a cache equals a fresh prefill"
                found.kv[..., found.length :, :] = torch.nan
            return nodes

        return inspected


def decode_inspected(target, draft, tree, **settings):
    """(result, accepted tokens of every round but the last); caches begin with NaN in every slot."""
    inspector = Inspector(draft, tree)

    def poisoned(cache):
        cache.kv.fill_(torch.nan)
        inspector.made.append(cache)
        return cache

    with pytest.MonkeyPatch.context() as patch:
        for model in (target, draft):
            patch.setattr(model, "new_cache", lambda size, new=model.new_cache: poisoned(new(size)))
        return speculative_generate(target, inspector, PROMPT, max_new_tokens=LENGTH, **settings), inspector.kept[1:]


@pytest.mark.parametrize("kind", ["trained", "random"])
@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_in_every_round_both_caches_equal_a_fresh_prefill(world, kind, tree):
    target, plain, drafts = world
    for sampling in list(plain)[:2]:
        clean = speculative_generate(target, drafts[kind], PROMPT, max_new_tokens=LENGTH, sampling=sampling, tree=tree)
        dirty, kept = decode_inspected(target, drafts[kind], tree, sampling=sampling)
        assert kept == clean.accepted[:-1]
        # a NaN that reached the draft would change its trees, one that reached the target the text
        assert dirty == clean and dirty.tokens == plain[sampling], "law broken: rejected cache slots reach no output"


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_long_paths_are_kept_whole(world, tree):
    """The oracle's greedy paths have full length: the last of many kept rows has to be there too."""
    target, _, drafts = world
    assert max(decode_inspected(target, drafts["oracle"], tree)[1]) >= 2


# --- stopping is truncation ------------------------------------------------------------------------------------------

PENALTY, NO_PAIR = RepetitionPenaltyLogitsProcessor(1.6), NoRepeatNGramLogitsProcessor(2)
PROCESSORS = {"none": [], "repetition penalty": [PENALTY], "no repeated pair": [NO_PAIR]}


@pytest.mark.parametrize("sampling", [SAMPLINGS[0], SAMPLINGS[2]], ids=["greedy", "sampled"])
@pytest.mark.parametrize("processors", PROCESSORS.values(), ids=PROCESSORS)
def test_stopping_is_truncation(world, sampling, processors):
    """EOS at every place of a text, the length cap one before it, on it, and behind it."""
    target, _, drafts = world
    settings = dict(sampling=sampling, processors=processors)
    full = autoregressive_generate(target, PROMPT, max_new_tokens=8, **settings).tokens
    for place, eos in enumerate(full):
        end = full.index(eos) + 1  # where the text ends with this EOS: the first of its kind
        for cap in sorted({place, place + 1, 8}):
            ending = dict(max_new_tokens=cap, eos_token_id=eos, **settings)
            expected = full[: min(end, cap)]
            assert autoregressive_generate(target, PROMPT, **ending).tokens == expected
            fast = speculative_generate(target, drafts["oracle"], PROMPT, tree=TREES["all nodes"], **ending)
            assert fast.tokens == expected, f"law broken: stopping is truncation (EOS {eos} at {end - 1}, cap {cap})"
            assert sum(fast.accepted) <= max(len(expected) - 1, 0)


# --- greedy in bfloat16: identical, or certified ---------------------------------------------------------------------

WORDS = 2000  # of so many, the best two are often close


class Recorder(Chooser):
    """Notes the logits after every text that is met: `plain` one token at a time, `tree` at the nodes of trees."""

    plain, tree = {}, {}

    def next(self, logits, text):
        self.plain.setdefault(tuple(text[0].tolist()), logits[0].double())
        return super().next(logits, text)

    def every_node(self, logits, tree, text, levels):
        for v in range(len(tree)):
            path = tree.token[tree.ancestors[v]].tolist()[1:]
            self.tree[(*text[0].tolist(), *path)] = logits[v].double()
        return super().every_node(logits, tree, text, levels)


def certify(reference: list[int], found: list[int], logits_after, error: float) -> bool:
    """True if the texts are identical; False if they part at a near-tie. Fails if they part anywhere else."""
    if found == reference:
        return True
    place = next(i for i, (a, b) in enumerate(zip(reference, found, strict=True)) if a != b)
    first, second = logits_after(reference[:place]).topk(2).values.tolist()
    gap = f"the reference's top two scores are {first - second:.4g} apart, the largest error is {error:.4g}"
    assert first - second <= 2 * error, f"law broken: texts part at near-ties alone; token {place} differs, where {gap}"
    return False


@pytest.fixture(scope="module")
def rounded():
    """Greedy texts in bfloat16: (prompt, plain text, speculative text) each, the recorded logits, the error."""
    target = attentive_target(0, torch.bfloat16, vocab_size=WORDS)
    texts, plain, tree = [], {}, {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fspad_ref.generate, "Chooser", Recorder)
        patch.setattr(Recorder, "plain", plain)
        patch.setattr(Recorder, "tree", tree)
        for first in range(2, 18):
            prompt, draft = [first, *PROMPT], StandIn(target, 1.0, first)
            slow = autoregressive_generate(target, prompt, max_new_tokens=24)
            fast = speculative_generate(target, draft, prompt, max_new_tokens=24, tree=TREES["bushy"])
            texts.append((prompt, slow.tokens, fast.tokens))
    error = max((plain[text] - tree[text]).abs().max().item() for text in plain.keys() & tree.keys())
    return target, texts, plain, tree, error


def test_greedy_certificate_in_bfloat16(rounded):
    _, texts, plain, _, error = rounded
    identical = sum(certify(slow, fast, lambda text, p=p: plain[(*p, *text)], error) for p, slow, fast in texts)
    print(f"\nidentical {identical} of {len(texts)}, every divergence certified; largest difference {error:.4g}")
    assert identical > 0


def test_the_measured_error_is_the_arithmetics_own(rounded):
    """A certificate is worth as much as its error is small: both forwards err against float64, the tree's not more."""
    target, _, plain, tree, error = rounded
    exact = attentive_target(0, vocab_size=WORDS)
    exact.model.load_state_dict({name: weight.double() for name, weight in target.model.state_dict().items()})
    common = sorted(plain.keys() & tree.keys())
    true = {text: exact.lm_head(exact.features(torch.tensor([text]))[0, -1]) for text in common}
    own = max((plain[text] - true[text]).abs().max().item() for text in common)
    print(f"\nover {len(common)} texts: tree against sequential {error:.4g}, sequential against float64 {own:.4g}")
    assert 0 < error <= own


def test_a_wrong_token_gets_no_certificate(rounded):
    _, texts, plain, _, error = rounded
    prompt, slow, _ = texts[0]
    gaps = [plain[(*prompt, *slow[:i])].topk(2).values.diff().abs().item() for i in range(len(slow))]
    place = gaps.index(max(gaps))
    wrong = [*slow[:place], (slow[place] + 1) % WORDS, *slow[place + 1 :]]
    with pytest.raises(AssertionError, match=f"token {place} differs"):
        certify(slow, wrong, lambda text: plain[(*prompt, *text)], error)
