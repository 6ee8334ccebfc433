"""Ways to decode, side by side under one call: method.decode(ids, max_new_tokens, sampling, eos) -> Generation.

    Plain                  one token a target forward
    Speculative(grower)    a tree a round, from DynamicTree (EAGLE-2, FSPAD), StaticTree (EAGLE-1) or MedusaTree
    TransformersGenerate   prompt lookup, assisted generation, plain `generate`: see assisted.py

Every tree, whoever grew it, goes through the one loop of `speculative_generate`, so every method of the first two kinds
emits the very tokens of plain decoding for the same seed, greedy or sampled.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from fspad_ref.generate import Generation, autoregressive_generate, speculative_generate
from fspad_ref.sampling import SamplingConfig
from fspad_ref.target import Target
from fspad_ref.tree import DynamicTree, Grower

__all__ = ["DynamicTree", "Method", "Plain", "Speculative"]


@runtime_checkable
class Method(Protocol):
    """What a benchmark asks of a way to decode."""

    def decode(
        self, ids: list[int] | Tensor, max_new_tokens: int, sampling: SamplingConfig, eos: int | list[int] | None
    ) -> Generation: ...


@dataclass(frozen=True)
class Plain:
    """Plain decoding: the reference of every text, and of every speedup."""

    target: Target

    def decode(
        self,
        ids: list[int] | Tensor,
        max_new_tokens: int,
        sampling: SamplingConfig,
        eos: int | list[int] | None = None,
    ) -> Generation:
        return autoregressive_generate(
            self.target, ids, max_new_tokens=max_new_tokens, eos_token_id=eos, sampling=sampling
        )


@dataclass(frozen=True)
class Speculative:
    """Speculative decoding with the trees of one grower."""

    grower: Grower

    def decode(
        self,
        ids: list[int] | Tensor,
        max_new_tokens: int,
        sampling: SamplingConfig,
        eos: int | list[int] | None = None,
    ) -> Generation:
        return speculative_generate(
            self.grower.target, self.grower, ids, max_new_tokens=max_new_tokens, eos_token_id=eos, sampling=sampling
        )
