"""The adaptive stop: whole trees where it never comes, parts of them where it does, the same text, a look a level."""

import dataclasses
import json

import pytest
import torch
from conftest import tiny_draft, tiny_target
from test_costs import COSTS, TREE
from test_replay import QUESTIONS, worded_target
from test_tree import assert_well_formed
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from fspad_ref import SamplingConfig, Target, TreeConfig, autoregressive_generate, grow_tree, speculative_generate
from fspad_ref.corpus import write_questions
from fspad_ref.errors import ConfigError
from fspad_ref.lab.adaptive import AdaptiveTree, Pays, price_of_a_level
from fspad_ref.lab.adaptive_bench import (
    AdaptiveConfig,
    Stopwatch,
    adaptive,
    called,
    comparison,
    growers,
    methods,
    predict,
    table,
)
from fspad_ref.lab.baselines import Plain
from fspad_ref.lab.bench import Answer
from fspad_ref.tree import expand

PROMPT = [2, 7, 5, 11, 3]
CONFIG = TreeConfig(top_k=4, depth=3, total_tokens=20)
NEVER, ALWAYS = 0.0, 1.5  # a probability is never below 0, and always below 1.5


def expansions(target, draft, least_gain, config=CONFIG):
    """(what tree.expand scores, what the adaptive expansion scores, its forwards) after the same prefix."""
    ids = torch.arange(2, 12)[None]
    features = target.features(ids[:, :-1])
    cache = draft.new_cache(64)
    out = draft(features, ids[:, 1:], cache=cache)
    prefix, feature = cache.length, (out.logit_feature[0, -1], out.aligned_feature[0, -1])
    whole = expand(draft, *feature, config, cache)
    cache.truncate(prefix)
    pays = Pays(least_gain)
    return whole, expand(draft, *feature, config, cache, pays), pays.forwards


def frontier_mass(scored, level: int, k: int) -> float:
    """S_d by hand: of the nodes of level d the k best, their probabilities added up."""
    _, _, depth, score = scored
    return score[depth == level].sort(descending=True).values[:k].exp().sum().item()


@torch.no_grad()
def test_a_stop_that_never_comes_changes_not_a_bit(target, draft):
    whole, found, forwards = expansions(target, draft, NEVER)
    assert forwards == CONFIG.depth
    for ours, theirs in zip(found, whole, strict=True):
        assert torch.equal(ours, theirs), "law broken: with least_gain 0 the expansion is tree.expand's"


@torch.no_grad()
def test_growth_ends_where_the_frontier_is_worth_less_than_asked(target, draft):
    """Thresholds on both sides of every S_d; what was grown until then is what expand grows first."""
    whole, _, _ = expansions(target, draft, NEVER)
    masses = [frontier_mass(whole, level, CONFIG.top_k) for level in range(1, CONFIG.depth + 1)]
    assert masses == sorted(masses, reverse=True), "law broken: S_d never rises with d"
    for forwards, mass in enumerate(masses):
        for least_gain, expected in ((mass * (1 + 1e-9), forwards), (mass * (1 - 1e-9), forwards + 1)):
            _, found, done = expansions(target, draft, least_gain)
            assert done == expected
            for ours, theirs in zip(found, whole, strict=True):
                assert torch.equal(ours, theirs[: len(ours)]), "law broken: a shorter expansion is a part of the whole"


@pytest.mark.parametrize("least_gain", [NEVER, 0.2, 0.5, ALWAYS])
def test_stopped_trees_are_well_formed_and_smaller(target, draft, least_gain):
    ids = torch.tensor([PROMPT])
    grower = AdaptiveTree(draft, CONFIG, least_gain)
    tree = grower.start(64)(target.features(ids[:, :-1]), ids)
    (forwards,) = grower.grown
    assert len(tree) == min(CONFIG.total_tokens, 1 + CONFIG.top_k + forwards * CONFIG.top_k**2)
    assert tree.depth.max() <= forwards + 1
    assert_well_formed(tree, dataclasses.replace(CONFIG, total_tokens=len(tree)))
    if least_gain == NEVER:
        whole = grow_tree(draft, target.features(ids[:, :-1]), ids, CONFIG)
        assert torch.equal(tree.token, whole.token) and torch.equal(tree.parent, whole.parent)
    if least_gain == ALWAYS:
        assert forwards == 0 and len(tree) == 1 + CONFIG.top_k


@pytest.mark.parametrize("least_gain", [NEVER, 0.3, ALWAYS])
@pytest.mark.parametrize("sampling", [SamplingConfig(), SamplingConfig(1.0, seed=3), SamplingConfig(0.5, 0.9, seed=4)])
def test_the_text_is_that_of_plain_decoding(target, draft, sampling, least_gain):
    plain = autoregressive_generate(target, PROMPT, max_new_tokens=30, sampling=sampling)
    grower = AdaptiveTree(draft, CONFIG, least_gain)
    fast = speculative_generate(target, grower, PROMPT, max_new_tokens=30, sampling=sampling)
    assert fast.tokens == plain.tokens, "law broken: the text is the target's, wherever growing stops"
    assert grower.grown.total() == len(fast.accepted)


class Looks(TorchDispatchMode):
    """Counts the numbers that travel to the host."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@torch.no_grad()
def test_the_host_looks_once_a_level(target, draft):
    ids = torch.tensor([PROMPT])
    features = target.features(ids[:, :-1])
    for least_gain, looks in ((NEVER, CONFIG.depth), (ALWAYS, 1)):
        grow = AdaptiveTree(draft, CONFIG, least_gain).start(64)
        with Looks() as counter:
            grow(features, ids)
        assert counter.count == looks, f"law broken: one look a level, {looks} here; found {counter.count}"
    with Looks() as counter:
        grow_tree(draft, features, ids, CONFIG)
    assert counter.count == 0, "law broken: without the stop, growing a tree looks at no number"


def test_the_stop_cannot_do_without_looking():
    target = tiny_target()
    draft = tiny_draft(target)
    with FakeTensorMode(allow_non_fake_inputs=True), pytest.raises(DataDependentOutputException):
        ids = torch.tensor([PROMPT])
        AdaptiveTree(draft, CONFIG, 0.1).start(64)(target.features(ids[:, :-1]), ids)


@pytest.mark.parametrize("least_gain", [-0.1, float("nan")])
def test_impossible_thresholds_are_refused(target, least_gain):
    with pytest.raises(ConfigError, match="least_gain >= 0"):
        AdaptiveTree(tiny_draft(target), CONFIG, least_gain)


# --- the price and the measurement -----------------------------------------------------------------------------------


def test_the_price_of_a_level_by_hand():
    # draft(6) + head(6) + level(6) = 1.5 + 0.25 + 0.125; a round is 22.925 (see test_costs.py)
    assert price_of_a_level(COSTS, TREE, 3.0) == pytest.approx(1.875 * 3 / 22.925)


def test_a_price_paid_for_just_that_gain_leaves_the_rate_as_it_is():
    """The module's equation: a level that brings its price changes no tokens a second, one that brings more does."""
    tau, a_round, level = 3.0, 22.925, 1.875
    price = price_of_a_level(COSTS, TREE, tau)
    assert (tau + price) / (a_round + level) == pytest.approx(tau / a_round)
    assert (tau + 1.1 * price) / (a_round + level) > tau / a_round


def answer(
    method: str, question: int, seconds: float, repetition: int = 0, tokens: int = 11, rounds: int = 5
) -> Answer:
    return Answer(question, "qa", 0, 0.0, method, tokens, rounds, seconds, True, 7, repetition)


def test_comparisons_by_hand():
    ours = called("fspad", 3, 1.0)
    rows = [
        answer(name, q, seconds, n)
        for n in (0, 1)
        for q in (1, 2, 3)
        for name, seconds in (("fspad", 3.0), (ours, 2.0))
    ]
    found = comparison(rows, "fspad", ours, 0.0)
    assert found["fixed_over_adaptive"] == found["low"] == found["high"] == 1.5
    assert found["by_repetition"] == [1.5, 1.5] and found["pays"] and found["identical"] == found["answers"] == 6
    assert found["tau_fixed"] == 2.0
    even = [answer(name, q, 1.0) for q in (1, 2) for name in ("fspad", ours)]
    assert not comparison(even, "fspad", ours, 0.0)["pays"], "law broken: what gains nothing does not pay"


def test_predictions_by_hand():
    """A round of 22.925 with depth 4; a level more or less is 1.875 (see above)."""
    assert predict(COSTS, TREE, 4, 3.0, 3.0) == pytest.approx(1)
    assert predict(COSTS, TREE, 2, 3.0, 2.5) == pytest.approx((22.925 / 3) / ((22.925 - 2 * 1.875) / 2.5))


def test_a_stopwatch_reads_the_clock_that_it_is_given(target):
    readings = iter([1.0, 5.0])
    watch = Stopwatch(target, Plain(target), lambda: next(readings))
    assert len(watch.decode(PROMPT, 3, SamplingConfig(), None).tokens) == 3 and watch.seconds == [4.0]
    with pytest.raises(ConfigError, match="Use --clock wall"):
        AdaptiveConfig(clock="processor", device="cuda")


def test_methods_are_plain_fixed_and_one_for_each_threshold(target):
    draft = tiny_draft(target)
    config = AdaptiveConfig(multiples=(0.0, 2.0), depths=(3, 5), tree=CONFIG)
    ways = methods(target, {"d": draft}, {"d": 0.25}, config)
    assert list(ways) == ["vanilla", "d", "d up to 3 x0", "d up to 3 x2", "d up to 5 x0", "d up to 5 x2"]
    assert [grower.least_gain for grower in growers(ways).values()] == [0.0, 0.5, 0.0, 0.5]
    assert [grower.shape.depth for grower in growers(ways).values()] == [3, 3, 5, 5]
    assert AdaptiveConfig(tree=CONFIG, multiples=(1.0,)).stops == [(3, 1.0)]


def test_the_command_writes_what_it_prints(tmp_path, capsys):
    target = worded_target()
    target.model.save_pretrained(tmp_path / "target")
    target.tokenizer.save_pretrained(tmp_path / "target")
    loaded = Target.from_pretrained(str(tmp_path / "target"), dtype="float64")
    tiny_draft(loaded).save_pretrained(tmp_path / "d")
    write_questions(tmp_path / "questions.jsonl", QUESTIONS)
    config = AdaptiveConfig(
        target=str(tmp_path / "target"), drafts=(str(tmp_path / "d"),), questions=tmp_path / "questions.jsonl",
        per_task=1, tasks=("conversation", "qa"), tree=TreeConfig(3, 2, 8), multiples=(0.0, 1e9), repetitions=2,
        cost_repetitions=1, max_new_tokens=6, clock="processor", dtype="float64", out=tmp_path / "adaptive.json",
    )  # fmt: skip
    adaptive(config, lambda jobs, **about: jobs)
    kept = json.loads(config.out.read_text())
    assert table(kept) in capsys.readouterr().out
    assert kept["provenance"]["dtype"] == "float64" and kept["price_of_a_level"]["d"] > 0
    rows = {(row["temperature"], row["multiple"]): row for row in kept["comparisons"]}
    assert set(rows) == {(0.0, 0.0), (0.0, 1e9), (1.0, 0.0), (1.0, 1e9)}
    for (_, multiple), row in rows.items():
        assert row["identical"] == row["answers"] > 0, "law broken: the text is the target's, wherever growing stops"
        assert row["forwards_after_the_first"] == (2 if multiple == 0 else 0)
        assert (
            row["predicted"] > 0
            and len(row["by_repetition"]) == 2
            and row["low"] <= row["fixed_over_adaptive"] <= row["high"]
        )
        assert multiple or row["tau_adaptive"] == row["tau_fixed"]


def test_impossible_comparisons_are_refused():
    for wrong in (dict(repetitions=0), dict(temperatures=()), dict(multiples=(-1.0,))):
        with pytest.raises(ConfigError, match="at least one repetition"):
            AdaptiveConfig(**wrong)
    with pytest.raises(ConfigError, match="depth"):
        AdaptiveConfig(depths=(0,))
