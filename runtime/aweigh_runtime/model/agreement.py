"""Whether a library's products give a row the same bits in every place and shape, by trying.

It tries the shapes that will be used, with random numbers: sums in another order differ somewhere
among thousands of them.
"""

from collections.abc import Callable, Sequence

import torch

Product = Callable[[torch.Tensor], torch.Tensor]


def agreeing(ways: Sequence[Product], x: torch.Tensor, sizes: Sequence[int]) -> tuple[int, ...]:
    """Those of `sizes`, largest first, that give each row the same bits at every place.

    Args:
        ways: to compute the same product of [n, in], for any n of `sizes`.
        x: [rows, in], random; each of `sizes` divides its rows.
        sizes: largest first.

    Returns:
        The agreeing sizes; 1 alone if there are none.
    """
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(x), generator=generator).to(x.device)
    for i, largest in enumerate(sizes):
        expected = _in_parts(ways[0], x, largest)[order]
        found = tuple(
            size
            for size in sizes[i:]
            if all(torch.equal(_in_parts(way, x[order], size), expected) for way in ways)
        )
        if largest in found:
            return found
    return (1,)


def _in_parts(way: Product, x: torch.Tensor, size: int) -> torch.Tensor:
    return torch.cat([way(x[first : first + size]) for first in range(0, len(x), size)])


def random(shape: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    """Numbers around 0, the same each time, of the other's number format and device."""
    generator = torch.Generator(like.device).manual_seed(0)
    values = torch.rand(tuple(shape), generator=generator, device=like.device)
    return values.sub_(0.5).to(like.dtype)
