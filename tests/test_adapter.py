"""model.generate with custom_generate=fspad_generate: each setting is honoured, or refused by its name."""

import pytest
import torch
import transformers as hf
from conftest import tiny_draft, tiny_target
from tokenizers import Tokenizer, models, pre_tokenizers

from fspad_ref import Target, TreeConfig, fspad_generate
from fspad_ref.errors import ConfigError, InputError, TargetMismatch
from fspad_ref.tree import DynamicTree

PROMPT = torch.tensor([[2, 7, 5, 11, 3]])


@pytest.fixture(scope="module")
def target() -> Target:
    """With a tokenizer of 31 words; the last is what StopStringCriteria tries a tokenizer with."""
    words = [f"<{i}>" for i in range(30)] + ["abcdef"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<0>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return Target(tiny_target().model, hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<0>"))


def theirs(target, ids=PROMPT, **settings):
    if "generation_config" not in settings:  # which says all of this itself
        settings = dict(do_sample=False, max_new_tokens=24) | settings
    return target.model.generate(ids, **settings)


def ours(target, ids=PROMPT, draft=None, **settings):
    draft = DynamicTree(draft or tiny_draft(target), TreeConfig(4, 3, 20))
    return theirs(target, ids, custom_generate=fspad_generate, draft=draft, **settings)


def only_the_first_row(input_ids, scores):
    """A user's own, written for one prompt: it changes row 0 and no other."""
    scores = scores.clone()
    scores[0, input_ids[0]] = -torch.inf
    return scores


SILENT = {  # here they happen to change nothing
    "nothing": {},
    "min_new_tokens": dict(min_new_tokens=24),
}
HONOURED = SILENT | {
    "repetition_penalty": dict(repetition_penalty=1.8),
    "no_repeat_ngram_size": dict(no_repeat_ngram_size=2),
    "bad_words_ids": dict(bad_words_ids=[[15], [22, 17]]),
    "begin_suppress_tokens": dict(begin_suppress_tokens=list(range(20))),
    "forced_eos_token_id": dict(forced_eos_token_id=9),
    "encoder_repetition_penalty": dict(encoder_repetition_penalty=3.0),
    "prefix_allowed_tokens_fn": dict(prefix_allowed_tokens_fn=lambda row, ids: [[2, 3, 5, 8, 13]][row]),
    "a processor of one's own": dict(logits_processor=[only_the_first_row]),
    "end tokens": dict(eos_token_id=[20, 12, 11]),
    "max_length": dict(max_new_tokens=None, max_length=12),
    "max_length criterion": dict(stopping_criteria=[hf.MaxLengthCriteria(9)]),
    "max_time": dict(stopping_criteria=[hf.MaxTimeCriteria(0.0)]),
    "a criterion of one's own": dict(stopping_criteria=[lambda ids, scores, **_: torch.tensor([ids.shape[1] >= 12])]),
    "generation_config": dict(generation_config=hf.GenerationConfig(max_new_tokens=9, repetition_penalty=1.4)),
}


@pytest.mark.parametrize("name", HONOURED)
def test_greedy_text_is_that_of_generate_itself(target, name):
    expected, rounds = theirs(target, **HONOURED[name]).tolist(), []
    assert name in SILENT or expected != theirs(target).tolist(), "this setting shows nothing: choose another"
    assert ours(target, **HONOURED[name], on_round=lambda tokens, _: rounds.extend(tokens)).tolist() == expected
    assert [[*PROMPT[0].tolist(), *rounds]] == expected


def test_a_sampled_text_depends_on_the_seed_alone(target):
    """Not on the draft; with temperature, cuts and a penalty that reads the text."""
    settings = dict(do_sample=True, temperature=1.4, top_k=12, top_p=0.95, min_p=0.01, repetition_penalty=1.2)
    texts = []
    for seed, draft in ((3, tiny_draft(target)), (3, tiny_draft(target, seed=5)), (4, tiny_draft(target))):
        torch.manual_seed(seed)
        texts.append(ours(target, draft=draft, **settings).tolist())
    assert texts[0] == texts[1] != texts[2]


def test_stop_strings_end_the_text_where_generate_ends_it(target):
    words = [target.tokenizer.convert_ids_to_tokens(int(token)) for token in theirs(target)[0, 5:]]
    for place in range(1, len(words) - 1, 4):
        string = [words[place] + " " + words[place + 1], "<abc>"]
        expected = theirs(target, stop_strings=string, tokenizer=target.tokenizer)
        found = ours(target, stop_strings=string)
        assert found.tolist() == expected.tolist() and found.shape[1] <= 5 + place + 2


def test_settings_that_cannot_be_honoured_are_refused_by_name(target):
    for settings, named in (
        (dict(streamer=hf.TextStreamer(target.tokenizer, skip_prompt=True)), "streamer= .use on_round"),
        (dict(assistant_model=tiny_target(seed=3).model), "assistant_model= .the draft takes its place"),
        (dict(num_beams=2), "num_beams=2"),
        (dict(num_return_sequences=2, do_sample=True), "num_return_sequences=2"),
        (dict(return_dict_in_generate=True), "return_dict_in_generate=True"),
        (dict(cache_implementation="static"), "cache_implementation='static'"),
        (dict(prompt_lookup_num_tokens=3), "prompt_lookup_num_tokens=3"),
        (dict(guidance_scale=1.5), "found UnbatchedClassifierFreeGuidanceLogitsProcessor, which remembers"),
    ):
        with pytest.raises(ConfigError, match=named):
            ours(target, **settings)


def test_what_is_no_prompt_of_this_target_is_refused(target):
    cache = target.new_cache(40)
    target.features(PROMPT[:, :4], cache=cache)
    for settings, found in (
        (dict(ids=None, inputs_embeds=target.embed(PROMPT)), "found inputs_embeds"),
        (dict(position_ids=torch.arange(4, 9)[None]), "found other position_ids"),
        (dict(past_key_values=cache), "found a filled cache"),
        (dict(attention_mask=torch.tensor([[0, 0, 1, 1, 1]])), "found padding"),
        (dict(ids=torch.cat((PROMPT, PROMPT))), "expected one prompt"),
    ):
        with pytest.raises(InputError, match=found):
            ours(target, **settings)
    with pytest.raises(TargetMismatch, match="the model that the draft's target wraps, found another"):
        ours(tiny_target(seed=2), draft=tiny_draft(target))
    bare = Target(target.model)
    with pytest.raises(ConfigError, match="a target with a tokenizer for stop_strings, found none"):
        ours(bare, stop_strings="<5>")
