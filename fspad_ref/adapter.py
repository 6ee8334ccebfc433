"""An adapter for `transformers`: model.generate(..., custom_generate=fspad_generate, draft=draft)."""

import torch
from jaxtyping import Int
from torch import Tensor
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria

from fspad_ref.draft import Draft
from fspad_ref.errors import InputError, TargetMismatch
from fspad_ref.generate import OnRound, speculative_generate
from fspad_ref.sampling import SamplingConfig
from fspad_ref.tree import TreeConfig


def fspad_generate(
    model,
    input_ids: Int[Tensor, "1 seq"],
    logits_processor=None,
    stopping_criteria=None,
    generation_config=None,
    *,
    draft: Draft,
    tree: TreeConfig | None = None,
    on_round: OnRound | None = None,
    **model_kwargs,
) -> Int[Tensor, "1 longer"]:
    """Called by `generate` once it has prepared its arguments; returns prompt and new tokens.

    Temperature and cuts arrive among the processors, so they are applied there, once; `generation_config` says
    whether to sample and how far. The seed is drawn from torch's generator, so torch.manual_seed means what it means
    elsewhere. `generate` drops its `streamer=` before it calls us: to stream, give `on_round` instead.

    Raises TargetMismatch if the draft was loaded for another model, InputError for left-padded prompts.
    """
    if draft.target.model is not model:
        raise TargetMismatch(
            "expected the model that the draft's target wraps, found another. Call draft.target.model.generate, or "
            "load the draft with Target(model, tokenizer)."
        )
    mask = model_kwargs.get("attention_mask")
    if mask is not None and not bool(mask.all()):
        raise InputError("expected a prompt without padding, found zeros in attention_mask. Pass one unpadded prompt.")
    sample = bool(generation_config.do_sample)
    seed = int(torch.randint(2**62, ())) if sample else 0
    # length and end tokens are honoured by the loop itself
    criteria = [one for one in stopping_criteria or () if not isinstance(one, MaxLengthCriteria | EosTokenCriteria)]

    def stop(tokens: list[int]) -> bool:
        text = torch.cat((input_ids, input_ids.new_tensor([tokens])), dim=1)
        return any(bool(one(text, None).all()) for one in criteria)

    result = speculative_generate(
        draft.target,
        draft,
        input_ids,
        max_new_tokens=generation_config.max_length - input_ids.shape[1],
        eos_token_id=generation_config.eos_token_id,
        sampling=SamplingConfig(temperature=1.0 if sample else 0.0, seed=seed),
        tree=tree,
        processors=logits_processor or (),
        stop=stop if criteria else None,
        on_round=on_round,
    )
    return torch.cat((input_ids, input_ids.new_tensor([result.tokens])), dim=1)
