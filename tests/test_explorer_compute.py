"""The explorer's numbers: what is recorded is what the loop did, and every number has a second way to it."""

import ast
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from explorer_bench import PROMPT, TREE, make_bench, quiet, settings

import fspad_ref
from fspad_ref import SamplingConfig, TreeConfig, autoregressive_generate, grow_tree, speculative_generate
from fspad_ref.bench.rivals import static_shape
from fspad_ref.errors import CheckpointError, ConfigError, InputError
from fspad_ref.teaching.broken import BROKEN, LOSSLESS, Place, animals
from fspad_ref.viz.explorer import laws, prices, trials
from fspad_ref.viz.explorer.runs import Cancelled, Memory, Workbench

FOLDER = Path(fspad_ref.__file__).parent / "show" / "explorer"


@pytest.fixture(scope="module")
def bench():
    return make_bench()


@pytest.fixture(scope="module", params=[0.0, 1.0])
def run(request, bench):
    return bench.run(settings(request.param), progress=quiet)


# --- a run ---


def test_a_run_is_what_the_loop_and_plain_decoding_write(bench, run):
    wanted = {"max_new_tokens": 12, "sampling": run.settings.sampling}
    fast = speculative_generate(bench.target, bench.drafts["eagle"], list(PROMPT), tree=TREE, **wanted)
    plain = autoregressive_generate(bench.target, list(PROMPT), **wanted)
    assert list(run.tokens) == fast.tokens == plain.tokens and list(run.accepted) == fast.accepted
    assert run.parted is None and run.tau == fast.tau and run.forwards == len(run.rounds) + 1
    assert run.seconds > 0 and run.plain.seconds > 0


def test_rounds_add_up_to_the_text_and_to_the_cache(run):
    emitted = [token for one in run.rounds for token in one.tokens[: one.kept]]
    assert [run.tokens[0], *emitted] == list(run.tokens)
    assert run.rounds[0].prefix == len(PROMPT)
    for one, following in itertools.pairwise(run.rounds):
        assert one.slots[1] - one.slots[0] == TREE.total_tokens and following.prefix == one.slots[2]
        assert one.kept == len(one.tokens) == len(one.path)


def test_recorded_trees_are_those_that_grow_tree_makes(bench, run):
    one, ids = run.rounds[0], torch.tensor([[*PROMPT, run.tokens[0]]])
    tree = grow_tree(bench.drafts["eagle"], bench.target.features(ids[:, :-1]), ids, TREE)
    assert tree.token.equal(one.tree.token) and tree.parent.equal(one.tree.parent)
    assert len(one.scored[0]) == TREE.capacity - 1


def test_the_numbers_of_every_node_have_a_second_way_to_them(bench, run):
    one, sampling = run.rounds[-1], run.settings.sampling
    before = [*PROMPT, *run.tokens][: one.prefix + 1]  # the root is its last token
    parent, token = one.tree.parent.tolist(), one.tree.token.tolist()
    for node in range(1, len(token)):
        path, up = [], parent[node]
        while up:
            path.insert(0, token[up])
            up = parent[up]
        features = bench.target.features(torch.tensor([[*before, *path]]))[:, -1]
        logits = bench.target.lm_head(features)[0]
        p = float(logits.argmax() == token[node]) if sampling.greedy else float(logits.softmax(-1)[token[node]])
        assert one.p[node] == pytest.approx(p, abs=1e-9)
        assert one.matches[node] == (one.drawn[parent[node]] == token[node])
        assert math.log(one.q[node]) == pytest.approx(
            float(one.tree.score[node] - one.tree.score[parent[node]]), abs=1e-6
        )
        assert one.reached[node] == (node in one.path)
    assert one.expected(0) == pytest.approx(sum(one.p[v] for v in one.children(0)))
    walked = [one.drawn[node] for node in one.path]
    assert walked == list(one.tokens)


def test_a_text_that_ends_within_a_round_says_what_stays(bench):
    for tokens in range(2, 13):
        run = bench.run(settings(tokens=tokens), progress=quiet)
        assert sum(one.kept for one in run.rounds) == tokens - 1 and len(run.tokens) == tokens


def test_runs_are_remembered_up_to_a_bound_and_cancelled_ones_are_not():
    bench = make_bench(most=1)
    answers = iter([False, False, False, True])
    with pytest.raises(Cancelled):
        bench.run(settings(), lambda: next(answers), quiet)
    first = bench.run(settings(), progress=quiet)
    assert bench.run(settings(), lambda: True, quiet) is first, "nothing to cancel: it is there"
    bench.run(settings(draft="fspad"), progress=quiet)
    assert list(bench.runs.held) == [settings(draft="fspad")] and len(bench.plains.held) == 1
    memory = Memory(2)
    assert [memory.get(key, lambda key=key: key) for key in "aba"] == list("aba")
    memory.get("c", lambda: "c")
    assert list(memory.held) == ["a", "c"]


def test_progress_is_told_and_what_does_not_fit_is_refused(bench):
    told = []
    make_bench().run(settings(tokens=4), progress=told.append)
    assert told[0] == "plain: 1 tokens" and any(text.startswith("eagle: ") for text in told)
    for wrong, words in (
        (settings(draft="nobody"), "draft named one of"),
        (settings(tree=TreeConfig(40, 1, 4)), "size of the vocabulary"),
    ):
        with pytest.raises(ConfigError, match=words):
            bench.run(wrong, progress=quiet)
    with pytest.raises(InputError, match="positions"):
        bench.run(settings(tokens=400), progress=quiet)
    with pytest.raises(ConfigError, match="at least one draft"):
        Workbench(bench.target, {})


def test_a_text_that_parts_from_plain_decoding_says_where_and_how_far_the_scores_are_apart(bench, run):
    wrong = (*run.tokens[:3], (run.tokens[3] + 1) % 31)
    place, margin = bench._parting(run.settings, wrong, run.tokens)
    assert place == 3 and margin > 0
    assert bench._parting(run.settings, run.tokens[:2], run.tokens)[0] == 2


# --- laws ---


def test_the_law_at_a_node_follows_temperature_and_cuts(bench, run):
    one = run.rounds[0]
    logits = bench.target.lm_head(one.features[:1])[0]
    for temperature in (0.5, 1.0, 2.0):
        law = laws.node_law(bench.target, one, 0, SamplingConfig(temperature))
        p = (logits / temperature).softmax(-1)
        assert law.p == pytest.approx([float(p[token]) for token in law.token])
        assert sum(law.p) + law.rest == pytest.approx(1.0)
        assert law.expected == pytest.approx(sum(float(p[one.tree.token[c]]) for c in one.children(0)))
    greedy = laws.node_law(bench.target, one, 0, SamplingConfig())
    assert sorted(greedy.p)[-1] == 1.0 and greedy.token == law.token
    assert law.guesses == len(one.children(0))
    cut = laws.node_law(bench.target, one, 0, SamplingConfig(1.0, top_p=0.3))
    assert cut.p.count(0.0) > 0 and max(cut.p) > max(law.p)


def test_curves_over_temperature(bench, run):
    one = run.rounds[0]
    curve = laws.acceptance_curve(bench.target, one, 0, temperatures=(0.0, 1.0))
    expected = [laws.node_law(bench.target, one, 0, SamplingConfig(t)).expected for t in (0.0, 1.0)]
    assert curve == pytest.approx(expected) and curve[0] in (0.0, 1.0)
    taus = laws.tau_curve(bench, settings(), (0.0, 1.0), progress=quiet)
    assert taus == {t: bench.run(settings(t), progress=quiet).tau for t in (0.0, 1.0)}


def test_recorded_taus_are_read_from_a_results_file_and_nothing_else(tmp_path):
    file = tmp_path / "bench.json"
    rows = [{"task": task, "method": "fspad", "temperature": 1, "tau": tau} for task, tau in (("qa", 9), ("mean", 4))]
    file.write_text(json.dumps({"summary": rows}))
    assert laws.recorded_taus(file) == {"fspad": {1.0: 4.0}}
    file.write_text("{}")
    with pytest.raises(CheckpointError, match="results of a benchmark"):
        laws.recorded_taus(file)


# --- prices ---


def test_speedup_is_the_formula():
    one = prices.Prices(target=8.0, draft=0.5, growth=2.0, overhead=0.25)
    land = prices.landscape(one, prices.Acceptance(0.6, 0.9), top_k=4, depths=(2,), sizes=(16,))
    verify = 8.0 * (1 + 15 / 59)
    assert land.speedup[0, 0] == pytest.approx(land.tau[0, 0] * 8.0 / (0.5 * 3 + verify + 0.25))


def test_the_best_paths_are_those_of_the_best_static_tree():
    rates = [[0.6 * 0.9**d * (1 - 0.6 * 0.9**d) ** r for r in range(4)] for d in range(3)]
    shape = static_shape(rates, nodes=16)
    expected = sorted((math.prod(rates[d][r] for d, r in enumerate(path)) for path in shape), reverse=True)
    assert prices.best_paths(prices.Acceptance(0.6, 0.9), 4, 3, 15) == pytest.approx(expected)


def test_the_best_point_moves_as_it_should():
    free = prices.landscape(prices.Prices(growth=1), prices.Acceptance())
    assert free.sizes[free.best[1]] == max(free.sizes), "where nodes cost nothing, take all"
    dear = prices.landscape(prices.Prices(growth=60), prices.Acceptance())
    assert dear.sizes[dear.best[1]] < 16
    useless = prices.landscape(prices.Prices(), prices.Acceptance(0.0))
    assert not useless.pays and math.isclose(np.nanmin(useless.tau), np.nanmax(useless.tau))
    small = prices.landscape(prices.Prices(), prices.Acceptance(), top_k=2)
    assert math.isnan(small.speedup[0, -1]) and math.isfinite(small.speedup[0, 0])
    for make in (lambda: prices.Prices(growth=0.5), lambda: prices.Acceptance(1.5)):
        with pytest.raises(ConfigError):
            make()


def test_prices_survive_the_way_through_measured_costs():
    one = prices.Prices(target=8.0, draft=0.5, growth=2.0, overhead=0.25)
    again = prices.prices_of(prices.costs_of(one))
    assert [again.target, again.draft, again.growth, again.overhead] == pytest.approx([8.0, 0.5, 2.0, 0.25])


# --- rules on trial ---


@pytest.mark.parametrize("rule", [*LOSSLESS, *BROKEN])
def test_rules_are_as_lossless_as_they_claim(rule):
    one = trials.trial(animals(), rule, runs=1000, seed=1)
    assert sum(one.emitted.values()) == 1 and sum(one.counts.values()) == one.runs
    assert (one.distance == 0) == (rule in LOSSLESS)
    if rule in LOSSLESS:
        assert one.p_value > 0.001
    assert max(abs(one.counts.get(w, 0) / one.runs - float(p)) for w, p in one.emitted.items()) < 0.08


def test_a_blatant_fault_is_found_and_the_path_ends_at_the_p_value():
    one = trials.trial(animals(), "scored against q", runs=2000)
    assert one.p_value < 1e-6 and one.path[-1] == (2000, one.p_value)
    assert [runs for runs, _ in one.path] == sorted({runs for runs, _ in one.path})


def test_a_recorded_node_is_a_place(bench, run):
    place = trials.place_at(bench.target, run.rounds[0], 0, SamplingConfig(1.0), str)
    assert sum(place.p) == sum(place.raw) == sum(place.q) == 1 and place.words[-1] == trials.OTHER
    assert trials.trial(place, "one draw", runs=1000).distance == 0
    with pytest.raises(InputError, match="at least two words"):
        trials.place_at(bench.target, run.rounds[0], 0, SamplingConfig(), str)


def test_trials_refuse_what_they_cannot_test():
    with pytest.raises(InputError, match="Run more"):
        trials.trial(animals(), "one draw", runs=20)
    with pytest.raises(ConfigError, match="expected one of"):
        trials.trial(animals(), "a rule of my own")
    law = animals().p
    with pytest.raises(InputError, match="different guesses"):
        Place(animals().words, law, law, law, guesses=(1, 1))


@pytest.mark.parametrize("name", ["records", "runs", "laws", "prices", "trials"])
def test_computing_knows_neither_pictures_nor_widgets(name):
    for node in ast.walk(ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))):
        found = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        assert not any(word in module for module in found for word in ("matplotlib", "ipywidgets", "plots", "panel"))
