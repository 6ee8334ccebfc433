"""Training of the built-in target: a small Llama learns the world's dialogues, on two cores or on a GPU.

What counts on two cores is what is learnt in an hour. So only answers are trained in full, dialogues share rows
without seeing each other, and the layers' matrices are updated by Muon. Batch number b is a function of the seed, so a
run can be resumed anywhere; with a budget in tokens a resumed run ends with the very weights of an uninterrupted one.
"""

import itertools
import math
import platform
import shutil
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import torch
import transformers
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from fspad_ref.checkpoint import load_json, load_tensors, save_json
from fspad_ref.corpus import Dialogue, encode
from fspad_ref.errors import CheckpointError, ConfigError
from fspad_ref.world.exam import answer
from fspad_ref.world.exchange import Exchange
from fspad_ref.world.learner import Learner
from fspad_ref.world.packing import Packed, PackedBatches, Stream, pack
from fspad_ref.world.recipe import PretrainConfig, Progress
from fspad_ref.world.resume import load_checkpoint, load_progress, newest_checkpoint, save_checkpoint, stop_signals
from fspad_ref.world.tokenizer import train_tokenizer

BAR = "{desc}{percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"


def pretrain(config: PretrainConfig, stream: Stream | None = None) -> dict:
    """Train the target, write it to `config.out` in Hugging Face layout, and return what its training.json holds.

    `stream` defaults to the built-in world's. Interrupted by Ctrl-C, it finishes the step at hand, saves a checkpoint
    and returns a record with finished=False; the same settings with resume=True go on from there. Raises
    CheckpointError for a folder that holds another run, NonFiniteLoss if the loss becomes NaN or infinite.
    """
    if stream is None:
        from fspad_ref.world.stream import dialogue as stream
    run = _Run(config, stream)
    used = min(1.0, run.progress.share(config))
    with stop_signals() as stopped, tqdm(total=1.0, initial=used, bar_format=BAR) as bar:
        run.train(bar, stopped)
    return run.finish()


def learn_tokenizer(config: PretrainConfig, stream: Stream) -> PreTrainedTokenizerBase:
    """The tokenizer of `config.tokenizer_dialogues` dialogues, spread out, as a stream may open with one kind alone.

    The stride must share no divisor with the length of the stream's rotation, or the vocabulary is that of a few tasks.
    """
    exchanges = (stream(config.seed, 11 * i, False) for i in range(config.tokenizer_dialogues))
    texts = (text for exchange in exchanges for turn in exchange.turns for text in turn)
    return train_tokenizer(texts, config.target.vocabulary, config.target.positions)


class _Run:
    def __init__(self, config: PretrainConfig, stream: Stream):
        self.config, self.stream, self.out = config, stream, Path(config.out)
        self.checkpoints = self.out / "checkpoints"
        newest = newest_checkpoint(self.checkpoints)
        if newest is not None and not config.resume:
            raise CheckpointError(f"expected no unfinished run in {self.out}, found {newest}; resume it or remove it")
        torch.manual_seed(config.seed)
        if config.device.startswith("cuda"):
            torch.set_float32_matmul_precision("high")
        self.before: dict = load_json(config.initial / "training.json") if config.initial else {}
        if newest is None:
            initial = config.initial
            self.tokenizer = AutoTokenizer.from_pretrained(initial) if initial else learn_tokenizer(config, stream)
            self.learner = Learner(config, self.tokenizer, config.layers(0.0))
            self.progress, self.reports = Progress(batch_size=self._batch_size()), []
            if initial:
                self._go_on_from(initial)
        else:
            self._restore(newest)
        self.held_out = self._held_out()

    def _go_on_from(self, folder: Path) -> None:
        """Take over a finished target's weights, and skip the dialogues that it has seen."""
        p = self.progress
        weights = load_tensors(folder / "model.safetensors")
        begun = AutoConfig.from_pretrained(folder).num_hidden_layers
        if begun != self.learner.layers:
            raise ConfigError(f"expected growth to begin with the {begun} layers of {folder}, found "
                              f"{self.learner.layers}; give --growth 0 {begun}")  # fmt: skip
        self.learner.model.load_state_dict(weights, strict=False)  # the head is tied to the embedding, and not stored
        p.batch = p.first = math.ceil(self.before["dialogues"] / p.batch_size)
        p.dialogues = p.batch * p.batch_size

    # ---- data ----

    def _batch_size(self) -> int:
        """Dialogues that have about batch_tokens together; the same in all batches, so that a batch has its place."""
        lengths = [len(self._encoded(self.stream(self.config.seed, 101 * i, False))[0]) for i in range(240)]
        return max(1, round(self.config.batch_tokens * len(lengths) / sum(lengths)))

    def _encoded(self, exchange: Exchange) -> tuple[list[int], list[bool]]:
        return encode(Dialogue(exchange.turns), self.tokenizer)

    def _held_out(self) -> dict[str, list[Exchange]]:
        by_category: dict[str, list[Exchange]] = {}
        for i in range(self.config.eval_dialogues):
            exchange = self.stream(self.config.seed, i, True)
            by_category.setdefault(exchange.category, []).append(exchange)
        return dict(sorted(by_category.items()))

    def _batches(self) -> Iterable[Packed]:
        c, size = self.config, self.progress.batch_size
        limit = c.target.positions
        batches = PackedBatches(self.stream, c.seed, self.tokenizer, size, c.row_tokens, limit, c.prompt_weight)
        workers = c.workers if c.workers is not None else 12 if c.device.startswith("cuda") else 0
        ahead = 8 if workers else None
        place = itertools.count(self.progress.batch)
        return DataLoader(batches, batch_size=None, sampler=place, num_workers=workers, prefetch_factor=ahead)

    # ---- training ----

    def train(self, bar: tqdm, stopped: list[int]) -> None:
        """Steps until the budget is used up, or until `stopped` holds a signal."""
        c, p = self.config, self.progress
        last, reported, saved = time.monotonic(), p.seconds, p.seconds
        for batch in self._batches() if p.share(c) < 1 else ():
            share = p.share(c)
            self.learner.grow_to(c.layers(share))
            self._count(batch, self.learner.step(batch.to(c.device), c.rate(share)))
            now = time.monotonic()
            p.seconds, last = p.seconds + now - last, now
            self._show(bar, share)
            done = p.share(c) >= 1
            if done or (not stopped and p.seconds - reported >= 60 * c.eval_minutes):
                reported = p.seconds
                self.report()
            if done or stopped or p.seconds - saved >= 60 * c.checkpoint_minutes:
                saved = p.seconds
                self.save()
            if done or stopped:
                return

    def _count(self, batch: Packed, loss: float) -> None:
        p = self.progress
        p.loss = loss if math.isnan(p.loss) else 0.98 * p.loss + 0.02 * loss
        p.batch, p.dialogues = p.batch + 1, p.dialogues + p.batch_size
        p.tokens, p.answer_tokens = p.tokens + batch.tokens, p.answer_tokens + int((batch.weight == 1).sum())

    def _show(self, bar: tqdm, share_before: float) -> None:
        p = self.progress
        bar.set_description_str(f"{self.learner.layers} layers, loss {p.loss:.3f} ", refresh=False)
        bar.set_postfix_str(f"{p.tokens / 1e6:.2f} M tokens, {p.tokens / p.seconds:.0f}/s", refresh=False)
        bar.update(min(1.0, p.share(self.config)) - min(1.0, share_before))

    @torch.compiler.set_stance("force_eager")  # a few answers of every length are no work worth compiling for
    @torch.no_grad()
    def report(self) -> dict:
        """Held-out loss and accuracy of the next answer token by category, and a greedy sample of each; printed."""
        model, p = self.learner.model.eval(), self.progress
        line: dict = {"minutes": p.seconds / 60, "tokens": p.tokens, "loss": {}, "accuracy": {}}
        for category, exchanges in self.held_out.items():
            rows = pack([self._encoded(e) for e in exchanges], self.config.row_tokens, self.config.target.positions)
            logits, labels, _ = self.learner.logits(rows.to(self.config.device))
            line["loss"][category] = float(torch.nn.functional.cross_entropy(logits, labels))
            line["accuracy"][category] = float((logits.argmax(-1) == labels).float().mean())
        self.reports.append(line)
        loss, accuracy = (sum(line[k].values()) / len(line[k]) for k in ("loss", "accuracy"))
        where = f"{p.seconds / 60:.1f} min, {p.batch - p.first} steps, {p.tokens / 1e6:.2f} M tokens"
        tqdm.write(f"{where}: held-out loss {loss:.3f}, next-token accuracy {accuracy:.3f}")
        examples = [exchanges[0] for exchanges in self.held_out.values()]
        answers = answer(model, self.tokenizer, [e.turns[0][0] for e in examples], max_new_tokens=96)
        for e, (text, _, _) in zip(examples, answers, strict=True):
            numbers = f"loss {line['loss'][e.category]:.3f}, accuracy {line['accuracy'][e.category]:.3f}"
            tqdm.write(f"  {e.category}, {numbers}\n    {e.turns[0][0]}\n    -> {text}")
        return line

    # ---- files ----

    def save(self) -> None:
        """Write a checkpoint."""
        p, learner = self.progress, self.learner
        progress = {"progress": asdict(p), "layers": learner.layers, "settings": self.config.settings()}
        progress["reports"] = self.reports
        save_checkpoint(self.checkpoints, p.batch, learner.model, learner.optimizers, self.tokenizer, progress)

    def _restore(self, newest: Path) -> None:
        saved = load_progress(newest)
        changed = [k for k, v in self.config.settings().items() if saved["settings"].get(k) != v]
        if changed:
            was = {k: saved["settings"].get(k) for k in changed}
            raise CheckpointError(f"expected the settings of the run in {newest}, {was}; found others; give the same")
        self.tokenizer = AutoTokenizer.from_pretrained(newest)
        self.learner = Learner(self.config, self.tokenizer, saved["layers"])
        load_checkpoint(newest, self.learner.model, self.learner.optimizers)
        self.progress, self.reports = Progress(**saved["progress"]), saved["reports"]

    def finish(self) -> dict:
        """Write the target's folder if the budget is used up; returns the training record either way."""
        record, t = self._record(), self.tokenizer
        if record["finished"]:
            model = self.learner.model.to(torch.bfloat16).cpu().eval()
            model.generation_config = GenerationConfig(
                bos_token_id=t.bos_token_id, eos_token_id=t.eos_token_id, pad_token_id=t.pad_token_id, do_sample=False
            )
            model.save_pretrained(self.out)
            t.save_pretrained(self.out)
            save_json(self.out / "training.json", record)
            shutil.rmtree(self.checkpoints)
        return record

    def _record(self) -> dict:
        p, cuda = self.progress, self.config.device.startswith("cuda")
        device = torch.cuda.get_device_name() if cuda else f"{platform.machine()}, {torch.get_num_threads()} threads"
        versions = {"python": platform.python_version(), "torch": torch.__version__}
        return {
            "finished": p.share(self.config) >= 1,
            "tokens": p.tokens,
            "answer_tokens": p.answer_tokens,
            "dialogues": p.dialogues,
            "steps": p.batch - p.first,
            "minutes": round(p.seconds / 60, 2),
            "loss": p.loss,
            "parameters": sum(x.numel() for x in self.learner.model.parameters()),
            "hardware": device,
            "versions": {**versions, "transformers": transformers.__version__},
            "command": " ".join(["python -m fspad_ref", *sys.argv[1:]]),
            "seed": self.config.seed,
            "settings": self.config.settings(),
            "reports": self.reports,
            **({"before": self.before} if self.before else {}),
        }
