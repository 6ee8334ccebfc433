"""The target: a Hugging Face causal language model, seen through four windows.

    embed     token ids -> embeddings e                              (B, T) -> (B, T, D)
    features  token ids -> features f                                (B, T) -> (B, T, D)
    lm_head   features -> logits of the *next* token                 (B, T, D) -> (B, T, V)
    tree_features  the nodes of a draft tree -> their features, in one forward pass  (N,) -> (N, D)

A *feature* f_t is the last hidden state at position t, after the final norm: everything the target knows about
token t+1, one linear map away from its logits (FSPAD; EAGLE, section 2).
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError

import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from fspad_ref.cache import KVCache
from fspad_ref.data import use_chat_format
from fspad_ref.errors import CheckpointError, ConfigError, InputError, require
from fspad_ref.files import check_finite
from fspad_ref.support import SpreadCache, come_home, layer_devices, refuse_attention, refuse_model

# The options of from_pretrained that say where the files are, and so hold for the tokenizer, too.
TOKENIZER_OPTIONS = ("trust_remote_code", "revision", "token", "cache_dir", "local_files_only", "force_download")


class Target:
    """A `transformers` causal LM, frozen and in eval mode, and its tokenizer or None.

    Raises UnsupportedTarget if tree verification cannot work on this model.
    """

    def __init__(self, model: nn.Module, tokenizer=None):
        refuse_model(model)
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.backbone = model.get_decoder()
        self.embed = model.get_input_embeddings()
        self.lm_head = model.get_output_embeddings()
        self.config = model.config
        self.vocab_size: int = self.lm_head.weight.shape[0]
        self.max_positions: int = self.config.max_position_embeddings
        self.devices: Sequence[torch.device] = layer_devices(model)  # empty unless a device_map spread the layers
        if self.devices:
            come_home(self.lm_head, self.device)

    @classmethod
    def from_pretrained(
        cls, path: str, *, device: str = "cpu", dtype: str = "float32", chat_format: str | None = None, **kwargs
    ) -> "Target":
        """Load a local folder or Hub id, in safetensors or the older .bin, whole or in shards.

        Args:
            path: a folder, or the id of a model on the Hub; HF_HUB_OFFLINE=1 keeps to what was downloaded before.
            device: where the model goes, unless a device_map is given: "auto" spreads it over all GPUs that there are.
            dtype: float64, float32, bfloat16 or float16.
            chat_format: one of data.CHAT_FORMATS, for models without a chat template; None for the model's own.
            kwargs: for `transformers`: device_map, revision, local_files_only ... Remote code stays off unless the
                caller passes trust_remote_code=True.

        Raises CheckpointError if there is no readable model at `path`, UnsupportedTarget for one that cannot work.
        """
        dtypes = ("float64", "float32", "bfloat16", "float16")
        require(dtype in dtypes, ConfigError, f"a dtype of {', '.join(dtypes)}", repr(dtype), "Choose one.")
        missing = Path(path).parts[-2:] == ("data", "target") and not Path(path).is_dir()  # and no id of the Hub
        advice = "Run `python -m fspad_ref fetch` in the repository's folder, or name another target."
        require(not missing, CheckpointError, f"the built-in target in {path}", "no such folder", advice)
        # remote code: False, since None would ask on the terminal
        kwargs = {"attn_implementation": "sdpa", "trust_remote_code": False, **kwargs}
        refuse_attention(kwargs["attn_implementation"])
        try:
            kwargs |= {"dtype": getattr(torch, dtype), "output_loading_info": True}
            model, info = AutoModelForCausalLM.from_pretrained(path, **kwargs)
        except (OSError, ValueError, RuntimeError, SafetensorError, UnpicklingError) as error:
            raise CheckpointError(
                f"expected a Hugging Face causal LM at {path!r}, found: {error} "
                "Give a folder with config.json and model.safetensors, or a Hub id."
            ) from error
        missing = ", ".join(sorted(info["missing_keys"])[:3])  # transformers fills these with random numbers
        require(not missing, CheckpointError, f"all weights of {path!r}", f"none for {missing}", "Get the files again.")
        check_finite(dict(model.named_parameters()), path)
        tokenizer = load_tokenizer(path, **{name: kwargs[name] for name in TOKENIZER_OPTIONS if name in kwargs})
        if chat_format is not None:
            use_chat_format(tokenizer, chat_format)
        return cls(model if kwargs.get("device_map") else model.to(device), tokenizer)

    @property
    def device(self) -> torch.device:
        """Where tokens go in, and features and logits come out; of a target on several devices, the embedding's."""
        return self.embed.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embed.weight.dtype

    def synchronize(self) -> None:
        """Wait for the device: kernels run asynchronously there, and a clock read without this means nothing."""
        for device in {self.device, *self.devices}:
            if device.type == "cuda":
                torch.cuda.synchronize(device)

    def identity(self) -> dict[str, str | None]:
        """Fingerprints by which a draft recognises its target: of the tokenizer (None without one), and of some rows of
        the embedding, rounded to bfloat16 so that the precision it was loaded in does not matter."""
        rows = self.embed.weight[:: max(1, self.vocab_size // 1024)].to(torch.bfloat16)
        words = sorted(self.tokenizer.get_vocab().items()) if self.tokenizer else None
        rounded = rows.view(torch.int16).cpu().numpy().tobytes()
        return {"tokenizer_hash": words and _hash(repr(words).encode()), "embedding_hash": _hash(rounded)}

    def new_cache(self, capacity: int, batch: int = 1) -> KVCache:
        """An empty cache for `capacity` positions."""
        sizes = self.config.num_key_value_heads, head_dim(self.config), capacity

        def part(layers: int, device: torch.device) -> KVCache:
            return KVCache(layers, *sizes, batch=batch, dtype=self.dtype, device=device)

        return SpreadCache(self.devices, part) if self.devices else part(self.config.num_hidden_layers, self.device)

    @torch.no_grad()
    def features(
        self, input_ids: Int[Tensor, "batch seq"], attention_mask: Tensor | None = None, cache: KVCache | None = None
    ) -> Float[Tensor, "batch seq hidden"]:
        """f for every position. With a cache, `input_ids` continue it and their keys and values are added to it.

        attention_mask (B, T) marks real tokens with 1 where rows are padded; it cannot go with a cache.
        """
        held = cache.length if cache is not None else 0
        mask = attention_mask
        good = not held or mask is None
        require(good, InputError, "no attention_mask with a filled cache", "one", "Decode unpadded prompts.")
        if held and input_ids.shape[1] > 1:
            new = input_ids.shape[1]
            mask = self._additive(torch.ones(new, new, dtype=torch.bool, device=self.device).tril(), held)
        positions = torch.arange(held, held + input_ids.shape[1], device=self.device)[None]
        return self._forward(input_ids, mask, positions, cache)

    @torch.no_grad()
    def tree_features(
        self, tokens: Int[Tensor, "nodes"], depth: Int[Tensor, "nodes"],
        ancestors: Bool[Tensor, "nodes nodes"], cache: KVCache,
    ) -> Float[Tensor, "nodes hidden"]:  # fmt: skip
        """f for every node of a draft tree in one forward: a node sees the cached prefix, its ancestors and itself.

        RoPE positions are prefix + depth, so two siblings stand at the same position, as each would in plain decoding.
        """
        positions = (cache.length + depth)[None]  # (1, N)
        return self._forward(tokens[None], self._additive(ancestors, cache.length), positions, cache)[0]

    def _forward(self, input_ids, mask, positions, cache) -> Tensor:
        out = self.backbone(input_ids=input_ids, attention_mask=mask, position_ids=positions, past_key_values=cache,
                            use_cache=cache is not None)  # fmt: skip
        return out.last_hidden_state.to(self.device)  # from that of the last layer, where there are several

    def _additive(self, visible: Bool[Tensor, "new new"], held: int) -> Float[Tensor, "1 1 new total"]:
        """A 4-D float mask: 0 where a query may look (all the prefix; of the new tokens, `visible`), else the minimum.

        Float, not bool: eager attention adds the mask to its scores and would take True for 1.
        """
        new = visible.shape[0]
        mask = torch.zeros(1, 1, new, held + new, dtype=self.dtype, device=self.device)
        mask[..., held:].masked_fill_(~visible, torch.finfo(self.dtype).min)
        return mask


def head_dim(config) -> int:
    """Width of one attention head; not every config states it."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def load_tokenizer(path: str, **options):
    """The tokenizer saved with a model, or None if there is none. options: trust_remote_code, cache_dir and the like.

    Raises CheckpointError for a tokenizer that brings its own code, unless that is trusted.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **options)
        # without files transformers makes an empty one for some families
        return tokenizer if set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens) else None
    except (OSError, ValueError) as error:
        if "trust_remote_code" not in str(error):
            return None
        raise CheckpointError(
            f"expected a tokenizer that transformers knows at {path!r}, found one with code of its own. If you have "
            "read that code and trust it, pass trust_remote_code=True."
        ) from error
