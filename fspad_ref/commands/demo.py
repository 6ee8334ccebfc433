"""`python -m fspad_ref demo`: from a prompt to a plot, in about five minutes on two cores.

1. one answer of the built-in target, its tokens marked by who proposed them
2. an EAGLE-2 and an FSPAD draft trained live, from nothing, on the same batches
3. held-out questions of all six tasks decoded without a draft, and with four: two just trained, two shipped
4. a table, three figures, and results.json
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from matplotlib.figure import Figure
from tqdm.auto import tqdm

from fspad_ref.bench.bench import Summary, choose_questions, decode_questions, summarize, table
from fspad_ref.bench.record import jsonable, provenance
from fspad_ref.bench.study import new_draft
from fspad_ref.commands.train import WorldDialogues, load_target, progress
from fspad_ref.data import CATEGORIES, prompt_ids, read_questions
from fspad_ref.draft import Draft
from fspad_ref.files import save_atomic, save_json
from fspad_ref.generate import speculative_generate
from fspad_ref.resume import TrainRecord
from fspad_ref.target import Target
from fspad_ref.teaching.exercises import mark, pieces, style_for, token_kinds
from fspad_ref.train import TrainConfig, train
from fspad_ref.tree import TreeConfig
from fspad_ref.viz.style import (
    Curve,
    Measure,
    acceptance_bars,
    acceptance_claim,
    speedup_bars,
    speedup_claim,
    training_claim,
    training_curves,
)

LIVE = {"EAGLE-2 (live)": "eagle", "FSPAD (live)": "fspad"}
SHIPPED = {"EAGLE-2": "eagle", "FSPAD": "fspad"}


@dataclass(frozen=True)
class DemoConfig:
    """Train two drafts, decode with and without them, print tau and speedup, draw figures."""

    target: str = "data/old/target"
    """The built-in target."""
    drafts: Path = Path("data/old/drafts")
    """Folder of the shipped drafts."""
    questions: Path = Path("data/old/questions.jsonl")
    """Held-out questions in Spec-Bench's format."""
    per_task: int = 3
    """Questions a task and temperature."""
    temperatures: tuple[float, ...] = (0.0, 1.0)
    """Sampling temperatures."""
    tree: TreeConfig = field(default_factory=lambda: TreeConfig(top_k=8, depth=4, total_tokens=32))
    training: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            steps=150,
            tokens_per_batch=512,
            learning_rate=6e-3,
            warmup_steps=30,
            evaluate_every=50,
            checkpoint_every=0,
            seed=1,
        )
    )
    out: Path = Path("out")
    """Where figures and results go."""


def demo(config: DemoConfig) -> None:
    """Run the four steps; every figure printed is measured here and now."""
    began = time.monotonic()
    target = load_target(config.target)
    questions = choose_questions(read_questions(config.questions), CATEGORIES, config.per_task)
    shipped = {name: Draft.from_pretrained(config.drafts / kind, target) for name, kind in SHIPPED.items()}

    print("1. One answer. Tokens that the draft proposed and the target accepted are underlined or in ‹ ›.\n")
    show_answer(target, shipped["FSPAD"], questions[0].turns[0], config.tree)

    print(f"\n2. Two drafts, trained from nothing for {config.training.steps} steps on the same batches.\n")
    live, record = train_live(target, config)

    print("\n3. Held-out questions of the six tasks, with and without drafts.\n")
    answers = decode_questions(
        target, live | shipped, questions, temperatures=config.temperatures, tree=config.tree, max_new_tokens=64
    )
    summaries = summarize(answers)
    print(table(summaries))
    print("\n" + verdict(summaries))

    print("\n4. Figures.\n")
    files = draw(summaries, record, config.out)
    save_json(
        config.out / "results.json",
        {
            "provenance": provenance(target),
            "config": jsonable(config),
            "summary": [asdict(row) for row in summaries],
            "answers": [asdict(answer) for answer in answers],
            "training": {name: record.of(name) for name in record.loss},
        },
    )
    print("\n".join(f"{path}\n    {text}" for path, text in files.items()))
    print(f"{config.out / 'results.json'}\n    All numbers, with machine and versions.")
    print(f"\nDone in {(time.monotonic() - began) / 60:.1f} minutes.")


def show_answer(target: Target, draft: Draft, question: str, tree: TreeConfig) -> None:
    """Print a question and its greedy answer, tokens marked by who proposed them."""
    ids = prompt_ids(target.tokenizer, [], question)
    result = speculative_generate(
        target, draft, ids, max_new_tokens=96, eos_token_id=target.tokenizer.eos_token_id, tree=tree
    )
    style = style_for(sys.stdout)
    kinds = token_kinds(len(result.tokens), result.accepted)
    print(
        f"{question}\n-> {mark(pieces(target.tokenizer, result.tokens), kinds, 'marks' if style == 'plain' else style)}"
    )
    print(
        f"{len(result.tokens)} tokens in {len(result.accepted)} target forwards after the prompt: "
        f"tau = {result.tau:.2f}. Plain decoding has tau = 1."
    )


def train_live(target: Target, config: DemoConfig) -> tuple[dict[str, Draft], TrainRecord]:
    """Fresh EAGLE-2 and FSPAD drafts after a short training; tau is watched on held-out prompts."""
    from fspad_ref.world.stream import further_questions

    drafts = {name: new_draft(kind, target, config.training.seed) for name, kind in LIVE.items()}
    prompts = [prompt_ids(target.tokenizer, [], question) for question in further_questions(len(CATEGORIES), seed=7)]
    dialogues = WorldDialogues(2_000, seed=config.training.seed)
    with tqdm(total=config.training.steps, desc="train", unit="step") as bar:
        record = train(target, drafts, dialogues, config.training, progress(bar), prompts=prompts)
    return drafts, record


def verdict(summaries: Sequence[Summary]) -> str:
    """What the means say, of the shipped drafts and of identity, in words computed from them."""
    lines = []
    for temperature in dict.fromkeys(row.temperature for row in summaries):
        mean = {row.method: row for row in summaries if row.task == "mean" and row.temperature == temperature}
        gain = mean["FSPAD"].tau / mean["EAGLE-2"].tau - 1
        lines.append(
            f"T={temperature:g}: the shipped FSPAD draft's mean tau is {abs(gain):.1%} "
            f"{'above' if gain > 0 else 'below'} the shipped EAGLE-2 draft's, "
            f"and decoding is {mean['FSPAD'].speedup:.2f} times as fast as without a draft."
        )
    identical, total = (
        sum(getattr(row, key) for row in summaries if row.task == "mean") for key in ("identical", "answers")
    )
    lines.append(f"The text is plain decoding's in {identical} of {total} answers.")
    return "\n".join(lines)


def draw(summaries: Sequence[Summary], record: TrainRecord, out: Path) -> dict[Path, str]:
    """Write the three PNGs, each atomically; returns path -> what the figure shows."""
    speculative = [row for row in summaries if row.method != "vanilla"]
    taus = [Measure(r.task, r.method, r.temperature, r.tau, r.tau_low, r.tau_high) for r in speculative]
    speedups = [Measure(r.task, r.method, r.temperature, r.speedup, r.speedup_low, r.speedup_high) for r in speculative]
    curves = {
        name: Curve(range(1, len(loss) + 1), loss, *zip(*record.tau[name], strict=True))
        for name, loss in record.loss.items()
    }
    figures: dict[str, tuple[Figure, str]] = {
        "acceptance.png": (acceptance_bars(taus), acceptance_claim(taus, "FSPAD", "EAGLE-2")),
        "speedup.png": (speedup_bars(speedups), speedup_claim(speedups, "FSPAD")),
        "training.png": (training_curves(curves), training_claim(curves)),
    }
    for name, (figure, _) in figures.items():
        save_atomic(out / name, lambda partial, figure=figure: figure.savefig(partial, format="png"))
    return {out / name: text for name, (_, text) in figures.items()}
