"""`python -m fspad_ref train`, or `accelerate launch ... -m fspad_ref train`: train drafts of some kinds together."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from tqdm.auto import tqdm

from fspad_ref.bench.answers import Job, answer, answers, run_jobs
from fspad_ref.bench.features import StoredFeatures
from fspad_ref.bench.replay import Recording, replayed_tau, text_features
from fspad_ref.data import Dialogue, Encoded, frequent_tokens, prompt_ids, read_dialogues, read_questions
from fspad_ref.draft import Draft
from fspad_ref.errors import ConfigError, require
from fspad_ref.files import load_json, save_json
from fspad_ref.generate import autoregressive_generate
from fspad_ref.sampling import SamplingConfig
from fspad_ref.target import Target
from fspad_ref.train import Kind, TrainConfig, TrainRecord, new_draft, train
from fspad_ref.tree import TreeConfig


@dataclass(frozen=True)
class DraftsConfig:
    """Train drafts. Writes OUT/KIND/{config.json, model.safetensors, training.json}; --resume goes on after Ctrl-C."""

    kinds: tuple[Kind, ...] = ("fspad",)  # eagle_wide, the control, is EAGLE with as many parameters as FSPAD
    out: Path = Path("out/drafts")  # folder for the checkpoint and the trained drafts
    resume: bool = False  # go on from the checkpoint in OUT
    start: Path | None = None  # or from the trunk.safetensors of a shorter training, one with decay_steps
    features: Path | None = None  # folder that keeps the target's features for other drafts; 1.2 kB a token of SmolLM2
    target: str = "data/target"  # folder or Hub id of the target, a Hugging Face causal language model
    data: Path = Path("data/dialogues.jsonl.gz")  # JSON or JSONL, ShareGPT's or the messages format, also .gz
    vocabulary: int | None = None  # of the drafts: so many tokens, those that answers hold most often; None: all
    width: int | None = None  # of the drafts' MLP and sampler; None: the target's
    own_answers: int = 0  # so many dialogues, the first ones, get answers that the target writes; OUT keeps them
    answer_tokens: int = 128  # longest of those answers
    questions: Path | None = Path("data/held_out.jsonl")  # some 60 of these, in Spec-Bench's format, measure tau
    chat_format: str | None = None  # the target's prompt format if it brings no chat template: vicuna
    device: str = "cpu"  # cpu, cuda, cuda:1, ...; accelerate launch gives each process its own
    device_map: str | None = None  # auto: spread a target that is too large for one GPU over all, in one process
    dtype: Literal["float64", "float32", "bfloat16"] = "float32"  # of the target and the saved drafts
    training: TrainConfig = field(default_factory=TrainConfig)


def train_drafts(config: DraftsConfig) -> TrainRecord:
    """Load the target, read the dialogues, train, and print where the drafts are."""
    accelerator = launched()
    device = config.device if accelerator.num_processes == 1 else str(accelerator.device)
    where = dict(device=device, device_map=config.device_map)
    target = Target.from_pretrained(config.target, dtype=config.dtype, chat_format=config.chat_format, **where)
    torch.set_float32_matmul_precision("high" if config.dtype == "bfloat16" else "highest")  # TF32 for the drafts
    dialogues, own = read_dialogues(config.data), config.own_answers
    asked = read_questions(config.questions) if config.questions else []
    prompts = [prompt_ids(target.tokenizer, [], one.turns[0]) for one in asked[:: max(1, len(asked) // 60)]]
    texts = dialogues[own:] + (own_answers(target, dialogues[:own], config, accelerator) if own else [])
    words = frequent_tokens(target.tokenizer, texts, config.vocabulary) if config.vocabulary else None
    drafts = {kind: new_draft(kind, target, config.training.seed, words, config.width) for kind in config.kinds}
    tau = acceptance_on(target, prompts) if prompts else None
    stored = config.features and StoredFeatures(target, config.features)
    with tqdm(total=config.training.steps, unit="step", disable=not accelerator.is_main_process) as bar:
        record = train(target, drafts, texts, config.training, progress(bar), evaluate=tau, out=config.out,
                       features_of=stored, resume=config.resume, start=config.start,
                       accelerator=accelerator)  # fmt: skip
    for kind, (step, tau) in record.best.items() if prompts else ():
        accelerator.print(f"{kind:10}  tau {tau:.2f} on {len(prompts)} prompts after step {step}: {config.out / kind}")
    accelerator.end_training()
    return record


def launched() -> Accelerator:
    """This process as `accelerate launch` started it. Raises ConfigError for settings that training would ignore."""
    patience = InitProcessGroupKwargs(timeout=timedelta(hours=2))  # the others wait while the first measures or writes
    cpu, sharded = not torch.accelerator.is_available(), os.environ.get("ACCELERATE_USE_FSDP") == "true"
    accelerator = Accelerator(cpu=cpu, device_placement=False, kwargs_handlers=[patience])
    found = f"{accelerator.distributed_type.value}, mixed precision {accelerator.mixed_precision}"
    right = accelerator.mixed_precision == "no" and accelerator.is_fsdp2 == sharded
    advice = "Launch with --mixed_precision no, and --multi_gpu or --use_fsdp --fsdp_version 2."
    require(right, ConfigError, "DDP, or FSDP 2 on GPUs, in the precision of --dtype", found, advice)
    return accelerator


def own_answers(target: Target, dialogues: Sequence, config: DraftsConfig, accelerator: Accelerator) -> list[Encoded]:
    """The target's own answers to dialogues, every second one greedily, the others at T=1; kept in a file in OUT."""
    file = config.out / f"own_answers-{len(dialogues)}-{config.answer_tokens}.json"
    longest = min(config.training.max_length, target.max_positions)
    if accelerator.is_main_process and not file.exists():
        jobs = [answering(target, one, SamplingConfig(float(number % 2), seed=number), config.answer_tokens, longest)
                for number, one in enumerate(dialogues)]  # fmt: skip
        found = sorted(tqdm(run_jobs(target, jobs, min(64, len(jobs)), longest), "own answers", len(jobs)))
        save_json(file, [text for _, text in found])
    accelerator.wait_for_everyone()
    return [(ids, response) for ids, response in load_json(file)]


def answering(target: Target, dialogue: Dialogue, sampling: SamplingConfig, limit: int, longest: int) -> Job:
    """A job of bench/answers.py: answers every turn, as long as there is room; returns token ids and response mask."""
    ids, response, history = [], [], []
    for user, _ in dialogue.turns:
        prompt = prompt_ids(target.tokenizer, history, user, dialogue.system)
        if len(prompt) + limit > longest or prompt[: len(ids)] != ids:  # a template that rewrites earlier turns
            break
        # The last token of the answer before has been drawn, but not fed.
        tokens = yield from answer(prompt[max(0, len(ids) - 1) :], sampling, limit, target.tokenizer.eos_token_id)
        response += [False] * (len(prompt) - len(ids)) + [True] * len(tokens)
        ids, history = prompt + tokens, [*history, (user, target.tokenizer.decode(tokens, skip_special_tokens=True))]
    return ids, response


def acceptance_on(target: Target, prompts: Sequence[list[int]], max_new_tokens: int = 64) -> Callable[[Draft], float]:
    """An evaluation draft -> tau with EAGLE-2's default tree, by replay over greedy answers of the target."""
    room = target.max_positions - max_new_tokens - TreeConfig().levels - 1
    prompts = [prompt for prompt in prompts if len(prompt) <= room]
    limits = {"max_new_tokens": max_new_tokens, "eos_token_id": getattr(target.tokenizer, "eos_token_id", None)}
    if target.devices:  # answers() wants the target on one device
        texts = [autoregressive_generate(target, one, **limits).tokens for one in prompts]
    else:
        texts = answers(target, prompts, SamplingConfig(), **limits)
    recordings = [Recording(number, "", 0, 0.0, 0, prompt, tokens, text_features(target, prompt + tokens))
                  for number, (prompt, tokens) in enumerate(zip(prompts, texts, strict=True))]  # fmt: skip
    return partial(replayed_tau, recordings=recordings, tree=TreeConfig())


def progress(bar: tqdm) -> Callable[[TrainRecord], None]:
    """A callback for `train` that shows the losses and taus on `bar`, beside its time left."""

    def on_step(record: TrainRecord) -> None:
        states = [f"{name}: loss {sum(loss[-20:]) / len(loss[-20:]):.3f}" for name, loss in record.loss.items()]
        states += [f"tau of {name} {found[-1][1]:.2f}" for name, found in record.tau.items() if found]
        bar.set_postfix_str(", ".join(states), refresh=False)
        bar.update(record.step - bar.n)

    return on_step
