"""Products with NVFP4 on a GPU, beside sums in fp64 of the very weights; rounding, beside a CPU."""

import re
from copy import copy
from dataclasses import replace

import pytest
import torch

from aweigh_kernels import fp4_matmul as module
from aweigh_kernels.dense import by_warpgroups, multiplies_fp4
from aweigh_kernels.fp4_matmul import fp4_matmul
from aweigh_kernels.fp4_packing import pack
from aweigh_kernels.fp4_rounding import quantize_rows, round_numbers
from aweigh_kernels.fp4_weight import Fp4Weight, quantize, rounded
from aweigh_kernels.tile_matmul import Workspace, workspace_of
from aweigh_kernels.tile_schedule import MOST_TOKENS, Schedule
from aweigh_kernels.weight import prepare, recordable
from tests.kernels.exact import FP32, ROUNDED, expect_exact
from tests.kernels.gpu_products import (
    NAN,
    expect_repeats,
    expect_same_in_graphs,
    expect_tokens_apart,
)
from tests.kernels.weights import Draw

pytestmark = pytest.mark.gpu

DEVICE = torch.device("cuda", 0)
SCALE = 0.002  # of activations


@pytest.fixture(scope="module")
def workspace() -> Workspace:
    made = workspace_of(DEVICE)
    made.scratch.sums.fill_(NAN)
    made.dense.fill_(NAN)
    return made


class Case:
    """A weight and activations."""

    def __init__(
        self, tokens: int, shape: tuple[int, int], dtype: torch.dtype = torch.bfloat16
    ) -> None:
        draw = Draw(tokens + sum(shape))
        self.weight = on_gpu(draw.fp4(*shape))
        self.x = draw.normal(tokens, shape[1]).to(DEVICE, dtype)
        fours = not by_warpgroups(DEVICE)
        q, scale, of_all = self.weight.q, self.weight.scale, self.weight.global_scale
        self.packed = pack(q, scale, of_all, dtype, fours=fours)

    def first(self, tokens: int) -> "Case":
        part = copy(self)
        part.x = self.x[:tokens]
        return part

    def check(self, found: torch.Tensor, inputs: torch.Tensor | None = None) -> None:
        """As exact as fp32 sums, rounded once; of many tokens weights are rounded, too."""
        lost = FP32 + (ROUNDED[self.x.dtype] if len(self.x) > MOST_TOKENS else 0)
        x = self.x if inputs is None else inputs
        expect_exact(found, x, self.weight.dense(), lost=lost)


def on_gpu(weight: Fp4Weight) -> Fp4Weight:
    q, scale, of_all = weight.q, weight.scale, weight.global_scale
    return replace(weight, q=q.to(DEVICE), scale=scale.to(DEVICE), global_scale=of_all.to(DEVICE))


@pytest.mark.parametrize("dtype", list(ROUNDED), ids=str)
@pytest.mark.parametrize("shape", [(1, 16), (64, 64), (333, 80), (576, 192), (1024, 4096)], ids=str)
def test_as_many_tokens_as_there_are(
    shape: tuple[int, int], dtype: torch.dtype, workspace: Workspace
) -> None:
    for tokens in (1, 2, 7, 16, 17, 33, 64, 65, 100, 129, 255, 256, 257, 300):
        case = Case(tokens, shape, dtype)
        case.check(fp4_matmul(case.x, case.packed, workspace))
        assert not workspace.scratch.arrived.any()


@pytest.mark.parametrize("shape", [(6144, 4096), (28_672, 4096), (4096, 14_336)], ids=str)
def test_the_matrices_of_a_layer(shape: tuple[int, int], workspace: Workspace) -> None:
    case = Case(512, shape)
    for tokens in (1, 4, 16, 32, 64, 128, 256, 512):
        part = case.first(tokens)
        part.check(fp4_matmul(part.x, part.packed, workspace))


@pytest.mark.parametrize("dtype", list(ROUNDED), ids=str)
def test_one_hot_activations_read_every_value_times_every_scale(
    dtype: torch.dtype, workspace: Workspace
) -> None:
    """Subnormal ones in registers among them."""
    scale = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    scale = torch.where(scale.float().isnan(), 0.0, scale.float()).to(scale.dtype)
    q = torch.arange(16, dtype=torch.uint8).expand(256, 16).contiguous()
    one = torch.ones(1, 1, dtype=torch.float64)
    weight = Fp4Weight(q=q, scale=scale[:, None], global_scale=one)
    own, fours = on_gpu(weight), not by_warpgroups(DEVICE)
    packed = pack(own.q, own.scale, own.global_scale, dtype, fours=fours)
    hot = torch.eye(16, dtype=dtype, device=DEVICE)
    wanted = weight.dense(dtype).T
    assert torch.equal(fp4_matmul(hot, packed, workspace).cpu(), wanted)
    many = fp4_matmul(hot.repeat(20, 1), packed, workspace)  # by way of dense weights
    assert torch.equal(many.cpu(), wanted.repeat(20, 1))


@pytest.mark.parametrize("rows", [64, 128])
@pytest.mark.parametrize("splits", [1, 2, 3, 8])
def test_in_however_many_parts_it_is_the_same(
    rows: int, splits: int, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for tokens in (3, 40):
        chosen = Schedule(rows, 16 if tokens < 16 else 64, splits, 3, 8 if rows > 64 else 4)
        monkeypatch.setattr(module, "schedule_on", lambda *_, chosen=chosen: chosen)
        for shape in ((512, 4096), (300, 1008)):
            case = Case(tokens, shape)
            case.check(fp4_matmul(case.x, case.packed, workspace))


@pytest.mark.parametrize("tokens", [2, 64, 200, 300])
def test_a_token_without_numbers_leaves_the_others_alone(tokens: int, workspace: Workspace) -> None:
    case = Case(tokens, (4096, 4096))
    expect_tokens_apart(lambda x: fp4_matmul(x, case.packed, workspace), case.x)


@pytest.mark.parametrize("tokens", [1, 16, 64, 256])
def test_launches_repeat_to_the_bit(tokens: int, workspace: Workspace) -> None:
    case = Case(tokens, (4096, 4096))
    expect_repeats(lambda x: fp4_matmul(x, case.packed, workspace), case.x)
    assert not workspace.scratch.arrived.any()


@pytest.mark.parametrize("tokens", [0, 1, 20, 300])
def test_quantized_activations_are_multiplied_as_what_they_mean(tokens: int) -> None:
    case = Case(tokens, (512, 1024))
    weight = replace(case.weight, activation_scale=torch.tensor(SCALE).double().to(DEVICE))
    assert recordable(weight, torch.bfloat16)
    found = prepare(weight, torch.bfloat16)(case.x)
    inputs = rounded(case.x.cpu(), torch.tensor(SCALE).double())
    by_codes = multiplies_fp4(DEVICE)  # others round what codes mean to 16 bits
    case.check(found, (inputs if by_codes else inputs.bfloat16()).to(DEVICE))


@pytest.mark.parametrize("tokens", [4, 300])
@pytest.mark.parametrize("scale", [None, SCALE])
def test_a_graph_of_products_that_need_each_other(tokens: int, scale: float | None) -> None:
    case = Case(tokens, (4096, 4096))
    given = None if scale is None else torch.tensor(scale).double().to(DEVICE)
    product = prepare(replace(case.weight, activation_scale=given), torch.bfloat16)
    expect_same_in_graphs(product, case.x / 64)


@pytest.mark.parametrize("dtype", list(ROUNDED), ids=str)
@pytest.mark.parametrize("columns", [16, 80, 4096, 14_336])
def test_activations_are_rounded_as_on_a_cpu(columns: int, dtype: torch.dtype) -> None:
    for tokens in (1, 9, 300):
        x = (Draw(tokens).normal(tokens, columns) * 3).to(dtype)
        x[0, :4] = torch.tensor([-0.0, 1e-6, 100.0, -30000.0])
        expect_rounded_alike(x, SCALE)


@pytest.mark.parametrize("dtype", list(ROUNDED), ids=str)
def test_every_number_of_16_bits_is_rounded_as_on_a_cpu(dtype: torch.dtype) -> None:
    """Next to others like it and next to a large one, so that it meets scales of all sizes."""
    bits = torch.arange(-32768, 32768, dtype=torch.int32).short()
    x = bits.view(dtype).view(-1, 16)
    largest = x.clone()
    largest[:, 0] = 2.0 ** torch.arange(len(x)).remainder(18).sub(8)
    for scale in (2.0**-9, 1 / 3000, 2.0**-9 * (1 - 2.0**-24), 3e-8, 7.0):
        expect_rounded_alike(x, scale)
        expect_rounded_alike(largest, scale)


def expect_rounded_alike(x: torch.Tensor, scale: float) -> None:
    given = torch.tensor(scale).double()
    codes, scales = quantize(x, given)
    found = quantize_rows(x.to(DEVICE), given.to(DEVICE))
    assert torch.equal(found.codes.cpu(), codes[:, ::2] | codes[:, 1::2] << 4)
    assert torch.equal(found.scale.view(torch.uint8).cpu(), scales.view(torch.uint8))
    blocks = quantize_rows(x.to(DEVICE), given.to(DEVICE), swizzled=True).scale.view(torch.uint8)
    rows, columns = scales.shape
    padded = torch.zeros(-(-rows // 128) * 128, -(-columns // 4) * 4, dtype=torch.uint8)
    padded[:rows, :columns] = scales.view(torch.uint8)
    wanted = padded.view(-1, 4, 32, padded.shape[1] // 4, 4).permute(0, 3, 2, 1, 4)
    assert torch.equal(blocks.cpu(), wanted.reshape(padded.shape))
    means = round_numbers(x.to(DEVICE), given.to(DEVICE)).cpu()
    expected = rounded(x, given).to(x.dtype)
    assert torch.equal(means.nan_to_num(12345.0), expected.nan_to_num(12345.0))


def test_what_does_not_fit_is_refused_by_name(workspace: Workspace) -> None:
    case = Case(4, (64, 128))
    for x, said in (
        (case.x.T.contiguous().T, "x has strides [1, 4]"),
        (case.x[:, :64].contiguous(), "x is bfloat16 [4, 64]"),
        (case.x.half(), "x is float16"),
        (case.x.cpu(), "x is on cpu"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            fp4_matmul(x, case.packed, workspace)
    scale = torch.tensor(SCALE).double()
    for given, of_all, said in (
        (case.x[:, :24].contiguous(), scale.to(DEVICE), "x is [4, 24]"),
        (case.x, scale, "the global scale is on cpu"),
        (case.x, scale.float().to(DEVICE), "the global scale is float32"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            quantize_rows(given, of_all)
