"""An adaptive stop: end a tree's expansion when its next level no longer pays.

Decoding is a row of rounds, and what counts is tokens a second, rho = E[tokens of a round] / E[seconds of a round]. A
rule makes that quotient largest if and only if it makes E[tokens] - rho E[seconds] largest (Dinkelbach, 1967): at the
optimum a second is worth rho tokens. With F_d the frontier of level d, which the next draft forward would extend, and
s_v a node's score,

    gain of a level    at most S_d = sum over v in F_d of exp(s_v): the draft's own probability that the text passes
                       the frontier (paths of one length exclude each other) and so can win a token below it
    price of a level   its seconds times their worth: t_level rho = t_level tau / t_round tokens

    grow level d + 1   if and only if   S_d >= least_gain,   least_gain = t_level tau / t_round

S_d never rises with d, since a node's children share its probability: once a level does not pay, no deeper one does,
and looking one level ahead is enough. S_d is generous: the next level is cut to k children a node, reranking puts them
in the place of other nodes, and a draft may be too sure of itself. So thresholds above the price are worth a trial.

Lossless as before, for the tree is a function of text and draft, never of what the target draws. One price stands in
no formula: the host has to see S_d, so it waits for the device once a level. That is why the stop is an option of
`tree.expand`, which tells the host nothing without it, and why it cannot be part of a CUDA graph.
"""

from collections import Counter
from dataclasses import dataclass, field

from jaxtyping import Float, Int
from torch import Tensor

from fspad_ref.errors import ConfigError
from fspad_ref.lab.costs import Costs
from fspad_ref.tree import DraftTree, DynamicTree, Grow, TreeConfig, grow_tree


@dataclass(frozen=True)
class AdaptiveTree(DynamicTree):
    """EAGLE-2's trees, grown as deep as it pays; stands in a draft's place in `speculative_generate`.

    Args:
        draft, shape: as for DynamicTree; shape.depth is the deepest that is tried.
        least_gain: in tokens, the S_d below which level d + 1 is not grown; 0 grows every tree whole.
        grown: filled while decoding: how many trees took how many draft forwards after their first.

    The host waits for the device before every draft forward but the first: at most shape.depth times a round. A tree
    has fewer than shape.total_tokens nodes where its levels have scored fewer.

    Raises ConfigError for a least_gain that is negative or NaN.
    """

    least_gain: float = 0.0
    grown: Counter[int] = field(default_factory=Counter, compare=False)

    def __post_init__(self) -> None:
        if not self.least_gain >= 0:
            raise ConfigError(f"expected least_gain >= 0 tokens, found {self.least_gain!r}. Set it to 0 or more.")

    def start(self, longest: int) -> Grow:
        cache = self.draft.new_cache(longest + self.shape.depth * self.shape.top_k)

        def grow(features: Float[Tensor, "1 new hidden"], token_ids: Int[Tensor, "1 new_plus_1"]) -> DraftTree:
            pays = Pays(self.least_gain)
            tree = grow_tree(self.draft, features, token_ids, self.shape, cache, pays)
            self.grown[pays.forwards] += 1
            return tree

        return grow


@dataclass
class Pays:
    """The rule, as `tree.expand` asks it before each of its draft forwards; counts the forwards that it allows."""

    least_gain: float
    forwards: int = 0

    def __call__(self, scores: Float[Tensor, "nodes"]) -> bool:
        pays = float(scores.exp().sum()) >= self.least_gain  # S_d, the one look of this level
        self.forwards += pays
        return pays


def price_of_a_level(costs: Costs, tree: TreeConfig, tau: float) -> float:
    """t_level tau / t_round, in tokens: the least_gain that the module's equation asks for.

    Args:
        costs: of this machine, measured for tree.top_k and tree.total_tokens.
        tau: of fixed trees of this size; the adaptive stop moves tokens a second by little, hence the price by little.
    """
    a_round = costs.drafting(tree, tau) + costs.verify(tree.total_tokens) + costs.overhead(tree)
    return level_seconds(costs, tree) * tau / a_round


def level_seconds(costs: Costs, tree: TreeConfig) -> float:
    """t_level: a draft forward over the frontier, its heads, and the expansion's own work."""
    return costs.draft(tree.top_k) + costs.head(tree.top_k) + costs.level(tree.top_k)
