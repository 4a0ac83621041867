"""Small unsigned numbers in a dense stream of bits, lowest bits first. Exact; it scales nothing.

The bytes are those that GPTQ and compressed-tensors store as little-endian words of 32 bits: a
number may lie across two words.
"""

import torch

WIDTHS = (2, 3, 4, 8)


def packed_bytes(count: int, bits: int) -> int:
    """How many bytes `count` numbers of `bits` bits take."""
    return -(-count * bits // 8)


def pack(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Write numbers side by side.

    Args:
        values: [..., n], uint8, each below 2 to the power of `bits`.
        bits: one of WIDTHS.

    Returns:
        [..., ceil(n·bits / 8)], uint8; the bits behind the last number are 0.
    """
    *stacked, count = values.shape
    if bits == 8:
        return values.clone(memory_format=torch.contiguous_format)
    per_unit = 8 // bits if 8 % bits == 0 else 8  # numbers that fill whole bytes
    filled = torch.nn.functional.pad(values, (0, -count % per_unit))
    units = filled.view(*stacked, -1, per_unit)
    dtype = torch.uint8 if per_unit * bits == 8 else torch.int32
    word = torch.zeros(units.shape[:-1], dtype=dtype, device=values.device)
    for place in range(per_unit):
        word |= units[..., place].to(dtype) << (bits * place)
    if dtype == torch.int32:
        word = torch.stack([(word >> (8 * byte)) & 255 for byte in range(bits)], -1).flatten(-2)
    return word.to(torch.uint8)[..., : packed_bytes(count, bits)]


def unpack(packed: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """Read the first `count` numbers.

    Args:
        packed: [..., at least ceil(count·bits / 8)], uint8.
        bits: one of WIDTHS.
        count: n.

    Returns:
        [..., n], uint8.
    """
    if bits == 8:
        return packed[..., :count]
    if 8 % bits:
        return _unpack_across_bytes(packed, bits, count)
    mask = (1 << bits) - 1
    parts = [(packed >> shift) & mask for shift in range(0, 8, bits)]
    return torch.stack(parts, -1).flatten(-2)[..., :count]


def _unpack_across_bytes(packed: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """Eight numbers lie in `bits` bytes."""
    *stacked, num_bytes = packed.shape
    filled = torch.nn.functional.pad(packed, (0, -num_bytes % bits))
    units = filled.view(*stacked, -1, bits).to(torch.int32)
    word = units[..., 0].clone()
    for byte in range(1, bits):
        word |= units[..., byte] << (8 * byte)
    mask = (1 << bits) - 1
    parts = [((word >> (bits * place)) & mask).to(torch.uint8) for place in range(8)]
    return torch.stack(parts, -1).flatten(-2)[..., :count]
