"""Weights and inputs for tests of the quantizer: random, the same for the same seed."""

import torch

from aweigh_quantize.methods.inputs import Inputs


def weight(rows: int = 48, columns: int = 256, seed: int = 0) -> torch.Tensor:
    """[N, K], with a few outliers."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, columns, generator=generator) * 0.02
    return values * (1 + 4 * (torch.rand(rows, columns, generator=generator) > 0.99))


def correlated(columns: int = 256, num_tokens: int = 1024, seed: int = 1) -> Inputs:
    """Inputs of some directions much more than of others, and of uneven columns."""
    generator = torch.Generator().manual_seed(seed)
    mix = (
        torch.randn(columns, columns, generator=generator) * torch.logspace(0, -2, columns)[:, None]
    )
    sizes = torch.logspace(-1, 1, columns)[torch.randperm(columns, generator=generator)]
    inputs = Inputs(columns)
    inputs.add(torch.randn(num_tokens, columns, generator=generator) @ mix * sizes)
    return inputs
