"""Products of a few rows on a GPU, beside sums in fp64."""

import re

import pytest
import torch

from aweigh_kernels import skinny_matmul as module
from aweigh_kernels.skinny_matmul import MOST_TOKENS, Schedule, Scratch, skinny_matmul
from tests.kernels.exact import FP32, ROUNDED
from tests.kernels.gpu_products import NAN, expect_same_in_graphs

pytestmark = pytest.mark.gpu

BOTH = [torch.bfloat16, torch.float16]


@pytest.fixture(scope="module")
def scratch() -> Scratch:
    made = Scratch(torch.device("cuda"))
    made.sums.fill_(NAN)
    return made


class Case:
    def __init__(
        self, tokens: int, out_size: int, in_size: int, dtype: torch.dtype = torch.bfloat16
    ) -> None:
        chance = torch.Generator("cuda").manual_seed(tokens + out_size + in_size)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, device="cuda", generator=chance).to(dtype)

        self.x, self.weight = normal(tokens, in_size), normal(out_size, in_size)
        self.bias = normal(out_size) * 8

    def computed(self, scratch: Scratch, *, bias: bool = False) -> torch.Tensor:
        output = torch.full((len(self.x), len(self.weight)), NAN, dtype=self.x.dtype, device="cuda")
        given = self.bias if bias else None
        assert skinny_matmul(self.x, self.weight, scratch, bias=given, output=output) is output
        assert not scratch.arrived.any()
        return output

    def check(self, scratch: Scratch) -> None:
        wanted = self.x.double() @ self.weight.double().T
        sums = self.x.double().abs() @ self.weight.double().abs().T  # of which fp32 loses bits
        for bias in (False, True):
            exact = wanted + self.bias.double() if bias else wanted
            error = (self.computed(scratch, bias=bias).double() - exact).abs()
            assert bool((error <= ROUNDED[self.x.dtype] * exact.abs() + FP32 * sums + 1e-7).all())


@pytest.mark.parametrize("dtype", BOTH, ids=str)
@pytest.mark.parametrize(
    ("out_size", "in_size"),
    [(1, 8), (64, 64), (100, 72), (257, 576), (576, 192), (1024, 4096), (4096, 1000), (333, 77)],
)
def test_matrices_of_any_size(
    out_size: int, in_size: int, dtype: torch.dtype, scratch: Scratch
) -> None:
    for tokens in (1, 7, 16, 33, MOST_TOKENS):
        Case(tokens, out_size, in_size, dtype).check(scratch)


@pytest.mark.parametrize(
    ("out_size", "in_size"), [(6144, 4096), (4096, 4096), (28_672, 4096), (4096, 14_336)]
)
def test_the_matrices_of_a_layer(out_size: int, in_size: int, scratch: Scratch) -> None:
    for tokens in (1, 4, 16, 17, 64):
        Case(tokens, out_size, in_size).check(scratch)


def test_a_vocabulary(scratch: Scratch) -> None:
    for tokens in (1, 64):
        Case(tokens, 128_256, 2048).check(scratch)


@pytest.mark.parametrize("splits", [1, 2, 3, 8])
@pytest.mark.parametrize("shape", [(512, 4096), (300, 1000)], ids=str)
def test_in_however_many_parts_it_is_the_same(
    splits: int, shape: tuple[int, int], scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = Schedule(rows=64, depth=64, splits=splits, num_stages=3)
    monkeypatch.setattr(module, "schedule", lambda *_: chosen)
    for tokens in (3, 40):
        Case(tokens, *shape).check(scratch)


@pytest.mark.parametrize("tokens", [1, 7, 64])
def test_an_output_in_fp32_is_not_rounded(tokens: int, scratch: Scratch) -> None:
    case = Case(tokens, 2056, 4096)
    output = torch.full((tokens, 2056), NAN, device="cuda")
    assert skinny_matmul(case.x, case.weight, scratch, output=output) is output
    exact = case.x.double() @ case.weight.double().T
    sums = case.x.double().abs() @ case.weight.double().abs().T
    assert bool(((output.double() - exact).abs() <= 1e-5 * sums + 1e-7).all())
    rounded = skinny_matmul(case.x, case.weight, scratch)
    assert torch.equal(output.to(rounded.dtype), rounded)


def test_no_rows(scratch: Scratch) -> None:
    case = Case(0, 64, 64)
    assert skinny_matmul(case.x, case.weight, scratch).shape == (0, 64)


@pytest.mark.parametrize("tokens", [1, 16, 64])
def test_launches_repeat_to_the_bit(tokens: int, scratch: Scratch) -> None:
    case = Case(tokens, 4096, 4096)
    once = case.computed(scratch)
    found = [skinny_matmul(case.x, case.weight, scratch) for _ in range(200)]
    assert all(torch.equal(each, once) for each in found)


def test_rows_beside_it_do_not_change_a_row(scratch: Scratch) -> None:
    case = Case(16, 4096, 4096)
    together = case.computed(scratch)
    for count in (1, 5):
        alone = skinny_matmul(case.x[:count], case.weight, scratch)
        assert torch.equal(alone, together[:count])


def test_a_graph_of_products_that_need_each_other(scratch: Scratch) -> None:
    case = Case(4, 4096, 4096)
    weight = case.weight / 64
    expect_same_in_graphs(lambda x: skinny_matmul(x, weight, scratch), case.x)


def test_weights_that_have_just_been_written_are_seen(scratch: Scratch) -> None:
    case = Case(4, 4096, 4096)
    others = [torch.randn_like(case.weight) for _ in range(4)]
    wanted = [skinny_matmul(case.x, other, scratch) for other in others]
    torch.cuda.synchronize()
    for other, right in zip(others, wanted, strict=True):
        case.weight.copy_(other)
        assert torch.equal(skinny_matmul(case.x, case.weight, scratch), right)


def test_memory_that_is_laid_out_otherwise_is_refused_by_name(scratch: Scratch) -> None:
    case = Case(4, 64, 128)
    x, weight = case.x, case.weight
    across = torch.empty(64, 4, dtype=x.dtype, device="cuda").T
    for given, said in (
        ((x[:, :64], weight, None, None), "x has strides [128, 1]"),
        ((x, weight.T.contiguous().T, None, None), "weight has strides [1, 64]"),
        ((x, weight[:, :64].contiguous(), None, None), "weight is bfloat16 [64, 64]"),
        ((x, weight.half(), None, None), "weight is float16"),
        ((x.float(), weight, None, None), "x is float32"),
        ((x, weight, case.bias[:63], None), "bias is bfloat16 [63]"),
        ((x, weight, None, across), "output has strides [1, 4]"),
        ((x.cpu(), weight, None, None), "x is on cpu"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            skinny_matmul(given[0], given[1], scratch, bias=given[2], output=given[3])
    with pytest.raises(ValueError, match="x has 65 rows"):
        skinny_matmul(x.new_empty(65, 128), weight, scratch)
