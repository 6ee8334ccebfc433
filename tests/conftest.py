"""Small models that every test may use."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from fspad_ref import Draft, DraftConfig, Target

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="the statistical tests at full power; slow")


def tiny_target(seed: int = 0, dtype: torch.dtype = torch.float64, **sizes) -> Target:
    """A random Llama, small enough to decode in milliseconds and spread out enough to be interesting to sample from."""
    settings = dict(
        vocab_size=31,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.25,
        bos_token_id=0,
        eos_token_id=1,
    )
    torch.manual_seed(seed)
    return Target(LlamaForCausalLM(LlamaConfig(**(settings | sizes))).to(dtype))


def tiny_draft(target: Target, seed: int = 0, **booleans) -> Draft:
    torch.manual_seed(seed)
    return Draft(DraftConfig(**booleans), target).eval()


@pytest.fixture(scope="session")
def target() -> Target:
    return tiny_target()


@pytest.fixture(
    scope="session",
    params=[(False, False), (True, False), (False, True), (True, True)],
    ids=["eagle", "fs", "pad", "fspad"],
)
def draft(request, target) -> Draft:
    return tiny_draft(target, feature_sampling=request.param[0], partial_alignment=request.param[1])


@pytest.fixture(scope="session")
def golden() -> dict:
    return load_file(GOLDEN / "expected.safetensors")


@pytest.fixture(scope="session")
def golden_meta() -> dict:
    return json.loads((GOLDEN / "meta.json").read_text())


@pytest.fixture(scope="session")
def golden_target() -> Target:
    config = LlamaConfig(**json.loads((GOLDEN / "target_config.json").read_text()))
    model = LlamaForCausalLM(config)
    model.load_state_dict(load_file(GOLDEN / "target.safetensors"))
    return Target(model)
