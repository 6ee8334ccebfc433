"""One step of learning: rows of dialogues -> loss -> new weights; and growing deeper between two steps."""

import itertools
import math

import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from fspad_ref.errors import NonFiniteLoss
from fspad_ref.world.model import grow, new_model
from fspad_ref.world.muon import Muon
from fspad_ref.world.packing import Packed
from fspad_ref.world.recipe import PretrainConfig


class Learner:
    """The model and its two optimizers: Muon for the layers' matrices, AdamW for the embedding and the norms."""

    def __init__(self, config: PretrainConfig, tokenizer: PreTrainedTokenizerBase, layers: int):
        self.config = config
        t, vocabulary = tokenizer, -(-len(tokenizer) // 8) * 8
        model = new_model(config.target, layers, vocabulary, t.bos_token_id, t.eos_token_id, t.pad_token_id)
        self.model = self._compiled(model.to(config.device))
        self.optimizers = self._new_optimizers()

    @property
    def layers(self) -> int:
        """The present depth."""
        return self.model.config.num_hidden_layers

    def _compiled(self, model: LlamaForCausalLM) -> LlamaForCausalLM:
        # layer by layer: all layers share one compilation, so that a deeper model compiles as fast
        for layer in model.model.layers if self.config.compile else ():
            layer.compile(dynamic=True)
        return model

    def _new_optimizers(self) -> list[torch.optim.Optimizer]:
        c, matrices, others = self.config, [], []
        for name, p in self.model.named_parameters():
            (matrices if p.ndim == 2 and ".layers." in name else others).append(p)
        return [
            Muon(matrices, lr=c.matrix_rate, weight_decay=c.weight_decay),
            torch.optim.AdamW(others, lr=c.other_rate, betas=(0.9, 0.98), weight_decay=0.0),
        ]

    def grow_to(self, layers: int) -> None:
        """Make the model deeper; it computes the same as before, and what it had learnt keeps its optimizer state."""
        if layers == self.layers:
            return
        before = dict(self.model.named_parameters())
        states = {p: state for optimizer in self.optimizers for p, state in optimizer.state.items()}
        model, kept = grow(self.model, layers)
        self.model = self._compiled(model)
        self.optimizers = self._new_optimizers()
        source = {p: before[kept[name]] for name, p in self.model.named_parameters() if name in kept}
        for optimizer in self.optimizers:
            for p in optimizer.param_groups[0]["params"]:
                if p in source and source[p] in states:
                    optimizer.state[p] = states[source[p]]

    def step(self, batch: Packed, factor: float) -> float:
        """One update with `factor` times the full learning rates; returns the mean loss of a label.

        The rows pass in micro-batches. Raises NonFiniteLoss, with the weights still as they were.
        """
        self.model.train()
        self._set_rates(factor)
        total, mean = batch.weight.sum(), torch.zeros((), device=batch.weight.device)
        for rows in _split(batch, self.config.micro_batches):
            logits, labels, weight = self.logits(rows)
            loss = (torch.nn.functional.cross_entropy(logits, labels, reduction="none") * weight).sum() / total
            loss.backward()
            mean += loss.detach()
        value = float(mean)
        if not math.isfinite(value):
            raise NonFiniteLoss(
                f"expected a finite loss, found {value}; resume from the last checkpoint with smaller matrix_rate and "
                "other_rate"
            )
        torch.nn.utils.clip_grad_norm_(self.optimizers[1].param_groups[0]["params"], self.config.clip)
        for optimizer in self.optimizers:
            optimizer.step()
        return value

    def _set_rates(self, factor: float) -> None:
        for optimizer, rate in zip(self.optimizers, (self.config.matrix_rate, self.config.other_rate), strict=True):
            optimizer.zero_grad(set_to_none=True)
            optimizer.param_groups[0]["lr"] = rate * factor

    def logits(self, rows: Packed) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (N, V), labels (N,) and weights (N,) of the N positions that count; elsewhere no head is computed."""
        device = rows.input_ids.device.type
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            hidden = self.model.model(
                input_ids=rows.input_ids,
                position_ids=rows.position_ids,
                attention_mask=rows.attention_mask(),
                use_cache=False,
            ).last_hidden_state
            counts = rows.weight > 0  # (R, T)
            logits = self.model.lm_head(hidden[counts])  # (R, T, D) -> (N, D) -> (N, V)
        return logits.float(), rows.label[counts], rows.weight[counts]


def _split(batch: Packed, parts: int) -> list[Packed]:
    """The rows of a batch in `parts` groups of nearly equal size."""
    rows = len(batch.input_ids)
    bounds = [rows * i // parts for i in range(parts + 1)]
    return [batch.rows(a, b) for a, b in itertools.pairwise(bounds) if b > a]
