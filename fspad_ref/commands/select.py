"""`python -m fspad_ref select`: from what `write` wrote, dialogues to train on and questions to measure on.

An answer that loops (the same eight tokens at four places; that inflates tau) is cut where it begins to repeat itself,
and the dialogue ends there. Left out are: dialogues whose first answer repeats itself within sixteen tokens, or whose
first question came before, and questions that share thirteen words in a row with a benchmark's. Questions are chosen
first; what shares thirteen words with one of them is not trained on.
"""

import gzip
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fspad_ref.bench.bench import loop_start
from fspad_ref.commands.write import written
from fspad_ref.data import CATEGORIES, Question, read_questions, write_questions
from fspad_ref.errors import InputError, require
from fspad_ref.files import save_atomic
from fspad_ref.target import load_tokenizer

WORDS = 13  # in a row: from here on two texts count as the same
SHORTEST = 16  # tokens of an answer that is cut


@dataclass(frozen=True)
class SelectConfig:
    """Choose dialogues and questions from written text; prints what was left out and why."""

    text: tuple[Path, ...] = (Path("out/dialogues.jsonl"),)  # files of `python -m fspad_ref write`
    avoid: tuple[Path, ...] = ()  # questions in Spec-Bench's format that nothing may share thirteen words in a row with
    questions: int = 20  # questions per task to measure on
    held_out: int = 40  # other questions per task, to choose settings and checkpoints on
    tokenizer: str = "data/target"  # folder of the target that wrote the text
    out: Path = Path("data")  # folder for dialogues.jsonl.gz, questions.jsonl and held_out.jsonl


def select(config: SelectConfig) -> None:
    """Read, filter, split, write. The order is random, but always the same."""
    records = [record for path in config.text for record in written(path)]
    avoided = grams(turn for path in config.avoid for question in read_questions(path) for turn in question.turns)
    tokenizer = load_tokenizer(config.tokenizer)
    require(tokenizer, InputError, f"a tokenizer in {config.tokenizer}", "none", "Run `python -m fspad_ref fetch`.")
    kept = list(usable(sorted(records, key=lambda one: one["id"]), avoided, tokenizer, left_out := Counter()))
    random.Random(0).shuffle(kept)
    questions, held_out, rest = split(kept, config.questions, config.held_out)
    seen = grams(text for one in questions for text in asked(one))
    held_out = [one for one in held_out if not any(grams([text]) & seen for text in asked(one))]
    seen = grams(text for one in (*questions, *held_out) for text in asked(one))
    training = [one for one in rest if not any(grams([text]) & seen for text in asked(one))]
    left_out["near a held-out question"] += len(rest) - len(training)

    lines = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in training)
    packed = gzip.compress(lines.encode(), mtime=0)
    save_atomic(config.out / "dialogues.jsonl.gz", lambda partial: partial.write_bytes(packed))
    for name, chosen in {"questions": questions, "held_out": held_out}.items():
        numbered = enumerate(sorted(chosen, key=lambda one: CATEGORIES.index(one["task"])), start=1)
        write_questions(config.out / f"{name}.jsonl",
                        [Question(number, one["task"], tuple(asked(one))) for number, one in numbered])  # fmt: skip
    tokens = {task: sum(sum(one["tokens"]) for one in training if one["task"] == task) for task in CATEGORIES}
    print(f"{len(records)} written; left out: {', '.join(f'{count} {why}' for why, count in left_out.items())}.")
    print(f"{len(training)} to train on with {sum(tokens.values()):,} answer tokens "
          f"({', '.join(f'{task} {count:,}' for task, count in tokens.items())}), {len(questions)} questions, "
          f"{len(held_out)} held out.")  # fmt: skip


def asked(record: dict[str, Any]) -> list[str]:
    return [message["content"] for message in record["messages"] if message["role"] == "user"]


def grams(texts: Iterable[str]) -> set[tuple[str, ...]]:
    """All runs of thirteen words, in lower case."""
    found = set()
    for words in (text.lower().split() for text in texts):
        found |= {tuple(words[i : i + WORDS]) for i in range(len(words) - WORDS + 1)}
    return found


def usable(records: Iterable[dict], avoided: set, tokenizer: Any, left_out: Counter[str]) -> Iterable[dict]:
    """Records to keep; left_out counts the others by reason."""
    before: set[str] = set()
    for record in records:
        questions = asked(record)
        key = " ".join(questions[:1]).lower().strip()
        record = without_loop(record, tokenizer)
        if not questions:
            left_out["without a question"] += 1
        elif key in before:
            left_out["asked before"] += 1
        elif any(grams([text]) & avoided for text in questions):
            left_out["like the benchmark's"] += 1
        elif not record["messages"]:
            left_out["looping from the start"] += 1
        else:
            before.add(key)
            yield record


def without_loop(record: dict, tokenizer: Any) -> dict:
    """The record up to where an answer begins to repeat itself, if there are enough tokens before it."""
    for turn, answer in enumerate(record["messages"][1::2]):
        tokens = tokenizer.encode(answer["content"], add_special_tokens=False)
        if (start := loop_start(tokens)) < len(tokens):
            answer["content"], record["tokens"][turn] = tokenizer.decode(tokens[:start]), start
            end = turn + (start >= SHORTEST)
            messages, tokens = record["messages"][: 2 * end], record["tokens"][:end]
            return record | {"messages": messages, "tokens": tokens, "ended": False}
    return record


def split(records: Sequence[dict], questions: int, held_out: int) -> tuple[list[dict], list[dict], list[dict]]:
    """To measure on, to choose on (so many of each per task), and the rest. Conversations to ask have two turns."""
    parts: tuple[list[dict], list[dict], list[dict]] = ([], [], [])
    count: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
    for record in records:
        task, turns = record["task"], len(asked(record))
        first, second = count[task]
        if first < questions and turns == (2 if task == "conversation" else 1):
            place = 0
        else:
            place = 1 if second < held_out else 2
        if place < 2:
            count[task][place] += 1
        parts[place].append(record)
    lacking = [task for task in CATEGORIES if count[task][0] < questions or count[task][1] < held_out]
    expected = f"at least {questions} questions and {held_out} held-out dialogues per task"
    require(not lacking, InputError, expected, f"fewer for {', '.join(lacking)}", "Write more text.")
    return parts
