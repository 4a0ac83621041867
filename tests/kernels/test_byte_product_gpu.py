"""Products with weights of 8 bits and what follows them, on a GPU: the bits of separate kernels."""

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from aweigh_kernels.activation import Activation
from aweigh_kernels.fp8_weight import Fp8Activation
from aweigh_kernels.gated import gated
from aweigh_kernels.int8_weight import Int8Activation
from aweigh_kernels.product import KernelProduct, PairedProduct, RoundingProduct
from aweigh_kernels.rope_write import rope_write
from aweigh_kernels.round_rows import round_by_largest, round_gated, round_rows
from aweigh_kernels.rounding import ByteRounding, Rounded
from aweigh_kernels.weight import Weight, prepare
from tests.kernels.test_byte_matmul_gpu import on_gpu
from tests.kernels.weights import Draw

pytestmark = pytest.mark.gpu

NAN = float("nan")
FP8 = torch.float8_e4m3fn
TOKEN = ByteRounding(kind=FP8, by="token")
KINDS = ("fp8", "fp8 weights alone", "int8")


def prepared(
    kind: str, rows: int, columns: int
) -> tuple[KernelProduct | RoundingProduct, PairedProduct]:
    draw, size = Draw(rows + columns), (rows, columns)
    weights: dict[str, Callable[[], Weight]] = {
        "fp8": lambda: draw.fp8(*size, Fp8Activation(rounding="token")),
        "fp8 weights alone": lambda: draw.fp8(*size),
        "int8": lambda: draw.int8(*size, Int8Activation(symmetric=False)),
        "blocks": lambda: draw.fp8(*size, blocks=True),
    }
    product = prepare(on_gpu(weights[kind]()), torch.bfloat16)
    assert isinstance(product, KernelProduct | RoundingProduct)
    assert product.paired is not None
    return product, product.paired


def activations(
    product: KernelProduct | RoundingProduct, tokens: int, columns: int
) -> torch.Tensor | Rounded:
    x = Draw(tokens).normal(tokens, columns).to("cuda", torch.bfloat16)
    return round_rows(x, product.rounding) if isinstance(product, RoundingProduct) else x


def separate(product: KernelProduct | RoundingProduct, x: torch.Tensor | Rounded) -> torch.Tensor:
    if isinstance(product, RoundingProduct):
        return product(x)
    assert isinstance(x, torch.Tensor)
    return product(x)


def same(found: torch.Tensor | Rounded, expected: torch.Tensor | Rounded) -> bool:
    if isinstance(found, Rounded) and isinstance(expected, Rounded):
        numbers = torch.equal(found.numbers.view(torch.uint8), expected.numbers.view(torch.uint8))
        return numbers and torch.equal(found.scale, expected.scale)
    assert isinstance(found, torch.Tensor)
    assert isinstance(expected, torch.Tensor)
    return torch.equal(found.view(torch.uint8), expected.view(torch.uint8))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("size", "columns", "tokens", "activation"),
    [
        (14_336, 4096, (1, 5, 64), "silu"),
        (100, 200, (3, 17), "gelu_pytorch_tanh"),
    ],
)
def test_gates_are_those_of_two_kernels(
    kind: str, size: int, columns: int, tokens: tuple[int, ...], activation: Activation
) -> None:
    product, paired = prepared(kind, 2 * size, columns)
    for count in tokens:
        x = activations(product, count, columns)
        gate_up = separate(product, x)
        for rounding in (None, TOKEN, ByteRounding(kind=torch.int8, by="token")):
            assert paired.gates(x, rounding)
            found = paired.gated(x, activation, rounding)
            expected = gated(gate_up, activation)
            if rounding is not None:
                assert same(found, round_gated(gate_up, activation, rounding))
            else:
                assert same(found, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kept", [torch.bfloat16, FP8], ids=str)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "size", "columns", "counts"),
    [(32, 8, 128, 4096, (1, 16, 64)), (3, 1, 64, 200, (2,))],
)
def test_heads_are_turned_and_kept_as_by_two_kernels(
    kind: str,
    kept: torch.dtype,
    heads: int,
    kv_heads: int,
    size: int,
    columns: int,
    counts: tuple[int, ...],
) -> None:
    product, paired = prepared(kind, (heads + 2 * kv_heads) * size, columns)
    for tokens in counts:
        x = activations(product, tokens, columns)
        assert paired.turns(x, size)
        radians = 50 * torch.randn(tokens, 1, size // 2, device="cuda")
        cos, sin = radians.cos().repeat(1, 1, 2), torch.cat((-radians.sin(), radians.sin()), -1)
        turn, scales = (cos.bfloat16(), sin.bfloat16()), (0.25, 2.0)
        slots = torch.randperm(6 * 16, device="cuda")[:tokens]
        slots[tokens // 2] = -1  # padding
        cache = torch.zeros(6, 16, 2 * kv_heads, size, device="cuda").to(kept)
        expected_cache = cache.clone()
        found = paired.turned(x, turn, cache, slots, scales)
        expected = separate(product, x).view(found.shape)
        rope_write(expected, *turn, expected_cache, slots, kv_scales=scales)
        assert same(found, expected)
        assert same(cache, expected_cache)


def test_a_number_that_is_none_counts_for_its_own_token_alone() -> None:
    product, paired = prepared("fp8 weights alone", 512, 256)
    x = activations(product, 4, 256)
    assert isinstance(x, torch.Tensor)
    x[1, 3] = NAN
    found = paired.gated(x, "silu", TOKEN)
    assert isinstance(found, Rounded)
    assert found.scale.isnan().tolist() == [False, True, False, False]


def test_what_is_not_taken_is_said_before_and_refused_by_name() -> None:
    product, paired = prepared("fp8", 512, 256)
    assert not paired.gates(activations(product, 65, 256), None)
    assert not paired.gates(activations(product, 1, 256), ByteRounding(kind=FP8, by="group"))
    assert not paired.turns(activations(product, 1, 256), 32)
    _, of_blocks = prepared("blocks", 512, 256)
    one = torch.zeros(1, 256, dtype=torch.bfloat16, device="cuda")
    assert not of_blocks.gates(one, None)
    rounded = activations(product, 2, 256)
    assert isinstance(rounded, Rounded)
    refused: list[tuple[Callable[[], object], str]] = [
        (lambda: of_blocks.gated(one, "silu", None), "a weight without scales of blocks"),
        (lambda: paired.gated(activations(product, 65, 256), "silu", None), "x has 65 rows"),
        (lambda: paired.gated(replace(rounded, scale=rounded.scale[:1]), "silu", None), "scale"),
        (lambda: round_by_largest(one, one, TOKEN), "largest is bfloat16"),
    ]
    for call, said in refused:
        with pytest.raises(ValueError, match=re.escape(said)):
            call()
