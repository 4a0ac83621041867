"""Angles of the rotary embedding on a GPU, beside torch's, to the bit."""

import pytest
import torch

from aweigh_kernels.rope_angles import reference, rope_angles

pytestmark = pytest.mark.gpu


def given(size: int, theta: float = 500_000.0) -> tuple[torch.Tensor, torch.Tensor]:
    exponents = torch.arange(0, size, 2, device="cuda", dtype=torch.float32) / size
    signs = torch.ones(size // 2, device="cuda")
    return (1.0 / theta**exponents).repeat(2), torch.cat((-signs, signs))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [16, 64, 80, 128, 256])
def test_every_position_gets_the_bits_that_torch_gives_it(size: int, dtype: torch.dtype) -> None:
    frequencies, signs = given(size)
    positions = torch.arange(131_072, device="cuda")
    found = rope_angles(positions, frequencies, signs * 1.25, 1.25, dtype)
    wanted = reference(positions, frequencies, signs * 1.25, 1.25, dtype)
    for mine, torchs in zip(found, wanted, strict=True):
        assert mine.shape == (131_072, 1, size)
        assert torch.equal(mine, torchs)


@pytest.mark.parametrize("num_tokens", [0, 1, 3, 4, 5, 130])
def test_any_number_of_tokens_in_any_order(num_tokens: int) -> None:
    frequencies, signs = given(128)
    chance = torch.Generator("cuda").manual_seed(num_tokens)
    positions = torch.randint(0, 1 << 20, (num_tokens + 1,), device="cuda", generator=chance)[1:]
    found = rope_angles(positions, frequencies, signs, 1.0, torch.bfloat16)
    wanted = reference(positions, frequencies, signs, 1.0, torch.bfloat16)
    assert all(torch.equal(*each) for each in zip(found, wanted, strict=True))


def test_what_it_cannot_walk_through_is_refused_by_name() -> None:
    frequencies, signs = given(64)
    positions = torch.arange(8, device="cuda")
    bf16 = torch.bfloat16
    with pytest.raises(ValueError, match="positions is int32"):
        rope_angles(positions.int(), frequencies, signs, 1.0, bf16)
    with pytest.raises(ValueError, match=r"positions has strides \[2\]"):
        rope_angles(positions[::2], frequencies, signs, 1.0, bf16)
    with pytest.raises(ValueError, match=r"signs is float32 \[32\]"):
        rope_angles(positions, frequencies, signs[:32], 1.0, bf16)
    with pytest.raises(ValueError, match=r"dtype is torch\.float32"):
        rope_angles(positions, frequencies, signs, 1.0, torch.float32)
