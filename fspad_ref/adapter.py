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
from fspad_ref.errors import ConfigError, InputError, TargetMismatch
from fspad_ref.generate import OnRound, speculative_generate
from fspad_ref.sampling import SamplingConfig
from fspad_ref.tree import Grower, TreeConfig

# Processors of transformers that treat every row by itself, whatever the number of rows.
ROW_BY_ROW = tuple(
    getattr(given, name)
    for name in (
        "EpsilonLogitsWarper ExponentialDecayLengthPenalty ForcedBOSTokenLogitsProcessor ForcedEOSTokenLogitsProcessor "
        "InfNanRemoveLogitsProcessor LogitNormalization MinLengthLogitsProcessor MinNewTokensLengthLogitsProcessor "
        "MinPLogitsWarper NoBadWordsLogitsProcessor NoRepeatNGramLogitsProcessor RepetitionPenaltyLogitsProcessor "
        "SequenceBiasLogitsProcessor SuppressTokensAtBeginLogitsProcessor SuppressTokensLogitsProcessor "
        "TemperatureLogitsWarper TopKLogitsWarper TopPLogitsWarper TypicalLogitsWarper"
    ).split()
)
# Those that remember the last call, and so the text in its order: a tree asks in another.
WITH_MEMORY = (given.UnbatchedClassifierFreeGuidanceLogitsProcessor, given.SynthIDTextWatermarkLogitsProcessor)
# Settings of generate that change what is returned or how is searched, and the values that ask for nothing.
REFUSED = {
    "num_beams": (None, 1),
    "num_return_sequences": (None, 1),
    "penalty_alpha": (None, 0),
    "dola_layers": (None,),
    "prompt_lookup_num_tokens": (None,),
    "assistant_early_exit": (None,),
    "return_dict_in_generate": (None, False),
    "output_scores": (None, False),
    "output_logits": (None, False),
    "output_attentions": (None, False),
    "output_hidden_states": (None, False),
    "cache_implementation": (None,),
}


def fspad_generate(
    model,
    input_ids: Int[Tensor, "1 seq"],
    logits_processor=None,
    stopping_criteria=None,
    generation_config=None,
    *,
    draft: Draft | Grower,
    tree: TreeConfig | None = None,
    on_round: OnRound | None = None,
    stream_to: Any = None,
    stop_strings: str | list[str] | None = None,
    **model_kwargs,
) -> Int[Tensor, "1 longer"]:
    """Called by `generate` once it has prepared its arguments; returns prompt and new tokens.

    Args:
        draft, tree, on_round: as for speculative_generate.
        stream_to: a `transformers` streamer. (`generate` keeps its own `streamer=` to itself: refused.)
        stop_strings: the text ends with the first token that completes one of them, as in `generate`; they need the
            target's tokenizer. (In a generation_config, `generate` asks for a tokenizer and then loses it.)

    Honoured: do_sample, temperature, top_k, top_p and all other processors, at every node with that node's own text;
    max_new_tokens, max_length, eos_token_id, max_time and all other stopping criteria, after every token. Temperature
    and cuts arrive among the processors, so they are applied there, once. The seed is drawn from torch's generator, so
    torch.manual_seed means what it means elsewhere; a sampled text follows the same law as that of `generate`, with
    other random numbers. A processor of your own must depend on its two arguments alone.

    Raises TargetMismatch if the draft was loaded for another model, InputError for padded prompts, embeddings or
    positions in place of ids, ConfigError for settings that cannot be honoured, each by its name.
    """
    if draft.target.model is not model:
        raise TargetMismatch(
            "expected the model that the draft's target wraps, found another. Call draft.target.model.generate, or "
            "load the draft with Target(model, tokenizer)."
        )
    _refuse_settings(generation_config, inspect.currentframe().f_back)
    _refuse_inputs(input_ids, model_kwargs)
    criteria = list(stopping_criteria or ())
    if stop_strings is not None:
        if draft.target.tokenizer is None:
            raise ConfigError(
                "expected a target with a tokenizer for stop_strings, found none. Make it with "
                "Target(model, tokenizer)."
            )
        criteria.append(StopStringCriteria(draft.target.tokenizer, stop_strings))
    sample, max_new_tokens = bool(generation_config.do_sample), _room(criteria, generation_config, input_ids)
    if stream_to is not None:
        stream_to.put(input_ids.cpu())
    result = speculative_generate(
        draft.target,
        draft,
        input_ids,
        max_new_tokens=max_new_tokens,
        eos_token_id=[int(id) for one in criteria if isinstance(one, EosTokenCriteria) for id in one.eos_token_id],
        sampling=SamplingConfig(
            temperature=1.0 if sample else 0.0, seed=int(torch.randint(2**62, ())) if sample else 0
        ),
        tree=tree,
        processors=[per_node(processor) for processor in logits_processor or ()],
        stop=_stop(criteria, input_ids),
        on_round=_on_round(on_round, stream_to),
    )
    if stream_to is not None:
        stream_to.end()
    return torch.cat((input_ids, input_ids.new_tensor([result.tokens])), dim=1)


def per_node(processor: Callable) -> Callable[[Tensor, Tensor], Tensor]:
    """The processor as the decoding loop wants it: for the nodes of one depth at once, each with its own text.

    Processors that may look at the number of a row, or write into the first alone, see one row at a time, as they do
    in plain decoding of one prompt. Raises ConfigError for those that remember earlier calls.
    """
    if isinstance(processor, WITH_MEMORY):
        raise ConfigError(
            f"expected logits processors that depend on text and logits alone, found {type(processor).__name__}, which "
            "remembers the call before: in a tree that is another branch. Leave out guidance_scale and SynthID "
            "watermarks, or call generate without custom_generate."
        )
    if type(processor) in ROW_BY_ROW:
        return processor

    def one_by_one(ids: Int[Tensor, "rows seq"], scores: Float[Tensor, "rows vocab"]) -> Float[Tensor, "rows vocab"]:
        return torch.cat([processor(ids[row : row + 1], scores[row : row + 1]) for row in range(ids.shape[0])])

    return one_by_one


def _room(criteria: list, generation_config: Any, input_ids: Tensor) -> int:
    """New tokens until the nearest length limit; `generate` replaces its own by a MaxLengthCriteria that it is given.

    At least one: criteria are asked after a token, never before the first.
    """
    limits = [one.max_length for one in criteria if isinstance(one, MaxLengthCriteria)]
    return max(1, min(limits or [generation_config.max_length]) - input_ids.shape[1])


def _stop(criteria: list, input_ids: Tensor) -> Callable[[list[int]], bool] | None:
    """The criteria that the loop does not know itself, asked with the whole text, as `generate` asks them."""
    others = [one for one in criteria if not isinstance(one, MaxLengthCriteria | EosTokenCriteria)]
    if not others:
        return None

    def stop(tokens: list[int]) -> bool:
        text = torch.cat((input_ids, input_ids.new_tensor([tokens])), dim=1)
        return any(bool(torch.as_tensor(one(text, None)).all()) for one in others)

    return stop


def _on_round(on_round: OnRound | None, streamer: Any) -> OnRound | None:
    """Pass a round's tokens on to both: to the streamer one by one, as it gets them from `generate`."""
    if streamer is None:
        return on_round

    def both(tokens: list[int], accepted: int) -> None:
        for token in tokens:
            streamer.put(torch.tensor([token]))
        if on_round is not None:
            on_round(tokens, accepted)

    return both


def _refuse_settings(generation_config: Any, caller: Any) -> None:
    """ConfigError for what cannot be honoured. caller: generate's frame, the one place where what it drops is seen."""
    found = {name: getattr(generation_config, name, None) for name in REFUSED}
    wrong = [f"{name}={value!r}" for name, value in found.items() if value not in REFUSED[name]]
    if caller is not None and caller.f_code.co_name == "generate":
        dropped = {"streamer": "pass it as stream_to", "assistant_model": "the draft takes its place"}
        wrong += [f"{name}= ({why})" for name, why in dropped.items() if caller.f_locals.get(name) is not None]
    if wrong:
        raise ConfigError(
            f"expected settings that decoding with a draft can honour, found {', '.join(wrong)}. Leave them out, or "
            "call generate without custom_generate."
        )


def _refuse_inputs(input_ids: Tensor, model_kwargs: dict[str, Any]) -> None:
    """InputError for prompts that are not simply token ids, all of them real."""
    if model_kwargs.get("inputs_embeds") is not None:
        raise InputError("expected token ids, found inputs_embeds. The draft reads tokens: pass input_ids.")
    mask = model_kwargs.get("attention_mask")
    if mask is not None and not bool(mask.all()):
        raise InputError("expected a prompt without padding, found zeros in attention_mask. Pass one unpadded prompt.")
    positions = model_kwargs.get("position_ids")
    if positions is not None and positions.tolist() != [list(range(input_ids.shape[1]))] * input_ids.shape[0]:
        raise InputError("expected positions 0, 1, 2 ..., found other position_ids. Leave position_ids out.")
    cache = model_kwargs.get("past_key_values")
    if cache is not None and cache.get_seq_length() > 0:
        raise InputError("expected no filled cache, found past_key_values. Pass the whole text as input_ids instead.")
