"""Attention to what requests have in common, on a GPU, beside sums in fp64."""

from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
import torch

from aweigh_kernels.common_reads import CommonReads, pack
from aweigh_kernels.paged_attention_gpu import Reads, attend
from tests.kernels.common_cases import FP8, CommonCase, Lengths

pytestmark = pytest.mark.gpu

TOLERANCE = {torch.bfloat16: 1.2e-2, torch.float16: 2e-3}  # of the largest
LLAMA: dict[str, Any] = {"heads": (32, 8), "size": 128}
GROUPS: list[Lengths] = [(1024, [1, 2, 17, 64, 300]), (0, [1, 15, 900]), (2048, [3] * 70)]


def case(groups: Sequence[Lengths], **shape: Any) -> CommonCase:
    return CommonCase(groups, **({"dtype": torch.bfloat16} | shape), device="cuda")


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize(
    ("heads", "size"), [((8, 2), 16), ((9, 3), 80), ((4, 4), 64), ((32, 8), 128), ((8, 1), 256)]
)
def test_every_number_format_and_shape_of_heads(
    dtype: torch.dtype, heads: tuple[int, int], size: int
) -> None:
    assert case(GROUPS, dtype=dtype, heads=heads, size=size).error() < TOLERANCE[dtype]


@pytest.mark.parametrize("block", [16, 32, 128])
def test_any_blocks(block: int) -> None:
    assert case(GROUPS, block=block, **LLAMA).error() < TOLERANCE[torch.bfloat16]


def test_scores_are_capped() -> None:
    assert case(GROUPS, cap=3.0, **LLAMA).error() < TOLERANCE[torch.bfloat16]


def test_keys_and_values_of_8_bits() -> None:
    assert case(GROUPS, kept=FP8, **LLAMA).error() < TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize("new", [2, 5])
def test_drafts_behind_are_verified(new: int) -> None:
    groups = [(1024, [20 + i for i in range(40)]), (0, [9, 50])]
    assert case(groups, new=new, **LLAMA).error() < TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize("members", [2, 8, 31, 32, 33, 128, 129, 512])
def test_groups_of_any_size(members: int) -> None:
    groups: list[Lengths] = [(1040, [1 + i % 100 for i in range(members)]), (0, [3])]
    assert case(groups, **LLAMA).error() < TOLERANCE[torch.bfloat16]


def test_groups_of_any_kind() -> None:
    chance = Random(1)
    for _ in range(20):
        groups: list[Lengths] = [
            (16 * chance.randrange(200), [chance.randint(1, 200) for _ in range(members)])
            for members in chance.sample(range(1, 60), chance.randint(1, 8))
        ]
        padding = chance.randrange(9)
        assert case(groups, padding=padding, **LLAMA).error() < TOLERANCE[torch.bfloat16]


def test_the_same_step_gives_the_same_bits() -> None:
    one = case(GROUPS, **LLAMA)
    first = one.computed()
    assert all(torch.equal(one.computed().nan_to_num(), first.nan_to_num()) for _ in range(20))


def test_a_recorded_graph_follows_what_requests_have_in_common() -> None:
    count, width, each = 24, 140, 32
    kinds: list[list[Lengths]] = [
        [(1024, [1 + i for i in range(24)])],
        [(0, [500 + i for i in range(24)])],
        [(2048, [9] * 10), (16, [3] * 4), (0, [1, 2]), (1024, [77] * 8)],
    ]
    cases = [case(groups, **LLAMA) for groups in kinds]
    query, output = (torch.empty(count, 32, 128, device="cuda").bfloat16() for _ in range(2))
    most_blocks = max(len(each.kv) for each in cases)
    kv = torch.zeros(most_blocks, *cases[0].kv.shape[1:], device="cuda").bfloat16()
    arrays = torch.from_numpy(pack([], count, each)).cuda()
    rows = (range(count), [1] * count, [0] * count)
    alone = Reads.of(rows, torch.zeros(count, width), None, query.device)
    common = CommonReads.over(arrays, count, each)
    fixed = Reads(alone.firsts, alone.counts, alone.seen, alone.table, 1, None, common)
    attend(query, kv, fixed, 0.1, output)  # compiles it
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        attend(query, kv, fixed, cases[0].scale, output)
    for one in [*cases, *cases]:
        query.copy_(one.query)
        kv[: len(one.kv)] = one.kv
        fixed.seen.copy_(one.reads.seen)
        fixed.table[:, : one.table.shape[1]] = one.reads.table
        arrays.copy_(torch.from_numpy(pack(one.groups, count, each)))
        output.fill_(float("nan"))
        graph.replay()
        wanted = one.wanted()
        assert (output.cpu().double() - wanted).abs().max() < 1.2e-2 * wanted.abs().max()


def test_a_step_that_began_early_reads_what_the_kernel_before_has_written() -> None:
    """Queries are written right before, again and again, in a graph: nothing stale is read."""
    one, other = case(GROUPS, **LLAMA), case(GROUPS, **LLAMA)
    other.query = -one.query
    wanted = [each.computed() for each in (one, other)]
    query = torch.empty_like(one.query)
    kept = [torch.empty_like(wanted[0]) for _ in range(40)]
    reads = Reads(
        one.reads.firsts, one.reads.counts, one.reads.seen, one.reads.table, 1, None, one.common
    )
    attend(query.zero_(), one.kv, reads, one.scale, kept[0])
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for turn, output in enumerate(kept):
            query.copy_((one, other)[turn % 2].query)
            attend(query, one.kv, reads, one.scale, output)
    graph.replay()
    torch.cuda.synchronize()
    for turn, output in enumerate(kept):
        assert torch.equal(output, wanted[turn % 2])


def test_a_group_of_one_and_requests_without_anything_of_their_own() -> None:
    one = case([(1024, [1]), (0, [40])], **LLAMA)
    assert one.error() < TOLERANCE[torch.bfloat16]
    two = case([(1024, [0] * 9), (0, [1, 70]), (512, [0, 5])], **LLAMA)
    assert two.error() < TOLERANCE[torch.bfloat16]
