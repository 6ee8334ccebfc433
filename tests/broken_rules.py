"""Verification rules that people write and that are not lossless, each with the one line that breaks it.

They exist to be caught. `Textbook` is the right rule with its three decisions as methods; every broken rule overrides
one of them. All of them run on exact numbers: `choose(weights)` returns an index with probability weights[index].

    context.tree       the draft tree
    context.p(v)       the target's probabilities after node v: processed, that is with temperature
    context.raw(v)     the same before processing
    context.q(v)       the draft's probabilities after node v
"""

from fractions import Fraction

from fspad_ref.teaching.exact import normalised


class Textbook:
    """Accept child c with probability p(c), else zero p(c) and renormalise; at the end draw from what is left.

    Not broken: the pattern that the others deviate from, and the control that the pattern itself is right.
    """

    def __init__(self, context, choose):
        self.context, self.choose = context, choose
        self.token, self.parent = context.tree.token.tolist(), context.tree.parent.tolist()

    def emit(self) -> list[int]:
        """One round: the accepted tokens, then the bonus token."""
        node, emitted = 0, []
        while True:
            residual = list(self.context.p(node))
            for child in (v for v in range(1, len(self.token)) if self.parent[v] == node):
                if self.coin(self.chance(node, child, residual)):
                    break
                residual = self.after_rejection(node, child, residual)
            else:
                return [*emitted, self.choose(self.bonus(node, residual))]
            emitted.append(self.token[child])
            node = child

    def coin(self, chance: Fraction) -> bool:
        return self.choose([chance, 1 - chance]) == 0

    # The three decisions.

    def chance(self, node: int, child: int, residual: list) -> Fraction:
        """Probability of accepting `child`."""
        return residual[self.token[child]]

    def after_rejection(self, node: int, child: int, residual: list) -> list:
        """The target's law, given that `child` was not accepted."""
        return normalised([0 if token == self.token[child] else weight for token, weight in enumerate(residual)])

    def bonus(self, node: int, residual: list) -> list:
        """The law of the round's last token."""
        return residual


class BonusFromRawLogits(Textbook):
    """The bonus token misses the temperature: it is drawn from the unprocessed logits (rejected children left out)."""

    def bonus(self, node, residual):
        raw = self.context.raw(node)
        return normalised([weight if residual[token] else 0 for token, weight in enumerate(raw)])


class NoRenormalisation(Textbook):
    """A rejected child is zeroed, but its probability is not handed to the others: later siblings come too seldom.

    At the end a sampler normalises by itself, which hides the fault; where all is rejected it starts again from p.
    """

    def after_rejection(self, node, child, residual):
        return [Fraction(0) if token == self.token[child] else weight for token, weight in enumerate(residual)]

    def bonus(self, node, residual):
        return normalised(residual if any(residual) else self.context.p(node))


class RejectedChildStays(Textbook):
    """A rejected child keeps its probability, and so has a second chance as the bonus token."""

    def after_rejection(self, node, child, residual):
        return residual


class ScoredAgainstSoftmax(Textbook):
    """min(1, p/q) and max(p - q, 0), right for a child *sampled* from q - but these children were picked, not drawn."""

    def chance(self, node, child, residual):
        token = self.token[child]
        return min(Fraction(1), residual[token] / self.context.q(node)[token])

    def after_rejection(self, node, child, residual):
        return normalised([max(p - q, 0) for p, q in zip(residual, self.context.q(node), strict=True)])


class OneUniformForAllSiblings(Textbook):
    """All siblings are compared with the same uniform number u.

    A rejection at threshold t says u >= t. So the next sibling, with threshold s, is accepted with probability
    (s - t) / (1 - t), or 0 where s < t: not with s. That conditional probability makes the rule exactly enumerable.
    """

    def emit(self):
        self.at_node, self.least = None, Fraction(0)
        return super().emit()

    def chance(self, node, child, residual):
        if node != self.at_node:  # a new u for every node
            self.at_node, self.least = node, Fraction(0)
        threshold, least = residual[self.token[child]], self.least
        self.least = max(least, threshold)
        return max(threshold - least, Fraction(0)) / (1 - least) if least < 1 else Fraction(0)


class SampledChildren(ScoredAgainstSoftmax):
    """Two children of the root drawn from q one after another, scored against q: right, and here as a control."""

    def emit(self):
        node, residual = 0, list(self.context.p(0))
        for token in self.children():
            self.token = [None, token]  # child number 1 carries it
            if self.coin(self.chance(node, 1, residual)):
                return [token]
            residual = self.after_rejection(node, 1, residual)
        return [self.choose(residual)]

    def children(self) -> list[int]:
        q = self.context.q(0)
        return [self.choose(q), self.choose(q)]


class SampledThenReranked(SampledChildren):
    """Of the two sampled children only the one with the larger q is kept: it is no longer a draw from q."""

    def children(self):
        q = self.context.q(0)
        return [max(super().children(), key=lambda token: q[token])]


BROKEN_RULES = (
    BonusFromRawLogits,
    NoRenormalisation,
    RejectedChildStays,
    ScoredAgainstSoftmax,
    SampledThenReranked,
    OneUniformForAllSiblings,
)
