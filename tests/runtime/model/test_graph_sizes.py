"""Which recorded step takes which step."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aweigh_runtime.model.chunks import Chunk
from aweigh_runtime.model.graph_sizes import Size, graph_sizes, smallest

BLOCKS = range(100)


def decodes(*counts: int) -> list[Chunk]:
    """Requests with so many new tokens each, all of which have logits."""
    return [Chunk(20, count, BLOCKS, count) for count in counts]


def test_sizes_double_and_then_grow_by_eight_up_to_the_most_requests() -> None:
    counts = [size.requests for size in graph_sizes(30, 0)]
    assert counts == [30, 24, 16, 8, 4, 2, 1]


def test_a_large_server_records_few_graphs_and_none_beyond_1024_requests() -> None:
    counts = [size.requests for size in graph_sizes(4096, 0)]
    assert counts[0] == 1024
    assert len(counts) < 60


def test_the_size_with_most_rows_comes_first() -> None:
    rows = [size.rows for size in graph_sizes(256, 8)]
    assert rows == sorted(rows, reverse=True)


def test_drafts_have_sizes_of_their_own() -> None:
    sizes = graph_sizes(4, 2)
    assert Size(4, 3) in sizes
    assert Size(4, 1) in sizes
    assert {size.tokens_each for size in sizes} == {1, 3}


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        (decodes(1), Size(1, 1)),
        (decodes(1, 1, 1), Size(4, 1)),
        (decodes(*[1] * 9), Size(16, 1)),
        (decodes(3), Size(1, 3)),
        (decodes(3, 1), Size(2, 3)),
        (decodes(2, 1, 1), Size(4, 3)),
        (decodes(4), None),  # more than any draft
        (decodes(*[1] * 17), None),
    ],
)
def test_a_step_runs_in_the_smallest_that_takes_it(
    chunks: list[Chunk], expected: Size | None
) -> None:
    assert smallest(graph_sizes(16, 2), chunks) == expected


def test_a_step_that_reads_a_prompt_without_all_its_logits_runs_in_none() -> None:
    sizes = graph_sizes(16, 8)
    assert smallest(sizes, [*decodes(1), Chunk(0, 5, BLOCKS, 1)]) is None
    assert smallest(sizes, [Chunk(0, 1, BLOCKS, 0)]) is None


@given(st.integers(1, 5000), st.integers(0, 16), st.lists(st.integers(1, 17), min_size=1))
def test_what_is_found_has_room(most: int, draft: int, counts: list[int]) -> None:
    found = smallest(graph_sizes(most, draft), decodes(*counts))
    if found is not None:
        assert found.requests >= len(counts)
        assert found.rows >= sum(counts)
        assert found.tokens_each >= max(counts)
    elif max(counts) == 1:
        assert len(counts) > min(most, 1024)
