"""Lossless speculative decoding with feature sampling and partial alignment distillation, to read and to run.

The method is in this folder, one idea per file, to be read in this order: sampling, cache, target, draft, loss, tree,
verify, generate, then data and train. `bench` measures, `viz` draws, `teaching` has what the chapters share.

Source: Gui, Xiao, Su, Chen, "Boosting Lossless Speculative Decoding via Feature Sampling and Partial Alignment
Distillation", arXiv 2408.15562.
"""

from fspad_ref.adapter import fspad_generate
from fspad_ref.draft import Draft, DraftConfig, FeatureSampling
from fspad_ref.generate import autoregressive_generate, speculative_generate
from fspad_ref.loss import partial_alignment_loss
from fspad_ref.sampling import SamplingConfig
from fspad_ref.target import Target
from fspad_ref.tree import DraftTree, TreeConfig, grow_tree
from fspad_ref.verify import verify, verify_by_rejection

__version__ = "0.1.0"
__all__ = [
    "Draft", "DraftConfig", "DraftTree", "FeatureSampling", "SamplingConfig", "Target", "TreeConfig",
    "autoregressive_generate", "fspad_generate", "grow_tree", "partial_alignment_loss", "speculative_generate",
    "verify", "verify_by_rejection",
]  # fmt: skip
