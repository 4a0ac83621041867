"""How packed integers are laid out, whatever multiplies with them."""

import pytest
import torch

from aweigh_kernels import int_packing
from aweigh_kernels.int_packing import ROWS, pack
from tests.kernels.weights import Draw


@pytest.mark.parametrize("units", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("rows", [300, 64, 1])
def test_rows_that_are_packed_some_at_a_time_lie_as_if_all_were(
    rows: int, bits: int, units: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = Draw().ints(rows, 320, bits, 64, asymmetric=True)

    def packed() -> int_packing.Packed:
        return pack(weight.q, weight.scale, weight.zero, bits, 64, fours=False)

    at_once = packed()
    monkeypatch.setattr(int_packing, "_AT_ONCE", units * ROWS * 320)
    in_parts = packed()
    assert torch.equal(in_parts.words, at_once.words)
    assert torch.equal(in_parts.factors, at_once.factors)
