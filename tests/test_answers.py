"""Many texts at once are the texts of the plain loop; dialogues are selected as their command says."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from conftest import tiny_target

from fspad_ref import SamplingConfig, autoregressive_generate
from fspad_ref.bench.answers import PREFILL, answer, answers, run_jobs
from fspad_ref.commands.select import grams, usable
from fspad_ref.errors import InputError

EOS = 1


@pytest.mark.parametrize("slots", [1, 3, 8])
def test_answers_are_those_of_the_plain_loop(slots):
    """Any number of slots, prompts short and long (these are prefilled), greedy and sampled, ended early or not."""
    target = tiny_target()
    generator = torch.Generator().manual_seed(0)
    lengths = [1, 2, 5, PREFILL, PREFILL + 1, 50, 3, 9]
    prompts = [torch.randint(2, target.vocab_size, (n,), generator=generator).tolist() for n in lengths]
    kinds = [(0.0, 0), (1.0, 0), (0.7, 5), (1.0, 5)] * 2
    samplings = [SamplingConfig(t, top_k=k, seed=i) for i, (t, k) in enumerate(kinds)]
    found = answers(target, prompts, samplings, 12, EOS, slots=slots)
    for prompt, sampling, tokens in zip(prompts, samplings, found, strict=True):
        plain = autoregressive_generate(target, prompt, max_new_tokens=12, eos_token_id=EOS, sampling=sampling)
        assert tokens == plain.tokens


def test_a_job_may_go_on_after_its_text():
    target, sampling = tiny_target(), SamplingConfig(1.0, seed=4)

    def two_turns():
        first = yield from answer([5, 6, 7], sampling, 4, EOS)
        return first, (yield from answer([first[-1], 9, 3], sampling, 4, EOS))

    (_, (first, second)), = run_jobs(target, [two_turns()], 2, 40)
    text = [5, 6, 7, *first, 9, 3]
    assert second == autoregressive_generate(target, text, max_new_tokens=4, eos_token_id=EOS, sampling=sampling).tokens


def test_texts_beyond_the_targets_positions_are_refused():
    with pytest.raises(InputError, match="at most"):
        answers(target := tiny_target(), [[2, 3]], [SamplingConfig()], target.max_positions, EOS)


# ---- selecting ----


def record(number, question, reply="a fine answer", task="qa"):
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    return {"id": number, "task": task, "messages": messages if question else [], "tokens": [3]}


def test_what_is_left_out_and_why():
    thirteen = " ".join(f"word{i}" for i in range(13))
    records = [record(0, "Who?"), record(1, ""), record(2, "who? "), record(3, f"Well, {thirteen} and so on"),
               record(4, "Why?", "same old " * 40), record(5, thirteen.rsplit(" ", 1)[0] + " other"),
               record(6, "When?", "At some time, the " + "same old " * 40)]  # fmt: skip
    letters = SimpleNamespace(encode=lambda text, **_: [*map(ord, text)], decode=lambda ids: "".join(map(chr, ids)))
    kept = list(usable(records, grams([thirteen.upper()]), letters, left_out := Counter()))
    assert [one["id"] for one in kept] == [0, 5, 6] and left_out.total() == 4, "each reason once"
    assert kept[-1]["messages"][1]["content"] == "At some time, the same old" and kept[-1]["tokens"] == [26]
    assert set(left_out) == {"without a question", "asked before", "like the benchmark's", "looping from the start"}
