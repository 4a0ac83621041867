"""Products with integers of which two in four are kept, beside sums in fp64 of the very weights."""

import re
from copy import copy
from dataclasses import replace

import pytest
import torch

from aweigh_kernels import sparse_int_matmul as module
from aweigh_kernels.cuda_int_matmul import Schedule
from aweigh_kernels.sparse_int_matmul import MOST_TOKENS, is_ready, sparse_int_matmul
from aweigh_kernels.sparse_int_weight import SparseIntWeight
from aweigh_kernels.sparse_packing import pack
from aweigh_kernels.tile_matmul import Workspace, workspace_of
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

BOTH = [torch.bfloat16, torch.float16]
DEVICE = torch.device("cuda", 0)
WHOLE = 1 << 20  # a group: all columns


@pytest.fixture(scope="module")
def workspace() -> Workspace:
    for bits in (4, 8):
        for dtype in BOTH:
            assert is_ready(DEVICE, bits, dtype)
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
    ) -> None:
        draw = Draw(tokens + sum(shape))
        self.weight = on_gpu(draw.sparse(*shape, bits, min(group, shape[1])))
        self.x = draw.normal(tokens, shape[1]).to(DEVICE, dtype)
        weight = self.weight
        self.packed = pack(weight.q, weight.index, weight.scale, bits)

    def first(self, tokens: int) -> "Case":
        part = copy(self)
        part.x = self.x[:tokens]
        return part

    def check(self, found: torch.Tensor) -> None:
        """As exact as fp32 sums, rounded once; of many tokens weights are rounded, too."""
        lost = FP32 + (ROUNDED[self.x.dtype] if len(self.x) > MOST_TOKENS else 0)
        expect_exact(found, self.x, self.weight.dense(), lost=lost)


def on_gpu(weight: SparseIntWeight) -> SparseIntWeight:
    q, index, scale = (each.to(DEVICE) for each in (weight.q, weight.index, weight.scale))
    return replace(weight, q=q, index=index, scale=scale)


@pytest.mark.parametrize("bits", [4, 8])
def test_one_hot_activations_read_the_weights_exactly(bits: int, workspace: Workspace) -> None:
    for dtype in BOTH:
        case = Case(1, (200, 384), bits, dtype=dtype)
        hot = torch.eye(384, dtype=dtype, device=DEVICE)
        for part in (*torch.split(hot, 1), *torch.split(hot, 40), hot):  # the last by dense weights
            found = sparse_int_matmul(part, case.packed, workspace)
            chosen = part.float().argmax(1)
            assert torch.equal(found, case.weight.dense()[:, chosen].T.to(dtype))


@pytest.mark.parametrize("dtype", BOTH, ids=str)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    ("group", "shapes"),
    [
        (128, ((64, 256), (100, 384), (257, 1024))),
        (256, ((64, 256), (257, 1024))),
        (WHOLE, ((64, 256), (100, 328), (257, 1000), (31, 4))),
        (64, ((64, 256), (100, 320))),  # which no kernel takes
    ],
)
def test_groups_of_any_size(
    group: int, shapes: tuple[tuple[int, int], ...], bits: int, dtype: torch.dtype
) -> None:
    for shape in shapes:
        case = Case(21, shape, bits, group, dtype=dtype)
        assert recordable(case.weight, dtype) == (group != 64)
        found = prepare(case.weight, dtype)(case.x)
        if group == 64:
            case.x = torch.cat([case.x] * 20)  # whose weights are rounded, as those of many tokens
            found = torch.cat([found] * 20)
        case.check(found)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", [(1, 8), (64, 64), (333, 76), (576, 192), (1024, 4096)], ids=str)
def test_as_many_tokens_as_there_are(
    shape: tuple[int, int], bits: int, workspace: Workspace
) -> None:
    whole = Case(300, shape, bits, WHOLE)
    for tokens in range(1, 301) if shape == (333, 76) else (1, 2, 9, 16, 17, 33, 64, 65, 129, 300):
        case = whole.first(tokens)
        case.check(sparse_int_matmul(case.x, case.packed, workspace))
        assert not workspace.scratch.arrived.any()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", [(6144, 4096), (28_672, 4096), (4096, 14_336)], ids=str)
def test_the_matrices_of_a_layer(shape: tuple[int, int], bits: int, workspace: Workspace) -> None:
    case = Case(512, shape, bits)
    for tokens in (1, 4, 16, 32, 64, 128, 256, 512):
        part = case.first(tokens)
        part.check(sparse_int_matmul(part.x, part.packed, workspace))


@pytest.mark.parametrize("tiles", [1, 2, 4, 8])
@pytest.mark.parametrize("warps", [4, 8])
@pytest.mark.parametrize("splits", [1, 2, 3, 8, 11])
def test_in_however_many_parts_it_is_the_same(
    tiles: int, warps: int, splits: int, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    if tiles < 4 and warps < 8:
        pytest.skip("few tokens have blocks of 8 warps alone")
    chosen = Schedule(tiles, warps, splits)
    monkeypatch.setattr(module, "schedule_on", lambda *_: chosen)
    for bits in (4, 8):
        for tokens in (3, 8 * tiles, 8 * tiles + 5):
            for shape in ((512, 4096), (300, 1408)):
                case = Case(tokens, shape, bits)
                case.check(sparse_int_matmul(case.x, case.packed, workspace))


def test_rows_of_x_may_begin_anywhere(workspace: Workspace) -> None:
    case = Case(9, (96, 332), 4, WHOLE)
    for first in range(1, 9):
        room = torch.full((9 * 332 + 8,), NAN, dtype=torch.bfloat16, device=DEVICE)
        x = room[first : first + 9 * 332].view(9, 332).copy_(case.x)
        case.check(sparse_int_matmul(x, case.packed, workspace))


@pytest.mark.parametrize("tokens", [2, 16, 64, 200, 300])
def test_a_token_without_numbers_leaves_the_others_alone(tokens: int, workspace: Workspace) -> None:
    case = Case(tokens, (4096, 4096))
    expect_tokens_apart(lambda x: sparse_int_matmul(x, case.packed, workspace), case.x)


@pytest.mark.parametrize("tokens", [1, 16, 32, 64, 256])
def test_launches_repeat_to_the_bit(tokens: int, workspace: Workspace) -> None:
    case = Case(tokens, (4096, 4096))
    expect_repeats(lambda x: sparse_int_matmul(x, case.packed, workspace), case.x)
    assert not workspace.scratch.arrived.any()


@pytest.mark.parametrize("tokens", [4, 64, 300])
def test_a_graph_of_products_that_need_each_other(tokens: int, workspace: Workspace) -> None:
    case = Case(tokens, (4096, 4096))
    expect_same_in_graphs(lambda x: sparse_int_matmul(x, case.packed, workspace), case.x / 64)


def test_a_weight_of_which_graphs_hold_the_first_product(workspace: Workspace) -> None:
    """Whatever is loaded on the way has been loaded before: a graph cannot."""
    case = Case(4, (512, 1024), 8, dtype=torch.float16)
    product = prepare(case.weight, torch.float16)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = product(case.x)
    graph.replay()
    case.check(found)


def test_no_tokens(workspace: Workspace) -> None:
    case = Case(0, (64, 64))
    assert sparse_int_matmul(case.x, case.packed, workspace).shape == (0, 64)


def test_what_does_not_fit_is_refused_by_name(workspace: Workspace) -> None:
    case = Case(4, (64, 128))
    for x, said in (
        (case.x.T.contiguous().T, "x has strides [1, 4]"),
        (case.x[:, :64].contiguous(), "x is bfloat16 [4, 64]"),
        (case.x.float(), "x is float32"),
        (case.x.cpu(), "x is on cpu"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            sparse_int_matmul(x, case.packed, workspace)
