import pytest
import torch

from aweigh_runtime.model.architectures import read_config
from aweigh_runtime.model.cache import CacheFormat, KVCache
from aweigh_runtime.model.host_copy import HostCopies
from aweigh_runtime.sources.local import builtin

FP32 = CacheFormat(torch.float32, torch.float32)
CONFIG = read_config(builtin("helmsman-8m"))
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def filled_cache(device: str, num_blocks: int) -> KVCache:
    """Block b holds b everywhere."""
    cache = KVCache(CONFIG, num_blocks, 16, FP32, torch.device(device))
    cache.layers += torch.arange(num_blocks, device=device).view(1, -1, 1, 1, 1)
    return cache


def content(cache: KVCache, block: int) -> set[float]:
    return set(cache.layers[:, block].flatten().tolist())


@pytest.mark.parametrize("device", DEVICES)
def test_blocks_come_back_as_they_went(device: str) -> None:
    cache = filled_cache(device, 200)
    copies = HostCopies(cache, 150)
    copies.run([(block, 149 - block) for block in range(150)], [])  # more than one batch
    cache.layers.zero_()
    copies.run([], [(149 - block, 199 - block) for block in range(150)])
    assert [content(cache, 199 - block) for block in range(150)] == [{b} for b in range(150)]
    assert content(cache, 49) == {0.0}


@pytest.mark.parametrize("device", DEVICES)
def test_a_slot_may_be_filled_and_read_in_one_step(device: str) -> None:
    cache = filled_cache(device, 4)
    HostCopies(cache, 1).run([(1, 0)], [(0, 3)])
    assert content(cache, 3) == {1.0}


@pytest.mark.parametrize("device", DEVICES)
def test_measuring_leaves_numbers_behind_and_takes_time(device: str) -> None:
    cache = filled_cache(device, 4)
    copies = HostCopies(cache, 4)
    copies._host.fill_(torch.nan)
    assert copies.seconds_per_block() > 0
    assert cache.layers.isfinite().all()
