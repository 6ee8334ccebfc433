"""True shapes: the published models' sizes, models made where they run, memory refused in time, sums by hand."""

import json
from types import SimpleNamespace

import pytest
import torch

from fspad_ref import Target
from fspad_ref.bench import shapes
from fspad_ref.bench.shapes import GIB, SHAPES, ShapeConfig, bench_shape, memory_bill, random_draft, random_model
from fspad_ref.draft import KINDS
from fspad_ref.errors import ConfigError
from fspad_ref.tree import TreeConfig

SMALL = dict(dtype="float32", tree=TreeConfig(3, 2, 8), nodes=(1, 8), prefix=20, seconds=1e-3)


@pytest.mark.parametrize("name, parameters", [  # as the models' cards state them
    ("vicuna-7b", 6_738_415_616), ("llama2-7b", 6_738_415_616), ("vicuna-13b", 13_015_864_320),
    ("vicuna-33b", 32_528_943_616), ("llama3-8b", 8_030_261_248), ("llama3-70b", 70_553_706_496),
])  # fmt: skip
def test_targets_have_the_published_numbers_of_parameters(name, parameters):
    needs, _ = memory_bill(ShapeConfig(shape=name, dtype="bfloat16"), "eagle")
    assert needs["target"] == 2 * parameters


def test_drafts_of_vicuna_7b_have_the_papers_numbers_of_parameters():
    """236M for EAGLE; feature sampling adds 135M, partial alignment 45M."""
    needs = {kind: memory_bill(ShapeConfig(shape="vicuna-7b", dtype="bfloat16"), kind)[0] for kind in KINDS}
    millions = {kind: round(needs[kind]["draft"] / 2e6) for kind in KINDS}
    assert millions == {"eagle": 236, "fs": 236 + 135, "pad": 236 + 45, "fspad": 236 + 135 + 45}


def test_bytes_by_hand():
    config = ShapeConfig(prefix=5, nodes=(1, 8), tree=TreeConfig(3, 2, 8), dtype="float32")
    V, D, inner, L, H, K, _ = SHAPES["tiny"]
    a_layer = 2 * D * D // H * (H + K) + 3 * D * inner + 2 * D  # attention, MLP, norms
    cache, draft_cache = 2 * L * K * D // H, 2 * K * D // H
    needs, reads = memory_bill(config, "eagle")
    eagle = 2 * D * D + D + a_layer - D
    assert needs["target"] == 4 * (2 * V * D + L * a_layer + D) and needs["draft"] == 4 * eagle
    assert needs["caches"] == 4 * (5 + 2 * 8) * (3 * cache + 2 * draft_cache)
    assert reads["forward"] == 4 * (V * D + L * a_layer + D + 5 * cache)
    assert reads["growth"] == 4 * 3 * (eagle + V * D + 5 * draft_cache)


@pytest.mark.parametrize("kind", KINDS)
def test_models_have_the_sizes_and_the_precision_that_are_asked_for(kind):
    target = Target(random_model("tiny", "cpu", torch.bfloat16))
    draft = random_draft("tiny", kind, target)
    assert tuple(getattr(target.config, name) for name in shapes.FIELDS) == SHAPES["tiny"] and draft.config.kind == kind
    weights = [*target.model.parameters(), *draft.parameters()]
    assert {(weight.dtype, weight.device.type) for weight in weights} == {(torch.bfloat16, "cpu")}
    assert target.lm_head.weight.float().std() > 0
    assert target.backbone.rotary_emb.inv_freq.dtype == draft.rotary.inv_freq.dtype == torch.float32
    assert torch.get_default_dtype() == torch.float32 and torch.empty(1).device.type == "cpu"


def test_too_little_memory_is_refused_before_anything_is_allocated(monkeypatch):
    def allocate(*args, **kwargs):
        raise AssertionError("nothing is allocated before the memory is known to suffice")

    monkeypatch.setattr(shapes, "copy_bandwidth", allocate)
    monkeypatch.setattr(shapes.psutil, "virtual_memory", lambda: SimpleNamespace(available=100 * GIB))
    with pytest.raises(ConfigError, match=r"expected 13\d\.\d GiB of memory for llama3-70b, found 100\.0 GiB"):
        bench_shape(ShapeConfig(shape="llama3-70b"))
    with pytest.raises(AssertionError, match="nothing is allocated"):  # it would have gone on
        bench_shape(ShapeConfig(shape="vicuna-13b"))


def test_the_command_at_small_scale(tmp_path, capsys):
    found = bench_shape(ShapeConfig(out=tmp_path / "shape.json", **SMALL))
    kept = json.loads((tmp_path / "shape.json").read_text())
    assert shapes.results_table(kept) in capsys.readouterr().out
    parts = [row["part"] for row in kept["times"]]
    assert parts == ["plain step"] * 2 + ["forward"] * 2 + ["round", "round", "growth"] * 2 + ["noise"]
    assert all(row["seconds"] > 0 for row in kept["times"]) and kept["bandwidth"] > 0
    _, reads = memory_bill(ShapeConfig(**SMALL), "fspad")
    limits = {row["part"]: row["limit"] * kept["bandwidth"] for row in kept["times"] if "limit" in row}
    assert limits == pytest.approx(reads | {"plain step": reads["forward"]})  # the last growth is that of fspad
    plain = [row["seconds"] for row in kept["times"][:2]]
    for row, least in zip([row for row in kept["times"] if row["part"] == "round"], plain * 2, strict=True):
        assert row["pays_from_tau"] == pytest.approx(row["seconds"] / least)
    assert found["memory"] == kept["memory"] and kept["config"]["shape"] == "tiny"


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here: measured on the CPU, without graphs")
def test_the_command_on_a_gpu_with_graphs(tmp_path):
    found = bench_shape(ShapeConfig(device="cuda", out=tmp_path / "gpu.json", **SMALL))
    assert sum(found["memory"].values()) > torch.cuda.max_memory_allocated() - 4 * GIB  # the copy's two blocks
