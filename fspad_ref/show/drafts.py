"""`python -m fspad_ref train`: train one draft, or the four of the ablation together, for a target."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from tqdm.auto import tqdm

from fspad_ref.batches import Encoded
from fspad_ref.checkpoint import load_json, save_json
from fspad_ref.corpus import CATEGORIES, Dialogue, prompt_ids, read_dialogues
from fspad_ref.draft import KINDS, Draft, DraftConfig
from fspad_ref.errors import ConfigError, InputError
from fspad_ref.resume import TrainRecord
from fspad_ref.target import Target
from fspad_ref.train import TrainConfig, train

Kind = Literal["eagle", "fs", "pad", "fspad"]


@dataclass(frozen=True)
class DraftsConfig:
    """Train drafts of one target on the same dialogues, in the same order, with the same noise.

    Writes OUT/KIND/{config.json, model.safetensors, training.json}. Ctrl-C stops it, --resume goes on.
    """

    kinds: tuple[Kind, ...] = ("fspad",)
    """Which drafts: eagle (EAGLE-2's), fs (feature sampling only), pad (partial alignment only), fspad (both)."""
    out: Path = Path("out/drafts")
    """Folder for checkpoints and the trained drafts."""
    resume: bool = False
    """Go on from the checkpoint in OUT."""
    target: str = "data/target"
    """Folder or Hub id of the target, a Hugging Face causal language model."""
    data: Path | None = None
    """Dialogues, JSON or JSONL in ShareGPT's or the messages format; None takes those of the built-in world."""
    dialogues: int = 40_000
    """How many dialogues of the built-in world."""
    own_answers: int = 0
    """How many more dialogues whose answers the target writes itself, half of them at T=0 and half at T=1."""
    held_out: int = 18
    """Prompts, never trained on, to measure tau on."""
    device: str = "cpu"
    """Where to compute: cpu, cuda, cuda:1, ..."""
    dtype: Literal["float64", "float32"] = "float32"
    """Precision of weights and arithmetic."""
    training: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise ConfigError(f"expected kinds to name different drafts, found {self.kinds}; name each once")


def train_drafts(config: DraftsConfig) -> TrainRecord:
    """Load the target, make or read the dialogues, train, and say where the drafts are."""
    target = load_target(config.target, config.device, config.dtype)
    dialogues, prompts = from_file(config, target) if config.data else from_world(config, target)
    drafts = {kind: new_draft(kind, target, config.training.seed) for kind in config.kinds}
    with tqdm(total=config.training.steps, unit="step") as bar:
        record = train(target, drafts, dialogues, config.training, progress(bar), prompts=prompts,
                       out=config.out, resume=config.resume)  # fmt: skip
    for kind in config.kinds:
        step, tau = record.best.get(kind, (record.step, float("nan")))
        print(f"{kind:5}  tau {tau:.2f} on {len(prompts)} held-out prompts after step {step}: {config.out / kind}")
    return record


def load_target(path: str, device: str = "cpu", dtype: str = "float32") -> Target:
    """Target.from_pretrained; a built-in target that is not there is said to be so, not looked for on the Hub."""
    if Path(path).parts[:1] == ("data",) and not Path(path).is_dir():
        raise InputError(f"expected the built-in target in {path}, found no such folder in {Path.cwd()}; "
                          "run from the repository's top folder, or name another target")  # fmt: skip
    return Target.from_pretrained(path, device=device, dtype=dtype)


def new_draft(kind: Kind, target: Target, seed: int = 0) -> Draft:
    """A fresh draft of that kind; equal seeds start the parts that kinds share from the same distribution."""
    sampling, alignment = KINDS[kind]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Draft(DraftConfig(feature_sampling=sampling, partial_alignment=alignment), target)


def progress(bar: tqdm) -> Callable[[TrainRecord], None]:
    """A callback for `train` that shows on `bar` the loss of every draft, and its tau once that has been measured."""

    def on_step(record: TrainRecord) -> None:
        states = []
        for name, loss in record.loss.items():
            tau = f", tau {record.tau[name][-1][1]:.2f}" if record.tau[name] else ""
            states.append(f"{name}: loss {sum(loss[-20:]) / len(loss[-20:]):.3f}{tau}")
        bar.set_postfix_str("  ".join(states), refresh=False)
        bar.update(record.step - bar.n)

    return on_step


class WorldDialogues(Sequence):
    """`count` training dialogues of the built-in world's six tasks, written when asked for."""

    def __init__(self, count: int, seed: int = 0) -> None:
        self.count, self.seed = count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Dialogue:
        from fspad_ref.world.stream import dialogue, place_of_task

        return Dialogue(dialogue(self.seed, place_of_task(index)).turns)


class Joined(Sequence):
    """Two sequences, one after the other, without copying either."""

    def __init__(self, first: Sequence, second: Sequence) -> None:
        self.first, self.second = first, second

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __getitem__(self, index: int) -> Dialogue | Encoded:
        return self.first[index] if index < len(self.first) else self.second[index - len(self.first)]


def from_world(config: DraftsConfig, target: Target) -> tuple[Sequence[Dialogue | Encoded], list[list[int]]]:
    """Dialogues of the built-in world, the target's own answers to more of its questions, and held-out prompts."""
    from fspad_ref.world.stream import dialogue

    world = WorldDialogues(config.dialogues, config.training.seed)
    asked = [dialogue(0, index, held=True).turns[0][0] for index in range(config.held_out)]
    prompts = [prompt_ids(target.tokenizer, [], question) for question in asked]
    if not config.own_answers:
        return world, prompts
    return Joined(world, answers_of(target, config)), prompts


def answers_of(target: Target, config: DraftsConfig) -> list[Encoded]:
    """The target's own answers to the questions that follow the corpus; kept in a file, so that --resume finds them."""
    from fspad_ref.world.answers import own_answers
    from fspad_ref.world.stream import dialogue, place_of_task

    path = config.out / "answers.json"
    seed = config.training.seed
    asked = {"target": config.target, "first": config.dialogues, "count": config.own_answers, "seed": seed}
    if path.exists() and (kept := load_json(path))["asked"] == asked:
        return [(ids, [place >= begin for place in range(len(ids))]) for ids, begin in kept["answers"]]
    indices = range(config.dialogues, config.dialogues + config.own_answers)
    questions = [[question for question, _ in dialogue(seed, place_of_task(i)).turns] for i in indices]
    half = len(CATEGORIES) * round(len(questions) / 2 / len(CATEGORIES))  # so that both halves hold all tasks alike
    answers = own_answers(target, questions[:half]) + own_answers(target, questions[half:], temperature=1.0)
    save_json(path, {"asked": asked, "answers": [[ids, mask.index(True)] for ids, mask in answers]})
    return answers


def from_file(config: DraftsConfig, target: Target) -> tuple[Sequence[Dialogue], list[list[int]]]:
    """The dialogues of a file; the last `held_out` of them, at most a tenth, only give prompts to measure tau on."""
    dialogues = read_dialogues(config.data)
    held = min(config.held_out, max(1, len(dialogues) // 10))
    prompts = [prompt_ids(target.tokenizer, [], one.turns[0][0]) for one in dialogues[-held:]]
    return dialogues[:-held], prompts
