"""On a GPU every kind of quantized weight gives what its reference gives on a CPU."""

from dataclasses import fields, replace
from typing import Any

import pytest
import torch

from aweigh_kernels.weight import Weight, prepare, reference
from tests.kernels.weights import Draw, every_kind

pytestmark = pytest.mark.gpu
KINDS = dict(every_kind())
RELATIVE = {torch.bfloat16: 2e-2, torch.float16: 3e-3, torch.float32: 2e-5}


def on_gpu(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.cuda()
    if hasattr(value, "__dataclass_fields__"):
        return replace(value, **{f.name: on_gpu(getattr(value, f.name)) for f in fields(value)})
    return value


@pytest.mark.parametrize("dtype", RELATIVE, ids=str)
@pytest.mark.parametrize("num_rows", [1, 7, 40])
@pytest.mark.parametrize("kind", KINDS)
def test_the_product_is_that_of_the_reference(kind: str, num_rows: int, dtype: torch.dtype) -> None:
    x = Draw(num_rows).normal(num_rows, 256).to(dtype)
    expected = reference(x, KINDS[kind])
    weight: Weight = on_gpu(KINDS[kind])
    found = prepare(weight, dtype)(x.cuda()).cpu()
    largest = expected.abs().max().item()
    torch.testing.assert_close(
        found, expected, rtol=RELATIVE[dtype], atol=RELATIVE[dtype] * largest
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_of_a_weight_are_the_same_to_the_last_bit(kind: str) -> None:
    weight: Weight = on_gpu(KINDS[kind])
    assert torch.equal(weight.dense().cpu(), KINDS[kind].dense())
