"""What a product may differ by from sums in fp64 of the very numbers."""

import torch

ROUNDED = {torch.bfloat16: 2**-8, torch.float16: 2**-11}  # half of the step to the next number
FP32 = 1e-5  # of a sum of absolute values, added in fp32


def expect_exact(
    found: torch.Tensor, x: torch.Tensor, dense: torch.Tensor, *, lost: float = FP32
) -> None:
    """As exact as sums are, and rounded once.

    Args:
        found: [T, N], bf16 or fp16.
        x: [T, K], as it is multiplied.
        dense: [N, K], likewise.
        lost: what sums may lose, as a share of those of absolute values.
    """
    x, dense = x.double(), dense.double()
    exact, sums = x @ dense.T, x.abs() @ dense.abs().T
    error = (found.double() - exact).abs()
    assert bool((error <= ROUNDED[found.dtype] * exact.abs() + lost * sums + 1e-7).all()), (
        error.max()
    )
