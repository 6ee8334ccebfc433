"""Tables in README.md and data/README.md, written from the recorded results so that no figure is typed by hand.

python -m fspad_ref.show.cards        rewrites the marked sections; a test holds that they are up to date
"""

import re
from collections.abc import Sequence
from pathlib import Path

from fspad_ref.checkpoint import load_json, save_atomic
from fspad_ref.errors import InputError
from fspad_ref.lab.bench import PLAIN
from fspad_ref.lab.comparison import CONTROL, MAIN, MEAN
from fspad_ref.lab.duel import gain, runs_won
from fspad_ref.world.exam import card_section

LABELS = {PLAIN: "plain decoding", "generate": "transformers' own `generate`", "prompt_lookup": "prompt lookup",
          "assisted": "assisted generation", "medusa": "Medusa", "eagle_static": "EAGLE, static tree",
          "eagle": "EAGLE-2", "eagle_wide": "EAGLE-2, as large as FSPAD", "fs": "feature sampling only",
          "pad": "partial alignment only", "fspad": "FSPAD"}  # fmt: skip
RECORDED = {
    "study": "drafts of several seeds, replayed over the answers to the questions: tau, n-alpha, paired differences",
    "speed": "every method in the real loop: tau, speedup, cost model against clock",
    "stages": "where the time of a round goes",
    "tune": "the tree size that is fastest on that machine",
    "calibration": "tau under the tree of the EAGLE-2 paper",
    "temperatures": "tau against the temperature, with the tree of `tune.json`",
    "adaptive": "the adaptive stop against the fixed tree, seconds",
    "goals": "what was aimed at, what was measured",
}


def sections(root: Path) -> dict[Path, dict[str, str]]:
    """File -> name of a marked section -> its text, from data/results and data/target under `root`."""
    results, target = root / "data" / "results", root / "data" / "target"
    return {
        root / "README.md": {"results": readme_section(results)},
        results / "README.md": {"files": files_section(results), "goals": goals_section(results)},
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


def readme_section(results: Path) -> str:
    """The table of the study and of the speed measurement."""
    study, speed, calibration = (load_json(results / f"{name}.json") for name in ("study", "speed", "calibration"))
    shipped = load_json(results.parent / "drafts" / MAIN[0] / "training.json")
    return paper_section(study, speed, calibration, shipped["step"])


def paper_section(study: dict, speed: dict, calibration: dict, steps: int) -> str:
    """The README's table, then the claim in figures, then how they were measured.

    steps: how long the drafts of `speed` and `calibration` have learned.
    """
    tau = {(row["method"], row["temperature"]): row["over_seeds"] for row in study["taus"] if row["task"] == MEAN}
    fast = {(row["method"], row["temperature"]): row for row in speed["summary"] if row["task"] == MEAN}
    temperatures = list(dict.fromkeys(temperature for _, temperature in fast))
    heads = [f"{what}, T={t:g}" for what in ("study: tau", "real loop: tau", "speedup") for t in temperatures]
    lines = [" | ".join(["| ", *heads]) + " |", "|---" * (len(heads) + 1) + "|"]
    for method, label in LABELS.items():
        cells = [cell(method, of.get((method, t))) for cell, of in
                 ((_studied_cell, tau), (_tau_cell, fast), (_speed_cell, fast)) for t in temperatures]  # fmt: skip
        if any(cell != "-" for cell in cells):
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
    claims = [*_claims(study), _claim_of_shipped(calibration, steps)]
    return "\n".join([*lines, "", *claims, "", _measured(study, speed)])


def _studied_cell(method: str, studied: dict | None) -> str:
    return "-" if studied is None else f"**{studied['value']:.2f}**{_bounds(studied, '{:.2f}')}"


def _tau_cell(method: str, timed: dict | None) -> str:
    return "-" if timed is None else "1" if method == PLAIN else f"{timed['tau']:.2f}"


def _speed_cell(method: str, timed: dict | None) -> str:
    if timed is None:
        return "-"
    runs = timed["by_repetition"]
    return "1" if method == PLAIN else f"{timed['speedup']:.2f} ({min(runs):.2f} to {max(runs):.2f})"


def _bounds(estimate: dict, form: str) -> str:
    """An interval in parentheses; nothing where there is none."""
    if estimate["low"] is None:
        return ""
    return f" ({form.format(estimate['low'])} to {form.format(estimate['high'])})"


def _claims(study: dict) -> list[str]:
    """FSPAD against EAGLE-2, and against EAGLE-2 of its own size: differences in mean tau, and gains."""
    lines = []
    for row in study["differences"]:
        pair = row["method"], row["against"]
        if row["task"] != MEAN or pair not in (MAIN, CONTROL):
            continue
        name, published = f"{row['temperature']:g}", ""
        if pair == MAIN and name in study["published_gains"]:
            low, high = study["published_gains"][name]
            published = f"; published for large targets: {low:.1%} to {high:.1%}"
        difference = f"{row['over_seeds']['value']:+.3f}{_bounds(row['over_seeds'], '{:+.3f}')}"
        gain = f"{row['gain_over_seeds']['value']:+.1%}{_bounds(row['gain_over_seeds'], '{:+.1%}')}"
        lines.append(f"- T={name}, {LABELS[pair[0]]} against {LABELS[pair[1]]}: mean tau {difference}, a gain of {gain}"
                     f"{published}.")  # fmt: skip
    return lines


def _claim_of_shipped(calibration: dict, steps: int) -> str:
    """The same comparison of the shipped drafts, which have learned for longer: one draft of each, so no seeds."""
    one = gain(calibration["answers"])
    taus = [row["tau"] for method in MAIN for row in calibration["summary"]
            if (row["task"], row["method"]) == (MEAN, method)]  # fmt: skip
    asked, names = calibration["config"]["per_task"], " against ".join(LABELS[method] for method in MAIN)
    return (
        f"- T=0, {names} after {steps:,} steps (data/drafts, {asked} questions a task): mean tau {taus[0]:.2f} against "
        f"{taus[1]:.2f}, a gain of {one.value:+.1%} ({one.low:+.1%} to {one.high:+.1%} over questions)."
    )


def _measured(study: dict, speed: dict) -> str:
    """What the figures of the table stand on."""
    seeds, tree, tuned = study["key"]["seeds"], study["config"]["tree"], speed["config"]["tree"]
    asked = speed["config"]
    interval = "95 % t-intervals over seeds" if seeds > 1 else "no interval, as there is one seed"
    same, answers = identical_answers(speed)
    return (
        f"Study: means of {seeds} trainings of {study['config']['training']['steps']:,} steps, in parentheses "
        f"{interval}; {study['answers']:,} recorded answers, tree of {_tree(tree)}. {_how(study['provenance'])}\n\n"
        f"Real loop, with the drafts in data/drafts: {asked['per_task']} questions a task, tree of {_tree(tuned)}; "
        f"medians of {asked['speed']['repetitions']} runs, in parentheses their range. At T>0 the methods of "
        f"transformers draw another text of the same law; of all other answers {same} of {answers} are plain "
        f"decoding's, token for token. {_ahead(speed)} {_how(speed['provenance'])}"
    )


def _ahead(speed: dict) -> str:
    """In how many runs FSPAD was faster than EAGLE-2."""
    won = ", ".join(f"in {wins} of {runs} runs at T={t:g}" for t, (wins, runs) in runs_won(speed["summary"]).items())
    return f"FSPAD was faster than EAGLE-2 {won}."


def identical_answers(speed: dict) -> tuple[int, int]:
    """How many answers are plain decoding's token for token, of how many that should be: not plain decoding's own, nor
    at T>0 those of methods that draw another text."""
    rows = [row for row in speed["summary"] if row["task"] == MEAN and row["method"] != PLAIN
            and not (row["temperature"] and row["method"] in speed["other_text"])]  # fmt: skip
    return sum(row["identical"] for row in rows), sum(row["answers"] for row in rows)


def _how(p: dict) -> str:
    """On what and by which command something was measured."""
    machine = f"{p['hardware']}, threads: {p['threads']}, {p['dtype']}, torch {p['torch']}, {p['date'][:10]}"
    return f"{machine}:\n\n    {p['command']}"


def _tree(tree: dict) -> str:
    return f"top_k {tree['top_k']}, depth {tree['depth']}, {tree['total_tokens']} tokens"


def files_section(results: Path) -> str:
    """The results that are there: what each says, where and when it was measured, and by which command."""
    lines = ["| file | what it says | measured | command |", "|---|---|---|---|"]
    for name, what in RECORDED.items():
        if (results / f"{name}.json").exists():
            p = load_json(results / f"{name}.json").get("provenance")
            where = f"{p['date'][:10]}, {p['hardware']}, {p['threads']} threads" if p else "computed from the others"
            lines.append(f"| `{name}.json` | {what} | {where} | {'`' + p['command'] + '`' if p else ''} |")
    return "\n".join(lines)


def goals_section(results: Path) -> str:
    """Every goal with what was measured, once goals.json is there."""
    if not (results / "goals.json").exists():
        return "Not measured yet."
    lines = ["| goal | measured | bound | |", "|---|---:|---:|---|"]
    for one in load_json(results / "goals.json")["goals"]:
        verdict = "met" if one["met"] else "**not met**"
        lines.append(f"| {one['goal']} | {one['measured']:.3f} | {one['sense']} {one['bound']:g} | {verdict} |")
    return "\n".join(lines)


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
    return "\n".join([*lines, "", f"Tree: {_tree(record['config']['tree'])}. {_how(record['provenance'])}"])


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


def picture(root: Path) -> Path:
    """Draw the README's picture from study.json: both sides of the claim and the control; returns its path."""
    from fspad_ref.show.plots import Measure, acceptance_bars  # the tables need no matplotlib

    results = root / "data" / "results"
    rows = load_json(results / "study.json")["taus"]
    taus = [Measure(row["task"], LABELS[method], row["temperature"], **row["over_seeds"])
            for method in (MAIN[1], CONTROL[1], MAIN[0]) for row in rows if row["method"] == method]  # fmt: skip
    path = results / "acceptance.png"
    save_atomic(path, lambda partial: acceptance_bars(taus).savefig(partial, format="png", dpi=150))
    return path


if __name__ == "__main__":
    changed = [*write(Path(__file__).parents[2]), picture(Path(__file__).parents[2])]
    print("\n".join(f"written: {path}" for path in changed))
