"""True shapes: the published models' sizes, models made where they run, memory refused in time, sums by hand."""

import json

import pytest
import torch
from conftest import tiny_target

from fspad_ref import Target
from fspad_ref import __main__ as cli
from fspad_ref.bench import shapes
from fspad_ref.bench import shapes as shape_bench
from fspad_ref.bench.shapes import (
    GIB,
    SHAPES,
    ShapeConfig,
    bench_shape,
    copy_bandwidth,
    goals,
    limits,
    made_on,
    memory_bill,
    plain_seconds,
    predictions,
    random_draft,
    random_model,
    refuse_too_large,
    rest,
    results_table,
    round_seconds,
)
from fspad_ref.draft import KINDS
from fspad_ref.errors import ConfigError
from fspad_ref.tree import TreeConfig

SMALL = dict(dtype="float32", top_k=3, depth=2, total_tokens=8, nodes=(1, 8), prefix=20, repetitions=1, burst=2,
             copied=2**20)  # fmt: skip

# --- sizes -----------------------------------------------------------------------------------------------------------

# parameters as the models' cards state them
KNOWN = {
    "vicuna-7b": 6_738_415_616,
    "llama2-7b": 6_738_415_616,
    "vicuna-13b": 13_015_864_320,
    "vicuna-33b": 32_528_943_616,
    "llama3-8b": 8_030_261_248,
    "llama3-70b": 70_553_706_496,
}


def test_targets_have_the_published_numbers_of_parameters():
    assert {name: SHAPES[name].target_parameters for name in SHAPES if name != "tiny"} == KNOWN


def test_drafts_of_vicuna_7b_have_the_papers_numbers_of_parameters():
    """236M for EAGLE; feature sampling adds 135M, partial alignment 45M."""
    millions = {kind: round(SHAPES["vicuna-7b"].draft_parameters(kind) / 1e6) for kind in KINDS}
    assert millions == {"eagle": 236, "fs": 236 + 135, "pad": 236 + 45, "fspad": 236 + 135 + 45}


@pytest.mark.parametrize("kind", KINDS)
def test_counted_parameters_are_those_of_the_models_that_are_made(kind):
    for draft_kv_heads in (None, 4):
        shape = shapes.Shape(97, 32, 56, 2, 4, 2, 64, draft_kv_heads=draft_kv_heads)
        target = Target(random_model(shape, "cpu", torch.float32))
        assert sum(weight.numel() for weight in target.model.parameters()) == shape.target_parameters
        draft = random_draft(kind, shape, target)
        assert sum(weight.numel() for weight in draft.parameters()) == shape.draft_parameters(kind)
        assert draft.config.kind == kind
        assert target.new_cache(1).kv.numel() == shape.cache_numbers()
        assert draft.new_cache(1).kv.numel() == shape.draft_cache_numbers()


def test_bytes_that_must_be_read_by_hand():
    shape = shapes.Shape(vocab=10, hidden=4, intermediate=6, layers=2, heads=2, kv_heads=1, positions=8)
    a_layer = 2 * 4 * 2 * 3 + 3 * 4 * 6 + 8  # attention, MLP, norms
    assert shape.target_parameters == 2 * 40 + 2 * a_layer + 4
    assert shape.step_bytes(prefix=5, width=2) == 2 * (40 + 2 * a_layer + 4 + 5 * 2 * 2 * 1 * 2)
    eagle = 2 * 4 * 4 + 4 + 48 + 72 + 4
    assert shape.draft_parameters("eagle") == eagle
    assert shape.draft_bytes("eagle", levels=3, prefix=5, width=2) == 3 * 2 * (eagle + 40 + 5 * 2 * 1 * 2)


# --- models ----------------------------------------------------------------------------------------------------------


def test_a_large_model_comes_into_being_on_its_device_alone():
    """On the device without memory: 16 GB would not pass through here unnoticed."""
    model = random_model(SHAPES["llama3-8b"], "meta", torch.bfloat16)
    weights = list(model.parameters())
    assert {weight.device.type for weight in weights} == {"meta"}
    assert {weight.dtype for weight in weights} == {torch.bfloat16}
    assert sum(weight.numel() for weight in weights) == KNOWN["llama3-8b"]
    assert torch.get_default_dtype() == torch.float32 and torch.empty(1).device.type == "cpu"


def test_defaults_come_back_after_an_error():
    with pytest.raises(ZeroDivisionError), made_on("meta", torch.bfloat16):
        raise ZeroDivisionError
    assert torch.get_default_dtype() == torch.float32 and torch.empty(1).device.type == "cpu"


def test_weights_are_narrow_but_rotary_angles_are_not():
    target = Target(random_model(SHAPES["tiny"], "cpu", torch.bfloat16))
    draft = random_draft("fspad", SHAPES["tiny"], target)
    assert target.dtype == torch.bfloat16 and {weight.dtype for weight in draft.parameters()} == {torch.bfloat16}
    assert target.backbone.rotary_emb.inv_freq.dtype == draft.rotary.inv_freq.dtype == torch.float32
    again = Target(random_model(SHAPES["tiny"], "cpu", torch.bfloat16))
    assert torch.equal(again.lm_head.weight, target.lm_head.weight) and target.lm_head.weight.float().std() > 0


# --- memory ----------------------------------------------------------------------------------------------------------


def test_the_bill_of_a_model():
    shape = SHAPES["llama3-8b"]
    bill = memory_bill(shape, ("eagle", "fspad"), TreeConfig(), 96, 1024, torch.bfloat16, "cuda")
    assert bill.target == 2 * KNOWN["llama3-8b"] and bill.draft == 2 * shape.draft_parameters("fspad")
    assert bill.caches == 1024 * 2 * (3 * 2 * 32 * 8 * 128 + 2 * 2 * 32 * 128)
    assert bill.total == bill.target + bill.draft + bill.caches + bill.working
    assert 16 * GIB < bill.total < 24 * GIB


def test_too_little_memory_is_refused_before_anything_is_allocated(monkeypatch):
    def allocate(*args, **kwargs):
        raise AssertionError("law broken: nothing is allocated before the memory is known to suffice")

    for name in ("copy_bandwidth", "random_model", "random_draft"):
        monkeypatch.setattr(shape_bench, name, allocate)
    monkeypatch.setattr(shapes, "free_memory", lambda device: 100 * GIB)
    with pytest.raises(
        ConfigError, match=r"GiB of memory on cpu for the shape llama3-70b .*found 100\.0 GiB free"
    ) as no:
        bench_shape(ShapeConfig(shape="llama3-70b"))
    assert "Choose a smaller shape (tiny, vicuna-7b" in str(no.value) and "target 131.4" in str(no.value)
    with pytest.raises(AssertionError, match="nothing is allocated"):  # it would have gone on
        bench_shape(ShapeConfig(shape="vicuna-13b"))


def test_memory_that_nobody_knows_is_not_refused(monkeypatch):
    bill = memory_bill(SHAPES["tiny"], ("eagle",), TreeConfig(), 60, 128, torch.float32, "cpu")
    monkeypatch.setattr(shapes, "free_memory", lambda device: None)
    refuse_too_large("tiny", bill, torch.device("cpu"))
    monkeypatch.setattr(shapes, "free_memory", lambda device: 0)
    with pytest.raises(ConfigError, match="Choose a narrower dtype"):
        refuse_too_large("tiny", bill, torch.device("cpu"))


def test_free_memory_of_this_machine_is_known():
    free = shapes.free_memory(torch.device("cpu"))
    assert free is None or 2**20 < free < 2**50


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here: its absence cannot be tried")
def test_a_missing_gpu_is_named():
    with pytest.raises(ConfigError, match="expected a CUDA device for --device cuda, found none"):
        bench_shape(ShapeConfig(device="cuda"))


# --- the report ------------------------------------------------------------------------------------------------------


def results(hardware: str = "NVIDIA H200", **settings) -> dict:
    """Made up so that sums come out even: the limit of a forward is 1 s, of an EAGLE draft 2 s."""
    shape, prefix = SHAPES["llama3-8b"], 512
    bandwidth = shape.step_bytes(prefix, 2)
    draft = 2 * shape.draft_bytes("eagle", 6, prefix, 2) / (2 * bandwidth)
    made = {
        "provenance": {"hardware": hardware},
        "config": {"shape": "llama3-8b", "dtype": "bfloat16", "prefix": prefix},
        "tree": {"top_k": 10, "depth": 5, "total_tokens": 60},
        "graphs": True, "bandwidth": bandwidth, "plain": {"0": 1.2, "1": 1.3}, "noise": 0.01,
        "forward": {"1": 1.1, "60": 1.21},
        "drafts": {"eagle": {"draft": 1.4 * draft, "round": {"0": 1.4 * draft + 1.3, "1": 1.4 * draft + 1.31}}},
        "memory": {"target": GIB, "peak": None},
    }  # fmt: skip
    made["config"] |= settings.pop("config", {})
    return made | settings


def test_limits_are_bytes_over_bandwidth():
    found = limits(results())
    assert found["forward"]["seconds"] == pytest.approx(1)
    eagle = SHAPES["llama3-8b"].draft_bytes("eagle", 6, 512, 2)
    assert found["drafts"]["eagle"]["bytes"] == eagle
    assert found["drafts"]["eagle"]["seconds"] == pytest.approx(eagle / results()["bandwidth"])


def test_predictions_by_hand():
    made = results()
    greedy, sampled = predictions(made)
    a_round = made["drafts"]["eagle"]["round"]
    assert (greedy["tau"], greedy["published"]) == (4.54, 2.82) and (sampled["tau"], sampled["published"]) == (
        4.27,
        2.45,
    )
    assert greedy["predicted"] == pytest.approx(4.54 * 1.2 / a_round["0"])
    assert sampled["predicted"] == pytest.approx(4.27 * 1.31 / (a_round["1"] + 0.0427))
    for row, temperature in ((greedy, "0"), (sampled, "1")):
        tau = row["break_even_tau"]
        speedup = tau * plain_seconds(made, temperature) / round_seconds(made, "eagle", temperature, tau)
        assert speedup == pytest.approx(1), "law broken: at the break-even tau the speedup is 1"


def test_what_nobody_published_is_not_made_up():
    rows = predictions(results(config={"shape": "vicuna-33b"}))
    assert all(
        row["tau"] is row["predicted"] is row["published"] is row["predicted_over_published"] is None for row in rows
    )
    assert "no published tau at hand" in results_table(results(config={"shape": "vicuna-33b"}))


def test_goals_are_judged_on_their_own_hardware_alone():
    found = {row["goal"]: row for row in goals(results())}
    assert found["plain step over the memory's limit"]["verdict"] == "met"  # 1.2
    assert found["forward of 60 nodes over that of one"]["verdict"] == "met"  # 1.1
    assert found["eagle: draft of 6 levels over its limit"]["verdict"] == "not met"  # 1.4
    greedy = found["eagle, T=0: share of the rest in a round"]
    assert greedy["found"] == pytest.approx(0.09 / results()["drafts"]["eagle"]["round"]["0"])
    assert rest(results(), "eagle", "1") == pytest.approx(0.1 + 4 * 0.01)
    for elsewhere in (results("NVIDIA A100"), results(graphs=False), results(config={"dtype": "float16"})):
        assert {row["verdict"] for row in goals(elsewhere)} == {"not measured"}
    unknown = {
        row["goal"]: row for row in goals(results(forward={"1": 1.1, "48": 1.2}, tree={"depth": 5, "total_tokens": 48}))
    }
    assert unknown["forward of 60 nodes over that of one"]["verdict"] == "not measured"


# --- the whole -------------------------------------------------------------------------------------------------------


def test_the_command_at_small_scale(tmp_path, capsys):
    """The command of the README on a CPU, with the shape for trying it out."""
    out = tmp_path / "shape.json"
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items() if name != "nodes"]
    arguments = ["bench", "--shape", "tiny", "--weights", "random", "--device", "cpu", "--nodes", "1", "8", *options]
    assert cli.main([*arguments, "--out", str(out)]) == 0
    kept = json.loads(out.read_text())
    assert results_table(kept) in capsys.readouterr().out
    times = [*kept["plain"].values(), *kept["forward"].values(), kept["noise"]]
    times += [seconds for of in kept["drafts"].values() for seconds in (of["draft"], *of["round"].values())]
    assert all(seconds > 0 for seconds in times) and kept["bandwidth"] > 0
    assert list(kept["forward"]) == ["1", "8"] and set(kept["drafts"]) == {"eagle", "fspad"}
    assert set(kept["plain"]) == set(kept["drafts"]["fspad"]["round"]) == {"0", "1"}
    assert kept["provenance"]["dtype"] == "float32" and not kept["graphs"]
    assert {row["verdict"] for row in kept["goals"]} == {"not measured"}
    assert kept["memory"]["total"] > kept["memory"]["target"] == 4 * SHAPES["tiny"].target_parameters


def test_medians_of_bursts_with_a_clock_of_our_own():
    readings = iter(range(100))
    timer = shape_bench.Timer(tiny_target(), ShapeConfig(**SMALL | {"repetitions": 3}), lambda: float(next(readings)))
    calls = []
    assert timer(lambda: calls.append("run"), lambda: calls.append("before")) == 0.5  # a second for a burst of two
    assert calls == ["before", "run", "run"] * 5
    assert copy_bandwidth(torch.device("cpu"), 1000, lambda: float(next(readings)), repetitions=3) == 2000


def test_settings_are_read_and_impossible_ones_refused():
    assert ShapeConfig(shape="llama3-70b").tree.total_tokens == 48 and ShapeConfig().tree == TreeConfig()
    assert ShapeConfig(shape="llama3-8b", device="cuda:1").file.as_posix() == "out/shape-llama3-8b-cuda-1.json"
    for wrong, message in (
        (dict(burst=0), "at least 1"), (dict(temperatures=()), "a temperature"),
        (dict(kinds=("medusa",)), "kinds among"),
        (dict(prefix=2000), "within the 1024 positions"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            ShapeConfig(**wrong)


@pytest.mark.parametrize("how", [["--shape", "tiny"], ["--shape=tiny"]])
def test_a_shape_makes_bench_another_command(how, capsys):
    assert cli.chosen("bench", how)[0].config == "ShapeConfig" and cli.chosen("tune", how)[0] == cli.COMMANDS["tune"]
    with pytest.raises(SystemExit):
        cli.main(["bench", *how, "--help"])
    assert "--prefix" in capsys.readouterr().out


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here: measured on the CPU, without graphs")
def test_the_command_on_a_gpu_with_graphs(tmp_path):
    found = bench_shape(ShapeConfig(device="cuda", out=tmp_path / "gpu.json", **SMALL))
    assert found["graphs"] and found["memory"]["peak"] > 0
