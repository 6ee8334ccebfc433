"""model.generate with custom_generate=fspad_generate: each setting is honoured, or refused by its name."""

import pytest
import torch
from conftest import tiny_draft, tiny_target
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    MaxLengthCriteria,
    MaxTimeCriteria,
    PreTrainedTokenizerFast,
    StopStringCriteria,
)
from transformers.generation.logits_process import LogitsProcessor

from fspad_ref import Target, TreeConfig, fspad_generate
from fspad_ref.errors import ConfigError, InputError
from fspad_ref.tree import DynamicTree

PROMPT = torch.tensor([[2, 7, 5, 11, 3]])
SMALL = TreeConfig(4, 3, 20)


@pytest.fixture(scope="module")
def target() -> Target:
    """With a tokenizer of 31 words; the last is what StopStringCriteria tries a tokenizer with."""
    words = [f"<{i}>" for i in range(30)] + ["abcdef"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<0>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return Target(tiny_target().model, PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<0>"))


@pytest.fixture(scope="module")
def draft(target):
    return tiny_draft(target)


def theirs(target, ids=PROMPT, **settings):
    if "generation_config" not in settings:  # which says all of this itself
        settings = dict(do_sample=False, max_new_tokens=24) | settings
    return target.model.generate(ids, **settings)


def ours(target, draft, ids=PROMPT, **settings):
    return theirs(target, ids, custom_generate=fspad_generate, draft=draft, tree=SMALL, **settings)


class Alternating(LogitsProcessor):
    """A user's own, which reads the whole text: after an even sum of ids only odd tokens, and the other way round."""

    def __call__(self, input_ids, scores):
        wanted = (input_ids.sum(-1) + 1) % 2
        return scores.masked_fill(torch.arange(scores.shape[-1])[None] % 2 != wanted[:, None], -torch.inf)


class OnlyTheFirstRow(LogitsProcessor):
    """A user's own, written for one prompt: it changes row 0 and no other."""

    def __call__(self, input_ids, scores):
        scores = scores.clone()
        scores[0, input_ids[0]] = -torch.inf
        return scores


HONOURED = {
    "nothing": {},
    "repetition_penalty": dict(repetition_penalty=1.8),
    "no_repeat_ngram_size": dict(no_repeat_ngram_size=2),
    "bad_words_ids": dict(bad_words_ids=[[15], [22, 17]]),
    "sequence_bias": dict(sequence_bias=[[[6], 4.0], [[8, 9], -5.0]]),
    "suppress_tokens": dict(suppress_tokens=[1, 5, 6, 7, 8]),
    "begin_suppress_tokens": dict(begin_suppress_tokens=list(range(20))),
    "min_new_tokens": dict(min_new_tokens=24),
    "min_length": dict(min_length=29),
    "forced_eos_token_id": dict(forced_eos_token_id=9),
    "exponential_decay_length_penalty": dict(exponential_decay_length_penalty=(3, 1.3)),
    "encoder_repetition_penalty": dict(encoder_repetition_penalty=3.0),
    "encoder_no_repeat_ngram_size": dict(encoder_no_repeat_ngram_size=1),
    "prefix_allowed_tokens_fn": dict(prefix_allowed_tokens_fn=lambda row, ids: [[2, 3, 5, 8, 13]][row]),
    "remove_invalid_values, renormalize_logits": dict(remove_invalid_values=True, renormalize_logits=True),
    "a processor of one's own": dict(logits_processor=LogitsProcessorList([Alternating()])),
    "a processor for one prompt": dict(logits_processor=LogitsProcessorList([OnlyTheFirstRow()])),
    "two at once": dict(repetition_penalty=1.3, no_repeat_ngram_size=3),
    "one end token": dict(eos_token_id=17),
    "a list of end tokens": dict(eos_token_id=[20, 12, 11]),
    "max_length": dict(max_new_tokens=None, max_length=12),
    "max_length criterion": dict(stopping_criteria=[MaxLengthCriteria(9)]),
    "max_time": dict(stopping_criteria=[MaxTimeCriteria(0.0)]),
    "generation_config": dict(
        generation_config=GenerationConfig(max_new_tokens=9, repetition_penalty=1.4, eos_token_id=[3], do_sample=False)
    ),
}


@pytest.mark.parametrize("name", HONOURED)
def test_greedy_text_is_that_of_generate_itself(target, draft, name):
    expected = theirs(target, **HONOURED[name])
    found = ours(target, draft, **HONOURED[name])
    assert found.tolist() == expected.tolist(), f"law broken: {name} means what it means in generate"


def test_the_settings_above_change_the_text(target):
    """Else the test above would show nothing."""
    plain = theirs(target).tolist()
    silent = {"nothing", "min_new_tokens", "min_length", "remove_invalid_values, renormalize_logits"}
    unchanged = {name for name, settings in HONOURED.items() if theirs(target, **settings).tolist() == plain}
    assert unchanged <= silent, f"chosen badly: {sorted(unchanged - silent)}"


def test_a_sampled_text_depends_on_the_seed_alone(target):
    """Not on the draft; with temperature, cuts and a penalty that reads the text."""
    settings = dict(do_sample=True, temperature=1.4, top_k=12, top_p=0.95, min_p=0.01, repetition_penalty=1.2)
    texts = []
    for seed, draft in ((3, tiny_draft(target)), (3, DynamicTree(tiny_draft(target, seed=5), SMALL)), (4, None)):
        torch.manual_seed(seed)
        tree = None if isinstance(draft, DynamicTree) else SMALL
        out = theirs(target, custom_generate=fspad_generate, draft=draft or tiny_draft(target), tree=tree, **settings)
        texts.append(out.tolist())
    assert texts[0] == texts[1], "law broken: a draft never changes the text"
    assert texts[0] != texts[2], "another seed, another text"


# --- where the text ends -------------------------------------------------------------------------------------------


def test_stop_strings_end_the_text_where_generate_ends_it(target, draft):
    words = [target.tokenizer.convert_ids_to_tokens(int(token)) for token in theirs(target)[0, 5:]]
    for place in range(1, len(words) - 1, 4):
        string = [words[place] + " " + words[place + 1], "<abc>"]
        expected = theirs(target, stop_strings=string, tokenizer=target.tokenizer)
        found = ours(target, draft, stop_strings=string)
        assert found.tolist() == expected.tolist() and found.shape[1] <= 5 + place + 2
        criterion = [StopStringCriteria(target.tokenizer, string)]
        assert ours(target, draft, stopping_criteria=criterion).tolist() == expected.tolist()


def test_stop_strings_need_a_tokenizer(target, draft):
    bare = Target(target.model)
    with pytest.raises(ConfigError, match="a target with a tokenizer for stop_strings, found none"):
        ours(bare, tiny_draft(bare), stop_strings="<5>")
    # in a generation_config they never reach us: generate loses the tokenizer, and says so itself
    with pytest.raises(ValueError, match="stop strings"):
        ours(target, draft, generation_config=GenerationConfig(stop_strings="<5>"), tokenizer=target.tokenizer)


# --- streaming -----------------------------------------------------------------------------------------------------


class Recorder:
    """A streamer that notes what it is given."""

    def __init__(self):
        self.calls = []

    def put(self, value):
        self.calls.append(value.tolist())

    def end(self):
        self.calls.append("end")


def test_a_streamer_gets_what_generate_gives_it(target, draft):
    expected, found, rounds = Recorder(), Recorder(), []
    theirs(target, streamer=expected)
    ours(target, draft, stream_to=found, on_round=lambda tokens, accepted: rounds.append(tokens))
    assert found.calls == expected.calls and expected.calls[-1] == "end"
    assert [token for tokens in rounds for token in tokens] == [call[0] for call in found.calls[1:-1]]


# --- what cannot be honoured ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, named",
    [
        (dict(streamer=Recorder()), "streamer= .pass it as stream_to"),
        (dict(num_beams=2), "num_beams=2"),
        (dict(num_return_sequences=2, do_sample=True), "num_return_sequences=2"),
        (dict(return_dict_in_generate=True), "return_dict_in_generate=True"),
        (dict(output_scores=True), "output_scores=True"),
        (dict(cache_implementation="static"), "cache_implementation='static'"),
        (dict(prompt_lookup_num_tokens=3), "prompt_lookup_num_tokens=3"),
        (dict(guidance_scale=1.5), "found UnbatchedClassifierFreeGuidanceLogitsProcessor, which remembers"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_settings_that_cannot_be_honoured_are_refused_by_name(target, draft, settings, named):
    with pytest.raises(ConfigError, match=named):
        ours(target, draft, **settings)


def test_an_assistant_model_is_refused(target, draft):
    with pytest.raises(ConfigError, match="assistant_model= .the draft takes its place"):
        ours(target, draft, assistant_model=tiny_target(seed=3).model)


def test_prompts_that_are_not_simply_ids_are_refused(target, draft):
    with pytest.raises(InputError, match="found inputs_embeds"):
        ours(target, draft, ids=None, inputs_embeds=target.embed(PROMPT))
    with pytest.raises(InputError, match="found other position_ids"):
        ours(target, draft, position_ids=torch.arange(4, 9)[None])
    cache = target.new_cache(40)
    target.features(PROMPT[:, :4], cache=cache)
    with pytest.raises(InputError, match="found past_key_values"):
        ours(target, draft, past_key_values=cache)
    with pytest.raises(InputError, match="expected one prompt"):
        ours(target, draft, ids=torch.cat((PROMPT, PROMPT)))
