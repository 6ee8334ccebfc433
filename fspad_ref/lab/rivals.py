"""What the other methods need before they can be measured: a small assistant, Medusa's heads, static tree shapes.

Both models learn from the drafts' own dialogues, as many steps of as many tokens. Shapes come from acceptance rates on
texts that the target has written to other questions than the benchmark's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from fspad_ref.batches import Encoded
from fspad_ref.corpus import Dialogue
from fspad_ref.draft import Draft
from fspad_ref.lab.assisted import (
    AssistantConfig,
    assisted,
    load_assistant,
    new_assistant,
    plain_generate,
    prompt_lookup,
    save_assistant,
    train_assistant,
)
from fspad_ref.lab.baselines import DynamicTree, Method, Plain, Speculative
from fspad_ref.lab.bench import PLAIN
from fspad_ref.lab.many import answer_many
from fspad_ref.lab.medusa import MedusaConfig, MedusaHeads, MedusaTree, medusa_guesses, train_medusa
from fspad_ref.lab.provenance import code_hash, digest
from fspad_ref.lab.rates import acceptance_rates, draft_guesses
from fspad_ref.lab.static_tree import StaticTree, plan_tree, static_shape
from fspad_ref.lab.trainings import training_key
from fspad_ref.sampling import SamplingConfig
from fspad_ref.target import Target
from fspad_ref.train import TrainConfig
from fspad_ref.tree import TreeConfig

# transformers' own methods draw from another generator: at a temperature the law of the text is ours, the text is not
OTHER_TEXT = ("generate", "prompt_lookup", "assisted")
ASSISTANT_RATE, MEDUSA_RATE = 3e-3, 1e-3  # learning rates
LEVELS, RANKS = 6, 10  # of the tables of rates
FIXED = " (fixed tree)"


@dataclass(frozen=True)
class Rivals:
    """The trained parts of other methods."""

    assistant: PreTrainedModel
    heads: MedusaHeads


def rivals(
    target: Target,
    dialogues: Sequence[Dialogue | Encoded],
    training: TrainConfig,
    assistant: AssistantConfig,
    folder: Path,
    progress: Callable[..., Any],
) -> Rivals:
    """Assistant and Medusa heads below `folder`, trained if they are not there."""
    rates = {"assistant": ASSISTANT_RATE, "medusa": MEDUSA_RATE}
    key = training_key(target, dialogues, training) | {"assistant": vars(assistant), "rates": rates}
    folder = folder / f"rivals-{digest(key | {'code': code_hash('lab.fit', 'lab.medusa', 'lab.assisted')})}"
    if not (folder / "medusa" / "config.json").exists():
        heads = MedusaHeads(MedusaConfig(), target)
        with progress(total=training.steps, desc="train Medusa's heads", unit="step") as bar:
            train_medusa(target, heads, dialogues, replace(training, learning_rate=MEDUSA_RATE),
                         lambda step, loss: bar.update(step - bar.n))  # fmt: skip
        heads.save_pretrained(folder / "medusa")
    if not (folder / "assistant" / "tokenizer_config.json").exists():
        small = new_assistant(target, assistant, training.seed)
        with progress(total=training.steps, desc="train the assistant", unit="step") as bar:
            train_assistant(target, small, dialogues, replace(training, learning_rate=ASSISTANT_RATE),
                            lambda step, loss: bar.update(step - bar.n))  # fmt: skip
        save_assistant(small, target, folder / "assistant")  # the tokenizer comes last
    small = load_assistant(folder / "assistant", target)
    return Rivals(small, MedusaHeads.from_pretrained(folder / "medusa", target))


def methods(
    target: Target,
    drafts: dict[str, Draft],
    others: Rivals,
    prompts: Sequence[list[int]],
    tuned: TreeConfig,
    fixed: TreeConfig,
    max_new_tokens: int,
) -> dict[str, Method]:
    """Everything that is measured, by name: plain decoding, transformers' methods, static trees, and our drafts.

    The drafts come with the tuned tree; EAGLE-2 and FSPAD also with the fixed one. Static trees have as many nodes as
    the tuned one. prompts: questions whose answers give the rates; not those of the benchmark.
    """
    law = [SamplingConfig()] * len(prompts)
    answers = answer_many(target, prompts, law, max_new_tokens, target.tokenizer.eos_token_id)
    texts = [(prompt + tokens, [False] * len(prompt) + [True] * len(tokens))
             for prompt, (tokens, _) in zip(prompts, answers, strict=True)]  # fmt: skip
    levels = min(LEVELS, others.heads.config.heads)
    of_eagle = acceptance_rates(target, draft_guesses(drafts["eagle"], LEVELS), texts, LEVELS, RANKS)
    of_heads = acceptance_rates(target, medusa_guesses(others.heads), texts, levels, RANKS)
    static, product = (plan_tree(static_shape(rates, tuned.total_tokens), target.device)
                       for rates in (of_eagle, of_heads))  # fmt: skip
    found: dict[str, Method] = {
        PLAIN: Plain(target),
        "generate": plain_generate(target),
        "prompt_lookup": prompt_lookup(target),
        "assisted": assisted(target, others.assistant),
        "medusa": Speculative(MedusaTree(others.heads, product)),
        "eagle_static": Speculative(StaticTree(drafts["eagle"], static)),
    }
    found |= {name: Speculative(DynamicTree(draft, tuned)) for name, draft in drafts.items()}
    return found | {name + FIXED: Speculative(DynamicTree(drafts[name], fixed)) for name in ("eagle", "fspad")}
