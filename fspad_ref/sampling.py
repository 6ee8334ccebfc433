"""From logits to a token: once, for everybody.

Plain decoding, verification at every node of the draft tree and the bonus token all pass through the two
functions of this file. That is half of the losslessness proof: there is no second place where a
temperature could be forgotten.

    scores = process_logits(logits, config)              temperature, top-k, top-p   -> log p up to a constant
    token  = choose(scores, noise.rows(first, count))    argmax_w( log p(w) + Gumbel(seed, position, w) )

*Position-keyed noise.* The Gumbel trick draws exactly from p when the noise is fresh. Ours is a pure function of
(seed, absolute index of the token being drawn, w): whatever draws token number 17 of a text, plain decoding or
some node of some tree, meets the same noise. Hence the text depends on (target, prompt, seed) alone, and
"lossless" can be tested token by token at any temperature.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from fspad_ref.errors import ConfigError, require


@dataclass(frozen=True)
class SamplingConfig:
    """How a token is chosen.

    Args:
        temperature: 0 takes the most probable token (greedy); 1 samples from the model's own distribution.
        top_p: keep the smallest set of tokens whose probability reaches top_p, in (0, 1]; 1 keeps all.
        top_k: keep the top_k most probable tokens; 0 keeps all.
        seed: with the token's position, the key of all randomness; 0 <= seed < 2**63.

    Raises ConfigError on a value outside its range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0

    def __post_init__(self):
        T, top_p, top_k, seed = self.temperature, self.top_p, self.top_k, self.seed
        require(math.isfinite(T) and T >= 0, ConfigError, "temperature >= 0", T, "Set temperature to 0 or more.")
        require(0 < top_p <= 1, ConfigError, "top_p in (0, 1]", top_p, "Set top_p to 1 to keep all tokens.")
        cut, key = isinstance(top_k, int) and top_k >= 0, isinstance(seed, int) and 0 <= seed < 2**63
        require(cut, ConfigError, "top_k a whole number >= 0", repr(top_k), "Set top_k to 0 to keep all tokens.")
        require(key, ConfigError, "seed a whole number in [0, 2**63)", repr(seed), "Set seed to such a number.")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0


def process_logits(logits: Float[Tensor, "rows vocab"], config: SamplingConfig) -> Float[Tensor, "rows vocab"]:
    """Temperature, top-k, top-p, each row alike: scores whose softmax is p. Greedy decoding leaves logits as they are.

    The three steps are `transformers`' own, in its order, so that `model.generate` means the same by the same settings.
    """
    if config.greedy:
        return logits
    scores = logits.double()  # in the draw, ties and tails should come from p, not from rounding
    if config.temperature != 1.0:
        scores = TemperatureLogitsWarper(float(config.temperature))(None, scores)
    if config.top_k:
        scores = TopKLogitsWarper(config.top_k)(None, scores)
    if config.top_p < 1.0:
        scores = TopPLogitsWarper(config.top_p)(None, scores)
    return scores


def at_least_float32(logits: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Half precision widened to float32, as `transformers` does before anything else happens to logits."""
    return logits if logits.dtype == torch.float64 else logits.float()


def choose(scores: Float[Tensor, "rows vocab"], noise: Float[Tensor, "rows vocab"] | None) -> Int[Tensor, "rows"]:
    """y = argmax_w( log p(w) + noise(w) ): a draw from p = softmax(scores), or the argmax where noise is None.

    Scores need not be normalised: a constant added to a row moves no argmax. An impossible row (NaN, or all
    -inf) yields -1, which is no token: the caller finds it in the numbers it copies to the host anyway.
    """
    best = scores if noise is None else scores + noise
    value, token = best.max(dim=-1)  # (rows, vocab) -> (rows,)
    return torch.where(value.isfinite(), token, -1)


class GumbelNoise:
    """Gumbel noise for consecutive positions, made a block at a time and reused by every node that asks.

    Args:
        seed: the key, see SamplingConfig.
        vocab_size: length of a row.
        device: where the rows are made; integer arithmetic gives the same uniforms on every device.
    """

    BLOCK = 32  # positions made at once: the arithmetic is a few hundred tiny tensor operations whatever the size

    def __init__(self, seed: int, vocab_size: int, device: torch.device | str = "cpu"):
        self.seed, self.vocab_size, self.device = seed, vocab_size, device
        self._first = 0
        self._rows = torch.empty(0, vocab_size, dtype=torch.float64, device=device)

    def rows(self, first: int, count: int) -> Float[Tensor, "count vocab"]:
        """Noise for the tokens at absolute positions first .. first + count - 1."""
        if first < self._first or first + count > self._first + self._rows.shape[0]:
            self._first = first
            positions = range(first, first + max(count, self.BLOCK))
            uniform = position_uniforms(self.seed, positions, self.vocab_size, self.device)
            self._rows = gumbel(uniform)
        start = first - self._first
        return self._rows[start : start + count]


def gumbel(uniform: Float[Tensor, "n width"]) -> Float[Tensor, "n width"]:
    """Standard Gumbel noise from uniforms: G = -log(-log U)."""
    return -torch.log(-torch.log(uniform))


def position_uniforms(
    seed: int, positions: Sequence[int], width: int, device: torch.device | str = "cpu"
) -> Float[Tensor, "n width"]:
    """Uniforms strictly inside (0, 1), 53 bits each, a pure function of (seed, position, column)."""
    words = (numpy_words if torch.device(device).type == "cpu" else torch_words)(seed, positions, width, device)
    mantissa = (words >> 11) & (2**53 - 1)  # the top 53 bits
    # The half keeps 0 out; for the largest mantissa it would round up to 1, which the clamp keeps out.
    return ((mantissa.double() + 0.5) * 2.0**-53).clamp(max=1 - 2.0**-53)


def torch_words(seed: int, positions: Sequence[int], width: int, device) -> Int[Tensor, "n width"]:
    """Random words of 64 bits, on any device: word w of a position is in the block of counter (w // 4, position)."""
    blocks = torch.arange((width + 3) // 4, device=device)
    rows = torch.as_tensor(positions, device=device)[:, None]
    counter = torch.broadcast_tensors(blocks[None, :], rows)  # both (n, width / 4)
    return torch.stack(philox4x64(counter[0], counter[1], seed), dim=-1).flatten(1)[:, :width]


def numpy_words(seed: int, positions: Sequence[int], width: int, _) -> Int[Tensor, "n width"]:
    """The same words, made in C, which is faster on a CPU. numpy counts up before it draws, hence the -1."""
    counters = (((position << 64) - 1) % 2**256 for position in positions)
    words = [np.random.Philox(key=seed, counter=counter).random_raw(width) for counter in counters]
    return torch.from_numpy(np.stack(words).view(np.int64))


# --- Philox 4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) -------------------------
# A counter-based generator: ten rounds of multiply-and-swap turn (counter, key) into four random words. Tensors hold
# the unsigned 64-bit words in int64: additions, products and exclusive-ors keep the right bits when they wrap.
_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_KEY_STEPS = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)


def philox4x64(counter0: Int[Tensor, "*shape"], counter1: Int[Tensor, "*shape"], key0: int) -> list[Tensor]:
    """Four words of 64 random bits for the counter (counter0, counter1, 0, 0) under the key (key0, 0)."""
    zero = torch.zeros_like(counter0)
    c = [counter0, counter1, zero, zero]
    k = [key0, 0]
    for _ in range(10):
        high0, low0 = _multiply(c[0], _MULTIPLIERS[0])
        high1, low1 = _multiply(c[2], _MULTIPLIERS[1])
        c = [high1 ^ c[1] ^ _signed(k[0]), low1, high0 ^ c[3] ^ _signed(k[1]), low0]
        k = [(word + step) % 2**64 for word, step in zip(k, _KEY_STEPS, strict=True)]
    return c


def _multiply(a: Tensor, b: int) -> tuple[Tensor, Tensor]:
    """High and low 64 bits of the unsigned product a * b, by halves of 32 bits as on paper."""
    mask = 2**32 - 1
    a_low, a_high = a & mask, (a >> 32) & mask
    b_low, b_high = b & mask, b >> 32
    low_low = a_low * b_low
    middle = a_high * b_low + ((low_low >> 32) & mask)  # < 2**64: fits, once read as unsigned
    other = a_low * b_high + (middle & mask)
    high = a_high * b_high + ((middle >> 32) & mask) + ((other >> 32) & mask)
    return high, a * _signed(b)


def _signed(word: int) -> int:
    """The int64 with the same bits as an unsigned 64-bit word."""
    return word - 2**64 if word >= 2**63 else word
