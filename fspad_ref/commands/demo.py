"""`python -m fspad_ref demo`: from a prompt to a plot with a real chat model, in seven to eight minutes on two cores.

1. show one answer, with the tokens that the draft proposed marked
2. train an EAGLE-2 draft and an FSPAD draft from scratch, on the same batches
3. choose for each draft the tree that should decode fastest here, on held-out prompts
4. decode questions of all tasks without a draft, with these two, and with two trained for longer; print, draw, save
"""

import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import pandas as pd
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from fspad_ref.bench.bench import PLAIN, Speculative, choose_questions, decode_questions, summarize, table
from fspad_ref.bench.costs import measure_costs, predict_speedup
from fspad_ref.bench.features import StoredFeatures
from fspad_ref.bench.record import save_record
from fspad_ref.bench.replay import Recording, record, replayed_tau
from fspad_ref.bench.tune import TuneConfig, replayed_taus
from fspad_ref.commands.check import ARITHMETIC, arithmetic
from fspad_ref.commands.generate import print_marked
from fspad_ref.commands.train import progress
from fspad_ref.data import CATEGORIES, encode, frequent_tokens, prompt_ids, read_dialogues, read_questions
from fspad_ref.draft import Draft
from fspad_ref.generate import speculative_generate
from fspad_ref.sampling import SamplingConfig
from fspad_ref.target import Target
from fspad_ref.train import TrainConfig, TrainRecord, new_draft, train
from fspad_ref.tree import TreeConfig
from fspad_ref.viz.strips import Pieces, style_for
from fspad_ref.viz.style import bars, curves, styled

DRAFTS = {"EAGLE-2": "eagle", "FSPAD": "fspad"}
EVERY = 20  # every so many held-out questions one helps to choose trees and measures tau during training
SIZES = TuneConfig(top_k=(2, 3, 4), depth=(1, 2, 3, 4), total_tokens=(4, 6, 8, 12, 16))  # small trees, for small drafts
quiet = partial(tqdm, disable=True)


@dataclass(frozen=True)
class DemoConfig:
    """Train two drafts, decode with and without them, print tau and speedup, draw figures."""

    data: Path = Path("data")  # folder of the target, its drafts, dialogues and questions
    dialogues: int = 200  # to train on, the first ones; about 45,000 tokens
    vocabulary: int = 4096  # tokens that the new drafts may propose, those that answers hold most often
    per_task: int = 1  # questions per task
    max_new_tokens: int = 32  # longest answer
    temperatures: tuple[float, ...] = (0.0, 1.0)  # sampling temperatures
    tree: TreeConfig = TreeConfig(top_k=4, depth=3, total_tokens=12)  # for the first answer, and tau during training
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # of weights and arithmetic; auto: what suits the processor
    training: TrainConfig = TrainConfig(steps=180, tokens_per_batch=1024, learning_rate=2e-3, warmup_steps=20,
                                        evaluate_every=60, checkpoint_every=0, seed=1)  # fmt: skip
    out: Path = Path("out")  # where figures and results.json go


def demo(config: DemoConfig) -> None:
    """Run the four steps. Every number is measured now, on this machine."""
    began = time.monotonic()
    dtype = arithmetic() if config.dtype == "auto" else config.dtype
    print(f"Arithmetic in {dtype}: {ARITHMETIC[dtype]}\n")
    target = Target.from_pretrained(str(config.data / "target"), dtype=dtype)
    questions = choose_questions(read_questions(config.data / "questions.jsonl"), CATEGORIES, config.per_task)
    dialogues = read_dialogues(config.data / "dialogues.jsonl.gz")
    built_in = {name: Draft.from_pretrained(config.data / "drafts" / kind, target) for name, kind in DRAFTS.items()}

    print("1. One answer. The marked tokens (underlined, or between ‹ and ›) were proposed by the draft.\n")
    show_answer(target, built_in["FSPAD"], questions[0].turns[0], config.tree)

    print("\n2. Train two drafts on the same batches. The target computes their features now.\n")
    asked = read_questions(config.data / "held_out.jsonl")[::EVERY]
    found = record(target, asked, (0.0,), max_new_tokens=config.max_new_tokens, progress=quiet)
    held_out = [one for one in found if len(one.tokens) > 1]
    new, training = train_two(target, dialogues, held_out, config)

    print("\n3. Choose a tree for each draft, by tau on held-out prompts and by what a round costs here.\n")
    trees = {name: best_tree(draft, held_out) for name, draft in (new | built_in).items()}
    methods = {name: Speculative(draft, trees[name]) for name, draft in (new | built_in).items()}
    for name, tree in trees.items():
        print(f"{name:15}top_k {tree.top_k}, depth {tree.depth}, total_tokens {tree.total_tokens}")

    print("\n4. Decode questions of all tasks, without and with drafts.\n")
    summary = summarize(decode_questions(target, methods, questions, temperatures=config.temperatures,
                                         max_new_tokens=config.max_new_tokens))  # fmt: skip
    print(f"{table(summary)}\n\n{verdict(summary)}")

    results = {"dtype": dtype, "trees": trees, "summary": summary, "loss": training.loss, "tau": training.tau}
    save_record(config.out / "results.json", results)
    for value, label in (("tau", "tau: tokens per forward pass"), ("speedup", "speedup over plain decoding")):
        bars(summary[summary.method != PLAIN], value, label).savefig(config.out / f"{value}.png")
    draw_training(training).savefig(config.out / "training.png")
    print(f"\nFigures and results.json are in {config.out}. Done in {(time.monotonic() - began) / 60:.1f} minutes.")


def show_answer(target: Target, draft: Draft, question: str, tree: TreeConfig) -> None:
    """Stream a greedy answer, with the accepted tokens of the draft marked."""
    style = style_for(sys.stdout)
    on_round = print_marked(Pieces(target.tokenizer), sys.stdout, "marks" if style == "plain" else style)
    print(f"{question}\n-> ", end="")
    ids, eos = prompt_ids(target.tokenizer, [], question), target.tokenizer.eos_token_id
    result = speculative_generate(target, draft, ids, max_new_tokens=96, eos_token_id=eos, tree=tree, on_round=on_round)
    counts = f"{len(result.tokens)} tokens, {len(result.accepted)} forward passes of the target after the prompt"
    print(f"\n{counts}: tau = {result.tau:.2f}. Plain decoding has tau = 1.")


# ---- training ----


def train_two(
    target: Target, dialogues: Sequence, held_out: Sequence[Recording], config: DemoConfig
) -> tuple[dict[str, Draft], TrainRecord]:
    """An EAGLE-2 and an FSPAD draft after a short training, and its record."""
    texts = [encode(one, target.tokenizer) for one in dialogues[: config.dialogues]]
    words = frequent_tokens(target.tokenizer, texts, config.vocabulary)
    drafts = {f"{name} (live)": new_draft(kind, target, config.training.seed, words) for name, kind in DRAFTS.items()}
    with tempfile.TemporaryDirectory() as folder:
        features = StoredFeatures(target, Path(folder))
        print(f"{sum(len(ids) for ids, _ in texts):,} tokens of {len(texts)} dialogues")
        with tqdm(total=config.training.steps, desc="train", unit="step") as bar:
            found = train(target, drafts, texts, config.training, progress(bar), features_of=features,
                          evaluate=partial(replayed_tau, recordings=held_out, tree=config.tree))  # fmt: skip
    return drafts, found


# ---- decoding ----


def best_tree(draft: Draft, held_out: Sequence[Recording]) -> TreeConfig:
    """The small tree that should decode fastest with this draft on this machine, as `tune` predicts it."""
    taus = replayed_taus(draft, held_out[::2], SIZES.trees, quiet)
    prompt = sum(len(one.prompt) for one in held_out) // len(held_out)
    tokens = sum(len(one.tokens) for one in held_out) // len(held_out)
    costs = measure_costs(draft.target, draft, prompt=prompt, prefix=prompt + tokens // 2, sampling=SamplingConfig(),
                          total_tokens=SIZES.total_tokens, top_k=SIZES.top_k, repetitions=3)  # fmt: skip
    return max(taus, key=lambda tree: predict_speedup(costs, tree, taus[tree], tokens))


def verdict(summary: pd.DataFrame) -> str:
    """What the means over the tasks say, in words: who guesses better, what a round costs, whether texts are equal."""
    means, lines = summary[summary.task == "mean"], []
    for temperature, at in means.set_index("method").groupby("temperature"):
        gain = at.tau["FSPAD"] / at.tau["EAGLE-2"] - 1
        compared = f"{abs(gain):.1%} {'above' if gain > 0 else 'below'} EAGLE-2's"
        lines.append(f"T={temperature:g}: FSPAD's mean tau is {compared}. In plain steps, a round costs about")
        for name, tau, speedup in at.loc[at.index != PLAIN, ["tau", "speedup"]].itertuples():
            pays = f"speedup {speedup:.2f}{'' if speedup > 1 else ': it does not pay'}"
            lines.append(f"  {tau / speedup:.2f} with {name}, and gives {tau:.2f} tokens: {pays}")
    drafted = means[means.method != PLAIN]
    same = f"{drafted.identical.sum()} of {drafted.answers.sum()}"
    return "\n".join([*lines, f"With a draft the text is that of plain decoding in {same} answers."])


@styled
def draw_training(record: TrainRecord) -> Figure:
    """Loss by step, and tau on the held-out prompts."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    loss, tau = figure.subplots(1, 2)
    curves(loss, {name: list(enumerate(values)) for name, values in record.loss.items()},
           xlabel="step", yscale="log", title="Training loss")  # fmt: skip
    curves(tau, record.tau, xlabel="step", title="tau on held-out prompts")
    return figure
