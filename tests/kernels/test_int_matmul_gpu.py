"""Products with packed integers on a GPU, beside sums in fp64 of the very weights."""

import re
from copy import copy
from dataclasses import replace
from itertools import product

import pytest
import torch

from aweigh_kernels import cuda_int_matmul, hopper_int_matmul
from aweigh_kernels import int_matmul as module
from aweigh_kernels.dense import by_warpgroups, is_hopper
from aweigh_kernels.int_matmul import LEAST_TOKENS_HOPPER, MOST_TOKENS_CUDA, int_matmul
from aweigh_kernels.int_packing import Packed, pack
from aweigh_kernels.int_weight import IntWeight
from aweigh_kernels.tile_matmul import Workspace, workspace_of
from aweigh_kernels.tile_schedule import MOST_TOKENS, Schedule
from aweigh_kernels.weight import prepare
from tests.kernels.exact import FP32, ROUNDED, expect_exact
from tests.kernels.gpu_products import (
    NAN,
    expect_repeats,
    expect_same_in_graphs,
    expect_tokens_apart,
)
from tests.kernels.weights import Draw

pytestmark = pytest.mark.gpu

BOTH = [torch.bfloat16, torch.float16]
DEVICE = torch.device("cuda", 0)


@pytest.fixture(scope="module")
def workspace() -> Workspace:
    made = workspace_of(DEVICE)
    made.scratch.sums.fill_(NAN)
    made.dense.fill_(NAN)
    return made


class Case:
    """A weight and activations."""

    def __init__(
        self,
        tokens: int,
        shape: tuple[int, int],
        bits: int = 4,
        group: int = 128,
        *,
        dtype: torch.dtype = torch.bfloat16,
        asymmetric: bool = False,
        act_order: bool = False,
    ) -> None:
        draw = Draw(tokens + sum(shape))
        weight = draw.ints(*shape, bits, group, asymmetric=asymmetric, act_order=act_order)
        # On Hopper many tokens meet scales in x's number format: here these are the same.
        self.weight = on_gpu(replace(weight, scale=weight.scale.to(dtype)))
        self.x = draw.normal(tokens, shape[1]).to(DEVICE, dtype)
        fours = not by_warpgroups(DEVICE)
        q, scale, zero = self.weight.q, self.weight.scale, self.weight.zero
        self.packed = pack(q, scale, zero, bits, group, fours=fours)

    def first(self, tokens: int) -> "Case":
        part = copy(self)
        part.x = self.x[:tokens]
        return part

    def check(self, found: torch.Tensor) -> None:
        """As exact as fp32 sums, rounded once; of many tokens weights are rounded, too."""
        tokens, dtype = len(self.x), self.x.dtype
        rounded = tokens > MOST_TOKENS or module.on_hopper(tokens, self.packed, dtype)
        lost = FP32 + (ROUNDED[dtype] if rounded else 0)
        expect_exact(found, self.x, self.weight.dense(), lost=lost)


def on_gpu(weight: IntWeight) -> IntWeight:
    zero = None if weight.zero is None else weight.zero.to(DEVICE)
    perm = None if weight.perm is None else weight.perm.to(DEVICE)
    q, scale = weight.q.to(DEVICE), weight.scale.to(DEVICE)
    return replace(weight, q=q, scale=scale, zero=zero, perm=perm)


@pytest.fixture
def triton_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where there is no library of kernels in CUDA C++."""
    monkeypatch.setattr(module, "in_cuda", lambda *_: False)
    monkeypatch.setattr(module, "on_hopper", lambda *_: False)


def test_few_tokens_are_multiplied_in_cuda_where_groups_fill_its_steps() -> None:
    if not by_warpgroups(DEVICE):
        pytest.skip("lanes have columns as warpgroups take them")
    for bits, group, taken in (
        (4, 128, True),
        (4, 1 << 20, True),
        (4, 64, False),
        (8, 64, True),
        (8, 32, False),
        (3, 128, False),
    ):
        packed = replace(Case(1, (64, 512), bits, group).packed, shape=(40_000, 512))
        assert module.in_cuda(MOST_TOKENS_CUDA, packed, torch.bfloat16) == taken
        assert not module.in_cuda(MOST_TOKENS_CUDA + 1, packed, torch.bfloat16)
    assert not module.in_cuda(1, Case(1, (64, 512), 4, 128).packed, torch.bfloat16)  # too small


@pytest.mark.parametrize(
    ("bits", "group", "taken"),
    [
        *((4, 128, True), (4, 1 << 20, True), (4, 64, False)),
        *((8, 64, True), (8, 1 << 20, True), (8, 32, False), (3, 128, False)),
    ],
)
def test_many_tokens_are_multiplied_by_hopper_where_groups_fill_its_steps(
    bits: int, group: int, taken: bool
) -> None:
    if not is_hopper(DEVICE):
        pytest.skip("it has none of the instructions")
    packed, dtype = Case(1, (8320, 4096), bits, group).packed, torch.bfloat16
    least = LEAST_TOKENS_HOPPER.get(bits, 1)
    assert module.on_hopper(least, packed, dtype) == taken
    assert not module.on_hopper(least - 1, packed, dtype)


@pytest.mark.parametrize("bits", [4, 8])
def test_few_tokens_are_multiplied_with_a_small_weight_by_triton(bits: int) -> None:
    if not is_hopper(DEVICE):
        pytest.skip("it has none of the instructions")
    packed = Case(1, (64, 512), bits).packed
    assert not module.on_hopper(64, packed, torch.bfloat16)
    assert module.on_hopper(65, packed, torch.bfloat16)


@pytest.mark.parametrize("dtype", BOTH, ids=str)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group", [16, 32, 64, 128, 1 << 20])
def test_groups_of_any_size(bits: int, group: int, dtype: torch.dtype) -> None:
    for asymmetric in (False, True):
        for shape in ((64, 256), (100, 328), (257, 1000)):
            case = Case(21, shape, bits, group, dtype=dtype, asymmetric=asymmetric)
            case.check(prepare(case.weight, dtype)(case.x))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("shape", [(1, 8), (64, 64), (333, 77), (576, 192), (1024, 4096)], ids=str)
def test_as_many_tokens_as_there_are(
    shape: tuple[int, int], bits: int, workspace: Workspace
) -> None:
    for tokens in (1, 2, 7, 16, 17, 33, 64, 65, 100, 129, 255, 256, 257, 300):
        case = Case(tokens, shape, bits, 1 << 20)
        case.check(int_matmul(case.x, case.packed, workspace))
        assert not workspace.scratch.arrived.any()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("shape", [(6144, 4096), (28_672, 4096), (4096, 14_336)], ids=str)
def test_few_tokens_by_triton_are_as_exact(
    shape: tuple[int, int], bits: int, workspace: Workspace, triton_alone: None
) -> None:
    case = Case(32, shape, bits)
    for tokens in (1, 16, 32):
        part = case.first(tokens)
        part.check(int_matmul(part.x, part.packed, workspace))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("shape", [(6144, 4096), (28_672, 4096), (4096, 14_336)], ids=str)
def test_the_matrices_of_a_layer(shape: tuple[int, int], bits: int, workspace: Workspace) -> None:
    case = Case(512, shape, bits)
    for tokens in (1, 4, 16, 32, 64, 128, 256, 512):
        part = case.first(tokens)
        part.check(int_matmul(part.x, part.packed, workspace))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_one_hot_activations_read_the_weights_exactly(bits: int, workspace: Workspace) -> None:
    for dtype in BOTH:
        for group in (64, 128):
            case = Case(1, (200, 384), bits, group, dtype=dtype, asymmetric=True)
            hot = torch.eye(384, dtype=dtype, device=DEVICE)
            for part in (*torch.split(hot, 1), *torch.split(hot, 32), hot):  # the last one by
                found = int_matmul(part, case.packed, workspace)  # way of dense weights
                chosen = part.float().argmax(1)
                assert torch.equal(found, case.weight.dense()[:, chosen].T.to(dtype))


@pytest.mark.parametrize("tokens", [3, 40, 200, 300])
def test_columns_in_the_order_in_which_they_were_quantized(tokens: int) -> None:
    case = Case(tokens, (256, 512), group=128, act_order=True)
    case.check(prepare(case.weight, torch.bfloat16)(case.x))


@pytest.mark.parametrize("rows", [64, 128])
@pytest.mark.parametrize("splits", [1, 2, 3, 8])
def test_in_however_many_parts_it_is_the_same(
    rows: int,
    splits: int,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    triton_alone: None,
) -> None:
    for tokens in (3, 40):
        chosen = Schedule(rows, 16 if tokens < 16 else 64, splits, 3, 8 if rows > 64 else 4)
        monkeypatch.setattr(module, "schedule_on", lambda *_, chosen=chosen: chosen)
        for shape in ((512, 4096), (300, 1000)):
            case = Case(tokens, shape)
            case.check(int_matmul(case.x, case.packed, workspace))


@pytest.mark.parametrize(("tiles", "warps"), cuda_int_matmul.DENSE_SHAPES)
@pytest.mark.parametrize("splits", [1, 2, 3, 8, 11])
def test_in_however_many_parts_it_is_the_same_in_cuda(
    tiles: int, warps: int, splits: int, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = cuda_int_matmul.Schedule(tiles, warps, splits)
    monkeypatch.setattr(module, "on_hopper", lambda *_: False)
    monkeypatch.setattr(module, "in_cuda", lambda *_: True)
    monkeypatch.setattr(module, "schedule_cuda_on", lambda *_: chosen)
    for bits in (4, 8):
        assert cuda_int_matmul.ready(DEVICE, bits, torch.bfloat16, sparse=False)
        for tokens in {3, min(8 * tiles + 5, 32)}:
            for shape in ((512, 4096), (300, 1408)):
                case = Case(tokens, shape, bits, asymmetric=True)
                case.check(int_matmul(case.x, case.packed, workspace))


@pytest.mark.parametrize("tile", hopper_int_matmul.TILES, ids=str)
@pytest.mark.parametrize("more", [0, 1, 3])
def test_in_however_many_parts_it_is_the_same_on_hopper(
    tile: tuple[int, int], more: int, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_hopper(DEVICE):
        pytest.skip("it has none of the instructions")
    clusters = 5

    def divided(_: torch.device, tokens: int, packed: Packed) -> hopper_int_matmul.Schedule:
        whole = hopper_int_matmul.Schedule.of(tile, tokens, packed.shape[0], clusters)
        sharers = min(clusters, whole.shared + more) if whole.shared else 0
        return replace(whole, sharers=sharers)

    monkeypatch.setattr(hopper_int_matmul, "schedule_on", divided)
    monkeypatch.setattr(
        hopper_int_matmul, "_blocks", lambda _: clusters * hopper_int_matmul.CLUSTER
    )
    for dtype, bits in product(BOTH, hopper_int_matmul.BITS):
        for tokens, shape in ((128, (512, 4096)), (333, (300, 1408))):
            case = Case(tokens, shape, bits, dtype=dtype, asymmetric=True)
            case.check(int_matmul(case.x, case.packed, workspace))
            assert not workspace.scratch.arrived.any()


def test_rows_of_x_may_begin_anywhere(workspace: Workspace) -> None:
    case = Case(9, (96, 333), 4, 1 << 20)
    for first in range(1, 9):
        room = torch.full((9 * 333 + 8,), NAN, dtype=torch.bfloat16, device=DEVICE)
        x = room[first : first + 9 * 333].view(9, 333).copy_(case.x)
        case.check(int_matmul(x, case.packed, workspace))


@pytest.mark.parametrize("tokens", [2, 16, 64, 200, 300])
def test_a_token_without_numbers_leaves_the_others_alone(tokens: int, workspace: Workspace) -> None:
    case = Case(tokens, (4096, 4096))
    expect_tokens_apart(lambda x: int_matmul(x, case.packed, workspace), case.x)


@pytest.mark.parametrize("tokens", [1, 16, 32, 64, 256])
def test_launches_repeat_to_the_bit(tokens: int, workspace: Workspace) -> None:
    case = Case(tokens, (4096, 4096))
    expect_repeats(lambda x: int_matmul(x, case.packed, workspace), case.x)
    assert not workspace.scratch.arrived.any()


@pytest.mark.parametrize("tokens", [4, 32, 100, 200, 600])
def test_a_graph_of_products_that_need_each_other(tokens: int, workspace: Workspace) -> None:
    case = Case(tokens, (4096, 4096))
    expect_same_in_graphs(lambda x: int_matmul(x, case.packed, workspace), case.x / 64)


def test_no_tokens(workspace: Workspace) -> None:
    case = Case(0, (64, 64))
    assert int_matmul(case.x, case.packed, workspace).shape == (0, 64)


def test_what_does_not_fit_is_refused_by_name(workspace: Workspace) -> None:
    case = Case(4, (64, 128))
    for x, said in (
        (case.x.T.contiguous().T, "x has strides [1, 4]"),
        (case.x[:, :64].contiguous(), "x is bfloat16 [4, 64]"),
        (case.x.float(), "x is float32"),
        (case.x.cpu(), "x is on cpu"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            int_matmul(x, case.packed, workspace)
