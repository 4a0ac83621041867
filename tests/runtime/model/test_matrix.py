"""Matrices whose products take activations that are rounded already."""

import torch

from aweigh_kernels import int8_weight
from aweigh_kernels.int8_weight import Int8Activation, Int8Weight
from aweigh_kernels.product import Kernels, Product, RoundingProduct
from aweigh_kernels.rounding import ByteRounding, Rounded
from aweigh_kernels.weight import Weight, prepare
from aweigh_runtime.model.matrix import Quantized
from tests.kernels.weights import Draw

ROUNDING = ByteRounding(kind=torch.int8, by="token")
X = Draw(1).normal(5, 128)


def project(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return torch.nn.functional.linear(x, weight, bias)


def prepare_rounding(weight: Weight, dtype: torch.dtype) -> Product:
    """As a GPU's product, by torch."""
    assert isinstance(weight, Int8Weight)

    def round_rows(x: torch.Tensor) -> Rounded:
        numbers, scale, _ = int8_weight.quantize(x, weight.activation)
        return Rounded(numbers, scale[:, 0])

    def multiply(x: Rounded) -> torch.Tensor:
        wide = x.numbers.float() * x.scale[:, None]
        return torch.nn.functional.linear(wide, weight.dense()).to(dtype)

    kernels = Kernels(weight.shape, lambda tokens: None, torch.empty(0, weight.shape[1]))
    return RoundingProduct(ROUNDING, round_rows, multiply, kernels)


def matrix(*rows: int, dense: int = 0) -> Quantized:
    draw = Draw()
    made = Quantized(torch.float32, project, prepare_rounding)
    shards: list[torch.Tensor | Weight] = [draw.int8(each, 128, Int8Activation()) for each in rows]
    made.fill([*shards, draw.normal(dense, 128)] if dense else shards)
    return made


def test_what_is_rounded_already_gives_what_the_product_would_have_rounded_itself() -> None:
    quantized, bias = matrix(16, 32), torch.ones(48)
    numbers, scale, _ = int8_weight.quantize(X, Int8Activation())
    assert quantized.rounding is ROUNDING
    found = quantized(Rounded(numbers, scale[:, 0]), bias)
    assert torch.equal(found, quantized(X, bias))


def test_rows_of_several_kinds_ask_for_no_rounding_before_them() -> None:
    mixed = matrix(16, dense=8)
    assert mixed.rounding is None
    assert mixed(X).shape == (5, 24)


def test_products_that_round_nothing_ask_for_none() -> None:
    quantized = Quantized(torch.float32, project, prepare)
    quantized.fill([Draw().fp8(16, 128)])
    assert quantized.rounding is None
