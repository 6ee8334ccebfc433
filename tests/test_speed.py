"""The stages of a round: charged to the right one, adding up to the round, and the loop left as it was."""

from types import SimpleNamespace

import numpy as np
import pytest
from conftest import tiny_draft
from torch.autograd import DeviceType
from worded import saved, worded_target

from fspad_ref import SamplingConfig, TreeConfig, generate, speculative_generate, tree
from fspad_ref.bench.bench import Speculative
from fspad_ref.bench.record import load_record
from fspad_ref.bench.speed import STAGES, SpeedConfig, profile_rounds, speed, stage_times
from fspad_ref.cache import KVCache

PROMPT, TREE = [5, 7, 9, 11, 6], TreeConfig(4, 3, 20)


@pytest.fixture(scope="module")
def target():
    return worded_target()


def event(name, start, end, parent=None, device=DeviceType.CPU):
    time = SimpleNamespace(start=start, end=end)
    return SimpleNamespace(name=name, time_range=time, cpu_time_total=end - start, device_time_total=2 * (end - start),
                           cpu_parent=parent, device_type=device)  # fmt: skip


def test_every_stage_gets_its_own_time_by_hand():
    prefill = event("target: lm_head", 0, 10)
    grow = event("draft: tree", 10, 50)
    layer = event("draft: layer", 12, 20, grow)
    matmul = event("aten::mm", 21, 33, grow)  # no label: part of what calls it
    head = event("draft: lm_head", 21, 32, matmul)
    same_head = event("target: lm_head", 22, 30, head)
    of_target = event("target: lm_head", 52, 57)
    draw = event("draw", 60, 70)
    noise = event("noise", 61, 64, draw)
    kernel = event("draft: tree", 10, 90, None, DeviceType.CUDA)
    events = [prefill, grow, layer, matmul, head, same_head, of_target, draw, noise, kernel]
    expected = {"draft: tree": 40 - 8 - 11, "draft: layer": 8, "draft: lm_head": 11, "target: lm_head": 5, "draw": 7,
                "noise": 3, "rounds": 1, "round": 60, "rest": 60 - 40 - 5 - 10}  # fmt: skip
    assert {name: spent for name, spent in stage_times(events).items() if spent} == expected
    assert stage_times(events, gpu=True)["draft: tree"] == 2 * (40 - 8 - 11)
    assert not stage_times([prefill])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_profile_adds_up_and_restores_everything(target, temperature):
    draft, sampling = tiny_draft(target), SamplingConfig(temperature, seed=3)
    places = [(tree, "grow_tree"), (tree, "top_children"), (generate, "verify"), (generate.Chooser, "every_node"),
              (KVCache, "keep")]  # fmt: skip
    before = [getattr(owner, name) for owner, name in places]
    found = profile_rounds(target, Speculative(draft, TREE), [PROMPT, PROMPT[:3]], sampling, 12)
    assert [getattr(owner, name) for owner, name in places] == before and "forward" not in vars(draft)
    assert found["stage"].tolist() == [*STAGES, "rest", "round"]
    assert found["share"][:-1].sum() == pytest.approx(1) and found["share"].iloc[-1] == 1
    spent = found.set_index("stage")["ms"]
    assert (spent.drop("noise") > 0).all() and (spent["noise"] > 0) == (temperature > 0)
    rounds = [len(speculative_generate(target, draft, ids, max_new_tokens=12, tree=TREE, sampling=sampling,
                                       eos_token_id=1).accepted) for ids in (PROMPT, PROMPT[:3])]  # fmt: skip
    assert (found["rounds"] == sum(rounds)).all() and np.isfinite(found["slowdown"]).all()


def test_the_command_writes_the_stages(target, tmp_path, capsys):
    config = SpeedConfig(**saved(target, tmp_path), tree=TREE, max_new_tokens=8, out=tmp_path / "speed.json")
    speed(config)
    kept = load_record(config.out)
    assert [(row["method"], row["temperature"]) for row in kept["stages"]] == [("fspad", 0)] * 11 + [("fspad", 1)] * 11
    assert kept["config"]["tree"]["top_k"] == 4 and "target: layers" in capsys.readouterr().out
