"""`python -m fspad_ref demo`: from a prompt to a plot, in about five minutes on two cores.

1. show one answer, with the tokens that the draft proposed marked
2. train an EAGLE-2 draft and an FSPAD draft from scratch, on the same batches
3. decode held-out questions of all tasks without a draft, with the two new drafts, and with two trained for longer
4. print tau and speedup, draw them, write results.json
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from fspad_ref.bench.bench import PLAIN, Summary, choose_questions, decode_questions, summarize, table
from fspad_ref.bench.record import provenance
from fspad_ref.commands.generate import print_marked
from fspad_ref.commands.train import load_target, progress
from fspad_ref.data import CATEGORIES, prompt_ids, read_dialogues, read_questions
from fspad_ref.draft import KINDS, Draft, DraftConfig
from fspad_ref.files import save_json
from fspad_ref.generate import speculative_generate
from fspad_ref.target import Target
from fspad_ref.teaching.exercises import Pieces, style_for
from fspad_ref.train import TrainConfig, TrainRecord, train
from fspad_ref.tree import TreeConfig
from fspad_ref.viz.style import CYCLE, HATCHES, MARKERS, styled

DRAFTS = {"EAGLE-2": "eagle", "FSPAD": "fspad"}
HELD_OUT = 6  # dialogues whose prompts measure tau during training


@dataclass(frozen=True)
class DemoConfig:
    """Train two drafts, decode with and without them, print tau and speedup, draw figures."""

    data: Path = Path("data/old")
    """Folder of the target, its drafts, dialogues to train on (the last ones are held out), and questions."""
    per_task: int = 3
    """Questions per task."""
    temperatures: tuple[float, ...] = (0.0, 1.0)
    """Sampling temperatures."""
    tree: TreeConfig = TreeConfig(top_k=8, depth=4, total_tokens=32)
    training: TrainConfig = TrainConfig(steps=150, tokens_per_batch=512, learning_rate=6e-3, warmup_steps=30,
                                        evaluate_every=50, checkpoint_every=0, seed=1)  # fmt: skip
    out: Path = Path("out")
    """Where figures and results.json go."""


def demo(config: DemoConfig) -> None:
    """Run the four steps. Every number is measured now, on this machine."""
    began = time.monotonic()
    target = load_target(str(config.data / "target"))
    questions = choose_questions(read_questions(config.data / "questions.jsonl"), CATEGORIES, config.per_task)
    built_in = {name: Draft.from_pretrained(config.data / "drafts" / kind, target) for name, kind in DRAFTS.items()}

    print("1. One answer. The marked tokens (underlined, or between ‹ and ›) were proposed by the draft.\n")
    show_answer(target, built_in["FSPAD"], questions[0].turns[0], config.tree)

    print(f"\n2. Train two drafts for {config.training.steps} steps, on the same batches.\n")
    new, record = train_two(target, config)

    print("\n3. Decode questions of all tasks, without and with drafts.\n")
    settings = {"temperatures": config.temperatures, "tree": config.tree, "max_new_tokens": 64}
    rows = summarize(decode_questions(target, new | built_in, questions, **settings))
    print(f"{table(rows)}\n\n{verdict(rows)}")

    numbers = {"summary": list(map(asdict, rows)), "loss": record.loss, "tau": record.tau}
    save_json(config.out / "results.json", {"provenance": provenance(target)} | numbers)
    draw_bars(rows, "tau", "tau: tokens per forward pass").savefig(config.out / "acceptance.png")
    draw_bars(rows, "speedup", "speedup over plain decoding").savefig(config.out / "speedup.png")
    draw_training(record).savefig(config.out / "training.png")
    print(f"\n4. Figures and results.json are in {config.out}. Done in {(time.monotonic() - began) / 60:.1f} minutes.")


def show_answer(target: Target, draft: Draft, question: str, tree: TreeConfig) -> None:
    """Stream a greedy answer, with the accepted tokens of the draft marked."""
    style = style_for(sys.stdout)
    on_round = print_marked(Pieces(target.tokenizer), sys.stdout, "marks" if style == "plain" else style)
    print(f"{question}\n-> ", end="")
    ids, eos = prompt_ids(target.tokenizer, [], question), target.tokenizer.eos_token_id
    result = speculative_generate(target, draft, ids, max_new_tokens=96, eos_token_id=eos, tree=tree, on_round=on_round)
    counts = f"{len(result.tokens)} tokens, {len(result.accepted)} forward passes of the target after the prompt"
    print(f"\n{counts}: tau = {result.tau:.2f}. Plain decoding has tau = 1.")


def train_two(target: Target, config: DemoConfig) -> tuple[dict[str, Draft], TrainRecord]:
    """An EAGLE-2 and an FSPAD draft after a short training, and its record."""
    drafts = {}
    for name, kind in DRAFTS.items():
        torch.manual_seed(config.training.seed)
        drafts[f"{name} (new)"] = Draft(DraftConfig(*KINDS[kind]), target)
    dialogues = read_dialogues(config.data / "dialogues.jsonl.gz")
    prompts = [prompt_ids(target.tokenizer, [], held.turns[0][0]) for held in dialogues[-HELD_OUT:]]
    with tqdm(total=config.training.steps, desc="train", unit="step") as bar:
        record = train(target, drafts, dialogues[:-HELD_OUT], config.training, progress(bar), prompts=prompts)
    return drafts, record


def verdict(rows: Sequence[Summary]) -> str:
    """What the means over the tasks say, in words."""
    means, lines = [row for row in rows if row.task == "mean"], []
    for temperature in dict.fromkeys(row.temperature for row in means):
        at = {row.method: row for row in means if row.temperature == temperature}
        gain = at["FSPAD"].tau / at["EAGLE-2"].tau - 1
        compared = f"{abs(gain):.1%} {'above' if gain > 0 else 'below'} EAGLE-2's"
        lines.append(f"T={temperature:g}: FSPAD's mean tau is {compared}, its speedup {at['FSPAD'].speedup:.2f}.")
    same, total = sum(row.identical for row in means), sum(row.answers for row in means)
    return "\n".join([*lines, f"The text is the text of plain decoding in {same} of {total} answers."])


@styled
def draw_bars(rows: Sequence[Summary], value: str, label: str) -> Figure:
    """`value` ("tau" or "speedup") of every draft: a panel per temperature, a group per task, 95 % intervals."""
    rows = [row for row in rows if row.method != PLAIN]
    temperatures, methods, tasks = (list(dict.fromkeys(getattr(row, key) for row in rows))
                                    for key in ("temperature", "method", "task"))  # fmt: skip
    figure = Figure(figsize=(9, 0.6 + 2.7 * len(temperatures)), layout="constrained")
    panels = figure.subplots(len(temperatures), 1, squeeze=False)[:, 0]
    for axes, temperature in zip(panels, temperatures, strict=True):
        for place, method in enumerate(methods):
            mine = [row for row in rows if (row.method, row.temperature) == (method, temperature)]
            middle, low, high = (np.array([getattr(row, value + end) for row in mine]) for end in ("", "_low", "_high"))
            axes.bar(np.arange(len(tasks)) + 0.2 * (place - 1.5), middle, 0.2, yerr=[middle - low, high - middle],
                     label=method, color=CYCLE[place], hatch=HATCHES[place], edgecolor="white")  # fmt: skip
        axes.axhline(1, color="black", linestyle="--", linewidth=0.8)
        axes.set(title=f"T={temperature:g}", ylabel=label)
        axes.set_xticks(range(len(tasks)), [task.replace("_", "\n") for task in tasks])
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


@styled
def draw_training(record: TrainRecord) -> Figure:
    """Loss by step, and tau on the held-out prompts."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    loss, tau = figure.subplots(1, 2)
    for place, name in enumerate(record.loss):
        look = {"color": CYCLE[place], "marker": MARKERS[place], "label": name}
        loss.plot(record.loss[name], markevery=20, **look)
        tau.plot(*zip(*record.tau[name], strict=True), **look)
    loss.set(xlabel="step", yscale="log", title="Training loss")
    tau.set(xlabel="step", title="tau on held-out prompts")
    figure.legend(*loss.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure
