"""How packed integers are laid out, whatever multiplies with them."""

import pytest
import torch

from aweigh_kernels import fp4_packing, int_packing
from aweigh_kernels.int_packing import ROWS, pack
from tests.kernels.weights import Draw


@pytest.mark.parametrize("units", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
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


@pytest.mark.parametrize("units", [1, 2, 9])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_so_do_codes_of_nvfp4(
    dtype: torch.dtype, units: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = Draw().fp4(300, 320)
    given = weight.q, weight.scale, weight.global_scale, dtype
    at_once = fp4_packing.pack(*given, fours=False)
    monkeypatch.setattr(int_packing, "_AT_ONCE", units * ROWS * 320)
    assert torch.equal(fp4_packing.pack(*given, fours=False).words, at_once.words)
