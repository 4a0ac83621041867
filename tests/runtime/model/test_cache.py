from collections.abc import Sequence

import pytest
import torch

from aweigh_runtime.model.architectures import read_config
from aweigh_runtime.model.cache import FP8, CacheFormat, KVCache
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


def rounded_cache(kept: torch.dtype, scales: torch.Tensor | None = None) -> KVCache:
    config = read_config(SHIPPED / "helmsman-8m")
    return KVCache(config, 4, 16, CacheFormat(torch.float32, kept, scales), torch.device("cpu"))


@pytest.mark.parametrize("kept", [torch.bfloat16, FP8], ids=str)
def test_smaller_numbers_are_read_as_they_were_said_to_be_stored(kept: torch.dtype) -> None:
    """What a token sees does not depend on whether it comes from the cache."""
    cache = rounded_cache(kept)
    layer = cache.by_layer[3]
    new = torch.randn(20, *cache.layers.shape[3:], generator=torch.Generator().manual_seed(0))
    slots = torch.arange(7, 27)
    said = layer.store(new, slots)
    for blocks in (slice(0, 2), torch.tensor([0, 1])):
        assert torch.equal(layer.read(blocks).flatten(0, 1)[7:27], said)
    assert 0 < (said - new).abs().max() < 0.25
    assert not cache.layers[2].any()


def test_scales_bring_large_keys_and_small_values_into_the_range_of_fp8() -> None:
    scales = torch.ones(8, 2)
    scales[3] = torch.tensor([8.0, 1 / 4096])
    new = torch.randn(16, 4, 64, generator=torch.Generator().manual_seed(0))
    new *= torch.tensor([1000.0, 1000.0, 0.001, 0.001])[:, None]
    plain = rounded_cache(FP8).by_layer[3].store(new, torch.arange(16))
    scaled = rounded_cache(FP8, scales).by_layer[3].store(new, torch.arange(16))
    for heads in (slice(0, 2), slice(2, 4)):
        length = new[:, heads].norm()
        assert (scaled - new)[:, heads].norm() < 0.04 * length < (plain - new)[:, heads].norm()


def test_fp8_takes_a_quarter_of_fp32() -> None:
    assert rounded_cache(FP8).layers.nbytes * 4 == rounded_cache(torch.float32).layers.nbytes
