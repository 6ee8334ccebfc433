"""Draw real_round.svg, the README's picture: one real round of SmolLM2 and its FSPAD draft. `make pictures` runs this.

Shown is, of one answer, the round that accepts most guesses.
"""

from dataclasses import replace
from pathlib import Path

import matplotlib

from fspad_ref import Draft, Target, TreeConfig
from fspad_ref.data import prompt_ids
from fspad_ref.viz.drawer import draw, round_view
from fspad_ref.viz.runs import Settings, Workbench

QUESTION = "Why is the sky blue?"
TOP = Path(__file__).parents[2]

target = Target.from_pretrained(str(TOP / "data" / "target"))
bench = Workbench(target, {"fspad": Draft.from_pretrained(TOP / "data" / "drafts" / "fspad", target)})
prompt = tuple(prompt_ids(target.tokenizer, [], QUESTION))
run = bench.run(Settings(prompt, "fspad", TreeConfig(top_k=4, depth=3, total_tokens=14), max_new_tokens=64))
number = max(range(len(run.rounds)), key=lambda i: run.rounds[i].kept)
view = round_view(run, number, "verify", bench.words)
matplotlib.rcParams["svg.hashsalt"] = "fspad_ref"  # the same picture, the same file
figure = draw(replace(view, stage=""))  # the tree alone, without mask and cache
figure.savefig(Path(__file__).with_name("real_round.svg"), metadata={"Date": None})
print(f"{QUESTION} {target.tokenizer.decode(run.answer.tokens)}\n{view.claim}")
