"""Rotary position embedding: frequencies from the config, and turning queries and keys.

    turned = [x1·cos - x2·sin, x2·cos + x1·sin],   x1 and x2 the halves of what is turned of a head

Angles are computed in fp32 at every dtype: bf16 positions past 256 would not be whole numbers.
A token's angles depend on its position alone, never on how long its request is: whoever shares a
cached key shares it turned.
"""

import math

import torch

from aweigh_kernels.dense import has_kernels
from aweigh_runtime.model.config import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    Rope,
    YarnScaling,
)
from aweigh_runtime.model.storage import Storage


class Angles:
    """The angles of one rotary embedding, for a server of at most `max_model_len` tokens."""

    def __init__(self, rope: Rope, max_model_len: int, device: torch.device) -> None:
        frequencies = inverse_frequencies(rope, max_model_len, device)
        self.size = rope.size
        self._frequencies = frequencies.repeat(2)  # [size], of both halves
        self._amplitude: float = getattr(rope.scaling, "attention_factor", 1.0)
        signs = torch.ones_like(frequencies)
        self._signs = torch.cat((-signs, signs)) * self._amplitude  # [size]

    def at(self, positions: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosine and sine for each token.

        Args:
            positions: [T], int64.
            dtype: of the activations.

        Returns:
            cos, sin: [T, 1, size], `dtype`; the halves of sin carry the signs of the formula above.
        """
        if not has_kernels(self._frequencies, dtype):
            return self._by_torch(positions, dtype)
        from aweigh_kernels.rope_angles import rope_angles  # Triton is not everywhere

        return rope_angles(positions, self._frequencies, self._signs, self._amplitude, dtype)

    def _by_torch(
        self, positions: torch.Tensor, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        radians = self._radians(positions[:, None, None])  # [T, 1, size]
        cos, sin = radians.cos().mul_(self._amplitude), radians.sin_().mul_(self._signs)
        return cos.to(dtype), sin.to(dtype)

    def _radians(self, positions: torch.Tensor) -> torch.Tensor:
        return positions * self._frequencies


class DynamicAngles(Angles):
    """Beyond the original length each position has frequencies of its own."""

    def __init__(
        self, rope: Rope, scaling: DynamicScaling, max_model_len: int, storage: Storage
    ) -> None:
        super().__init__(rope, max_model_len, storage.device)
        factor, original = scaling.factor, scaling.original_max_positions
        length = torch.arange(1, max_model_len + 1, device=storage.device).clamp(min=original)
        stretched = factor * length / original - (factor - 1)
        self._theta = rope.theta * stretched ** (self.size / (self.size - 2))  # by position
        self._exponents = _exponents(rope, storage.device).repeat(2)  # [size]
        self._by_rows = storage.arithmetic.by_rows

    def at(self, positions: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Angles`."""
        return self._by_torch(positions, dtype)

    def _radians(self, positions: torch.Tensor) -> torch.Tensor:
        theta = self._theta[positions]
        return positions / self._by_rows(self._powers, theta, self.size)

    def _powers(self, theta: torch.Tensor) -> torch.Tensor:
        return theta**self._exponents


def angles_of(rope: Rope, max_model_len: int, storage: Storage) -> Angles:
    """The kind of angles that a rotary embedding needs."""
    if isinstance(rope.scaling, DynamicScaling):
        return DynamicAngles(rope, rope.scaling, max_model_len, storage)
    return Angles(rope, max_model_len, storage.device)


def inverse_frequencies(rope: Rope, max_model_len: int, device: torch.device) -> torch.Tensor:
    """Radians per position of each turned pair of a head: [size/2], fp32."""
    frequencies: torch.Tensor = 1.0 / rope.theta ** _exponents(rope, device)
    match rope.scaling:
        case LinearScaling(factor):
            return frequencies / factor
        case Llama3Scaling():
            return _llama3(frequencies, rope.scaling)
        case YarnScaling():
            return _yarn(frequencies, rope, rope.scaling)
        case LongRopeScaling(short, long, _, original):
            factors = long if max_model_len > original else short
            return frequencies / torch.tensor(factors, device=device)
        case _:
            return frequencies


def turn_(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
    """Rotate [T, H+K, size] by their positions, in place."""
    swapped = heads.roll(heads.shape[-1] // 2, -1)
    heads.mul_(cos).addcmul_(swapped, sin)


def _exponents(rope: Rope, device: torch.device) -> torch.Tensor:
    return torch.arange(0, rope.size, 2, dtype=torch.float32, device=device) / rope.size


def _llama3(frequencies: torch.Tensor, scaling: Llama3Scaling) -> torch.Tensor:
    turns = scaling.original_max_positions * frequencies / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = ((turns - low) / (high - low)).clamp(0.0, 1.0)  # 1: high frequency, 0: low
    return _blend(frequencies, scaling.factor, kept)


def _yarn(frequencies: torch.Tensor, rope: Rope, scaling: YarnScaling) -> torch.Tensor:
    first = _pair_with(scaling.beta_fast, rope, scaling)
    last = _pair_with(scaling.beta_slow, rope, scaling)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, rope.size - 1)
    if first == last:
        last += 0.001
    pairs = torch.arange(rope.size // 2, dtype=torch.float32, device=frequencies.device)
    return _blend(frequencies, scaling.factor, 1 - ((pairs - first) / (last - first)).clamp(0, 1))


def _pair_with(turns: float, rope: Rope, scaling: YarnScaling) -> float:
    """The pair of a head that turns so often within the original length."""
    ratio = scaling.original_max_positions / (turns * 2 * math.pi)
    return rope.size * math.log(ratio) / (2 * math.log(rope.theta))


def _blend(frequencies: torch.Tensor, factor: float, kept: torch.Tensor) -> torch.Tensor:
    return (1 - kept) * frequencies / factor + kept * frequencies
