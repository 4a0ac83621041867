"""How many tiles are launched, and how products over them are divided: by shapes alone."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from aweigh_kernels.grouped_matmul import Shared, Tiling, likely_rows
from aweigh_kernels.routing import Routed, most_tiles, tokens_of_tile

SIZES = st.sampled_from([16, 32, 64])


@given(st.lists(st.integers(0, 300), min_size=1, max_size=40), SIZES)
def test_however_pairs_are_spread_there_are_tiles_enough(counts: list[int], size: int) -> None:
    needed = sum(-(-count // size) for count in counts)
    assert needed <= most_tiles(sum(counts), len(counts), size)


@given(st.integers(1, 4000), st.integers(1, 64), SIZES)
def test_none_is_launched_that_cannot_be_needed(pairs: int, count: int, size: int) -> None:
    """The worst: as many experts as there can be have one pair, and the first all others."""
    begun = min(pairs, count)
    worst = [1 + pairs - begun, *[1] * (begun - 1)]
    assert sum(-(-each // size) for each in worst) == most_tiles(pairs, count, size)


def test_few_experts_need_a_second_tile_where_all_are_as_likely() -> None:
    sizes = [tokens_of_tile(tokens, 8, 2) for tokens in (1, 32, 33, 64, 128, 8192)]
    assert sizes == [16, 16, 32, 32, 64, 64]
    assert tokens_of_tile(64, 128, 8) == 16


@given(st.integers(1, 600), st.sampled_from([(8, 2), (128, 8), (5, 3)]), st.integers(0, 3))
def test_what_programs_leave_has_room(tokens: int, experts: tuple[int, int], power: int) -> None:
    count, each = experts
    size = tokens_of_tile(tokens, count, each)
    tiles = most_tiles(tokens * each, count, size)
    routed = Routed(torch.empty(tokens, each), torch.empty(tiles), torch.empty(tiles, size), count)
    shared = Shared(132, torch.device("cpu"))
    for rows in (1536, 4096, 28_672):
        tiling = Tiling(routed, rows, 128, 1 << power, num_stages=3, num_warps=4)
        programs, splits = tiling.within(shared).grid
        assert programs == tiles * -(-rows // 128)
        if splits > 1:
            assert programs <= len(shared.arrived)
            assert programs * splits * 128 * size <= len(shared.sums)
        assert rows <= likely_rows(routed, rows) <= rows * max(count, tokens * each)
