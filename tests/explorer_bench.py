"""A workbench of tiny models for the explorer's tests: prompts are encoded letter by letter.

As a script it measures what each interaction costs with the built-in models and a tree of sixty nodes, from the change
of a control to the picture, in milliseconds: python tests/explorer_bench.py
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

from conftest import tiny_draft, tiny_target

from fspad_ref import Draft, SamplingConfig, Target, TreeConfig
from fspad_ref.data import Question, read_questions
from fspad_ref.viz.explorer.runs import Settings, Workbench

PROMPT = (2, 7, 5, 11, 3)
TREE = TreeConfig(top_k=4, depth=3, total_tokens=20)
QUESTIONS = (Question(1, "qa", ("who?",)), Question(2, "qa", ("where?",)), Question(3, "rag", ("a passage",)))


def encode(text: str) -> list[int]:
    return [2 + ord(letter) % 29 for letter in text]


def make_bench(**more) -> Workbench:
    target = tiny_target()
    drafts = {
        "eagle": tiny_draft(target),
        "fspad": tiny_draft(target, 1, feature_sampling=True, partial_alignment=True),
    }
    return Workbench(target, drafts, QUESTIONS, encode=encode, words=lambda token: f"w{token}", **more)


def settings(temperature: float = 1.0, draft: str = "eagle", tree: TreeConfig = TREE, tokens: int = 12) -> Settings:
    return Settings(PROMPT, draft, tree, SamplingConfig(temperature, seed=3), tokens)


def quiet(text: str) -> None:
    """Progress that nobody watches."""


def main() -> None:
    from fspad_ref.viz.widgets import BrokenPanel, CostPanel, Explorer, TemperaturePanel, TreeStepper

    data = Path(__file__).parent.parent / "data"
    target = Target.from_pretrained(data / "target", device="cpu", dtype="float32")
    bench = Workbench(
        target,
        {"fspad": Draft.from_pretrained(data / "drafts" / "fspad", target)},
        read_questions(data / "questions.jsonl"),
    )
    explorer = Explorer(bench, sampling=SamplingConfig(1.0, seed=3), max_new_tokens=32).wait()
    stepper, panel = TreeStepper(explorer.run, bench.words), TemperaturePanel(bench, explorer.run)
    costs, broken = CostPanel(), BrokenPanel()
    stages = [*stepper.stages[1:], *stepper.stages]
    report("explorer: round", lambda i: setattr(explorer.round, "value", 2 + i % 3))
    report("explorer: depth, with decoding", lambda i: (setattr(explorer.depth, "value", 1 + i), explorer.wait()))
    report("stepper: stage", lambda i: setattr(stepper.stage, "value", stages[i]), len(stages))
    stepper.stage.value = "accept"
    report("stepper: node", lambda i: setattr(stepper.node, "value", i))
    report("stepper: round", lambda i: setattr(stepper.round, "value", 2 + i % 3))
    report("temperature", lambda i: setattr(panel.temperature, "value", 0.3 + 0.1 * i))
    report("top-p", lambda i: setattr(panel.top_p, "value", 0.9 - 0.1 * i))
    report("node of the law", lambda i: setattr(panel.node, "value", 1 + i))
    report("cost slider", lambda i: setattr(costs.draft, "value", 2.0 + i))
    report("broken rule", lambda i: setattr(broken.rule, "index", 1 + i))
    report("broken seed", lambda i: setattr(broken.seed, "value", 1 + i))


def report(name: str, act: Callable[[int], object], times: int = 5) -> None:
    """Print median and largest wall time, and the median of this process's CPU time."""
    wall, cpu = [], []
    for i in range(times):
        began, used = time.perf_counter(), time.process_time()
        act(i)
        wall.append(1000 * (time.perf_counter() - began))
        cpu.append(1000 * (time.process_time() - used))
    median = statistics.median
    print(f"{name:32} {median(wall):6.0f} ms, at most {max(wall):.0f} (CPU {median(cpu):.0f})", flush=True)


if __name__ == "__main__":
    main()
