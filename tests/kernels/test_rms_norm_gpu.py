"""The norm of rows on a GPU, beside torch's."""

import re

import pytest
import torch

from aweigh_kernels.rms_norm import MOST_COLUMNS, reference, rms_norm

pytestmark = pytest.mark.gpu

EPS = 1e-6
ONE_STEP = {torch.bfloat16: 2**-7, torch.float16: 2**-10}  # between neighbouring numbers
FEW = 2e-3  # of all numbers may round the other way: sums are added in another order
NAN = float("nan")


class Case:
    def __init__(
        self, rows: int, size: int, dtype: torch.dtype = torch.bfloat16, *, wide: bool = False
    ) -> None:
        chance = torch.Generator("cuda").manual_seed(rows + size)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, device="cuda", generator=chance)

        self.x, self.residual = normal(rows, size).to(dtype), normal(rows, size).to(dtype) * 3
        weight = normal(size) * 0.1 + 1
        self.weight = weight if wide else weight.to(dtype)

    def check(self, *, added: bool) -> None:
        wanted, hidden = reference(self.x, self.weight, EPS, self.residual if added else None)
        residual, output = self.residual.clone(), torch.full_like(self.x, NAN)
        found = rms_norm(
            self.x, self.weight, EPS, residual=residual if added else None, output=output
        )
        assert found is output
        torch.testing.assert_close(output, wanted, rtol=ONE_STEP[self.x.dtype], atol=0)
        assert (output != wanted).sum() <= FEW * output.numel() + 2
        if added:
            assert torch.equal(residual, hidden)


@pytest.mark.parametrize("dtype", list(ONE_STEP), ids=str)
@pytest.mark.parametrize("size", [1, 63, 64, 100, 576, 4096, 5120, 14_336])
@pytest.mark.parametrize("added", [False, True])
def test_rows_of_any_size(size: int, dtype: torch.dtype, added: bool) -> None:
    for rows in (1, 7, 512):
        Case(rows, size, dtype).check(added=added)


@pytest.mark.parametrize("dtype", list(ONE_STEP), ids=str)
@pytest.mark.parametrize("size", [256, 2304, MOST_COLUMNS])
def test_weights_in_fp32(size: int, dtype: torch.dtype) -> None:
    for rows in (1, 33):
        Case(rows, size, dtype, wide=True).check(added=True)


@pytest.mark.parametrize("size", [64, 4096])
def test_more_rows_than_one_dimension_of_a_grid_has(size: int) -> None:
    Case(70_001, size).check(added=True)


def test_large_and_small_numbers() -> None:
    case = Case(9, 4096)
    case.x *= torch.logspace(-18, 15, 9, device="cuda")[:, None].to(case.x.dtype)
    case.check(added=False)
    case.x[:] = 0
    case.check(added=False)


def test_no_rows() -> None:
    case = Case(0, 4096)
    assert rms_norm(case.x, case.weight, EPS, residual=case.residual).shape == (0, 4096)


def test_x_may_be_written_over_and_launches_repeat_to_the_bit() -> None:
    case = Case(300, 4096)
    once = rms_norm(case.x, case.weight, EPS)
    assert all(torch.equal(rms_norm(case.x, case.weight, EPS), once) for _ in range(20))
    assert torch.equal(rms_norm(case.x, case.weight, EPS, output=case.x), once)
    assert torch.equal(case.x, once)


def test_a_chain_of_launches_that_start_early_sees_what_was_written() -> None:
    case = Case(2048, 4096)
    found, wanted = case.x.clone(), case.x.clone()
    for _ in range(30):
        rms_norm(found, case.weight, EPS, output=found)
    for _ in range(30):
        rms_norm(wanted, case.weight, EPS, output=wanted)
        torch.cuda.synchronize()
    assert torch.equal(found, wanted)


def test_memory_that_is_laid_out_otherwise_is_refused_by_name() -> None:
    case = Case(4, 64)
    x, weight, residual = case.x, case.weight, case.residual
    across = torch.empty(64, 4, dtype=x.dtype, device="cuda").T
    wide = torch.empty(4, 128, dtype=x.dtype, device="cuda")[:, :64]
    for given, said in (
        ((wide, weight, None, None), "x has strides [128, 1]"),
        ((across, weight, None, None), "x has strides [1, 4]"),
        ((x.float(), weight, None, None), "x is float32"),
        ((x, weight[:63], None, None), "weight is bfloat16 [63]"),
        ((x, weight.half(), None, None), "weight is float16"),
        ((x, weight, residual[:3], None), "residual is bfloat16 [3, 64]"),
        ((x, weight, across, None), "residual has strides"),
        ((x, weight, None, wide), "output has strides"),
        ((x.cpu(), weight, None, None), "x is on cpu"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            rms_norm(given[0], given[1], EPS, residual=given[2], output=given[3])
    with pytest.raises(ValueError, match="rows of 32769 numbers"):
        rms_norm(x.new_empty(1, MOST_COLUMNS + 1), x.new_empty(MOST_COLUMNS + 1), EPS)
