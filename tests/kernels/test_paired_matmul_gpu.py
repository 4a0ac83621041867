"""Products with what follows them, on a GPU: to the bit what separate kernels compute."""

import re
from collections.abc import Callable
from itertools import product

import pytest
import torch

from aweigh_kernels.activation import Activation
from aweigh_kernels.gated import gated
from aweigh_kernels.paired_matmul import gated_matmul, turned_matmul, turns
from aweigh_kernels.rope_write import FP8, rope_write
from aweigh_kernels.skinny_matmul import MOST_TOKENS, Scratch, skinny_matmul

pytestmark = pytest.mark.gpu

NAN = float("nan")


@pytest.fixture(scope="module")
def scratch() -> Scratch:
    made = Scratch(torch.device("cuda"))
    made.sums.fill_(NAN)
    return made


def normal(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(*shape, device="cuda", dtype=dtype)


def expect_same_bits(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert torch.equal(found.view(torch.int16), expected.view(torch.int16))


@pytest.mark.parametrize(
    ("size", "in_size", "tokens", "dtype", "activation"),
    [  # each compiles two kernels
        (14_336, 4096, (1, 5, 16), torch.bfloat16, "silu"),
        (14_336, 4096, (17, MOST_TOKENS), torch.bfloat16, "silu"),
        (768, 256, (1, 16), torch.float16, "gelu_pytorch_tanh"),
        (100, 72, (3, 17), torch.bfloat16, "gelu_pytorch_tanh"),
        (33, 128, (7, 33), torch.bfloat16, "silu"),
        (1, 8, (1,), torch.float16, "silu"),
    ],
)
def test_gates_are_those_of_two_kernels(
    size: int,
    in_size: int,
    tokens: tuple[int, ...],
    dtype: torch.dtype,
    activation: Activation,
    scratch: Scratch,
) -> None:
    weight, bias = normal(2 * size, in_size, dtype=dtype), normal(2 * size, dtype=dtype)
    for count in tokens:
        x = normal(count, in_size, dtype=dtype)
        for given in (None, bias):
            found = gated_matmul(x, weight, scratch, activation, bias=given)
            expected = gated(skinny_matmul(x, weight, scratch, bias=given), activation)
            expect_same_bits(found, expected)
    assert not scratch.arrived.any()


@pytest.mark.parametrize(
    ("heads", "kv_heads", "size", "in_size", "counts", "dtype"),
    [
        (32, 8, 128, 4096, (1, 5, 16), torch.bfloat16),
        (32, 8, 128, 4096, (17, MOST_TOKENS), torch.bfloat16),
        (4, 2, 64, 256, (2, 16), torch.float16),
        (3, 3, 128, 72, (5, 20), torch.bfloat16),
        (8, 1, 256, 512, (1, 33), torch.bfloat16),
    ],
)
def test_heads_are_turned_and_kept_as_by_two_kernels(
    heads: int,
    kv_heads: int,
    size: int,
    in_size: int,
    counts: tuple[int, ...],
    dtype: torch.dtype,
    scratch: Scratch,
) -> None:
    rows = (heads + 2 * kv_heads) * size
    weight, bias = normal(rows, in_size, dtype=dtype), normal(rows, dtype=dtype)
    for tokens in counts:
        x = normal(tokens, in_size, dtype=dtype)
        assert turns(x, weight, size)
        radians = 50 * torch.randn(tokens, 1, size // 2, device="cuda")
        cos, sin = radians.cos().repeat(1, 1, 2), torch.cat((-radians.sin(), radians.sin()), -1)
        turn = cos.to(dtype), sin.to(dtype)
        slots = torch.randperm(6 * 16, device="cuda")[:tokens]
        slots[tokens // 2] = -1  # padding
        for given, kind in product((None, bias), (dtype, FP8)):
            kept = torch.full((6, 16, 2 * kv_heads, size), NAN, device="cuda").to(kind)
            expected, scales = kept.clone(), (0.25, 2.0)
            found = turned_matmul(
                x, weight, scratch, turn, kept, slots, bias=given, kv_scales=scales
            )
            separate = skinny_matmul(x, weight, scratch, bias=given).view(found.shape)
            rope_write(separate, *turn, expected, slots, kv_scales=scales)
            expect_same_bits(found, separate)
            expect_same_bits(kept, expected)
    assert not scratch.arrived.any()


def test_launches_repeat_to_the_bit(scratch: Scratch) -> None:
    x, weight = normal(3, 4096), normal(2 * 14_336, 4096)
    first = gated_matmul(x, weight, scratch, "silu")
    for _ in range(20):
        expect_same_bits(gated_matmul(x, weight, scratch, "silu"), first)


def test_what_does_not_fit_together_is_refused_by_name(scratch: Scratch) -> None:
    x, weight = normal(2, 64), normal(6 * 64, 64)
    turn, slots = (normal(2, 64), normal(2, 64)), torch.tensor([0, 1], device="cuda")
    kv = normal(2, 16, 2, 64)
    refused: list[tuple[Callable[[], object], str]] = [
        (lambda: gated_matmul(x, weight[:3], scratch, "silu"), "weight has 3 rows"),
        (lambda: gated_matmul(normal(65, 64), weight, scratch, "silu"), "x has 65 rows"),
        (lambda: gated_matmul(x.float(), weight, scratch, "silu"), "x is float32"),
        (
            lambda: turned_matmul(x, weight[:64], scratch, turn, kv, slots),
            "weight has 64 rows for kv [2, 16, 2, 64]",
        ),
        (
            lambda: turned_matmul(x, weight, scratch, turn, kv.half(), slots),
            "kv is float16 [2, 16, 2, 64]; expected bfloat16 or float8_e4m3fn",
        ),
        (
            lambda: turned_matmul(x, weight, scratch, turn, kv, slots[:1]),
            "slots is int64 [1]",
        ),
        (
            lambda: turned_matmul(
                x, weight, scratch, (normal(2, 32), normal(2, 32)), kv.view(2, 16, 4, 32), slots
            ),
            "heads have 32 numbers; expected a multiple of 64",
        ),
    ]
    for call, said in refused:
        with pytest.raises(ValueError, match=re.escape(said)):
            call()
