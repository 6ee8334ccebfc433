"""Small models, drafts and trees that every test may use."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from fspad_ref import Draft, DraftConfig, DraftTree, Target
from fspad_ref.cache import KVCache
from fspad_ref.draft import DraftOutput
from fspad_ref.tree import ancestors

GOLDEN = Path(__file__).parent / "golden"
PROMPT = [2, 7, 5, 11, 3]
KINDS = {"eagle": (False, False), "fs": (True, False), "pad": (False, True), "fspad": (True, True)}


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="the statistical tests at full power; slow")


# ---- targets ----


def tiny_target(seed: int = 0, dtype: torch.dtype = torch.float64, **sizes) -> Target:
    """A random Llama, small enough to decode in milliseconds and spread out enough to be interesting to sample from."""
    settings = dict(vocab_size=31, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4)
    settings |= dict(num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.25)
    settings |= dict(bos_token_id=0, eos_token_id=1)
    torch.manual_seed(seed)
    return Target(LlamaForCausalLM(LlamaConfig(**(settings | sizes))).to(dtype))


def attentive_target(seed: int, dtype: torch.dtype = torch.float64, **sizes) -> Target:
    """A random target whose next token depends on the order of those before it, computed in `dtype` throughout.

    Queries and keys are enlarged: attention in a freshly drawn model is nearly even and would hide a wrong position.
    Llama's own norms round to float32 on the way, so PyTorch's replace them; the weights of both are ones.
    """
    target = tiny_target(seed, dtype, **sizes)
    D, eps = target.config.hidden_size, target.config.rms_norm_eps
    for layer in target.backbone.layers:
        for name, factor in (("q", 3), ("k", 3), ("o", 2)):
            getattr(layer.self_attn, f"{name}_proj").weight.mul_(factor)
        for name in ("input_layernorm", "post_attention_layernorm"):
            setattr(layer, name, nn.RMSNorm(D, eps, dtype=dtype).requires_grad_(False))
    target.backbone.norm = nn.RMSNorm(D, eps, dtype=dtype).requires_grad_(False)
    return target


# ---- drafts and trees ----


def tiny_draft(target: Target, seed: int = 0, **booleans) -> Draft:
    torch.manual_seed(seed)
    return Draft(DraftConfig(**booleans), target).eval()


class TextDraft(Draft):
    """A draft without a network: `guess(texts)` gives the logits, (n, V), after n texts of one length.

    Its features are logits, its head is the identity. Its cache holds the tokens themselves, from which it reads the
    text before each node: a wrong entry would be another text. `first` is the text's first token, which no pair holds.
    """

    def __init__(self, target: Target, guess, first: int):
        nn.Module.__init__(self)
        self._target, self.guess, self.first, self.known = (target,), guess, first, {}
        self.config = SimpleNamespace(vocab_size=target.vocab_size, vocabulary=None)

    vocabulary, lm_head = None, staticmethod(lambda logits: logits)

    def new_cache(self, capacity, batch=1):
        return KVCache(1, 1, 1, capacity, dtype=torch.float64)

    def forward(self, features, next_token_ids, attention_mask=None, *, positions=None, cache=None):
        new = next_token_ids.shape[1]
        entries = next_token_ids.double().view(1, 1, -1, 1)
        tokens = cache.write(0, entries, entries)[0].flatten().long()  # (cached + new,)
        # of new pairs of the text only the guess of the last one is used, of a tree's nodes that of each
        everything = torch.ones(1, len(tokens), dtype=torch.bool)
        rows = everything if attention_mask is None else attention_mask.view(new, -1)  # (rows, cached + new)
        texts = [(self.first, *tokens[row].tolist()) for row in rows]  # all of one length: nodes of one depth
        if new_texts := [text for text in texts if text not in self.known]:
            self.known |= zip(new_texts, self.guess(new_texts), strict=True)
        logits = torch.stack([self.known[text] for text in texts])[None]  # (1, rows, V)
        return DraftOutput(logits, logits)


def stand_in(target: Target, factor: float, first: int = PROMPT[0]) -> TextDraft:
    """A draft that knows the target: its logits are the target's, `factor` times.

     1  the oracle proposes what is most probable: long paths are accepted, the cache is compacted again and again
    -1  the adversary proposes what is least probable: whole trees are rejected
     0  the uniform draft proposes any tokens, the same at every node: ties everywhere
    """
    return TextDraft(target, lambda texts: factor * target.lm_head(target.features(torch.tensor(texts))[:, -1]), first)


def tree_of(token: list[int], parent: list[int]) -> DraftTree:
    """The draft tree with these nodes, scores left at 0."""
    depth = [0]
    for above in parent[1:]:
        depth.append(depth[above] + 1)
    token, parent, depth = (torch.tensor(x) for x in (token, parent, depth))
    return DraftTree(token, parent, depth, torch.zeros(len(token)), ancestors(parent, int(depth.max())))


# ---- fixtures ----


@pytest.fixture(scope="session")
def target() -> Target:
    return tiny_target()


@pytest.fixture(scope="session", params=KINDS.values(), ids=KINDS)
def draft(request, target) -> Draft:
    return tiny_draft(target, feature_sampling=request.param[0], partial_alignment=request.param[1])


@pytest.fixture(scope="session")
def golden() -> dict:
    return load_file(GOLDEN / "expected.safetensors")


@pytest.fixture(scope="session")
def golden_meta() -> dict:
    return json.loads((GOLDEN / "meta.json").read_text())


@pytest.fixture(scope="session")
def golden_target() -> Target:
    model = LlamaForCausalLM(LlamaConfig(**json.loads((GOLDEN / "target_config.json").read_text())))
    model.load_state_dict(load_file(GOLDEN / "target.safetensors"))
    return Target(model)
