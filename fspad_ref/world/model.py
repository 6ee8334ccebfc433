"""The built-in target's shape, and how it grows deeper while it is trained."""

from dataclasses import dataclass

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from fspad_ref.errors import ConfigError


@dataclass(frozen=True)
class TargetConfig:
    """A deep and narrow Llama: on two cores a forward over a tree of 24 tokens then costs about 1.5 plain steps."""

    layers: int = 24
    hidden: int = 192
    intermediate: int = 512
    heads: int = 6
    vocabulary: int = 6144
    positions: int = 1024


def new_model(config: TargetConfig, layers: int, vocabulary: int, bos: int, eos: int, pad: int) -> LlamaForCausalLM:
    """A fresh Llama of `layers` layers; output projections start at zero, so that each layer begins as a no-op."""
    llama = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=config.hidden,
        intermediate_size=config.intermediate,
        num_hidden_layers=layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        max_position_embeddings=config.positions,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=bos,
        eos_token_id=eos,
        pad_token_id=pad,
        attn_implementation="sdpa",
    )
    model = LlamaForCausalLM(llama)
    for layer in model.model.layers:
        silence(layer)
    return model


@torch.no_grad()
def silence(layer: torch.nn.Module) -> None:
    """Zero what a decoder layer adds to the residual stream."""
    layer.self_attn.o_proj.weight.zero_()
    layer.mlp.down_proj.weight.zero_()


@torch.no_grad()
def grow(model: LlamaForCausalLM, layers: int) -> tuple[LlamaForCausalLM, dict[str, str]]:
    """A deeper model that computes the same function: behind each layer stand silenced copies of it.

    Returns the new model and {name of a parameter in it: name it had before}, without the inserted layers.
    Raises ConfigError unless `layers` is a multiple of the present depth.
    """
    before = model.config.num_hidden_layers
    if layers % before:
        raise ConfigError(f"expected to grow to a multiple of {before} layers, found {layers}; change `growth`")
    every = layers // before
    config = model.config.__class__(**{**model.config.to_dict(), "num_hidden_layers": layers})
    config._attn_implementation = model.config._attn_implementation
    deeper = LlamaForCausalLM(config).to(model.device)
    old = dict(model.named_parameters())
    kept = {}
    for name, parameter in deeper.named_parameters():
        source = name
        if name.startswith("model.layers."):
            number, rest = name.removeprefix("model.layers.").split(".", 1)
            source = f"model.layers.{int(number) // every}.{rest}"
            if int(number) % every == 0:
                kept[name] = source
        else:
            kept[name] = name
        parameter.copy_(old[source])
    for number, layer in enumerate(deeper.model.layers):
        if number % every:
            silence(layer)
    return deeper, kept
