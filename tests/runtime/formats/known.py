"""Quantized weights made by arithmetic alone, so that none need be stored beside packed files."""

import itertools

import torch

PAIRS = torch.tensor(list(itertools.combinations(range(4), 2)))  # places of two among four


def integers(rows: int, columns: int, bits: int) -> torch.Tensor:
    """[N, K], int64: every value from 0 to 2 to the power of `bits`, less one."""
    n, k = torch.arange(rows)[:, None], torch.arange(columns)
    return (7 * n * n + 13 * k + 3 * n * k + (n * k >> 3)) % (1 << bits)


def scales(rows: int, groups: int) -> torch.Tensor:
    """[N, groups], float16."""
    n, g = torch.arange(rows)[:, None], torch.arange(groups)
    return ((37 * n + 11 * g) % 64 + 10).half() / 1024


def zeros(rows: int, groups: int, bits: int) -> torch.Tensor:
    """[N, groups], int64, from 1 to 2 to the power of `bits`, less one: version 1 of GPTQ has no 0.

    Symmetric weights have 2 to the power of `bits - 1` instead.
    """
    n, g = torch.arange(rows)[:, None], torch.arange(groups)
    return 1 + (5 * n + 3 * g) % ((1 << bits) - 1)


def group_of(columns: int, group: int) -> torch.Tensor:
    """[K], int64: the group of each input in act order."""
    k = torch.arange(columns)
    return ((5 * k + 3) % columns) // group


def places(rows: int, columns: int) -> torch.Tensor:
    """[N, K / 2], int64: which two of four columns are kept."""
    n, g = torch.arange(rows)[:, None], torch.arange(columns // 4)
    return PAIRS[(3 * n + 7 * g + n * g) % len(PAIRS)].flatten(1)


def kept(rows: int, columns: int, bits: int) -> torch.Tensor:
    """[N, K / 2], int64: none means 0, which a packer could take for one that is left out."""
    values = integers(rows, columns // 2, bits)
    return torch.where(values == 1 << (bits - 1), 1, values)
