"""The likeliest tokens in order. Equals stand in the order of their ids, on every device."""

import torch

_TOKEN_BITS = 32


def nearest(gaps: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `count` smallest gaps of every row, smallest first, and their tokens: [S, count].

    Args:
        gaps: [S, V], fp32, contiguous, not negative: how far each logit is below the largest.
        count: at most V.
    """
    size = gaps.shape[-1]
    # Floats that are not negative have the order of their bits; below them, the id breaks ties.
    keys = gaps.view(torch.int32).to(torch.int64).bitwise_left_shift_(_TOKEN_BITS)
    keys.add_(torch.arange(size, device=gaps.device))
    if count < size:
        ordered = keys.topk(count, dim=-1, largest=False).values
    else:
        ordered = keys.sort(dim=-1).values
    bits = (ordered >> _TOKEN_BITS).to(torch.int32)
    return bits.view(torch.float32), ordered.bitwise_and_((1 << _TOKEN_BITS) - 1)
