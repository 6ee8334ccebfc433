"""Ways to decode, side by side under one call: method.decode(ids, max_new_tokens, sampling, eos) -> Generation.

    Plain                  one token a target forward
    Speculative(grower)    a tree a round, from DynamicTree (EAGLE-2, FSPAD), StaticTree (EAGLE-1) or MedusaTree
    TransformersGenerate   prompt lookup, assisted generation, plain `generate`: see assisted.py

Every tree, whoever grew it, goes through the same verification, so every method of the first two kinds emits the very
tokens of plain decoding for the same seed, greedy or sampled.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fspad_ref.cache import KVCache
from fspad_ref.draft import Draft
from fspad_ref.errors import TargetMismatch
from fspad_ref.generate import (
    Chooser,
    Generation,
    OnRound,
    Stop,
    autoregressive_generate,
    check_tree,
    prepare_prompt,
)
from fspad_ref.sampling import SamplingConfig
from fspad_ref.target import Target
from fspad_ref.tree import DraftTree, TreeConfig, grow_tree


@runtime_checkable
class Method(Protocol):
    """What a benchmark asks of a way to decode."""

    def decode(
        self, ids: list[int] | Tensor, max_new_tokens: int, sampling: SamplingConfig, eos: int | list[int] | None
    ) -> Generation: ...


@runtime_checkable
class Grower(Protocol):
    """Grows draft trees, round after round of one text.

    target: whose text it drafts. levels: below the root, the most tokens a round can accept. nodes: N, root included.
    """

    @property
    def target(self) -> Target: ...

    @property
    def levels(self) -> int: ...

    @property
    def nodes(self) -> int: ...

    def start(self, longest: int) -> None:
        """A new text begins, prompt and answer of at most `longest` tokens."""

    def grow(
        self,
        features: Float[Tensor, "1 new hidden"],
        pending: Int[Tensor, "1 new_plus_1"],
        text: Int[Tensor, "1 seq"],
    ) -> DraftTree:
        """The tree that continues `text`.

        features: those that this text's rounds have not shown yet. pending: their tokens and the one sampled last, so
        that (features[t], pending[t + 1]) are the new pairs. text: all tokens, ending with the root.
        """


@torch.no_grad()
def speculative_loop(
    target: Target,
    grower: Grower,
    input_ids: Int[Tensor, "..."] | list[int],
    *,
    max_new_tokens: int = 128,
    eos_token_id: int | list[int] | None = None,
    sampling: SamplingConfig | None = None,
    processors: Iterable[Callable] = (),
    stop: Callable[[list[int]], bool] | None = None,
    on_round: OnRound | None = None,
) -> Generation:
    """`generate.speculative_generate` with any grower in the draft's place; same arguments, errors and text."""
    if grower.target is not target:
        raise TargetMismatch("expected the target that the grower drafts for, found another Target object. "
                             "Pass grower.target.")  # fmt: skip
    text = prepare_prompt(target, input_ids, max_new_tokens, extra=grower.levels)
    result, ending = Generation(), Stop(max_new_tokens, eos_token_id, stop, on_round)
    if max_new_tokens == 0:
        return result
    choose_from = Chooser(sampling or SamplingConfig(), target, processors)
    longest = text.shape[1] + max_new_tokens
    cache = target.new_cache(longest + grower.nodes)
    grower.start(longest)
    features = target.features(text, cache=cache)  # (1, T, D)
    tokens, accepted = [int(choose_from.next(target.lm_head(features[:, -1]), text))], None
    shown = text  # the tokens of `features`
    while not ending.take(result, tokens, accepted):
        new = torch.tensor([tokens], device=text.device)
        text, pending = torch.cat((text, new), dim=1), torch.cat((shown, new), dim=1)
        tree = grower.grow(features, pending, text)
        features, tokens, accepted = check_tree(target, tree, grower.levels, text, choose_from, cache)
        shown = text[:, -1:]
    return result


@dataclass
class DynamicTree:
    """EAGLE-2's trees, from a draft of any kind; with it the loop is `speculative_generate`, round by round."""

    draft: Draft
    config: TreeConfig = field(default_factory=TreeConfig)
    cache: KVCache | None = field(default=None, init=False)

    @property
    def target(self) -> Target:
        return self.draft.target

    @property
    def levels(self) -> int:
        return self.config.levels

    @property
    def nodes(self) -> int:
        return self.config.total_tokens

    def start(self, longest: int) -> None:
        """A new text of at most `longest` tokens begins."""
        self.cache = self.draft.new_cache(longest + self.config.depth * self.config.top_k)

    def grow(self, features: Tensor, pending: Tensor, text: Tensor) -> DraftTree:
        return grow_tree(self.draft, features, pending, self.config, self.cache)


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
        return speculative_loop(
            self.grower.target, self.grower, ids, max_new_tokens=max_new_tokens, eos_token_id=eos, sampling=sampling
        )
