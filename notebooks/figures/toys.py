"""Draft trees small enough to enumerate, made of a table of guesses instead of a trained draft.

>>> tree = tree_of_guesses(0, {0: [2, 3], 2: [1]}, levels=2)
>>> tree.token.tolist(), tree.parent.tolist(), tree.depth.tolist()
([0, 2, 3, 1], [0, 0, 0, 1], [0, 1, 1, 2])
"""

from collections.abc import Mapping, Sequence

import torch

from fspad_ref.tree import DraftTree, ancestors


def tree_of_guesses(root: int, guesses: Mapping[int, Sequence[int]], levels: int) -> DraftTree:
    """Under every node that carries token w hang the tokens guesses[w], `levels` levels deep, in level order.

    All scores are 0: they decide which nodes a tree holds, and verification does not read them.
    """
    token, parent, depth = [root], [0], [0]
    for node, word in enumerate(token):  # grows while we walk it
        for guess in guesses.get(word, ()) if depth[node] < levels else ():
            token.append(guess)
            parent.append(node)
            depth.append(depth[node] + 1)
    token, parent, depth = (torch.tensor(column) for column in (token, parent, depth))
    return DraftTree(token, parent, depth, torch.zeros(len(token)), ancestors(parent, levels))
