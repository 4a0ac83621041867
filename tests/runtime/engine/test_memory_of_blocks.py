"""What the host remembers of each cached block, in bytes: the guide states these numbers."""

import tracemalloc
from collections.abc import Callable

from aweigh_runtime.engine.blocks import BlockPool
from aweigh_runtime.engine.host import HostBlocks

NUM_BLOCKS = 22_000  # a little more than dictionaries hold before they grow: the worst case


def _bytes_each(make: Callable[[], object]) -> float:
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        made = make()
        after, _ = tracemalloc.get_traced_memory()
        del made
    finally:
        tracemalloc.stop()
    return (after - before) / NUM_BLOCKS


def test_a_cached_block_of_the_device_takes_less_than_450_bytes() -> None:
    def full() -> BlockPool:
        pool = BlockPool(NUM_BLOCKS, 16)
        blocks = pool.take(NUM_BLOCKS)
        for block in blocks:
            pool.name(block, block.to_bytes(32, "little"))
        pool.release(blocks)
        return pool

    found = _bytes_each(full)
    assert 100 < found < 450


def test_a_block_in_host_memory_takes_less_than_300_bytes_beside_it() -> None:
    def full() -> HostBlocks:
        slots = HostBlocks(NUM_BLOCKS)
        for block in range(NUM_BLOCKS):
            assert slots.keep(block.to_bytes(32, "little")) is not None
        return slots

    found = _bytes_each(full)
    assert 100 < found < 300
