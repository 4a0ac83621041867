"""What a recorded step finds in its arrays: the step, and padding that does nothing."""

from array import array
from pathlib import Path

import pytest
import torch

from aweigh_runtime.model import common_blocks
from aweigh_runtime.model.architectures import read_config
from aweigh_runtime.model.cache import CacheFormat, KVCache
from aweigh_runtime.model.chunks import Chunk
from aweigh_runtime.model.graph_sizes import Size, graph_sizes
from aweigh_runtime.model.step_inputs import Inputs, StepInputs
from aweigh_runtime.model.step_plan import plan

FP32 = CacheFormat(torch.float32, torch.float32)
SIZES = graph_sizes(8, 2)
UNIT_MEMBERS = {size: 5 for size in SIZES if size.requests == 8}
CHUNKS = [
    Chunk(37, 1, [9, 3, 5], 1),  # the sixth token of its third block
    Chunk(16, 2, [4, 8], 2),  # begins a block
    Chunk(0, 1, [7], 1),
]
TOKENS = [11, 12, 13, 14]
LARGE = Size(8, 3)


@pytest.fixture
def cache(helmsman: Path, cpu: torch.device) -> KVCache:
    return KVCache(read_config(helmsman), 20, 16, FP32, cpu)


@pytest.fixture
def inputs(cache: KVCache) -> StepInputs:
    return StepInputs(SIZES, 100, cache, UNIT_MEMBERS)


def written(inputs: StepInputs, size: Size = LARGE) -> Inputs:
    inputs.write(size, TOKENS, CHUNKS)
    return inputs.of(size)


def test_rows_are_those_of_the_step(inputs: StepInputs, cache: KVCache) -> None:
    found, expected = written(inputs), plan(CHUNKS, cache)
    assert found.tokens[:4].tolist() == TOKENS
    assert found.positions[:4].tolist() == expected.positions.tolist() == [37, 16, 17, 0]
    assert found.slots[:4].tolist() == expected.slots.tolist()


def test_requests_see_what_is_theirs(inputs: StepInputs) -> None:
    found = written(inputs)
    assert found.firsts[:3].tolist() == [0, 1, 3]
    assert found.counts[:3].tolist() == [1, 2, 1]
    assert found.seen[:3].tolist() == [38, 17, 1]
    assert found.table[0, :3].tolist() == [9, 3, 5]
    assert found.table[1, :2].tolist() == [4, 8]
    assert found.table[2, 0] == 7


def test_padding_is_kept_nowhere_and_sees_nothing(inputs: StepInputs) -> None:
    inputs.write(LARGE, list(range(1, 9)), [Chunk(5, 1, [index], 1) for index in range(8)])
    found = written(inputs)  # over a larger step
    assert found.slots[4:].tolist() == [-1] * 20
    assert found.tokens[4:].tolist() == [0] * 20
    assert found.positions[4:].tolist() == [0] * 20
    assert found.counts[3:].tolist() == [0] * 5
    assert found.seen[3:].tolist() == [0] * 5


def one_token(starts: list[int]) -> list[Chunk]:
    tables = [[9, 3, 5], [4, 8, 6], [7, 1, 2]]
    return [
        Chunk(start, 1, array("q", blocks), 1)
        for start, blocks in zip(starts, tables, strict=False)
    ]


def test_a_step_goes_on_by_itself_until_a_request_begins_a_block(inputs: StepInputs) -> None:
    size, starts = Size(4, 1), [37, 17, 10]
    inputs.write(size, [1, 2, 3], one_token(starts))
    for further in range(1, 6):
        step = one_token([start + further for start in starts])
        assert inputs.goes_on(size, step)
        inputs.of(size).move_on()
        moved = [each.clone() for each in rows_of(inputs.of(size))]
        inputs.write(size, [1, 2, 3], step)
        assert all(map(torch.equal, moved, rows_of(inputs.of(size))))
    assert not inputs.goes_on(size, one_token([43, 23, 16]))  # the last one begins its second block


def rows_of(inputs: Inputs) -> tuple[torch.Tensor, ...]:
    return inputs.positions, inputs.slots, inputs.firsts, inputs.counts, inputs.seen


@pytest.mark.parametrize(
    ("size", "step"),
    [
        (Size(4, 1), [38, 18]),  # somebody is missing
        (Size(4, 1), [39, 18, 11]),  # a token is
        (Size(4, 1), [37, 17, 10]),  # once more
        (Size(8, 1), [38, 18, 11]),  # in other arrays
    ],
)
def test_another_step_is_written_anew(inputs: StepInputs, size: Size, step: list[int]) -> None:
    inputs.write(Size(4, 1), [1, 2, 3], one_token([37, 17, 10]))
    assert not inputs.goes_on(size, one_token(step))


def test_a_request_whose_block_was_exchanged_is_written_anew(inputs: StepInputs) -> None:
    inputs.write(Size(1, 1), [1], [Chunk(37, 1, [9, 3, 5], 1)])
    assert not inputs.goes_on(Size(1, 1), [Chunk(38, 1, [9, 4, 5], 1)])
    written(inputs)  # a step of drafts lies in the same memory
    assert not inputs.goes_on(Size(1, 1), [Chunk(38, 1, [9, 3, 5], 1)])


def test_a_blank_step_is_padding_alone(inputs: StepInputs) -> None:
    for size in SIZES:
        written(inputs)
        inputs.blank(size)
        found = inputs.of(size)
        assert set(found.slots.tolist()) == {-1}
        for zeros in (found.tokens, found.positions, found.counts, found.seen):
            assert not zeros.any()


def test_arrays_of_a_size_stay_where_they_are(inputs: StepInputs) -> None:
    before = inputs.of(Size(4, 3))
    after = written(inputs, Size(4, 3))
    assert before.tokens.data_ptr() == after.tokens.data_ptr()
    assert before.table.data_ptr() == after.table.data_ptr()
    assert before.slots.tolist() == after.slots.tolist()


def test_every_size_takes_a_step_that_fits_it(inputs: StepInputs) -> None:
    for size in SIZES:
        chunks = [Chunk(99, 1, list(range(7)), 1)] * size.requests  # the longest there is
        inputs.write(size, [5] * size.requests, chunks)
        found = inputs.of(size)
        assert found.tokens[: size.requests].tolist() == [5] * size.requests
        assert found.table.tolist() == [list(range(7))] * size.requests


def test_what_requests_have_in_common_is_told_of_the_sizes_that_read_it_once(
    inputs: StepInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common_blocks, "LEAST_POSITIONS", 32)
    monkeypatch.setattr(common_blocks, "LEAST_SAVED", 0)
    alike = [Chunk(40, 1, [3, 4, 5 + index], 1) for index in range(8)]
    assert inputs.write(Size(8, 1), [1] * 8, alike)
    common = inputs.of(Size(8, 1)).common
    assert common is not None
    assert common.positions.tolist() == [32] * 8
    assert sorted(common.members.tolist()) == list(range(8))
    assert common.units[:3].tolist() == [[0, 5], [5, 3], [0, 0]]
    assert inputs.of(Size(8, 1)).table[:, :3].tolist() == [[3, 4, 5 + i] for i in range(8)]
    for index, place in enumerate(common.places.tolist()):
        first, count = common.units[place // 5].tolist()
        assert place % 5 < count
        assert common.members[first + place % 5] == index
    assert not inputs.write(Size(4, 1), [1] * 4, alike[:4])
    assert inputs.of(Size(4, 1)).common is None


def test_requests_without_anything_in_common_are_in_no_group(inputs: StepInputs) -> None:
    alike = [Chunk(40, 1, [3, 4, 5 + index], 1) for index in range(8)]
    assert not inputs.write(Size(8, 1), [1] * 8, alike)  # too little
    common = inputs.of(Size(8, 1)).common
    assert common is not None
    assert not common.positions.any()
    assert not common.units.any()


def test_tokens_of_the_device_are_copied_there(inputs: StepInputs) -> None:
    inputs.write(LARGE, torch.tensor(TOKENS), CHUNKS)
    assert inputs.of(LARGE).tokens.tolist() == [*TOKENS, *[0] * 20]


def test_a_block_is_cleared_when_a_step_begins_it(inputs: StepInputs, cache: KVCache) -> None:
    cache.layers.fill_(float("nan"))
    written(inputs)
    cleared = [block for block in range(20) if not cache.layers[:, block].isnan().any()]
    assert cleared == [7, 8]


def test_a_step_outside_the_cache_is_refused(inputs: StepInputs) -> None:
    with pytest.raises(IndexError, match="outside the cache of 20 blocks"):
        inputs.write(LARGE, [1], [Chunk(0, 1, [20], 1)])
