"""Numbers side by side in bytes."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from aweigh_kernels import bits


@given(st.sampled_from(bits.WIDTHS), st.lists(st.integers(0, 255), max_size=70))
def test_what_is_packed_is_unpacked(width: int, numbers: list[int]) -> None:
    values = torch.tensor([n % (1 << width) for n in numbers], dtype=torch.uint8)
    packed = bits.pack(values[None], width)
    assert packed.shape == (1, bits.packed_bytes(len(numbers), width))
    assert bits.unpack(packed, width, len(numbers))[0].tolist() == values.tolist()


@given(st.sampled_from(bits.WIDTHS), st.lists(st.integers(0, 255), min_size=1, max_size=70))
def test_the_stream_is_one_large_number_lowest_bits_first(width: int, numbers: list[int]) -> None:
    values = [n % (1 << width) for n in numbers]
    whole = sum(value << (width * place) for place, value in enumerate(values))
    packed = bits.pack(torch.tensor(values, dtype=torch.uint8), width)
    assert bytes(packed.tolist()) == whole.to_bytes(bits.packed_bytes(len(values), width), "little")
