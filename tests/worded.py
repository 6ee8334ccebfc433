"""A tiny target that knows words, and questions for it."""

import gzip
import json
from pathlib import Path

from conftest import KINDS, tiny_draft, tiny_target
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from fspad_ref import Target, TreeConfig
from fspad_ref.data import Question, write_questions

TREE = TreeConfig(top_k=8, depth=2, total_tokens=100)  # of 31 tokens: wide enough that even random drafts hit
QUESTIONS = [
    Question(7, "conversation", ("w1 w2 w3", "w4 w5")),
    Question(8, "conversation", ("w6 w7",)),
    Question(9, "qa", ("w8 w9 w10 w11",)),
    Question(12, "qa", ("w12",)),
]


def quiet(jobs=(), **_):
    """In place of a progress bar."""
    return jobs


def worded_target(seed: int = 0) -> Target:
    """The tiny target with a tokenizer of 31 words and a chat template; <end> is its EOS."""
    names = ["<begin>", "<end>", "<user>", "<assistant>", *(f"w{i}" for i in range(27))]
    words = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<begin>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<begin>", eos_token="<end>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<user>", "<assistant>"]})
    tokenizer.chat_template = (
        "<begin>{% for m in messages %} <{{ m.role }}> {{ m.content }}{% if m.role == 'assistant' %} <end>{% endif %}"
        "{% endfor %}{% if add_generation_prompt %} <assistant>{% endif %}"
    )
    return Target(tiny_target(seed).model, tokenizer)


def saved(target: Target, folder: Path) -> dict:
    """Target, drafts, dialogues and questions as files, as in data/; what `bench` and `speed` want to know of them."""
    target.model.save_pretrained(folder / "target")
    target.tokenizer.save_pretrained(folder / "target")
    for kind, (sampling, alignment) in KINDS.items():
        draft = tiny_draft(target, feature_sampling=sampling, partial_alignment=alignment)
        draft.save_pretrained(folder / "drafts" / kind)
    lines = [{"messages": [{"role": "user", "content": f"w{n} w{n + 1}"},
                           {"role": "assistant", "content": " ".join(f"w{(n + i) % 27}" for i in range(9))}]}
             for n in range(8)]  # fmt: skip
    (folder / "dialogues.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    for name in ("questions", "held_out"):
        write_questions(folder / f"{name}.jsonl", QUESTIONS)
    return dict(target=str(folder / "target"), drafts=(str(folder / "drafts" / "fspad"),), dtype="float64",
                questions=folder / "questions.jsonl", tasks=("conversation", "qa"))  # fmt: skip
