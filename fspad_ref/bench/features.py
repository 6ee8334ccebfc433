"""The target's features, computed once and kept on disk: drafts of all kinds and seeds, and later passes, read them.

    FOLDER/HASH.safetensors    features       (T, D) bfloat16
                               log_partition  (T,)   float32, log sum_V exp of the target's logits (loss.py)

One file for each text (350 kB for 300 tokens of SmolLM2), named by its tokens and by the target; any number of
processes may fill the same folder. A target in bfloat16 has its features in it anyway.
"""

import hashlib
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fspad_ref.data import Batch
from fspad_ref.files import load_tensors, save_tensors
from fspad_ref.sampling import at_least_float32
from fspad_ref.target import Target


class StoredFeatures:
    """batch -> features (B, T, D) and log_partition (B, T): `features_of` for train().

    Rows are kept up to their last response token, since no loss looks beyond it, and come back padded with zeros.
    """

    def __init__(self, target: Target, folder: Path):
        self.target, self.folder = target, Path(folder)
        self.key = repr(target.identity()).encode()

    def __call__(self, batch: Batch) -> tuple[Float[Tensor, "batch seq hidden"], Float[Tensor, "batch seq"]]:
        ends = [int(row.nonzero().max()) + 1 for row in batch.response]
        texts = [ids[:end] for ids, end in zip(batch.input_ids, ends, strict=True)]
        files = [self.file(text) for text in texts]
        if missing := [i for i, file in enumerate(files) if not (file.exists() and file.stat().st_size)]:
            ids = pad_sequence([texts[i] for i in missing], batch_first=True)
            for i, row in zip(missing, self.target.features(ids.to(self.target.device)), strict=True):
                self.keep(files[i], row[: ends[i]])
        found = [load_tensors(file) for file in files]
        features = torch.zeros(*batch.input_ids.shape, found[0]["features"].shape[1], dtype=torch.bfloat16)
        log_partition = torch.zeros(batch.input_ids.shape)
        for i, (one, end) in enumerate(zip(found, ends, strict=True)):
            features[i, :end], log_partition[i, :end] = one["features"], one["log_partition"]
        return features.to(self.target.device), log_partition.to(self.target.device)

    def file(self, text: Int[Tensor, "n"]) -> Path:
        return self.folder / f"{hashlib.sha256(self.key + text.numpy().tobytes()).hexdigest()[:24]}.safetensors"

    @torch.no_grad()
    def keep(self, file: Path, features: Float[Tensor, "n hidden"]) -> None:
        stored = features.to(torch.bfloat16)
        parts = stored.to(features.dtype).split(64)  # logits of all positions at once would be slow: 200 kB each
        sums = [at_least_float32(self.target.lm_head(part)).logsumexp(-1) for part in parts]  # (64, V) -> (64,)
        save_tensors(file, {"features": stored, "log_partition": torch.cat(sums)}, durable=False)
