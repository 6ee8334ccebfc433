"""`python -m fspad_ref write`: dialogues to train drafts on, both sides of them written by the target itself.

A chat model that is given the beginning of a user turn goes on as the user (Magpie, arXiv 2406.08464). So the target
first writes a question, after an opening from data/openings.json that says which task it is for, then its own answer:
every second dialogue greedily, the others at T=1. Dialogues are decoded side by side (bench/answers.py); each depends
on its number alone, up to rounding.
"""

import json
import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from fspad_ref.bench.answers import Job, answer, run_jobs
from fspad_ref.data import CATEGORIES
from fspad_ref.errors import ConfigError, InputError, require
from fspad_ref.files import load_json
from fspad_ref.sampling import SamplingConfig
from fspad_ref.target import Target

QUESTION_TOKENS = {"conversation": 160, "translation": 80, "qa": 50, "math_reasoning": 130}  # longer ones are dropped
PASSAGE_TOKENS = (100, 200, 300, 400)  # of a text to summarize or to find an answer in; it ends with its sentence
BLOCK = 512  # dialogues of one task in a row: a step costs what the longest text in it needs


@dataclass(frozen=True)
class WriteConfig:
    """Let the target write dialogues: one JSON object per line, appended to OUT. It can be stopped and run again."""

    out: Path = Path("out/dialogues.jsonl")  # file to append to; dialogues that are in it are not written again
    first: int = 0  # number of the first dialogue, which is also its seed
    dialogues: int = 6 * BLOCK  # number of dialogues; 512 of one task follow another
    answer_tokens: int = 256  # longest answer, in tokens
    slots: int = 128  # dialogues decoded side by side; on a CPU about 30 MB each
    target: str = "data/target"  # folder or Hub id of the target
    openings: Path = Path("data/openings.json")  # how questions of each task may begin
    device: str = "cpu"  # where to compute: cpu, cuda, cuda:1, ...
    dtype: str = "bfloat16"  # precision of the target

    def __post_init__(self) -> None:
        found = self.dialogues, self.answer_tokens, self.slots
        require(min(found) > 0, ConfigError, "dialogues, answer_tokens and slots above 0", found, "Raise them.")


def write(config: WriteConfig) -> None:
    """Write the dialogues that are missing in config.out."""
    target = Target.from_pretrained(config.target, device=config.device, dtype=config.dtype)
    writer = Writer(target, load_json(config.openings), config.answer_tokens)
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.touch()
    done = {record["id"] for record in written(config.out)}
    missing = [(number, CATEGORIES[number // BLOCK % len(CATEGORIES)])
               for number in range(config.first, config.first + config.dialogues) if number not in done]  # fmt: skip
    jobs = (writer.dialogue(*one) for one in missing)
    with config.out.open("a", encoding="utf-8") as file, tqdm(total=len(missing), unit="dialogue") as bar:
        tokens = 0
        for _, record in run_jobs(target, jobs, config.slots, 520 + 2 * config.answer_tokens):
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
            file.flush()
            tokens += sum(record["tokens"])
            bar.set_postfix_str(f"{tokens:,} answer tokens", refresh=False)
            bar.update()


def written(path: Path) -> list[dict[str, Any]]:
    """The records of a file; half a line at its end, left by a process that was killed, is cut off."""
    data = path.read_bytes()
    os.truncate(path, data.rfind(b"\n") + 1)
    return [json.loads(line) for line in data.splitlines(keepends=True) if line.endswith(b"\n")]


class Writer:
    """Jobs for `run_jobs` that write dialogues."""

    def __init__(self, target: Target, openings: dict[str, list[str]], answer_tokens: int):
        eos = getattr(target.tokenizer, "eos_token_id", None)
        require(eos is not None, InputError, "a target with a tokenizer and an end token", "none", "Save one with it.")
        self.tokenizer, self.openings, self.limit, self.eos = target.tokenizer, openings, answer_tokens, eos
        # The template around a marked question and a marked answer gives the words between the turns.
        turns = [{"role": role, "content": "\0"} for role in ("user", "assistant", "user")]
        chat = target.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        before, between, again, _ = chat.split("\0")
        self.before, self.between, self.again = map(self._ids, (before, between, again))
        self.stops = {i for i in range(len(self.tokenizer)) if self.tokenizer.decode([i]).endswith((".", "!", "?"))}

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def dialogue(self, number: int, task: str) -> Job:
        """Writes one dialogue; returns its record, whose `messages` are empty if no usable question came."""
        choose, sampling = random.Random(number), SamplingConfig(float(number % 2), seed=number)
        record = {"id": number, "task": task, "temperature": sampling.temperature, "messages": [], "tokens": [],
                  "ended": True}  # fmt: skip
        feed = self.before
        for _ in range(choose.choice((1, 2)) if task == "conversation" else 1):
            question = yield from self._question(task, feed, choose, number)
            if not question:
                break
            tokens = yield from answer(self.between, sampling, self.limit, self.eos)
            text = self.tokenizer.decode(tokens, skip_special_tokens=True)
            record["messages"] += [{"role": "user", "content": self.tokenizer.decode(question)},
                                   {"role": "assistant", "content": text}]  # fmt: skip
            record["tokens"].append(len(tokens))
            record["ended"] = tokens[-1] == self.eos
            if not record["ended"]:
                break
            feed = self.again  # begins with the end token, which is drawn but not fed yet
        return record

    def _question(self, task: str, feed: list[int], choose: random.Random, number: int) -> Job:
        """The user's words, all fed but for what comes after them; none if they are unusable."""
        sampling = SamplingConfig(0.8, top_k=50, seed=number)
        if task in ("summarization", "rag"):
            passage = yield from self._passage(task, choose, sampling)
            if not passage:
                return []
            if task == "summarization":
                asked = self._ids(choose.choice(self.openings["summarize"])) + passage
                yield from answer(feed + asked, sampling, 1, self.eos, anew=True)  # what is drawn here is not used
                return asked
            begun = passage + self._ids("\n" + choose.choice(self.openings["rag_question"]))
            tokens = yield from answer(feed + begun, sampling, 40, self.eos, anew=True)
            return begun + tokens[:-1] if tokens[-1] == self.eos and len(tokens) > 3 else []
        opening = "" if task == "conversation" else choose.choice(self.openings[task])
        if task == "translation":
            opening = "Translate German to English: " + opening
        begun = self._ids(opening) if opening else []
        tokens = yield from answer(feed + begun, sampling, QUESTION_TOKENS[task], self.eos)
        return begun + tokens[:-1] if tokens[-1] == self.eos and len(tokens) > 3 else []

    def _passage(self, task: str, choose: random.Random, sampling: SamplingConfig) -> Job:
        """A text of some sentences, which the target writes as an answer, to be read in a dialogue of its own."""
        form = "news article" if task == "summarization" else "encyclopedia article"
        wish = f"Write a {form} of several paragraphs. Begin with these words: {choose.choice(self.openings[task])}"
        prompt, limit = self.before + self._ids(wish) + self.between, choose.choice(PASSAGE_TOKENS)
        tokens = yield from answer(prompt, sampling, limit, self.eos)
        ends = [place for place, token in enumerate(tokens, start=1) if token in self.stops]
        return tokens[: ends[-1]] if ends else []
