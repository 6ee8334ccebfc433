"""What drafts are trained on: dialogues of a file or of the built-in world, and the target's own answers to some."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fspad_ref.answers import AnswerConfig, own_answers
from fspad_ref.batches import Encoded
from fspad_ref.corpus import CATEGORIES, Dialogue, read_dialogues
from fspad_ref.lab.provenance import digest, fingerprint, kept
from fspad_ref.processes import Processes
from fspad_ref.target import Target


def training_data(
    target: Target, file: Path | None, dialogues: int, own_answers: int, seed: int, cache: Path
) -> list[Dialogue | Encoded]:
    """The dialogues of a file; or without one, so many of the built-in world, and the target's answers to more.

    Half of those answers are greedy, half sampled at T=1. They are kept below `cache`, which other targets may share.
    """
    if file is not None:
        return list(read_dialogues(file))
    world = world_dialogues(range(dialogues + own_answers), seed)
    return world[:dialogues] + answered(target, world[dialogues:], AnswerConfig(), cache, group=len(CATEGORIES))


def world_dialogues(indices: Sequence[int], seed: int) -> list[Dialogue]:
    """Training dialogues of the built-in world's six tasks, which take turns."""
    from fspad_ref.world.stream import dialogue, place_of_task  # dialogues of other targets need no world

    return [Dialogue(dialogue(seed, place_of_task(index)).turns) for index in indices]


def answered(
    target: Target,
    asked: Sequence[Dialogue],
    settings: AnswerConfig,
    folder: Path,
    *,
    chunk: int | None = None,
    group: int = 1,
    processes: Processes | None = None,
) -> list[Encoded]:
    """The target's own answers to the questions of dialogues, whose answers play no part: one text a turn.

    chunk: dialogues a file below `folder`, so that an interrupted run goes on with the next file; None: one file a
        temperature. What is in a file is not asked again.
    group: dialogues of so many kinds take turns, and every temperature gets whole rounds of them.
    processes: those that share the work; all must see the folder.
    """
    if not asked:
        return []
    processes = processes or Processes()
    template = hashlib.sha256(repr(getattr(target.tokenizer, "chat_template", None)).encode()).hexdigest()[:16]
    about = {"weights": fingerprint(target.model), "dtype": str(target.dtype), "template": template,
             "max_new_tokens": settings.max_new_tokens, "top_k": 0, "top_p": 1.0, "batch": settings.batch}  # fmt: skip
    jobs = _jobs(asked, settings, chunk, group)

    def done(temperature: float, seed: int, dialogues: Sequence[Dialogue]) -> list[Encoded]:
        questions = [(one.system, [user for user, _ in one.turns]) for one in dialogues]
        text = hashlib.sha256(repr(questions).encode()).hexdigest()
        key = {**about, "temperature": temperature, "seed": seed, "dialogues": len(dialogues), "questions": text}

        def make() -> dict[str, list]:
            systems, conversations = zip(*questions, strict=True)
            found = own_answers(target, conversations, temperature, settings.max_new_tokens, settings.batch, seed,
                                systems=systems, quiet=not processes.main)  # fmt: skip
            return {"answers": [[list(ids), list(mask).index(True)] for ids, mask in found]}

        found = kept(folder / f"answers-{digest(key)}.json", key, make)["answers"]
        return [(ids, [place >= begin for place in range(len(ids))]) for ids, begin in found]

    for job in jobs[processes.rank :: processes.number]:
        done(*job)
    processes.wait()
    return [text for job in jobs for text in done(*job)]


def _jobs(
    asked: Sequence[Dialogue], settings: AnswerConfig, chunk: int | None, group: int
) -> list[tuple[float, int, Sequence[Dialogue]]]:
    """(temperature, seed, dialogues) of every file, temperature after temperature."""
    parts, jobs = len(settings.temperatures), []
    ends = [group * round(len(asked) * part / parts / group) for part in range(parts)] + [len(asked)]
    for temperature, begin, end in zip(settings.temperatures, ends, ends[1:], strict=False):
        for number, start in enumerate(range(begin, end, chunk or max(1, end - begin))):
            seed = settings.seed + 1000 * number  # the seeds between are those of later turns
            jobs.append((temperature, seed, asked[start : min(end, start + (chunk or end))]))
    return jobs


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
