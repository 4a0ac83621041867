"""What products with weights of 8 bits refuse, wherever they are."""

from typing import cast

import pytest
import torch

from aweigh_kernels.byte_matmul import byte_matmul, pack
from aweigh_kernels.rounding import Rounded
from aweigh_kernels.skinny_matmul import Scratch
from tests.kernels.weights import Draw

NOWHERE = cast(Scratch, None)  # never reached


def test_tensors_that_are_not_where_the_weight_is_are_refused_by_name() -> None:
    weight = Draw().fp8(16, 128)
    matrix = pack(weight.q, weight.scale)
    elsewhere = torch.empty(2, 128, dtype=torch.bfloat16, device="meta")
    for x in (elsewhere, Rounded(elsewhere.to(weight.q.dtype), torch.empty(2))):
        with pytest.raises(ValueError, match="x is on meta; expected cpu, as the weight is"):
            byte_matmul(x, matrix, NOWHERE, torch.bfloat16)
    with pytest.raises(ValueError, match="the scale of the weight is on meta; expected cpu"):
        pack(weight.q, weight.scale.to("meta"))
