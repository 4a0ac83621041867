from collections.abc import Callable

import pytest
import torch

from aweigh_kernels.weight import Weight, prepare, reference
from aweigh_runtime.formats import online
from aweigh_runtime.formats.layout import LayoutError
from aweigh_runtime.formats.online import to_fp8, to_int8
from tests.kernels.weights import Draw

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
Quantize = Callable[[torch.Tensor], Weight]
BOTH: tuple[Quantize, ...] = (to_fp8, to_int8)


def _matrix(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    weight = Draw().normal(48, 96) * Draw(1).scales(48, 1)
    weight[5] = 0
    weight[6, 1:] = 0
    return weight.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bytes_are_half_a_step_away_at_most(dtype: torch.dtype) -> None:
    weight = _matrix(dtype)
    quantized = to_int8(weight)
    widest = weight.float().abs().amax(1, keepdim=True)

    assert ((quantized.dense() - weight.float()).abs() <= widest / 254 * 1.001).all()
    assert (quantized.q.float().abs().amax(1, keepdim=True) == 127 * (widest > 0)).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_floats_are_half_a_step_away_at_most(dtype: torch.dtype) -> None:
    weight = _matrix(dtype)
    quantized = to_fp8(weight)
    widest = weight.float().abs().amax(1, keepdim=True)

    # 3 bits behind the point: half a step is 1/16; below 2^-6 steps stay at 2^-9.
    bound = (weight.float().abs() / 16).clamp(min=2.0**-10 * widest / 448)
    assert ((quantized.dense() - weight.float()).abs() <= bound * 1.001).all()
    assert (quantized.q.float().abs().amax(1, keepdim=True) == 448 * (widest > 0)).all()


@pytest.mark.parametrize("quantize", BOTH)
def test_a_row_of_zeros_stays_one_and_a_lone_number_itself(quantize: Quantize) -> None:
    weight = _matrix()
    dense = quantize(weight).dense()

    assert dense[5].eq(0).all()
    assert dense[6, 0] == pytest.approx(float(weight[6, 0]), rel=1e-6)
    assert dense[6, 1:].eq(0).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_dense_matrix_stays_as_it_was(dtype: torch.dtype) -> None:
    weight = _matrix(dtype)
    before = weight.clone()
    to_fp8(weight)
    to_int8(weight)

    assert torch.equal(weight, before)


def test_large_matrices_are_quantized_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = _matrix(torch.bfloat16)
    whole, bytes_ = to_fp8(weight), to_int8(weight)
    monkeypatch.setattr(online, "_AT_ONCE", 7 * weight.shape[1])

    assert torch.equal(to_fp8(weight).q.view(torch.uint8), whole.q.view(torch.uint8))
    assert torch.equal(to_int8(weight).q, bytes_.q)


def test_products_with_activations_of_8_bits_are_near_the_dense_ones() -> None:
    weight, x = _matrix(torch.bfloat16), Draw(2).normal(16, 96).bfloat16()
    dense = x.float() @ weight.float().t()
    for quantized, loss in ((to_fp8(weight), 0.06), (to_int8(weight), 0.02)):
        product = prepare(quantized, torch.bfloat16)(x)
        assert (product.float() - dense).norm() < loss * dense.norm()
        assert (product - reference(x, quantized)).float().norm() < 0.01 * dense.norm()


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("quantize", BOTH)
def test_numbers_that_are_not_finite_are_refused(quantize: Quantize, broken: float) -> None:
    weight = _matrix()
    weight[7, 3] = broken
    with pytest.raises(LayoutError, match="1 rows of 48 hold numbers that are not finite"):
        quantize(weight)
