"""Tables in README.md and data/README.md, written from the recorded results so that no figure is typed by hand.

    python -m fspad_ref.show.cards        rewrites the marked sections; a test holds that they are up to date
"""

import re
from collections.abc import Sequence
from pathlib import Path

from fspad_ref.checkpoint import load_json, save_atomic
from fspad_ref.errors import InputError
from fspad_ref.lab.bench import PLAIN
from fspad_ref.world.exam import card_section

LABELS = {PLAIN: "plain decoding", "eagle": "EAGLE-2", "fs": "feature sampling only", "pad": "partial alignment only",
          "fspad": "FSPAD"}  # fmt: skip


def sections(root: Path) -> dict[Path, dict[str, str]]:
    """File -> name of a marked section -> its text, from data/results and data/target under `root`."""
    results, target = root / "data" / "results", root / "data" / "target"
    return {
        root / "README.md": {"results": results_section(load_json(results / "bench.json"))},
        root / "data" / "README.md": {
            "target": target_section(load_json(target / "training.json")),
            "scores": card_section(load_json(target / "scores.json")["scores"]),
            "samples": samples_section(load_json(target / "scores.json")["answers"]),
            "calibration": calibration_section(load_json(results / "calibration.json")),
            "drafts": drafts_section({kind: load_json(root / "data" / "drafts" / kind / "training.json")
                                      for kind in ("eagle", "fs", "pad", "fspad")}),
        },
    }  # fmt: skip


def replace_section(text: str, name: str, new: str) -> str:
    """`text` with what stands between the markers of section `name` replaced. Raises InputError without markers."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(text):
        raise InputError(f"expected the markers {begin} and {end}, found none. Put them in the text.")
    return pattern.sub(lambda _: f"{begin}\n{new.strip()}\n{end}", text)


def write(root: Path) -> list[Path]:
    """Rewrite every marked section; returns the files that changed."""
    changed = []
    for path, parts in sections(root).items():
        old = new = path.read_text(encoding="utf-8")
        for name, text in parts.items():
            new = replace_section(new, name, text)
        if new != old:
            save_atomic(path, lambda partial, new=new: partial.write_text(new, encoding="utf-8"))
            changed.append(path)
    return changed


def results_section(record: dict) -> str:
    """The README's table: means over the six tasks, with 95 % intervals."""
    rows = [row for row in record["summary"] if row["task"] == "mean"]
    lines = ["| | T | tau | speedup | text identical to plain decoding |", "|---|---|---|---|---|"]
    for row in rows:
        tau = f"{row['tau']:.2f} ({row['tau_low']:.2f} to {row['tau_high']:.2f})"
        speedup = f"{row['speedup']:.2f} ({row['speedup_low']:.2f} to {row['speedup_high']:.2f})"
        if row["method"] == PLAIN:
            tau, speedup = "1", "1"
        same = f"{row['identical']} of {row['answers']}"
        lines.append(f"| {LABELS[row['method']]} | {row['temperature']:g} | {tau} | {speedup} | {same} |")
    return "\n".join([*lines, "", _how(record)])


def calibration_section(record: dict) -> str:
    """tau by task under the tree of the EAGLE-2 paper."""
    rows = [row for row in record["summary"] if row["method"] != PLAIN]
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    heads = [task.replace("_", " ") for task in tasks]
    lines = [" | ".join(["| | T", *heads]) + " |", "|---" * (len(tasks) + 2) + "|"]
    for temperature in dict.fromkeys(row["temperature"] for row in rows):
        for method in dict.fromkeys(row["method"] for row in rows):
            cells = [f"{row['tau']:.2f}" for task in tasks for row in rows
                     if (row["task"], row["method"], row["temperature"]) == (task, method, temperature)]  # fmt: skip
            lines.append(f"| {LABELS[method]} | {temperature:g} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", _how(record)])


def _how(record: dict) -> str:
    """Which command measured this, on what."""
    p, tree = record["provenance"], record["config"]["tree"]
    return (
        f"Tree: top_k {tree['top_k']}, depth {tree['depth']}, {tree['total_tokens']} tokens. Means over the six tasks; "
        "in parentheses 95 % intervals, bootstrapped over questions. "
        f"{p['hardware']}, {p['threads']} threads, {p['dtype']}, torch {p['torch']}, {p['date'][:10]}:\n\n"
        f"    {p['command']}"
    )


def target_section(record: dict) -> str:
    """Size and training of the target; one paragraph a training, where one went on from another."""
    trainings = [record]
    while "before" in trainings[0]:
        trainings.insert(0, trainings[0]["before"])
    told = [
        f"Trained for {one['minutes']:.0f} minutes on {one['hardware']}: {one['tokens'] / 1e6:.2f} million tokens, "
        f"{one['steps']:,} steps, up to dialogue {one['dialogues']:,} of the stream; final training loss "
        f"{one['loss']:.3f} nats a token.\n\n    {one['command']}"
        for one in trainings
    ]
    return "\n\n".join([f"{record['parameters'] / 1e6:.1f} million parameters.", *told])


def drafts_section(records: dict[str, dict]) -> str:
    """What each shipped draft cost and reached while it was trained."""
    lines = ["| draft | steps | tokens | tau on its held-out prompts | kept from step |", "|---|---|---|---|---|"]
    for kind, record in records.items():
        step, tau = record["best"][kind]
        lines.append(f"| {LABELS[kind]} | {record['step']:,} | {record['tokens']:,} | {tau:.2f} | {step:,} |")
    return "\n".join(lines)


def samples_section(answers: Sequence[dict]) -> str:
    """The first held-out question of each task and what the target answers."""
    lines = []
    for category in dict.fromkeys(answer["category"] for answer in answers):
        first = next(answer for answer in answers if answer["category"] == category)
        question = " / ".join(first["question"].splitlines())
        lines += [f"- *{category.replace('_', ' ')}*: {question}", f"  → {first['answer']}"]
    return "\n".join(lines)


if __name__ == "__main__":
    changed = write(Path(__file__).parents[2])
    print("\n".join(f"rewritten: {path}" for path in changed) or "All sections are up to date.")
