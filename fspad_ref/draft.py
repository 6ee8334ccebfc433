"""The draft: one decoder layer that guesses the target's next feature, and so its next token.

Input at position t is the pair (f_t, e_{t+1}): what could have come next, and what did. Output is a guess of f_{t+1}.
EAGLE and FSPAD differ in two booleans:

    feature_sampling    the token embedding gates the fused feature in the wide MLP space
    partial_alignment   the last linear map has two heads: u for the tokens, g for the features

    eagle (0, 0)    feature sampling only (1, 0)    partial alignment only (0, 1)    fspad (1, 1)
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from fspad_ref.cache import KVCache
from fspad_ref.errors import ConfigError, InputError, TargetMismatch, require
from fspad_ref.files import OnTheHub, fetched
from fspad_ref.official import read_official, write_official
from fspad_ref.target import Target, head_dim

# kind -> (feature_sampling, partial_alignment): the four models of the ablation
KINDS = {"eagle": (False, False), "fs": (True, False), "pad": (False, True), "fspad": (True, True)}


@dataclass(frozen=True)
class DraftConfig:
    """What kind of draft, and how large. Sizes left at None are taken from the target.

    Args:
        feature_sampling, partial_alignment: the two parts of FSPAD.
        intermediate_size: F, width of the MLP and of the feature sampler's gate.
        num_heads, num_kv_heads: attention heads; a draft may have more KV heads than its target.
        fuse_bias: whether the map that fuses embedding and feature has a bias (some published drafts lack it).
        qkv_bias: whether queries, keys and values have biases (published drafts for Qwen2 do).
        rms_norm_eps: epsilon of the draft's norms.
        vocabulary: the V' token ids, ascending, that the draft may propose (FR-Spec, arXiv 2502.14856); None: all V. A
            smaller output map saves time at every level of the tree. Lossless, as proposals never decide the text.
        hidden_size ... embedding_hash: the target's, recorded so that a draft can refuse another target.
    """

    feature_sampling: bool = True
    partial_alignment: bool = True
    intermediate_size: int | None = None
    num_heads: int | None = None
    num_kv_heads: int | None = None
    fuse_bias: bool = True
    qkv_bias: bool = False
    rms_norm_eps: float | None = None
    hidden_size: int | None = None
    head_dim: int | None = None
    vocab_size: int | None = None
    rope: dict[str, Any] | None = None
    max_positions: int | None = None
    tokenizer_hash: str | None = None
    embedding_hash: str | None = None
    vocabulary: tuple[int, ...] | None = None

    @property
    def kind(self) -> str:
        """eagle, fs, pad or fspad."""
        return next(kind for kind, parts in KINDS.items() if parts == (self.feature_sampling, self.partial_alignment))

    def resolve(self, target: Target) -> "DraftConfig":
        """Fill in what is None from the target. Raises TargetMismatch where the two contradict each other."""
        of_target = {
            "hidden_size": target.config.hidden_size,
            "head_dim": head_dim(target.config),
            "vocab_size": target.vocab_size,
            "rope": dict(target.config.rope_parameters),
            "max_positions": target.max_positions,
            **{name: value for name, value in target.identity().items() if value is not None},
        }
        wrong = {name: value for name, value in of_target.items() if getattr(self, name) not in (None, value)}
        faults = "; ".join(f"{name} {getattr(self, name)} (target: {value})" for name, value in wrong.items())
        advice = "Load the target that the draft was trained on, or train a draft for this one."
        require(not faults, TargetMismatch, "a draft made for this target", faults, advice)
        ids, V = None if self.vocabulary is None else tuple(self.vocabulary), target.vocab_size
        right = ids is None or ids and list(ids) == sorted({*ids}) and 0 <= ids[0] and ids[-1] < V
        require(right, ConfigError, f"vocabulary: ascending token ids in [0, {V})", f"{str(ids)[:40]}", "Sort them.")
        sizes = {
            "intermediate_size": target.config.intermediate_size,
            "num_heads": target.config.num_attention_heads,
            "num_kv_heads": target.config.num_key_value_heads,
            "rms_norm_eps": target.config.rms_norm_eps,
        }
        missing = {name: value for name, value in sizes.items() if getattr(self, name) is None}
        return dataclasses.replace(self, **of_target, **missing, vocabulary=ids)


class DraftOutput(NamedTuple):
    """Two guesses of the next feature; one and the same tensor without partial alignment.

    logit_feature u: goes through lm_head, gives the draft's tokens.
    aligned_feature g: looks like a target feature, is fed back as the next step's input.
    """

    logit_feature: Float[Tensor, "batch seq hidden"]
    aligned_feature: Float[Tensor, "batch seq hidden"]


class FeatureSampling(nn.Module):
    """h' = h + W_down( silu(W_gate e) * W_up RMSNorm(h) )                     (FSPAD, feature sampling)

    A SwiGLU whose gate reads the *token embedding*: the token picks, out of F directions, the part of the
    uncertain feature that belongs to it. Extra parameters: 3 D F.
    """

    def __init__(self, hidden_size: int, intermediate_size: int, eps: float):
        super().__init__()
        self.norm = nn.RMSNorm(hidden_size, eps)
        self.gate = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, fused: Float[Tensor, "batch seq hidden"], embedding: Float[Tensor, "batch seq hidden"]) -> Tensor:
        opened = F.silu(self.gate(embedding)) * self.up(self.norm(fused))  # (B, T, D) -> (B, T, F)
        return fused + self.down(opened)  # (B, T, F) -> (B, T, D)


class DraftLayer(nn.Module):
    """A Llama decoder layer without the norm before attention, and with one or two heads at its end.

        a      = h + Attention(h)
        [u; g] = [a; a] + W_down( silu(W_gate n) * W_up n ),   n = RMSNorm(a)        (FSPAD, partial alignment)

    With partial alignment W_down has 2 D outputs; without it D, and u = g, which is EAGLE's layer.
    """

    def __init__(self, config: DraftConfig):
        super().__init__()
        D, inner, dim = config.hidden_size, config.intermediate_size, config.head_dim
        self.config = config
        self.q = nn.Linear(D, config.num_heads * dim, bias=config.qkv_bias)
        self.k = nn.Linear(D, config.num_kv_heads * dim, bias=config.qkv_bias)
        self.v = nn.Linear(D, config.num_kv_heads * dim, bias=config.qkv_bias)
        self.o = nn.Linear(config.num_heads * dim, D, bias=False)
        self.norm = nn.RMSNorm(D, config.rms_norm_eps)
        self.gate = nn.Linear(D, inner, bias=False)
        self.up = nn.Linear(D, inner, bias=False)
        self.down = nn.Linear(inner, 2 * D if config.partial_alignment else D, bias=False)

    def forward(
        self, h: Float[Tensor, "batch seq hidden"], rotation: tuple[Tensor, Tensor], mask: Tensor | None,
        cache: KVCache | None,
    ) -> DraftOutput:  # fmt: skip
        a = h + self.attend(h, rotation, mask, cache)
        n = self.norm(a)
        out = self.down(F.silu(self.gate(n)) * self.up(n))  # (B, T, D) -> (B, T, F) -> (B, T, D or 2D)
        if not self.config.partial_alignment:
            return DraftOutput(a + out, a + out)
        u, g = out.chunk(2, dim=-1)  # (B, T, 2D) -> two of (B, T, D)
        return DraftOutput(a + u, a + g)

    def attend(self, h, rotation, mask, cache) -> Tensor:
        """Causal attention if mask is None, else wherever the boolean mask (B, 1, T, cached + T) says True."""
        q, k, v = (self.split_heads(project(h)) for project in (self.q, self.k, self.v))
        q, k = rotate(q, rotation), rotate(k, rotation)
        if cache is not None:
            k, v = cache.write(0, k, v)
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None and q.shape[2] > 1, enable_gqa=q.shape[1] != k.shape[1]
        )
        return self.o(mixed.transpose(1, 2).flatten(2))  # (B, H, T, d) -> (B, T, D)

    def split_heads(self, x: Float[Tensor, "batch seq width"]) -> Float[Tensor, "batch heads seq dim"]:
        return x.unflatten(-1, (-1, self.config.head_dim)).transpose(1, 2)


def rotate(x: Float[Tensor, "batch heads seq dim"], rotation: tuple[Tensor, Tensor]) -> Tensor:
    """RoPE: turn each pair (x_i, x_{i + dim/2}) by the angle of its position."""
    cos, sin = (part[:, None] for part in rotation)  # (B or 1, T, d) -> (B or 1, 1, T, d)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class Draft(nn.Module, OnTheHub):
    """A draft model bound to its target, whose embedding and lm_head it borrows, frozen.

    config gives its kind and sizes. save_pretrained, push_to_hub and from_pretrained are in files.py.
    """

    config_class = DraftConfig

    def __init__(self, config: DraftConfig, target: Target):
        super().__init__()
        self.config = config = config.resolve(target)
        # In a tuple, so that the target's weights become no part of this module: nothing to train, move or save.
        self._target = (target,)
        D = config.hidden_size
        self.fuse = nn.Linear(2 * D, D, bias=config.fuse_bias)
        sizes = D, config.intermediate_size, config.rms_norm_eps
        self.sampler = FeatureSampling(*sizes) if config.feature_sampling else None
        self.layer = DraftLayer(config)
        self.to(device=target.device, dtype=target.dtype)
        # after the cast: in bfloat16 the frequencies would turn far positions by wrong angles
        rope = LlamaConfig(
            hidden_size=D, num_attention_heads=config.num_heads, head_dim=config.head_dim,
            max_position_embeddings=config.max_positions, rope_parameters=config.rope,
        )  # fmt: skip
        self.rotary = LlamaRotaryEmbedding(rope).to(target.device)
        # in no state dict: made from the config and the target
        ids = None if config.vocabulary is None else torch.tensor(config.vocabulary, device=target.device)  # (V',)
        self.register_buffer("vocabulary", ids, persistent=False)
        self._head = () if ids is None else (target.lm_head.weight[ids],)  # (V', D)

    @property
    def target(self) -> Target:
        return self._target[0]

    def lm_head(self, logit_feature: Float[Tensor, "*rows hidden"]) -> Float[Tensor, "*rows words"]:
        """The target's output map; of a draft with a vocabulary of its own, the rows of these V' tokens."""
        return F.linear(logit_feature, *self._head) if self._head else self.target.lm_head(logit_feature)

    def tokens(self, index: Int[Tensor, "*rows"]) -> Int[Tensor, "*rows"]:
        """The target's token ids of columns of the draft's logits."""
        return index if self.vocabulary is None else self.vocabulary[index]

    def new_cache(self, capacity: int, batch: int = 1) -> KVCache:
        """An empty cache for `capacity` positions of the draft's single layer."""
        sizes, weight = (1, self.config.num_kv_heads, self.config.head_dim, capacity), self.fuse.weight
        return KVCache(*sizes, batch=batch, dtype=weight.dtype, device=weight.device)

    def forward(
        self,
        features: Float[Tensor, "batch seq hidden"],
        next_token_ids: Int[Tensor, "batch seq"],
        attention_mask: Tensor | None = None,
        *,
        positions: Int[Tensor, "#batch seq"] | None = None,
        cache: KVCache | None = None,
    ) -> DraftOutput:
        """Guess f_{t+1} from (f_t, e_{t+1}) at every position.

        Args:
            features: f_t.
            next_token_ids: token t+1, the one that was sampled from f_t.
            attention_mask: None for causal attention; (B, T) with 1 at real tokens where rows are padded; or boolean
                (B, 1, T, cached + T) with True where position t may look, as in a tree.
            positions: RoPE positions, by default those that follow the cache.
            cache: keys and values of earlier pairs; this call's are added.
        """
        held = cache.length if cache is not None else 0
        T = features.shape[1]
        if positions is None:
            positions = torch.arange(held, held + T, device=features.device)[None]
        embedding = self.target.embed(next_token_ids).to(features.dtype)  # (B, T) -> (B, T, D)
        h = self.fuse(torch.cat((embedding, features), dim=-1))  # (B, T, 2D) -> (B, T, D)
        h = h.to(features.dtype)  # under autocast: sums and norms in float32
        if self.sampler is not None:
            h = self.sampler(h, embedding)
        return self.layer(h, self.rotary(h, positions), causal_mask(attention_mask, held, T, h.device), cache)

    @classmethod
    def from_official(cls, path: str | Path, target: Target, **download: Any) -> "Draft":
        """Load a draft in the layout of the reference code or of published EAGLE drafts, see official.py.

        path, download: a file of weights (.safetensors or .bin), a folder with one (a training state, or a download
        with its config.json), or the id of a repository on the Hub, see files.fetched.

        Kind, head counts and widths are read off the tensors. Raises CheckpointError or TargetMismatch.
        """
        path = fetched(path, **download)
        settings, tensors = read_official(path, target)
        return cls(DraftConfig(**settings), target)._load(tensors, path)

    def to_official(self, folder: str | Path, architecture: str = "LlamaForCausalLM") -> None:
        """Write a plain EAGLE draft as published ones are, for engines that serve EAGLE; see official.py.

        SGLang wants architecture="LlamaForCausalLMEagle"; vLLM and EAGLE's own code read the default. Raises
        ConfigError for drafts of other kinds, which these engines cannot express.
        """
        write_official(self, folder, architecture)


def causal_mask(mask: Tensor | None, held: int, T: int, device) -> Tensor | None:
    """None stays None where causal attention needs no mask; a 4-D mask passes; padding becomes causal and padding."""
    if mask is not None and mask.dim() == 4:
        return mask
    if mask is None and (held == 0 or T == 1):
        return None
    causal = torch.ones(T, held + T, dtype=torch.bool, device=device).tril(held)[None, None]  # (1, 1, T, held + T)
    if mask is None:
        return causal
    require(not held, InputError, "a 4-D mask with a filled cache", "a padding mask", "Decode unpadded prompts.")
    # A padded row may look at itself, else its softmax would be empty and its gradient NaN.
    return (causal & mask.bool()[:, None, None, :]) | torch.eye(T, dtype=torch.bool, device=device)
