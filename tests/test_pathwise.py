"""Tests 4, 9 and 10, losslessness token by token: one target, one prompt, one seed give one text, whoever drafts.

Position-keyed noise makes "lossless" an equation between two lists of tokens, at any temperature. It is tried with five
kinds of draft: trained for some steps, random (each of the four networks), oracle, adversary and uniform (`stand_in`).
"""

from dataclasses import dataclass, field
from functools import partial

import pytest
import torch
from conftest import KINDS, PROMPT, attentive_target, stand_in, tiny_draft
from transformers import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

from fspad_ref import Draft, SamplingConfig, Target, TreeConfig, grow_tree, partial_alignment_loss
from fspad_ref.cache import KVCache
from fspad_ref.generate import Chooser, autoregressive_generate, speculative_generate
from fspad_ref.tree import DynamicTree

LENGTH = 16
TREES = {"bushy": (4, 3, 20), "chain": (1, 5, 7), "all nodes": (3, 2, 22), "root alone": (6, 1, 1)}
TREES = {name: TreeConfig(*sizes) for name, sizes in TREES.items()}
NOISY = [TreeConfig(4, 3, 20, noise_weight=w, noise_scale=s) for w, s in ((0.3, 1.0), (0.7, 1.2), (1.0, 0.6))]
PENALTY, NO_PAIR = RepetitionPenaltyLogitsProcessor(1.6), NoRepeatNGramLogitsProcessor(2)
GREEDY = SamplingConfig()
SETTINGS = [  # (sampling, processors); the even ones for one target, the odd ones for another
    (GREEDY, ()),
    (SamplingConfig(1.0, seed=4), ()),
    (SamplingConfig(0.3, seed=1), ()),
    (SamplingConfig(1.7, top_p=0.6, seed=5), ()),
    (SamplingConfig(1.0, top_p=0.9, seed=2), ()),
    (SamplingConfig(1.0, top_k=5, seed=6), ()),
    (SamplingConfig(2.0, top_p=0.9, top_k=12, seed=3), ()),
    (GREEDY, ()),
    (GREEDY, (PENALTY,)),
    (SamplingConfig(1.0, seed=7), (PENALTY, NO_PAIR)),
]


def trained_draft(target: Target) -> Draft:
    """A few steps on the target's own texts: enough to be right now and then."""
    draft = tiny_draft(target)
    starts = [[*PROMPT[:2], t] for t in range(12)]
    settings = [dict(max_new_tokens=30, sampling=SamplingConfig(0.3, seed=t)) for t in range(12)]
    texts = [s + autoregressive_generate(target, s, **how).tokens for s, how in zip(starts, settings, strict=True)]
    ids, optimiser = torch.tensor(texts), torch.optim.AdamW(draft.parameters(), 1e-2)
    features = target.features(ids)
    for _ in range(40):
        out = draft(features[:, :-1], ids[:, 1:])
        loss = partial_alignment_loss(out, features[:, 1:], target.lm_head, torch.ones(12, 32))
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()
    return draft


FACTORS = {"oracle": 1.0, "adversary": -1.0, "uniform": 0.0}
MAKERS = {kind: partial(stand_in, factor=factor) for kind, factor in FACTORS.items()} | {"trained": trained_draft}
MAKERS |= {k: partial(tiny_draft, feature_sampling=fs, partial_alignment=pa) for k, (fs, pa) in KINDS.items()}


@pytest.fixture(scope="module", params=[0, 1], ids=lambda seed: f"target {seed}")
def world(request):
    """A target, its plain texts (sampling, processors) -> tokens, and its drafts."""
    target = attentive_target(request.param)
    decode = partial(autoregressive_generate, target, PROMPT, max_new_tokens=LENGTH)
    plain = {(s, ps): decode(sampling=s, processors=ps).tokens for s, ps in SETTINGS[request.param :: 2]}
    assert len(set(map(tuple, plain.values()))) == len(plain)  # every setting matters
    return target, plain, {kind: make(target) for kind, make in MAKERS.items()}


# ---- 4: the text is the target's, whoever drafts ----


@pytest.mark.parametrize("kind", MAKERS)
def test_every_draft_gives_the_text_of_plain_decoding(world, kind):
    """Test 4, pathwise identity: drafts x trees x temperatures x top-p x top-k x processors, in float64."""
    target, plain, drafts = world
    for number, ((sampling, processors), text) in enumerate(plain.items()):
        for name, tree in (TREES | {"noisy": NOISY[number % 3]}).items():
            settings = dict(max_new_tokens=LENGTH, sampling=sampling, processors=processors, tree=tree)
            fast = speculative_generate(target, drafts[kind], PROMPT, **settings)
            assert fast.tokens == text, f"not the target's text ({kind} draft, {name} tree, {sampling}, {processors})"
            cut = sum(a + 1 for a in fast.accepted) - (LENGTH - 1)
            assert 0 <= cut <= 1, "a round emits its accepted tokens and one more; the last may be cut short"


def test_the_drafts_are_as_good_and_as_bad_as_they_should_be(world):
    """Else the test above would compare the same thing again and again. Greedy, by accepted tokens."""
    target, _, drafts = world
    total = dict.fromkeys(drafts, 0)
    for tree in list(TREES.values())[:3]:
        for kind, draft in drafts.items():
            result = speculative_generate(target, draft, PROMPT, max_new_tokens=LENGTH, tree=tree)
            total[kind] += sum(result.accepted)
            if kind == "oracle":  # where reranking drops nothing, every path reaches the deepest level
                least = tree.levels if tree.total_tokens == tree.capacity else 2
                assert min(result.accepted[:-1]) >= least
    assert total["adversary"] == 0 and total["oracle"] > total["trained"] > total["fspad"], total


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0, 1.7])
def test_where_q_is_p_the_whole_noise_leads_to_the_targets_tokens(world, temperature):
    """Only the right rows do: another position's or another seed's would be as good as none."""
    target, _, drafts = world
    oracle, chain, bush = drafts["oracle"], TreeConfig(1, 5, 7, noise_weight=1.0), TreeConfig(3, 2, 22, 1.0, 0.5)
    settings = dict(max_new_tokens=LENGTH, sampling=SamplingConfig(temperature, seed=8))
    assert speculative_generate(target, oracle, PROMPT, tree=chain, **settings).accepted == [6, 6, 1]

    text, cache = torch.tensor([PROMPT]), target.new_cache(30)
    chooser, features = Chooser(settings["sampling"], target), target.features(text[:, :-1], cache=cache)
    tree = grow_tree(oracle, features, text, bush, None, *chooser.ahead(text, DynamicTree(oracle, bush)))
    logits = target.lm_head(target.tree_features(tree.token, tree.depth, tree.ancestors, cache))
    drawn, parent = chooser.every_node(logits, tree, text, bush.levels), tree.parent.tolist()
    best = {v: parent.index(v, 1) for v in parent}  # the first child, by score, of every node that has some
    assert len(best) == 7 and all(tree.token[child] == drawn[v] for v, child in best.items())


# ---- 9: the caches hold what a fresh prefill would write ----


@dataclass(frozen=True)
class Inspector(DynamicTree):
    """Grows EAGLE-2's trees, and in every round compares both caches with fresh ones and poisons what is cut off."""

    made: list[KVCache] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)  # accepted by the round before; in the first, the prompt

    def start(self, longest):
        grow, text = super().start(longest), torch.empty(1, 0, dtype=torch.long)
        cache, draft_cache = self.made[-2:]

        def inspected(features, token_ids, *more):
            nonlocal text
            self.kept.append(features.shape[1] - 1)
            text = torch.cat((text[:, :-1], token_ids), dim=1)  # the old root comes again; the new one is in no cache
            fresh, fresh_draft = (model.new_cache(text.shape[1] - 1) for model in (self.target, self.draft))
            expected = self.target.features(text[:, :-1], cache=fresh)
            self.draft(expected, text[:, 1:], cache=fresh_draft)
            nodes = grow(features, token_ids, *more)
            for found, wanted in ((cache, fresh), (draft_cache, fresh_draft)):
                assert found.length == wanted.length, "a cache holds as many tokens as the text"
                ours, theirs = (one.kv[..., : wanted.length, :] for one in (found, wanted))
                assert ours.allclose(theirs, rtol=0, atol=1e-10), "a cache equals a fresh prefill"
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


@pytest.mark.parametrize("kind", ["trained", "eagle", "oracle"])
@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_in_every_round_both_caches_equal_a_fresh_prefill(world, kind, tree):
    """Test 9, KV oracle. A NaN that reached the draft would change its trees, one that reached the target the text."""
    target, plain, drafts = world
    for (sampling, processors), text in list(plain.items())[:2]:
        settings = dict(sampling=sampling, processors=processors)
        clean = speculative_generate(target, drafts[kind], PROMPT, max_new_tokens=LENGTH, tree=tree, **settings)
        dirty, kept = decode_inspected(target, drafts[kind], tree, **settings)
        assert kept == clean.accepted[:-1]
        assert dirty == clean and dirty.tokens == text, "a rejected cache slot reached an output"
        if kind == "oracle" and sampling.greedy and tree.total_tokens > 1:  # paths of full length are kept whole
            assert max(kept) >= 2


# ---- 10: stopping is truncation ----


@pytest.mark.parametrize("sampling", [GREEDY, SamplingConfig(1.0, top_p=0.9, seed=2)], ids=["greedy", "sampled"])
@pytest.mark.parametrize("processors", [[], [PENALTY], [NO_PAIR]], ids=["none", "penalty", "no repeated pair"])
def test_stopping_is_truncation(world, sampling, processors):
    """Test 10: EOS at every place of a text x every length cap, in plain and in speculative decoding."""
    target, _, drafts = world
    settings = dict(sampling=sampling, processors=processors)
    full = autoregressive_generate(target, PROMPT, max_new_tokens=7, **settings).tokens
    for eos in dict.fromkeys(full):
        end = full.index(eos) + 1  # the text ends with the first of its kind
        for cap in range(8):
            ending = dict(max_new_tokens=cap, eos_token_id=eos, **settings)
            expected = full[: min(end, cap)]
            assert autoregressive_generate(target, PROMPT, **ending).tokens == expected
            for kind, tree in (("oracle", "all nodes"), ("trained", "bushy")):
                fast = speculative_generate(target, drafts[kind], PROMPT, tree=TREES[tree], **ending)
                assert fast.tokens == expected, f"stopping is no truncation (EOS {eos} at {end - 1}, cap {cap})"
                assert sum(fast.accepted) <= max(len(expected) - 1, 0), "drafted tokens cut off must not count"
