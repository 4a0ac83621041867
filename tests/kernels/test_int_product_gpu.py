"""Products with packed integers and what follows them, on a GPU: the bits of separate kernels."""

import re
from collections.abc import Callable

import pytest
import torch

from aweigh_kernels.activation import Activation
from aweigh_kernels.gated import gated
from aweigh_kernels.product import KernelProduct, PairedProduct
from aweigh_kernels.rope_write import FP8, rope_write
from aweigh_kernels.weight import prepare
from tests.kernels.test_byte_matmul_gpu import on_gpu
from tests.kernels.weights import Draw

pytestmark = pytest.mark.gpu


def prepared(
    rows: int, columns: int, bits: int, dtype: torch.dtype = torch.bfloat16
) -> tuple[KernelProduct, PairedProduct]:
    product = prepare(on_gpu(Draw(rows).ints(rows, columns, bits, 128)), dtype)
    assert isinstance(product, KernelProduct)
    assert product.paired is not None
    if not product.paired.gates(torch.zeros(1, columns, dtype=dtype, device="cuda"), None):
        pytest.skip("the kernel in CUDA C++ is not there")
    return product, product.paired


def normal(tokens: int, columns: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return Draw(tokens).normal(tokens, columns).to("cuda", dtype)


def expect_same_bits(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert torch.equal(found.view(torch.uint8), expected.view(torch.uint8))


@pytest.mark.parametrize(
    ("size", "bits", "dtype", "activation"),
    [
        (14_336, 4, torch.bfloat16, "silu"),
        (14_336, 8, torch.float16, "gelu_pytorch_tanh"),
        (4128, 4, torch.float16, "silu"),
    ],
)
def test_gates_are_those_of_two_kernels(
    size: int, bits: int, dtype: torch.dtype, activation: Activation
) -> None:
    product, paired = prepared(2 * size, 4096, bits, dtype)
    for tokens in (1, 3, 8):
        x = normal(tokens, 4096, dtype)
        found = paired.gated(x, activation, None)
        assert isinstance(found, torch.Tensor)
        expect_same_bits(found, gated(product(x), activation))


@pytest.mark.parametrize("kept", [torch.bfloat16, FP8], ids=str)
@pytest.mark.parametrize(("heads", "kv_heads", "size"), [(32, 8, 128), (80, 6, 64)])
def test_heads_are_turned_and_kept_as_by_two_kernels(
    kept: torch.dtype, heads: int, kv_heads: int, size: int
) -> None:
    product, paired = prepared((heads + 2 * kv_heads) * size, 4096, 4)
    for tokens in (1, 8):
        x = normal(tokens, 4096)
        assert paired.turns(x, size)
        radians = 50 * torch.randn(tokens, 1, size // 2, device="cuda")
        cos, sin = radians.cos().repeat(1, 1, 2), torch.cat((-radians.sin(), radians.sin()), -1)
        turn, scales = (cos.bfloat16(), sin.bfloat16()), (0.25, 2.0)
        slots = torch.randperm(6 * 16, device="cuda")[:tokens]
        slots[0] = -1 if tokens > 1 else 5
        cache = torch.zeros(6, 16, 2 * kv_heads, size, device="cuda").to(kept)
        expected_cache = cache.clone()
        found = paired.turned(x, turn, cache, slots, scales)
        expected = product(x).view(found.shape)
        rope_write(expected, *turn, expected_cache, slots, kv_scales=scales)
        expect_same_bits(found, expected)
        expect_same_bits(cache, expected_cache)


def test_what_is_not_taken_is_said_before_and_refused_by_name() -> None:
    _, paired = prepared(8192, 4096, 4)
    assert not paired.gates(normal(9, 4096), None)
    assert not paired.turns(normal(1, 4096), 96)
    x, kv = normal(2, 4096), torch.zeros(2, 16, 2, 96, dtype=torch.bfloat16, device="cuda")
    turn, slots = (normal(2, 96), normal(2, 96)), torch.tensor([0, 1], device="cuda")
    refused: list[tuple[Callable[[], object], str]] = [
        (lambda: paired.gated(normal(9, 4096), "silu", None), "x has 9 rows"),
        (lambda: paired.gated(normal(1, 4032), "silu", None), "x is bfloat16 [1, 4032]"),
        (lambda: paired.turned(x, turn, kv, slots, (1.0, 1.0)), "weight has 8192 rows"),
        (lambda: paired.turned(x, turn, kv, slots[:1], (1.0, 1.0)), "slots is int64 [1]"),
    ]
    for call, said in refused:
        with pytest.raises(ValueError, match=re.escape(said)):
            call()
