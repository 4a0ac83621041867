"""Exponential noise that is a function of seed, position and token alone.

So a seeded request gets the same text alone and in any batch, as far as its logits are the same.
"""

from enum import IntEnum

import torch


class Stream(IntEnum):
    """Noise of one seed and position that is independent of the other streams'."""

    CHOICE = 0  # a token of the answer
    DRAFT = 0x2545F4914F6CDD1D  # a drafted token of a request that nobody has seeded
    ACCEPTANCE = 0x369DEA0F31A53F85  # whether a drafted token stays
    REPLACEMENT = 0x106689D45497FDB5  # the token in place of one that does not


_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # 2^64 ÷ golden ratio as int64: splitmix64's increment
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)
_POSITIVE = (1 << 63) - 1


def exponential(seeds: torch.Tensor, positions: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Noise of rate 1, positive and finite: fp32, of the shape of `tokens` with S rows.

    Args:
        seeds: [S], int64.
        positions: [S], int64.
        tokens: [V] or [S, C], int64.
    """
    keys = _mix(seeds + (positions + 1) * _GOLDEN).unsqueeze(-1)
    bits = _mix(keys + tokens * _GOLDEN)
    # Small noise decides for unlikely tokens: near 0 a float32 is fine enough, near 1 it is not.
    uniform = bits.bitwise_and_(_POSITIVE).to(torch.float32).mul_(2.0**-63)
    return uniform.clamp_(2.0**-64, 1.0 - 2.0**-24).neg_().log1p_().neg_()


def uniform(seeds: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Numbers between 0 and 1, both excluded, one for each seed and position: [S], fp32."""
    token = torch.zeros(1, dtype=torch.int64, device=seeds.device)
    return exponential(seeds, positions, token).squeeze(-1).neg_().exp_()


def _mix(values: torch.Tensor) -> torch.Tensor:
    """splitmix64's finish, in place: int64 products wrap around like unsigned ones."""
    values.bitwise_xor_(_shifted(values, 30)).mul_(_MIX_1)
    values.bitwise_xor_(_shifted(values, 27)).mul_(_MIX_2)
    return values.bitwise_xor_(_shifted(values, 31))


def _shifted(values: torch.Tensor, bits: int) -> torch.Tensor:
    """A logical shift: torch's own copies the sign."""
    return (values >> bits).bitwise_and_((1 << (64 - bits)) - 1)
