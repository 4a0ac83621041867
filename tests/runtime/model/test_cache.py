from collections.abc import Sequence

import pytest
import torch

from aweigh_runtime.model.architectures import read_config
from aweigh_runtime.model.cache import CacheFormat, KVCache
from aweigh_runtime.model.chunks import Chunk
from aweigh_runtime.model.footprint import bytes_per_token
from aweigh_runtime.model.step_plan import plan
from tests.runtime.model.checkpoints import SHIPPED

FP32 = CacheFormat(torch.float32, torch.float32)


@pytest.fixture
def cache(cpu: torch.device) -> KVCache:
    return KVCache(read_config(SHIPPED / "helmsman-8m"), 4, 16, FP32, cpu)


def test_the_cache_takes_the_bytes_that_were_announced(cache: KVCache) -> None:
    config = read_config(SHIPPED / "helmsman-8m")
    assert cache.layers.nbytes == 4 * 16 * bytes_per_token(config, torch.float32.itemsize)


@pytest.mark.parametrize(
    ("start", "count", "blocks", "num_logits"),
    [
        (0, 1, [4], 1),
        (0, 1, [-1], 1),
        (16, 1, [0], 1),
        (0, 65, [0, 1, 2, 3], 1),
        (-1, 2, [0], 1),
        (0, 0, [0], 0),
        (0, 3, [0], 4),
        (0, 3, [0], -1),
        (30, 3, [1, 9, 2], 1),
    ],
)
def test_a_chunk_outside_of_the_cache_is_an_error_and_not_silence(
    cache: KVCache, start: int, count: int, blocks: Sequence[int], num_logits: int
) -> None:
    good, bad = Chunk(0, 5, [0]), Chunk(start, count, blocks, num_logits)

    with pytest.raises(IndexError, match="is outside the cache of 4 blocks of 16 tokens") as error:
        plan([good, bad], cache)
    assert str(bad) in str(error.value)
