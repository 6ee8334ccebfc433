"""An adapter for `transformers`: model.generate(..., custom_generate=fspad_generate, draft=draft).

`generate` turns its settings into logits processors and stopping criteria and hands us both; greedy text is then that
of `generate` itself, token for token. What cannot be honoured is refused by name, never ignored.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import StopStringCriteria
from transformers.generation import logits_process as given
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria

from fspad_ref.draft import Draft
from fspad_ref.errors import ConfigError, InputError, TargetMismatch, require
from fspad_ref.generate import OnRound, speculative_generate
from fspad_ref.sampling import SamplingConfig
from fspad_ref.tree import Grower, TreeConfig

# Processors that treat every row by itself, so that all nodes of one depth may go together.
ROW_BY_ROW = (given.TemperatureLogitsWarper, given.TopKLogitsWarper, given.TopPLogitsWarper, given.MinPLogitsWarper,
              given.RepetitionPenaltyLogitsProcessor, given.NoRepeatNGramLogitsProcessor)  # fmt: skip
# Those that remember the last call, and so the text in its order: a tree asks in another.
WITH_MEMORY = (given.UnbatchedClassifierFreeGuidanceLogitsProcessor, given.SynthIDTextWatermarkLogitsProcessor)
# Settings of generate that change what is returned or how the search is done.
REFUSED = ("num_beams", "num_return_sequences", "penalty_alpha", "dola_layers", "prompt_lookup_num_tokens",
           "assistant_early_exit", "return_dict_in_generate", "output_scores", "output_logits", "output_attentions",
           "output_hidden_states", "cache_implementation")  # fmt: skip


def fspad_generate(
    model, input_ids: Int[Tensor, "1 seq"], logits_processor=None, stopping_criteria=None,
    generation_config=None, *, draft: Draft | Grower, tree: TreeConfig | None = None,
    on_round: OnRound | None = None, stop_strings: str | list[str] | None = None, **model_kwargs,
) -> Int[Tensor, "1 longer"]:  # fmt: skip
    """Called by `generate` once it has prepared its arguments; returns prompt and new tokens.

    Args:
        draft, tree, on_round: as for speculative_generate; with on_round the text can be shown as it grows.
        stop_strings: the text ends with the first token that completes one of them, as in `generate`; they need the
            target's tokenizer. (In a generation_config, `generate` asks for a tokenizer and then loses it.)

    Honoured: do_sample, temperature, top_k, top_p and all other processors, at every node with that node's own text;
    max_new_tokens, max_length, eos_token_id, max_time and all other stopping criteria, after every token. Temperature
    and cuts arrive among the processors, so they are applied there, once. The seed is drawn from torch's generator, so
    torch.manual_seed means what it means elsewhere; a sampled text has the distribution of that of `generate`, with
    other random numbers. A processor of your own must depend on its two arguments alone.

    Raises TargetMismatch if the draft was loaded for another model, InputError for padded prompts, embeddings or
    positions in place of ids, ConfigError for settings that cannot be honoured, each by its name.
    """
    target, config = draft.target, generation_config
    advice = "Call draft.target.model.generate, or load the draft with Target(model, tokenizer)."
    require(target.model is model, TargetMismatch, "the model that the draft's target wraps", "another", advice)
    _refuse_settings(config, inspect.currentframe().f_back)
    _refuse_inputs(input_ids, model_kwargs)
    criteria = list(stopping_criteria or ())
    if stop_strings is not None:
        advice = "Make it with Target(model, tokenizer)."
        require(target.tokenizer is not None, ConfigError, "a target with a tokenizer for stop_strings", "none", advice)
        criteria.append(StopStringCriteria(target.tokenizer, stop_strings))
    # `generate` replaces its own limit by one among the criteria
    limits = [one.max_length for one in criteria if isinstance(one, MaxLengthCriteria)] or [config.max_length]
    others = [one for one in criteria if not isinstance(one, MaxLengthCriteria | EosTokenCriteria)]

    def stop(tokens: list[int]) -> bool:
        """The criteria that the loop does not know itself, asked with the whole text, as `generate` asks them."""
        text = torch.cat((input_ids, input_ids.new_tensor([tokens])), dim=1)
        return any(bool(torch.as_tensor(one(text, None)).all()) for one in others)

    sampling = SamplingConfig(1.0, seed=int(torch.randint(2**62, ()))) if config.do_sample else SamplingConfig()
    result = speculative_generate(
        target, draft, input_ids, sampling=sampling, tree=tree, on_round=on_round,
        max_new_tokens=max(1, min(limits) - input_ids.shape[1]),  # criteria are asked after a token
        eos_token_id=[int(id) for one in criteria if isinstance(one, EosTokenCriteria) for id in one.eos_token_id],
        processors=[per_node(processor) for processor in logits_processor or ()],
        stop=stop if others else None,
    )  # fmt: skip
    return torch.cat((input_ids, input_ids.new_tensor([result.tokens])), dim=1)


def per_node(processor: Callable) -> Callable[[Tensor, Tensor], Tensor]:
    """The processor as the decoding loop wants it: for the nodes of one depth at once, each with its own text.

    Those not known to treat every row by itself see one row at a time, as in plain decoding of one prompt. Raises
    ConfigError for those that remember earlier calls.
    """
    found = f"{type(processor).__name__}, which remembers the call before: in a tree that is another branch"
    expected, advice = "logits processors that depend on text and logits alone", "Leave out what asks for it."
    require(not isinstance(processor, WITH_MEMORY), ConfigError, expected, found, advice)
    if type(processor) in ROW_BY_ROW:
        return processor

    def one_by_one(ids: Int[Tensor, "rows seq"], scores: Float[Tensor, "rows vocab"]) -> Float[Tensor, "rows vocab"]:
        return torch.cat([processor(ids[row : row + 1], scores[row : row + 1]) for row in range(ids.shape[0])])

    return one_by_one


def _refuse_settings(config: Any, caller: Any) -> None:
    """ConfigError for what cannot be honoured. caller: generate's frame, which alone has the dropped arguments."""
    wrong = {name: getattr(config, name, None) for name in REFUSED}
    one = ("num_beams", "num_return_sequences")  # for which 1 asks for nothing, too
    wrong = [f"{name}={value!r}" for name, value in wrong.items() if value and not (name in one and value == 1)]
    if caller is not None and caller.f_code.co_name == "generate":
        dropped = {"streamer": "use on_round", "assistant_model": "the draft takes its place"}
        wrong += [f"{name}= ({why})" for name, why in dropped.items() if caller.f_locals.get(name) is not None]
    advice = "Leave them out, or call generate without custom_generate."
    require(not wrong, ConfigError, "settings that decoding with a draft can honour", ", ".join(wrong), advice)


def _refuse_inputs(input_ids: Tensor, model_kwargs: dict[str, Any]) -> None:
    """InputError for prompts that are not simply token ids, all of them real."""
    mask, positions, cache = map(model_kwargs.get, ("attention_mask", "position_ids", "past_key_values"))
    for wrong, found in (
        (model_kwargs.get("inputs_embeds") is not None, "inputs_embeds"),
        (mask is not None and not mask.all(), "padding in attention_mask"),
        (positions is not None and (positions[:, :1].any() or (positions.diff() != 1).any()), "other position_ids"),
        (cache is not None and cache.get_seq_length() > 0, "a filled cache in past_key_values"),
    ):
        require(not wrong, InputError, "the whole prompt as token ids", found, "Pass input_ids alone, unpadded.")
