"""The kernel of a few tokens and dense integers without a GPU; `conftest.py` says how."""

from itertools import cycle

import pytest
import torch

from aweigh_kernels import gated, rope_write
from aweigh_kernels.activation import Activation
from aweigh_kernels.cuda_int_matmul import DENSE_SHAPES, GATES, Schedule, schedule
from aweigh_kernels.int_matmul import MOST_TOKENS_CUDA, launch_cuda
from aweigh_kernels.int_packing import Packed, pack
from aweigh_kernels.int_product import turning
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
    (33, Schedule(1, 8, 1)),
    (16, Schedule(1, 8, 3)),
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
        ((300, 1000), WHOLE, 8, FP16, 9, Schedule(1, 8, 2)),
        ((257, 333), WHOLE, 4, BF16, 33, Schedule(1, 8, 1)),
        ((100, 1024), 256, 8, BF16, 21, Schedule(1, 8, 2)),
        ((40, 1664), 128, 4, FP16, 7, Schedule(1, 8, 11)),
        ((577, 1024), 512, 4, BF16, 16, Schedule(1, 8, 5)),
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


@pytest.mark.parametrize("activation", GATES)
@pytest.mark.parametrize(("dtype", "bits"), [(BF16, 4), (FP16, 8)])
@pytest.mark.parametrize(
    ("size", "columns", "tokens", "chosen"),
    [(96, 128, 1, Schedule(1, 8, 1)), (160, 512, 5, Schedule(1, 8, 3))],
)
def test_what_gates_let_by_is_that_of_the_rounded_product(
    size: int,
    columns: int,
    tokens: int,
    chosen: Schedule,
    dtype: torch.dtype,
    bits: int,
    activation: Activation,
    workspace_on_cpu: Workspace,
) -> None:
    weight = packed(Draw(size).ints(2 * size, columns, bits, 128))
    x = Draw(tokens).normal(tokens, columns).to(dtype) / 8
    gate_up = torch.full((tokens, 2 * size), torch.nan, dtype=dtype)
    launch_cuda(x, weight, gate_up, workspace_on_cpu.scratch, chosen)
    found = torch.full((tokens, size), torch.nan, dtype=dtype)
    after = {"after": GATES[activation]}
    launch_cuda(x, weight, found, workspace_on_cpu.scratch, chosen, after)
    # exp and the quotient are those of a GPU, which differ from torch's in the last place.
    ulp = 2**-7 if dtype == BF16 else 2**-10
    torch.testing.assert_close(found, gated.reference(gate_up, activation), rtol=ulp, atol=1e-5)


@pytest.mark.parametrize("kept", [BF16, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "size", "tokens", "chosen"),
    [(3, 1, 128, 1, Schedule(1, 8, 1)), (5, 2, 64, 6, Schedule(1, 8, 2))],
)
def test_heads_are_turned_and_kept_as_of_the_rounded_product(
    heads: int,
    kv_heads: int,
    size: int,
    tokens: int,
    chosen: Schedule,
    kept: torch.dtype,
    workspace_on_cpu: Workspace,
) -> None:
    num_heads, draw = heads + 2 * kv_heads, Draw(heads)
    weight = packed(draw.ints(num_heads * size, 1024, 4, 128))
    x = draw.normal(tokens, 1024).to(BF16)
    radians = draw.normal(tokens, 1, size // 2) * 50
    cos, sin = radians.cos().repeat(1, 1, 2), torch.cat((-radians.sin(), radians.sin()), -1)
    turn, scales = (cos.to(BF16), sin.to(BF16)), (0.25, 2.0)
    slots = torch.arange(tokens).flip(0) * 3
    slots[tokens // 2] = -1 if tokens > 1 else 4
    cache = torch.zeros(2, 16, 2 * kv_heads, size).to(kept)
    expected = torch.full((tokens, num_heads, size), torch.nan, dtype=BF16)
    expected_cache, found = cache.clone(), expected.clone()
    launch_cuda(x, weight, expected, workspace_on_cpu.scratch, chosen)
    rope_write.reference(expected, *turn, expected_cache, slots, kv_scales=scales)
    after = turning(turn, cache, slots, scales)
    launch_cuda(x, weight, found, workspace_on_cpu.scratch, chosen, after)
    # What is kept nowhere is nobody's: the reference gives it no numbers of the cache, or others.
    there = slots >= 0
    assert torch.equal(found[there], expected[there])
    assert torch.equal(cache.float(), expected_cache.float())


@pytest.mark.parametrize("bits", [4, 8])
def test_each_number_of_tokens_has_room_for_what_blocks_leave_to_each_other(bits: int) -> None:
    for shape in ((1, 16), (4096, 4096), (6144, 4096), (28_672, 4096), (4096, 14_336)):
        for tokens in range(1, MOST_TOKENS_CUDA + 1):
            chosen = schedule(tokens, shape, 512 // bits, PROCESSORS, DENSE_SHAPES)
            assert chosen.tiles == 1
            blocks = chosen.blocks(tokens, shape[0]) * chosen.splits
            assert chosen.splits == 1 or blocks <= 3 * PROCESSORS
            room = PROCESSORS * 64 * 256
            assert chosen.splits == 1 or blocks * chosen.rows * chosen.tiles * 8 <= room
