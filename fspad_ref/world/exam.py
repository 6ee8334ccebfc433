"""The built-in target's exam: greedy answers to the held-out questions, scored by what a right answer must contain."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from fspad_ref.answers import answer_batch
from fspad_ref.checkpoint import save_json
from fspad_ref.corpus import CATEGORIES, Question, prompt_ids
from fspad_ref.errors import InputError
from fspad_ref.world.exchange import contains

Turns = list[tuple[str, str]]


@dataclass(frozen=True)
class Answered:
    """One turn of one question, what the target answered, and what it should have contained."""

    question_id: int
    category: str
    turn: int
    question: str
    answer: str
    tokens: int
    ended: bool  # by itself, before the limit
    missing: tuple[str, ...]  # strings of `expected` that the answer lacks
    expected: int  # how many there were

    @property
    def right(self) -> bool:
        """Whether nothing is missing and the answer ended."""
        return self.ended and not self.missing


@torch.no_grad()
def answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    before: Sequence[Turns] | None = None,
    max_new_tokens: int = 160,
) -> list[tuple[str, int, bool]]:
    """Greedy answers to one batch: (text, tokens including the end token, whether it ended by itself) each.

    `before` holds the earlier (question, answer) turns of each question.
    """
    before = before if before is not None else [[] for _ in questions]
    prompts = [prompt_ids(tokenizer, turns, user) for turns, user in zip(before, questions, strict=True)]
    rows = answer_batch(model, tokenizer.eos_token_id, prompts, max_new_tokens)
    ended = [row[-1:] == [tokenizer.eos_token_id] for row in rows]
    texts = tokenizer.batch_decode(rows, skip_special_tokens=True)
    return [(text, len(row), end) for text, row, end in zip(texts, rows, ended, strict=True)]


def sit_exam(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    batch: int = 40,
    max_new_tokens: int = 160,
) -> list[Answered]:
    """Answer every turn of every question, each after the model's own earlier answers."""
    results: list[Answered] = []
    turns: dict[int, Turns] = {q.question_id: [] for q in questions}
    total = sum(len(q.turns) for q in questions)
    with tqdm(total=total, desc="exam", unit=" turn") as bar:
        for number in range(max(len(q.turns) for q in questions)):
            # Of equal length as far as possible: padding is computed too.
            asked = sorted(
                (q for q in questions if len(q.turns) > number), key=lambda q: sum(map(len, q.turns[: number + 1]))
            )
            for start in range(0, len(asked), batch):
                group = asked[start : start + batch]
                texts = [q.turns[number] for q in group]
                answers = answer(model, tokenizer, texts, [turns[q.question_id] for q in group], max_new_tokens)
                for q, (text, length, ended) in zip(group, answers, strict=True):
                    turns[q.question_id].append((q.turns[number], text))
                    results.append(_marked(q, number, text, length, ended))
                bar.update(len(group))
    return sorted(results, key=lambda r: (r.question_id, r.turn))


def _marked(question: Question, turn: int, text: str, tokens: int, ended: bool) -> Answered:
    key = question.expected[turn] if question.expected else ()
    missing = tuple(part for part in key if not contains(text, part))
    return Answered(
        question.question_id, question.category, turn + 1, question.turns[turn], text, tokens, ended, missing, len(key)
    )


def scores(results: Sequence[Answered]) -> dict[str, dict[str, float]]:
    """Per category: turns, right (share of turns), parts (share of expected strings found), whole (share of questions
    with every turn right), tokens (mean an answer), ended (share of answers that ended by themselves). All in 0..1
    but turns and tokens."""
    table = {}
    for category in CATEGORIES:
        of = [r for r in results if r.category == category]
        if not of:
            continue
        by_question: dict[int, bool] = {}
        for r in of:
            by_question[r.question_id] = by_question.get(r.question_id, True) and r.right
        expected = sum(r.expected for r in of)
        table[category] = {
            "turns": float(len(of)),
            "right": sum(r.right for r in of) / len(of),
            "parts": 1 - sum(len(r.missing) for r in of) / expected if expected else 1.0,
            "whole": sum(by_question.values()) / len(by_question),
            "tokens": sum(r.tokens for r in of) / len(of),
            "ended": sum(r.ended for r in of) / len(of),
        }
    return table


COLUMNS = {
    "turns": "turns",
    "right": "turns right",
    "parts": "parts right",
    "whole": "questions right",
    "tokens": "mean tokens",
    "ended": "ended",
}


def score_table(table: dict[str, dict[str, float]]) -> str:
    """The scores as a Markdown table, for the terminal and the data card alike."""
    lines = ["| task | " + " | ".join(COLUMNS.values()) + " |", "|---|" + "---:|" * len(COLUMNS)]
    for category, row in table.items():
        cells = [f"{row['turns']:.0f}", *(f"{100 * row[k]:.1f} %" for k in ("right", "parts", "whole"))]
        cells += [f"{row['tokens']:.1f}", f"{100 * row['ended']:.1f} %"]
        lines.append(f"| {category} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def check_target(
    target_dir: str | Path,
    questions: Sequence[Question],
    device: str = "cpu",
    batch: int = 40,
    max_new_tokens: int = 160,
    samples: int = 1,
    json_output: Path | None = None,
) -> dict[str, dict[str, float]]:
    """Examine the target in `target_dir`, print scores and `samples` answers a category, right and wrong; see `scores`.

    `json_output`, if given, receives the scores and every answer.
    """
    if not questions:
        raise InputError("expected at least one question, found none; write them with `write_questions`")
    tokenizer = AutoTokenizer.from_pretrained(target_dir)
    model = AutoModelForCausalLM.from_pretrained(target_dir, dtype=torch.float32).to(device).eval()
    results = sit_exam(model, tokenizer, questions, batch, max_new_tokens)
    table = scores(results)
    for category in table:
        of = [r for r in results if r.category == category]
        for right in (True, False):
            for r in [r for r in of if r.right == right][:samples]:
                lacks = "" if right else f"  [lacks {', '.join(map(repr, r.missing)) or 'an end'}]"
                print(f"{category}, {'right' if right else 'wrong'}\n  {r.question}\n  -> {r.answer}{lacks}")
    print(score_table(table))
    if json_output is not None:
        save_scores(json_output, table, results)
    return table


def save_scores(path: str | Path, table: dict[str, dict[str, float]], results: Sequence[Answered] = ()) -> None:
    """Write the scores, and the answers they were counted from, as JSON."""
    record: dict[str, Any] = {"scores": table}
    if results:
        record["answers"] = [asdict(r) for r in results]
    save_json(path, record)


def card_section(table: dict[str, dict[str, float]]) -> str:
    """The data card's section on how well the target answers, from the numbers in its scores file."""
    return (
        "## How well the target answers\n\n"
        "Greedy answers to the held-out questions. A turn is right if the answer ends by itself and contains every\n"
        "expected string; for translation these are the German sentences, so *parts right* is the share of sentences\n"
        "and *questions right* the share of whole passages.\n\n" + score_table(table) + "\n"
    )
