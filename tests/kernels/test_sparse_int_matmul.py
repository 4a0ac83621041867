"""The kernels of 2:4 sparse products without a GPU: their very source, compiled for this machine.

`conftest.py` and `on_cpu` say how.
"""

import ctypes
import logging
from collections.abc import Iterator

import pytest
import torch

from aweigh_kernels.cuda_int_matmul import SHAPES, Schedule, ready, schedule
from aweigh_kernels.sparse_int_matmul import launch, launch_unpack
from aweigh_kernels.sparse_packing import DEPTH, ROWS, pack
from aweigh_kernels.tile_matmul import Workspace
from tests.kernels.architectures import PROCESSORS
from tests.kernels.exact import expect_exact
from tests.kernels.weights import Draw

BF16, FP16 = torch.bfloat16, torch.float16
CPU = torch.device("cpu")


@pytest.fixture
def shared_room(kernels_on_cpu: ctypes.CDLL) -> Iterator[ctypes.c_int]:
    """Bytes of shared memory that a block may have."""
    room = ctypes.c_int.in_dll(kernels_on_cpu, "shared_room")
    whole = room.value
    yield room
    room.value = whole


@pytest.mark.parametrize(
    ("shape", "group", "bits", "dtype", "tokens", "chosen"),
    [
        ((32, 128), 128, 4, BF16, 1, Schedule(1, 8, 1)),
        ((300, 1408), 128, 4, FP16, 3, Schedule(1, 8, 3)),
        ((300, 1000), 1000, 8, FP16, 9, Schedule(2, 8, 2)),
        ((257, 332), 332, 4, BF16, 33, Schedule(4, 8, 1)),
        ((100, 1024), 256, 8, BF16, 21, Schedule(4, 4, 2)),
        ((130, 640), 128, 4, BF16, 70, Schedule(8, 4, 1)),
        ((260, 1024), 128, 8, BF16, 50, Schedule(8, 8, 2)),
        ((40, 1664), 128, 4, FP16, 37, Schedule(4, 4, 11)),
        ((31, 4), 4, 8, FP16, 2, Schedule(1, 8, 1)),
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
    expect_product(shape, group, bits, dtype, tokens, chosen, workspace_on_cpu)


@pytest.mark.parametrize("dtype", [BF16, FP16], ids=str)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("shape", "group"), [((100, 384), 128), ((33, 332), 332)], ids=str)
def test_dense_rows_are_the_weight_rounded_once(
    shape: tuple[int, int], group: int, bits: int, dtype: torch.dtype, workspace_on_cpu: Workspace
) -> None:
    weight = Draw(sum(shape)).sparse(*shape, bits, group)
    packed = pack(weight.q, weight.index, weight.scale, bits)
    dense = torch.full((shape[0] + 1, shape[1]), torch.nan, dtype=dtype)
    launch_unpack(packed, range(1), dense)
    launch_unpack(packed, range(1, packed.words.shape[0]), dense[ROWS:])
    assert torch.equal(dense[:-1], weight.dense(dtype))
    assert bool(dense[-1].isnan().all())  # nothing behind the last row


@pytest.mark.parametrize(
    ("bits", "shapes"),
    [(4, {(1, 8), (2, 8), (4, 4), (4, 8)}), (8, {(1, 8), (4, 4), (4, 8)})],
)
def test_where_blocks_have_less_shared_memory_those_with_room_multiply(
    bits: int,
    shapes: set[tuple[int, int]],
    shared_room: ctypes.c_int,
    workspace_on_cpu: Workspace,
) -> None:
    assert ready(CPU, bits, BF16, sparse=True) == set(SHAPES)
    ready.cache_clear()
    shared_room.value = 99 << 10  # as of sm_86 and sm_89
    assert ready(CPU, bits, BF16, sparse=True) == shapes
    for tokens in (8, 9, 17, 70):
        chosen = schedule(tokens, (300, 640), DEPTH, 1, shapes)
        expect_product((300, 640), 128, bits, BF16, tokens, chosen, workspace_on_cpu)


def test_where_no_block_has_room_none_is_ready_and_one_warning_says_so(
    shared_room: ctypes.c_int,
    workspace_on_cpu: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a small GPU")
    shared_room.value = 48 << 10
    with caplog.at_level(logging.WARNING):
        assert not ready(CPU, 4, BF16, sparse=True)
        assert not ready(CPU, 4, BF16, sparse=True)
    (record,) = caplog.records
    assert record.getMessage() == (
        "no kernel in CUDA C++ multiplies with 4-bit weights: a small GPU, invalid value"
    )


def test_blocks_share_rows_only_to_fill_a_gpu() -> None:
    for shape in ((4096, 4096), (6144, 4096), (28_672, 4096), (4096, 14_336), (57_344, 8192)):
        for tokens in (1, 2, 8, 9, 16, 17, 32, 33, 64, 65, 128, 256):
            chosen = schedule(tokens, shape, DEPTH, PROCESSORS, SHAPES)
            blocks = chosen.blocks(tokens, shape[0]) * chosen.splits
            assert chosen.tiles * 8 >= min(tokens, 64)
            assert blocks * 2 > PROCESSORS
            assert chosen.splits == 1 or blocks <= chosen.resident * PROCESSORS
            room = PROCESSORS * ROWS * 512
            assert chosen.splits == 1 or blocks * chosen.rows * chosen.tiles * 8 <= room


def expect_product(
    shape: tuple[int, int],
    group: int,
    bits: int,
    dtype: torch.dtype,
    tokens: int,
    chosen: Schedule,
    workspace: Workspace,
) -> None:
    draw = Draw(sum(shape))
    weight = draw.sparse(*shape, bits, group)
    packed = pack(weight.q, weight.index, weight.scale, bits)
    x = draw.normal(tokens, shape[1]).to(dtype)
    x[0] = torch.nan  # which no other token sees
    found = torch.full((tokens, shape[0]), torch.nan, dtype=dtype)
    launch(x, packed, found, workspace, chosen)
    assert bool(found[0].isnan().all())
    expect_exact(found[1:], x[1:], weight.dense())
