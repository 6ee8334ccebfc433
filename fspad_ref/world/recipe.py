"""How the built-in target is trained: every setting of a run, and where a run stands."""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fspad_ref.errors import ConfigError
from fspad_ref.world.model import TargetConfig


@dataclass(frozen=True)
class PretrainConfig:
    """Give `minutes` or `tokens`: learning rate and depth are functions of the share of this budget that is used."""

    out: Path
    minutes: float | None = None
    tokens: int | None = None
    device: str = "cpu"
    seed: int = 0
    resume: bool = False
    initial: Path | None = None  # folder of a finished target to go on from, with dialogues that it has not seen
    target: TargetConfig = field(default_factory=TargetConfig)
    growth: tuple[tuple[float, int], ...] = ((0.0, 24),)  # (share of the budget, layers from then on)
    batch_tokens: int = 2048  # on a short budget more and smaller steps learn more
    row_tokens: int = 256
    prompt_weight: float = 0.1  # of a question's tokens in the loss; an answer's count 1
    matrix_rate: float = 0.012  # Muon's step size
    other_rate: float = 2e-3  # AdamW's, for the embedding and the norms
    weight_decay: float = 0.01  # of the matrices
    warmup: float = 0.02  # share of the budget
    decay: float = 0.7  # share of the budget
    clip: float = 1.0  # gradient norm of what AdamW updates; Muon's step does not depend on the norm
    micro_batches: int = 2  # four rows at a time suit a core's cache; on a GPU give 1
    compile: bool = False  # the layers, by torch.compile: faster, but needs a C++ compiler
    tokenizer_dialogues: int = 6000
    eval_dialogues: int = 96
    eval_minutes: float = 4.0
    checkpoint_minutes: float = 4.0
    workers: int | None = None  # processes that write dialogues; None: none on a CPU, 12 on a GPU

    def __post_init__(self):
        if (self.minutes is None) == (self.tokens is None):
            raise ConfigError(f"expected minutes or tokens, found {self.minutes} and {self.tokens}; give one of them")
        begins, ends = self.growth[0][0] == 0, self.growth[-1][1] == self.target.layers
        if not begins or not ends or list(self.growth) != sorted(self.growth):
            raise ConfigError(
                f"expected growth to begin at share 0 and to end with {self.target.layers} layers, found {self.growth}"
            )
        if self.decay <= 0 or self.warmup < 0 or self.decay + self.warmup > 1:
            raise ConfigError(f"expected 0 < decay and warmup + decay <= 1, found {self.decay} and {self.warmup}")

    def rate(self, share: float) -> float:
        """Learning-rate factor after `share` of the budget: warm-up, constant, linear decay to 0."""
        return max(0.0, min(1.0, (share + 1e-3) / max(self.warmup, 1e-3), (1 - share) / self.decay))

    def layers(self, share: float) -> int:
        """Depth after `share` of the budget."""
        return [layers for start, layers in self.growth if start <= share][-1]

    def settings(self) -> dict:
        """What decides what is learnt, as JSON has it: neither where it is written nor how often it is looked at."""
        free = {"out", "resume", "device", "workers", "micro_batches", "compile"}
        free |= {"eval_minutes", "eval_dialogues", "checkpoint_minutes"}
        settings = {k: v for k, v in asdict(self).items() if k not in free}
        initial = str(self.initial) if self.initial else None
        return {**settings, "initial": initial, "growth": [list(step) for step in self.growth]}


@dataclass
class Progress:
    """Where a run stands: all that a resumed run needs besides weights and optimizer."""

    batch: int = 0  # the next one's number in the stream
    first: int = 0  # the first one's: above 0 where the run goes on from a finished target
    batch_size: int = 0  # dialogues
    tokens: int = 0
    answer_tokens: int = 0
    dialogues: int = 0
    seconds: float = 0.0
    loss: float = math.nan  # running mean

    def share(self, config: PretrainConfig) -> float:
        """Share of the budget that is used."""
        return self.tokens / config.tokens if config.tokens else self.seconds / 60 / config.minutes
