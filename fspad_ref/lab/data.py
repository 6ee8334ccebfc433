"""What drafts are trained on in a study: dialogues of the built-in world, and answers that the target writes itself."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fspad_ref.batches import Encoded
from fspad_ref.checkpoint import load_json, save_json
from fspad_ref.corpus import CATEGORIES, Dialogue, read_dialogues
from fspad_ref.lab.provenance import digest, fingerprint
from fspad_ref.target import Target


def training_data(
    target: Target, file: Path | None, dialogues: int, own_answers: int, seed: int, cache: Path
) -> list[Dialogue | Encoded]:
    """The dialogues of a file; or without one, so many of the built-in world, and the target's answers to more.

    Half of those answers are greedy, half sampled at T=1. They are kept below `cache`, which other targets may share.
    """
    if file is not None:
        return list(read_dialogues(file))
    from fspad_ref.world.stream import dialogue, place_of_task  # dialogues of other targets need no world

    world = [dialogue(seed, place_of_task(index)).turns for index in range(dialogues + own_answers)]
    asked = [[question for question, _ in turns] for turns in world[dialogues:]]
    return [Dialogue(turns) for turns in world[:dialogues]] + _answers(target, asked, cache)


def _answers(target: Target, asked: Sequence[Sequence[str]], cache: Path) -> list[Encoded]:
    from fspad_ref.world.answers import own_answers

    if not asked:
        return []
    key = {"weights": fingerprint(target.model), "dtype": str(target.dtype), "asked": asked}
    file = cache / f"answers-{digest(key)}.json"
    if not file.exists():
        # both halves hold all tasks alike
        half = len(CATEGORIES) * round(len(asked) / 2 / len(CATEGORIES))
        answers = own_answers(target, asked[:half]) + own_answers(target, asked[half:], temperature=1.0)
        save_json(file, [[list(ids), list(mask).index(True)] for ids, mask in answers])
    return [(ids, [place >= begin for place in range(len(ids))]) for ids, begin in load_json(file)]


class RememberingTarget(Target):
    """A target that remembers the features of the rows it has seen: seeds that train on the same dialogues share them.

    Features of a row do not depend on what it is padded with, since padding stands on the right of causal attention;
    here they come back as zeros, where no loss and no attention of a real token looks. Padding is taken to be the zeros
    at a row's end, so this is for texts that do not end in token 0, as those of the built-in world never do.
    Memory: D numbers a token.
    """

    def __init__(self, target: Target, most: int = 4_000_000_000):
        self.__dict__ |= vars(target)
        self.rows: dict[bytes, Tensor] = {}
        self.room = most  # bytes left

    @torch.no_grad()
    def features(self, input_ids: Tensor, attention_mask: Tensor | None = None, cache=None) -> Tensor:
        """As `Target.features`; without mask and cache, from memory if every row is there."""
        if attention_mask is not None or cache is not None:
            return super().features(input_ids, attention_mask, cache)
        lengths = [int(row.nonzero().max()) + 1 if row.any() else len(row) for row in input_ids]
        names = [row[:length].cpu().numpy().tobytes() for row, length in zip(input_ids, lengths, strict=True)]
        if not all(name in self.rows for name in names):
            features = super().features(input_ids)
            for name, row, length in zip(names, features, lengths, strict=True):
                if name not in self.rows and self.room >= row[:length].nbytes:
                    self.rows[name] = row[:length].cpu().clone()
                    self.room -= self.rows[name].nbytes
            return features
        padded = torch.zeros(*input_ids.shape, self.config.hidden_size, dtype=self.dtype)
        for place, (name, length) in enumerate(zip(names, lengths, strict=True)):
            padded[place, :length] = self.rows[name]
        return padded.to(self.device)
