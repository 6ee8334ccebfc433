"""Verification: how much of a draft tree is the target's own text?

At every node v one token y_v is drawn from the target's distribution after the path to v. Then

    from the root, while some child of the current node carries the token drawn there, step to it;
    emit the path walked, then the token drawn where the walk ended (the bonus token).

Every emitted token was drawn from p, at the place where it stands, whatever the draft said: that is the whole proof
of losslessness. It is also the textbook rule (`verify_by_rejection`) in disguise: our tree is a deterministic
function of the draft and siblings are distinct, so the textbook accepts child c with probability exactly p(c).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from fspad_ref.tree import DraftTree


@dataclass(frozen=True)
class Verdict:
    """What verification decided, still on the device.

    accepted (): draft tokens accepted, a = 0 .. levels.
    path (levels + 1,): root, then the accepted nodes; entries beyond a are 0 and mean nothing.
    tokens (levels + 1,): the accepted tokens, then the bonus token; entries beyond a are to be ignored.
    """

    accepted: Int[Tensor, ""]
    path: Int[Tensor, "levels_plus_1"]
    tokens: Int[Tensor, "levels_plus_1"]

    def read(self) -> tuple[Int[Tensor, "kept"], Int[Tensor, "kept"], list[int]]:
        """The path walked and its a + 1 tokens, on the device, and those tokens as numbers: one copy to the host."""
        accepted, *tokens = torch.cat((self.accepted[None], self.tokens)).tolist()
        return self.path[: accepted + 1], self.tokens[: accepted + 1], tokens[: accepted + 1]


def verify(tree: DraftTree, drawn: Int[Tensor, "nodes"], levels: int) -> Verdict:
    """Walk the tree along the drawn tokens, all nodes at once: no loop over nodes, no copy to the host.

    A node is reached if every node on its path, itself included, carries the token drawn at its parent. Siblings are
    distinct, so at most one node is reached at each depth, and its depth is its place in the output.

    Args:
        tree: the draft tree.
        drawn: y_v, one token per node, drawn from the target after that node.
        levels: the most draft tokens a path can hold (TreeConfig.levels).
    """
    matches = tree.token == drawn[tree.parent]  # (N,)
    matches[0] = True  # the root is text already
    reached = (matches | ~tree.ancestors).all(dim=-1)  # (N,)
    # Unreached nodes are written to a slot of their own, which is cut off.
    slot = torch.where(reached, tree.depth, levels + 1)
    node = torch.arange(len(tree), device=drawn.device)
    path = torch.zeros(levels + 2, dtype=torch.long, device=drawn.device).scatter(0, slot, node)[:-1]
    return Verdict(accepted=reached.sum() - 1, path=path, tokens=drawn[path])


def verify_by_rejection(
    tree: DraftTree,
    p: Callable[[int], Sequence[Any]],
    accept: Callable[[Any], bool],
    draw: Callable[[Sequence[Any]], int],
) -> tuple[list[int], int]:
    """The textbook rule, one node after another: the oracle that `verify` is tested against.

    At each node try the children in turn: accept child c with probability p(c); else set p(c) to zero and
    renormalise. When no child is left, draw from what remains of p. (Leviathan et al. 2211.17192, section 2.3, with a
    draft that puts all its mass on one token at a time.)

    Args:
        tree: the draft tree.
        p: node -> target probabilities after that node, over the vocabulary; exact numbers such as Fractions.
        accept: probability -> a coin's outcome.
        draw: probabilities -> a token.

    Returns:
        the accepted nodes in order, and the bonus token.
    """
    parent, token = tree.parent.tolist(), tree.token.tolist()
    path, node = [], 0
    while True:
        residual = list(p(node))
        child = _first_accepted([v for v in range(1, len(token)) if parent[v] == node], token, residual, accept)
        if child is None:
            return path, draw(residual)
        path.append(child)
        node = child


def _first_accepted(children: list[int], token: list[int], residual: list, accept: Callable[[Any], bool]) -> int | None:
    """The first accepted child; after each rejection `residual` loses that token, in place, and is renormalised."""
    for child in children:
        if accept(residual[token[child]]):
            return child
        residual[token[child]] *= 0
        total = sum(residual)
        residual[:] = [weight / total for weight in residual]
    return None
