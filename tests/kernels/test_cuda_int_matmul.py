"""The kernel of a few tokens and dense integers without a GPU; `conftest.py` says how."""

from itertools import cycle

import pytest
import torch

from aweigh_kernels.cuda_int_matmul import DENSE_SHAPES, Schedule, schedule
from aweigh_kernels.int_matmul import MOST_TOKENS_CUDA, launch_cuda
from aweigh_kernels.int_packing import Packed, pack
from aweigh_kernels.int_weight import IntWeight
from aweigh_kernels.tile_matmul import Workspace
from tests.kernels.architectures import PROCESSORS
from tests.kernels.exact import expect_exact
from tests.kernels.weights import Draw

BF16, FP16 = torch.bfloat16, torch.float16
WHOLE = 1 << 20  # a group: all columns
ONE_HOT = (  # tokens, and how their products are divided
    (1, Schedule(1, 8, 1)),
    (8, Schedule(1, 8, 2)),
    (33, Schedule(4, 4, 1)),
    (16, Schedule(2, 8, 1)),
    (32, Schedule(4, 8, 2)),
    (9, Schedule(2, 8, 3)),
    (21, Schedule(4, 4, 2)),
)


def packed(weight: IntWeight) -> Packed:
    return pack(weight.q, weight.scale, weight.zero, weight.bits, weight.group, fours=False)


@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("dtype", [BF16, FP16], ids=str)
@pytest.mark.parametrize(
    ("bits", "group", "shape"),
    [
        (4, 128, (100, 384)),
        (4, 256, (64, 512)),
        (4, WHOLE, (33, 200)),
        (8, 64, (100, 192)),
        (8, 128, (64, 320)),
        (8, 192, (65, 400)),
        (8, WHOLE, (1, 72)),
    ],
)
def test_one_hot_activations_read_the_weights_exactly(
    bits: int,
    group: int,
    shape: tuple[int, int],
    dtype: torch.dtype,
    asymmetric: bool,
    workspace_on_cpu: Workspace,
) -> None:
    weight = Draw(sum(shape)).ints(*shape, bits, group, asymmetric=asymmetric)
    dense, words = weight.dense(dtype), packed(weight)
    first = 0
    for tokens, chosen in cycle(ONE_HOT):
        hot = torch.eye(shape[1], dtype=dtype)[first : first + tokens]
        found = torch.full((len(hot), shape[0]), torch.nan, dtype=dtype)
        launch_cuda(hot, words, found, workspace_on_cpu.scratch, chosen)
        assert torch.equal(found, dense[:, first : first + tokens].T)
        first += tokens
        if first >= shape[1]:  # each weight has been read
            return


@pytest.mark.parametrize(
    ("shape", "group", "bits", "dtype", "tokens", "chosen"),
    [
        ((64, 128), 128, 4, BF16, 1, Schedule(1, 8, 1)),
        ((300, 1408), 128, 4, FP16, 3, Schedule(1, 8, 3)),
        ((300, 1000), WHOLE, 8, FP16, 9, Schedule(2, 8, 2)),
        ((257, 333), WHOLE, 4, BF16, 33, Schedule(4, 8, 1)),
        ((100, 1024), 256, 8, BF16, 21, Schedule(4, 4, 2)),
        ((40, 1664), 128, 4, FP16, 32, Schedule(4, 4, 11)),
        ((577, 1024), 512, 4, BF16, 16, Schedule(2, 8, 5)),
        ((31, 7), WHOLE, 8, FP16, 2, Schedule(1, 8, 1)),
    ],
)
def test_a_product_is_that_of_the_very_weights(
    shape: tuple[int, int],
    group: int,
    bits: int,
    dtype: torch.dtype,
    tokens: int,
    chosen: Schedule,
    workspace_on_cpu: Workspace,
) -> None:
    draw = Draw(sum(shape))
    weight = draw.ints(*shape, bits, group, asymmetric=True)
    x = draw.normal(tokens, shape[1]).to(dtype)
    x[0] = torch.nan  # which no other token sees
    found = torch.full((tokens, shape[0]), torch.nan, dtype=dtype)
    launch_cuda(x, packed(weight), found, workspace_on_cpu.scratch, chosen)
    assert bool(found[0].isnan().all())
    expect_exact(found[1:], x[1:], weight.dense())


@pytest.mark.parametrize("bits", [4, 8])
def test_each_number_of_tokens_has_room_for_what_blocks_leave_to_each_other(bits: int) -> None:
    for shape in ((1, 16), (4096, 4096), (6144, 4096), (28_672, 4096), (4096, 14_336)):
        for tokens in range(1, MOST_TOKENS_CUDA + 1):
            chosen = schedule(tokens, shape, 512 // bits, PROCESSORS, DENSE_SHAPES)
            assert chosen.tiles <= 4
            blocks = chosen.blocks(tokens, shape[0]) * chosen.splits
            assert chosen.splits == 1 or blocks <= 3 * PROCESSORS
            room = PROCESSORS * 64 * 256
            assert chosen.splits == 1 or blocks * chosen.rows * chosen.tiles * 8 <= room
