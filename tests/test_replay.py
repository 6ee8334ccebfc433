"""Replay over a recorded text is the real loop, round by round; n-alpha is what single forwards say."""

import dataclasses

import pytest
import torch
from conftest import tiny_draft, tiny_target
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from fspad_ref import (
    Draft,
    SamplingConfig,
    Target,
    TreeConfig,
    autoregressive_generate,
    grow_tree,
    speculative_generate,
)
from fspad_ref.bench.bench import decode_questions
from fspad_ref.bench.replay import (
    Recording,
    answer_many,
    chain_tokens,
    is_drawn,
    n_alpha,
    record,
    record_all,
    recorded,
    replay,
    replay_many,
    text_features,
)
from fspad_ref.data import Question
from fspad_ref.errors import CheckpointError

PROMPT = [2, 7, 5, 11, 3]
TREE = TreeConfig(top_k=8, depth=2, total_tokens=100)  # of 31 tokens: wide enough that even random drafts hit
QUESTIONS = [
    Question(7, "conversation", ("w1 w2 w3", "w4 w5")),
    Question(8, "conversation", ("w6 w7",)),
    Question(9, "qa", ("w8 w9 w10 w11",)),
    Question(12, "qa", ("w12",)),
]


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


def recording(target: Target, prompt: list[int], tokens: list[int]) -> Recording:
    return Recording(0, "qa", 0, 0.0, prompt, tokens, text_features(target, prompt + tokens))


# ---- rounds ----


@pytest.mark.parametrize("sampling", [SamplingConfig(), SamplingConfig(1.0, seed=1)], ids=["greedy", "sampled"])
def test_replay_is_the_real_loop_round_by_round(target, draft, sampling):
    """Texts that end by the cap or by EOS, at every place within a round."""
    full = autoregressive_generate(target, PROMPT, max_new_tokens=16, sampling=sampling).tokens
    cuts = 0
    for settings in [*(dict(max_new_tokens=cap) for cap in (1, 2, 11, 12, 13, 16)),
                     *(dict(max_new_tokens=16, eos_token_id=eos) for eos in sorted(set(full))[::4])]:  # fmt: skip
        settings |= {"sampling": sampling}
        text = recording(target, PROMPT, autoregressive_generate(target, PROMPT, **settings).tokens)
        real = speculative_generate(target, draft, PROMPT, tree=TREE, **settings)
        assert replay(draft, text, TREE) == real
        cuts += sum(real.accepted) + len(real.accepted) == len(real.tokens)
    assert cuts > 0, "some text must end inside a block, without its bonus token"


@pytest.mark.parametrize("config", [TREE, TreeConfig(5, 3, 20), TreeConfig(1, 4, 5), TreeConfig(6, 1, 1)], ids=str)
def test_replays_in_lockstep_are_single_replays(target, draft, config):
    """Texts of many lengths, in batches that shrink as texts end; one text has no round at all."""
    draft, texts = attentive(draft), []
    for number, length in enumerate((1, 2, 9, 30, 17, 23, 5)):
        sampling = SamplingConfig(1.0, seed=number) if number % 2 else SamplingConfig()
        prompt = PROMPT[: 1 + number % 4]
        answer = autoregressive_generate(target, prompt, max_new_tokens=length, sampling=sampling).tokens
        texts.append(recording(target, prompt, answer))
    texts.append(agreeable(target, draft))
    single = [replay(draft, text, config).accepted for text in texts]
    assert replay_many(draft, texts, config, batch=3, progress=lambda jobs, **_: jobs) == single
    assert single[0] == [] and (config.total_tokens == 1 or any(max(one) > 0 for one in single[1:]))


def test_ties_are_broken_in_lockstep_as_in_the_tree(target):
    """A draft whose lm_head cannot tell tokens apart: every score ties, so only the order decides."""
    draft = tiny_draft(target)
    blank = {name: torch.zeros_like(weight) for name, weight in draft.state_dict().items()}
    draft.load_state_dict(blank)
    text = recording(target, PROMPT, [0, 1, 2, 0, 1, 0, 2, 1, 3, 0, 0])
    for config in (TREE, TreeConfig(3, 3, 12), TreeConfig(4, 2, 9)):
        assert replay_many(draft, [text, text], config) == [replay(draft, text, config).accepted] * 2


def place(answer) -> tuple:
    return answer.question_id, answer.category, answer.turn, answer.temperature


def test_recordings_are_the_texts_of_the_benchmark():
    """Two turns, two temperatures: tokens and rounds of every answer are those of the real loop."""
    target = worded_target()
    draft = tiny_draft(target)
    settings = dict(temperatures=(0.0, 1.0), max_new_tokens=12, seed=3, progress=lambda jobs, **_: jobs)
    recordings = record(target, QUESTIONS[:3], **settings)
    answers = decode_questions(target, {"fspad": draft}, QUESTIONS[:3], tree=TREE, **settings)
    measured = [(place(a), a.tokens, a.rounds) for a in answers if a.method == "fspad"]
    replayed = [(place(r), len(r.tokens), len(replay(draft, r, TREE).accepted)) for r in recordings]
    assert replayed == measured and len(replayed) == 8
    assert any(rounds < tokens - 1 for _, tokens, rounds in replayed), "some draft token must have been accepted"


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_many_answers_at_once_are_the_answers_one_by_one(temperature):
    target = worded_target()
    prompts = [[4, 9, 12], [7], [5, 6, 7, 8, 9, 10], [20, 21]]
    laws = [SamplingConfig(temperature, seed=number) for number in range(4)]
    answers = answer_many(target, prompts, laws, 12, eos=1)
    for prompt, law, (tokens, features) in zip(prompts, laws, answers, strict=True):
        alone = autoregressive_generate(target, prompt, max_new_tokens=12, eos_token_id=1, sampling=law)
        assert tokens == alone.tokens and torch.equal(features, text_features(target, prompt + tokens))


def test_a_batch_that_rounds_otherwise_is_decoded_again(monkeypatch):
    """Whatever the batch returns, the answer is the one that a forward over the text confirms."""
    target, law = worded_target(), SamplingConfig(1.0, seed=4)
    right = autoregressive_generate(target, [4, 9], max_new_tokens=6, sampling=law).tokens
    wrong = [*right[:-1], (right[-1] + 1) % 31]
    monkeypatch.setattr("fspad_ref.bench.replay._batch", lambda *_: [right, wrong])
    assert [tokens for tokens, _ in answer_many(target, [[4, 9]] * 2, [law] * 2, 6, eos=31)] == [right, right]
    features = text_features(target, [4, 9, *wrong])
    assert not is_drawn(target, [4, 9], wrong, features, law) and is_drawn(target, [4, 9], right, features, law)


@pytest.mark.parametrize("batch", [2, 3, 8])
def test_recordings_in_batches_are_the_same(tmp_path, batch):
    target, settings = worded_target(), dict(temperatures=(0.0, 1.0), max_new_tokens=8, seed=3)
    single = record(target, QUESTIONS, progress=lambda jobs, **_: jobs, **settings)
    for _ in range(2):  # made, then read
        many = record_all(tmp_path, target, QUESTIONS, batch=batch, progress=lambda jobs, **_: jobs, **settings)
        assert [(place(one), one.prompt, one.tokens) for one in many] == [
            (place(one), one.prompt, one.tokens) for one in single
        ]
        for one, other in zip(many, single, strict=True):
            torch.testing.assert_close(one.features, other.features)


# ---- n-alpha ----


def agreeable(target: Target, draft, length: int = 14) -> Recording:
    """A text that follows the draft's own chains for 0, 1, 2, 3 tokens in turn, then takes a token of its own."""
    tokens, follow = [4], 0
    while len(tokens) < length:
        features = text_features(target, PROMPT + tokens)
        chain = grow_tree(draft, features[None], torch.tensor([PROMPT + tokens]), TreeConfig(1, 3, 5)).token
        tokens += [*chain[1 : follow + 1].tolist(), (int(chain[follow + 1]) + 1) % 31]
        follow = (follow + 1) % 4
    return recording(target, PROMPT, tokens[:length])


def one_chain(draft, text: Recording, start: int, steps: int) -> list[int]:
    """The chain that starts at pair `start`, every step one forward over everything, without cache or mask."""
    ids = torch.tensor([text.prompt + text.tokens])
    features, tokens = text.features[None, : start + 1], []
    for _ in range(steps):
        out = draft(features, ids[:, 1 : features.shape[1] + 1])
        tokens.append(int(draft.lm_head(out.logit_feature[0, -1]).argmax()))
        features = torch.cat((features, out.aligned_feature[:, -1:]), dim=1)
    return tokens


def attentive(draft: Draft) -> Draft:
    """A copy with sharp attention, as trained drafts have: a wrong position or mask then changes tokens."""
    sharp = Draft(draft.config, draft.target).eval()
    weights = {f"layer.{part}.weight": 5 * getattr(draft.layer, part).weight for part in "qkvo"}
    sharp.load_state_dict(draft.state_dict() | weights)
    return sharp


@torch.no_grad()
def test_chains_are_those_of_single_forwards(target, draft):
    draft = attentive(draft)
    text, most = agreeable(target, draft), 3
    last, batched = len(text.prompt) + len(text.tokens) - 1, chain_tokens(draft, text, most)
    counts = torch.zeros(most + 1, 2, dtype=torch.long)
    for column, start in enumerate(range(len(text.prompt) - 1, last - 1)):
        chain = one_chain(draft, text, start, min(most + 1, last - start - 1))
        assert batched[: len(chain), column].tolist() == chain
        for step, token in enumerate(chain):
            right = token == (text.prompt + text.tokens)[start + step + 2]
            counts[step] += torch.tensor([right, True])
            if not right:
                break
    assert n_alpha(draft, text, most).tolist() == counts.tolist()
    assert counts[0, 1] == len(text.tokens) - 1 and counts[1:, 1].min() > 0


def test_n_alpha_of_the_shortest_texts(target):
    draft = tiny_draft(target)
    assert n_alpha(draft, recording(target, PROMPT, [4]), 2).tolist() == [[0, 0]] * 3
    (_, tried), *later = n_alpha(draft, recording(target, PROMPT, [4, 5]), 2).tolist()
    assert tried == 1 and later == [[0, 0]] * 2


# ---- files ----


def test_recordings_are_made_once_and_kept(tmp_path, monkeypatch):
    target, path = worded_target(), tmp_path / "recordings.json"
    settings = dict(temperatures=(0.0, 1.0), max_new_tokens=5, progress=lambda jobs, **_: jobs)
    fresh = record(target, QUESTIONS, **settings)
    made = recorded(path, target, QUESTIONS, **settings)
    monkeypatch.setattr("fspad_ref.bench.replay.record", None)  # a second recording would fail
    kept = recorded(path, target, QUESTIONS, **settings)
    for one, *others in zip(fresh, made, kept, strict=True):
        for other in others:
            assert torch.equal(one.features, other.features)
            assert vars(other) | {"features": 0} == vars(one) | {"features": 0}
    assert len({file.name for file in tmp_path.iterdir()}) == 2


def test_recordings_of_another_target_or_setting_are_refused(tmp_path):
    target, path = worded_target(), tmp_path / "recordings.json"
    settings = dict(temperatures=(0.0,), max_new_tokens=3, progress=lambda jobs, **_: jobs)
    recorded(path, target, QUESTIONS, **settings)
    other_texts = [dataclasses.replace(QUESTIONS[0], turns=("w1",)), *QUESTIONS[1:]]
    with pytest.raises(CheckpointError, match=r"questions_hash was .* Remove the file"):
        recorded(path, target, other_texts, **settings)
    with pytest.raises(CheckpointError, match="max_new_tokens was 3 and is now 4; seed was 0 and is now 1"):
        recorded(path, target, QUESTIONS, **settings | {"max_new_tokens": 4, "seed": 1})
    # same embedding, same tokenizer, another layer: a target trained on
    with torch.no_grad():
        target.model.model.layers[0].mlp.up_proj.weight += 1e-3
    with pytest.raises(CheckpointError, match="weights_hash was"):
        recorded(path, target, QUESTIONS, **settings)
