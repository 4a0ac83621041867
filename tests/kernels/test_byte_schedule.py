"""How products with weights of 8 bits are divided, whatever their shapes and the GPU."""

from hypothesis import given
from hypothesis import strategies as some

from aweigh_kernels.byte_schedule import MOST_TOKENS, Many, Shape, schedule
from aweigh_kernels.gpus import Gpu

GPUS = (
    Gpu(108, 163 << 10, early=False, fp8=False, warpgroups=False, short_sums=False, int8=True),
    Gpu(142, 99 << 10, early=False, fp8=True, warpgroups=False, short_sums=True, int8=True),
    Gpu(132, 227 << 10, early=True, fp8=True, warpgroups=True, short_sums=True, int8=True),
    Gpu(148, 227 << 10, early=True, fp8=True, warpgroups=True, short_sums=False, int8=False),
    Gpu(170, 99 << 10, early=True, fp8=True, warpgroups=False, short_sums=True, int8=True),
)
SHAPES = some.builds(
    Shape,
    num_tokens=some.integers(1, 9000),
    out_size=some.integers(1, 300_000),
    width=some.integers(1, 512).map(lambda groups: 128 * groups),
    x_bytes=some.sampled_from([1, 2]),
    integers=some.booleans(),
    parts=some.booleans(),
).filter(lambda shape: not (shape.integers and shape.parts))


@given(SHAPES, some.sampled_from(GPUS))
def test_every_product_fits_where_it_runs(shape: Shape, gpu: Gpu) -> None:
    chosen = schedule(shape, gpu)
    assert shape.width % chosen.depth == 0
    assert not shape.parts or (chosen.depth == 128 and chosen.rows <= 128)
    stage = chosen.depth * (chosen.rows + shape.x_bytes * chosen.tokens)
    assert chosen.num_stages >= 2
    assert chosen.num_stages * stage <= gpu.shared_bytes
    if isinstance(chosen, Many):
        assert gpu.warpgroups
        assert shape.x_bytes == 1


@given(SHAPES, some.sampled_from(GPUS))
def test_programs_that_share_rows_find_room_for_their_sums(shape: Shape, gpu: Gpu) -> None:
    """As much as `Scratch` has for so many multiprocessors."""
    chosen = schedule(shape, gpu)
    if isinstance(chosen, Many) or chosen.splits == 1:
        return
    tiles = -(-shape.out_size // chosen.rows) * -(-shape.num_tokens // chosen.tokens)
    sums = tiles * chosen.splits * chosen.rows * chosen.tokens
    assert sums <= gpu.num_processors * 64 * MOST_TOKENS
    assert tiles <= 3 * gpu.num_processors


@given(SHAPES, some.sampled_from(GPUS))
def test_few_tokens_leave_no_multiprocessor_of_a_large_matrix_idle(shape: Shape, gpu: Gpu) -> None:
    chosen = schedule(shape, gpu)
    if isinstance(chosen, Many) or shape.out_size * shape.width < 16 << 20:
        return
    tiles = -(-shape.out_size // chosen.rows) * -(-shape.num_tokens // chosen.tokens)
    assert tiles * chosen.splits * 2 > gpu.num_processors or chosen.splits >= 4
