"""Soft caps: numbers that stay between -cap and cap, and small ones as they are."""

import torch


def capped_(x: torch.Tensor, cap: float) -> torch.Tensor:
    """cap · tanh(x / cap), in the memory of `x` unless gradients flow."""
    x = x.div_(cap).tanh_()
    return x * cap if x.requires_grad else x.mul_(cap)  # training needs what tanh has put out
