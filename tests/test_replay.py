"""Replay over a recorded text is the real loop, round by round; n-alpha and rates are what single forwards say."""

from functools import partial

import pytest
import torch
from conftest import tiny_draft
from torch.nn.functional import pad
from worded import QUESTIONS, TREE, quiet, worded_target

from fspad_ref import (
    Draft,
    SamplingConfig,
    Target,
    TreeConfig,
    autoregressive_generate,
    grow_tree,
    speculative_generate,
)
from fspad_ref.bench import replay as module
from fspad_ref.bench.bench import Speculative, decode_questions
from fspad_ref.bench.replay import Recording, n_alpha, record, replay_many, scored_everywhere, text_features
from fspad_ref.errors import CheckpointError, InputError
from fspad_ref.tree import top_children

PROMPT = [2, 7, 5, 11, 3]


def recording(target: Target, prompt: list[int], tokens: list[int], how: SamplingConfig | None = None) -> Recording:
    how = how or SamplingConfig()
    return Recording(0, "qa", 0, how.temperature, how.seed, prompt, tokens, text_features(target, prompt + tokens))


def attentive(draft: Draft) -> Draft:
    """A copy with sharp attention, as trained drafts have: a wrong position or mask then changes tokens."""
    sharp = Draft(draft.config, draft.target).eval()
    weights = {f"layer.{part}.weight": 5 * getattr(draft.layer, part).weight for part in "qkvo"}
    sharp.load_state_dict(draft.state_dict() | weights)
    return sharp


def agreeable(target: Target, draft: Draft, length: int = 13) -> Recording:
    """A text that follows the draft's own chains for 0, 1, 2, 3 tokens in turn, then takes a token of its own; its last
    token is one that the draft guesses."""
    tokens, follow = [4], 0
    while len(tokens) < length:
        features = text_features(target, PROMPT + tokens)
        chain = grow_tree(draft, features[None], torch.tensor([PROMPT + tokens]), TreeConfig(1, 3, 5)).token
        tokens += [*chain[1 : follow + 1].tolist(), (int(chain[follow + 1]) + 1) % 31]
        follow = (follow + 1) % 4
    return recording(target, PROMPT, tokens[:length])


# ---- rounds ----


TREES = [TREE, TreeConfig(5, 3, 20), TreeConfig(1, 4, 5), TreeConfig(6, 1, 1), TreeConfig(5, 3, 20, 0.7, 0.8)]


@pytest.mark.parametrize("config", TREES, ids=str)
def test_replay_is_the_real_loop_round_by_round(target, draft, config):
    """Greedy and sampled texts that end by the cap or by EOS, at every place within a round, in shrinking batches."""
    draft, texts, real = attentive(draft), [], []
    for number, length in enumerate((1, 2, 30, *range(9, 20))):
        settings = dict(max_new_tokens=length, sampling=SamplingConfig(float(number % 2), seed=number))
        prompt = PROMPT[: 1 + number % 4]
        if number % 3 == 2:  # ends with one of the tokens that the text holds
            full = autoregressive_generate(target, prompt, **settings).tokens
            settings["eos_token_id"] = full[length // 2]
        plain = autoregressive_generate(target, prompt, **settings).tokens
        texts.append(recording(target, prompt, plain, settings["sampling"]))
        real.append(speculative_generate(target, draft, prompt, tree=config, **settings))
    assert replay_many(draft, texts, config, batch=4, progress=quiet) == [one.accepted for one in real]
    if config is TREE:
        cut = [sum(one.accepted) + len(one.accepted) == len(one.tokens) for one in real]
        assert any(cut) and not all(cut), "some texts must end inside a block, without the bonus token"


@pytest.mark.parametrize("config", [TREE, TreeConfig(3, 3, 12), TreeConfig(4, 2, 9)], ids=str)
def test_what_a_round_accepts_is_what_its_tree_holds_of_the_text(target, draft, config):
    """At every root, against `grow_tree`, node by node: a text that the draft guesses for several tokens in a row, and
    one whose scores all tie, so that only the order decides."""
    draft, blank = attentive(draft), tiny_draft(target)
    blank.load_state_dict({name: torch.zeros_like(weight) for name, weight in blank.state_dict().items()})
    guesses = top_children(blank, torch.zeros(24, dtype=torch.float64), config.top_k)[1].tolist()  # at every node
    ties = recording(target, PROMPT, [30, *(guesses[rank] for rank in (0, 0, 0, 1, 0, 2, 0, 0, 1, 1, 2, 0, 0))])
    for of, text in ((draft, agreeable(target, draft)), (blank, ties)):
        ids, counts = torch.tensor([text.prompt + text.tokens]), []
        score, on_text = scored_everywhere(of, text, config, batch=3)
        for row, root in enumerate(range(len(PROMPT), ids.shape[1] - 1)):
            before, written = (text.features[None, :root], ids[:, : root + 1]), pad(ids[0], (0, 9), value=-1)[root:]
            for tree in (config, TreeConfig(config.top_k, config.depth, config.capacity)):
                grown = grow_tree(of, *before, tree)
                right = ((grown.token == written[grown.depth]) | ~grown.ancestors).all(dim=1)
                counts += [int(right.sum()) - 1] * (tree is config)
            torch.testing.assert_close(score[row], grown.score[1:])  # of all that was scored
            assert on_text[row].tolist() == right[1:].tolist()
        assert module.kept_on_text(score, on_text, config.total_tokens)[:, -1].tolist() == counts
        assert max(counts) >= (2 if of is draft else 1)


# ---- recordings ----


def place(answer) -> tuple:
    return answer.question_id, answer.task, answer.turn, answer.temperature


@pytest.mark.parametrize("batch", [1, 3])
def test_recordings_are_the_texts_of_the_benchmark(tmp_path, batch):
    """Two turns, two temperatures: tokens and rounds of every answer are those of the real loop; so after a file."""
    target = worded_target()
    draft = tiny_draft(target)
    settings = dict(temperatures=(0.0, 1.0), max_new_tokens=12, seed=3, progress=quiet)
    answers = decode_questions(target, {"fspad": Speculative(draft, TREE)}, QUESTIONS, **settings)
    measured = [(place(a), a.tokens, a.rounds) for a in answers.itertuples() if a.method == "fspad"]
    for _ in range(2):  # made, then read
        recordings = record(target, QUESTIONS, **settings, batch=batch, folder=tmp_path)
        rounds = replay_many(draft, recordings, TREE, progress=quiet)
        assert [(place(r), len(r.tokens), len(one)) for r, one in zip(recordings, rounds, strict=True)] == measured
    assert any(rounds < tokens - 1 for _, tokens, rounds in measured), "some draft token must have been accepted"
    with pytest.raises(CheckpointError, match="these questions"):
        record(target, QUESTIONS[1:], **settings, batch=batch, folder=tmp_path)


def test_a_batch_that_rounds_otherwise_is_decoded_again(monkeypatch):
    """Whatever the batch returns, the recorded text is the one that a forward over it confirms."""
    target, settings = worded_target(), dict(temperatures=(1.0,), max_new_tokens=6, progress=quiet)
    (right,) = record(target, QUESTIONS[1:2], **settings)
    wrong = [*right.tokens[:-1], (right.tokens[-1] + 1) % 31]
    monkeypatch.setattr(module, "answers", lambda *_: [wrong])
    (again,) = record(target, QUESTIONS[1:2], **settings)
    assert again.tokens == right.tokens and torch.equal(again.features, right.features)
    sampling = SamplingConfig(1.0, seed=right.seed)
    assert module.is_drawn(target, right.prompt, right.tokens, right.features, sampling)
    assert not module.is_drawn(target, right.prompt, wrong, text_features(target, right.prompt + wrong), sampling)


# ---- n-alpha and rates ----


@torch.no_grad()
def chain_of(draft: Draft, text: Recording, start: int, steps: int) -> list[int]:
    """The chain that starts at pair `start`, every step one forward over everything, without cache or mask."""
    ids = torch.tensor([text.prompt + text.tokens])
    features, tokens = text.features[None, : start + 1], []
    for _ in range(steps):
        out = draft(features, ids[:, 1 : features.shape[1] + 1])
        tokens.append(int(draft.lm_head(out.logit_feature[0, -1]).argmax()))
        features = torch.cat((features, out.aligned_feature[:, -1:]), dim=1)
    return tokens


def test_n_alpha_and_rates_are_those_of_single_forwards(target, draft):
    draft, most = attentive(draft), 3
    text = agreeable(target, draft)
    ids, last, counts = text.prompt + text.tokens, len(PROMPT) + 12, torch.zeros(most + 1, 2, dtype=torch.long)
    for start in range(len(PROMPT) - 1, last - 1):
        for step, token in enumerate(chain_of(draft, text, start, min(most + 1, last - start - 1))):
            right = token == ids[start + step + 2]
            counts[step] += torch.tensor([right, True])
            if not right:
                break
    assert n_alpha(draft, text, most).tolist() == counts.tolist() and counts[1:, 1].min() > 0
    texts = [(ids, [False] * len(PROMPT) + [True] * 13)]
    rates = module.acceptance_rates(target, partial(module.draft_guesses, draft), texts, levels=most + 1, ranks=1)
    torch.testing.assert_close(rates[:, 0], counts[:, 0].double() / counts[:, 1])


def test_the_shortest_texts(target):
    draft = tiny_draft(target)
    assert n_alpha(draft, recording(target, PROMPT, [4]), 2).tolist() == [[0, 0]] * 3
    (_, tried), *later = n_alpha(draft, recording(target, PROMPT, [4, 5]), 2).tolist()
    assert tried == 1 and later == [[0, 0]] * 2
    assert replay_many(draft, [recording(target, PROMPT, [4])], TREE, progress=quiet) == [[]]
    with pytest.raises(InputError, match="two response tokens in a row"):
        module.acceptance_rates(target, partial(module.draft_guesses, draft), [([2, 7, 5], [False, False, True])])
