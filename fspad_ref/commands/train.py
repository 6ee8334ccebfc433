"""`python -m fspad_ref train`: train one draft, or the four of the ablation together, for a target.

In several processes: `accelerate launch --multi_gpu -m fspad_ref train --device cuda ...`, or --use_fsdp.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tqdm.auto import tqdm

from fspad_ref.bench.study import answered, new_draft, world_dialogues
from fspad_ref.data import CATEGORIES, AnswerConfig, Dialogue, Encoded, prompt_ids, read_dialogues
from fspad_ref.errors import ConfigError, InputError
from fspad_ref.processes import Processes
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
    target: str = "data/old/target"
    """Folder or Hub id of the target, a Hugging Face causal language model."""
    data: Path | None = None
    """Dialogues, JSON or JSONL in ShareGPT's or the messages format; None takes those of the built-in world."""
    dialogues: int = 40_000
    """How many dialogues of the built-in world."""
    own_answers: int = 0
    """Dialogues whose answers the target writes itself: so many of the file's, or so many more of the built-in world.
    They are kept in OUT, and a run that was interrupted goes on with the next ones."""
    answers: AnswerConfig = field(default_factory=AnswerConfig)
    held_out: int = 18
    """Prompts, never trained on, to measure tau on."""
    chat_format: str | None = None
    """The target's prompt format if it brings no chat template: vicuna. None takes the target's own template."""
    device: str = "cpu"
    """Where to compute: cpu, cuda, cuda:1, ..."""
    device_map: str | None = None
    """auto: spread a target that is too large for one GPU over all of them, in one process."""
    dtype: Literal["float64", "float32", "bfloat16"] = "float32"
    """Precision of the target. For one in bfloat16 drafts learn in float32 and are saved in bfloat16."""
    training: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise ConfigError(f"expected kinds to name different drafts, found {self.kinds}; name each once")
        for name in ("own_answers", "held_out"):
            if getattr(self, name) < 0:
                raise ConfigError(f"expected {name} of at least 0, found {getattr(self, name)}; choose 0 or more")


def train_drafts(config: DraftsConfig) -> TrainRecord:
    """Load the target, make or read the dialogues, train, and say where the drafts are and how fast that was."""
    from fspad_ref.parallel import launched  # only now, as it brings all that torch has for many machines

    processes = launched(config.device, config.dtype)
    try:
        return _train_drafts(config, processes)
    finally:
        processes.close()


def _train_drafts(config: DraftsConfig, processes: Processes) -> TrainRecord:
    target = load_target(config.target, processes.device, config.dtype, config.chat_format, config.device_map)
    dialogues, prompts = (from_file if config.data else from_world)(config, target, processes)
    drafts = {kind: new_draft(kind, target, config.training.seed) for kind in config.kinds}
    with tqdm(total=config.training.steps, unit="step", disable=not processes.main) as bar:
        record = train(target, drafts, dialogues, config.training, progress(bar), prompts=prompts,
                       out=config.out, resume=config.resume, processes=processes)  # fmt: skip
    if processes.main:
        for kind in config.kinds:
            step, tau = record.best.get(kind, (record.step, float("nan")))
            print(f"{kind:5}  tau {tau:.2f} on {len(prompts)} held-out prompts after step {step}: {config.out / kind}")
        print(f"{pace(record)} ({processes.number} process{'es' * (processes.number > 1)})")
    return record


def load_target(
    path: str,
    device: str = "cpu",
    dtype: str = "float32",
    chat_format: str | None = None,
    device_map: str | None = None,
) -> Target:
    """Target.from_pretrained; a built-in target that is not there is said to be so, not looked for on the Hub."""
    if Path(path).parts[:1] == ("data",) and not Path(path).is_dir():
        raise InputError(f"expected the built-in target in {path}, found no such folder in {Path.cwd()}; "
                          "run from the repository's top folder, or name another target")  # fmt: skip
    spread = {"device_map": device_map} if device_map else {}
    return Target.from_pretrained(path, device=device, dtype=dtype, chat_format=chat_format, **spread)


def pace(record: TrainRecord) -> str:
    """How fast a training is, and what the frozen target takes of its time."""
    return f"{record.tokens_per_second:,.0f} tokens/s, {record.target_share:.0%} of the time in the frozen target"


def progress(bar: tqdm) -> Callable[[TrainRecord], None]:
    """A callback for `train` that shows on `bar` the loss of every draft, and its tau once that has been measured."""

    def on_step(record: TrainRecord) -> None:
        states = []
        for name, loss in record.loss.items():
            tau = f", tau {record.tau[name][-1][1]:.2f}" if record.tau[name] else ""
            states.append(f"{name}: loss {sum(loss[-20:]) / len(loss[-20:]):.3f}{tau}")
        bar.set_postfix_str("  ".join([*states, pace(record)]), refresh=False)
        bar.update(record.step - bar.n)

    return on_step


class WorldDialogues(Sequence):
    """`count` training dialogues of the built-in world's six tasks, written when asked for."""

    def __init__(self, count: int, seed: int = 0) -> None:
        self.count, self.seed = count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Dialogue:
        return world_dialogues([index], self.seed)[0]


class Joined(Sequence):
    """Two sequences, one after the other, without copying either."""

    def __init__(self, first: Sequence, second: Sequence) -> None:
        self.first, self.second = first, second

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __getitem__(self, index: int) -> Dialogue | Encoded:
        return self.first[index] if index < len(self.first) else self.second[index - len(self.first)]


def from_world(
    config: DraftsConfig, target: Target, processes: Processes
) -> tuple[Sequence[Dialogue | Encoded], list[list[int]]]:
    """Dialogues of the built-in world, the target's own answers to more of its questions, and held-out prompts."""
    from fspad_ref.world.stream import further_questions

    seed, first = config.training.seed, config.dialogues
    world = WorldDialogues(first, seed)
    prompts = [prompt_ids(target.tokenizer, [], question) for question in further_questions(config.held_out)]
    more = world_dialogues(range(first, first + config.own_answers), seed)
    own = answered(target, more, config.answers, config.out, group=len(CATEGORIES), processes=processes)
    return Joined(world, own), prompts


def from_file(
    config: DraftsConfig, target: Target, processes: Processes
) -> tuple[Sequence[Dialogue | Encoded], list[list[int]]]:
    """The dialogues of a file, the first ones with answers of the target's own; the last `held_out` of them, at most a
    tenth, only give prompts to measure tau on."""
    dialogues = read_dialogues(config.data)
    held = min(config.held_out, max(1, len(dialogues) // 10))
    learnt, kept = dialogues[: len(dialogues) - held], dialogues[len(dialogues) - held :]
    if config.own_answers > len(learnt):
        raise InputError(
            f"expected own_answers of at most the {len(learnt)} dialogues of {config.data} to train on, found "
            f"{config.own_answers}. Choose fewer, or give a file with more."
        )
    prompts = [prompt_ids(target.tokenizer, [], one.turns[0][0], one.system) for one in kept]
    own = answered(target, learnt[: config.own_answers], config.answers, config.out, chunk=4 * config.answers.batch,
                   processes=processes)  # fmt: skip
    return Joined(learnt[config.own_answers :], own), prompts
