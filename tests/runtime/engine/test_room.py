from dataclasses import replace

import pytest
import torch

from aweigh_runtime.engine.room import LongestRequest, expect_host_room, kv_bytes
from aweigh_runtime.failures import ModelDoesNotFit
from aweigh_runtime.model.memory import available_bytes

CPU = torch.device("cpu")
MIB = 1 << 20
ONE_MIB = LongestRequest(tokens=2048, block_tokens=16, block_bytes=MIB // 128)


def test_a_wanted_amount_is_taken_as_it_is() -> None:
    assert kv_bytes(CPU, 0, 64 * MIB, ONE_MIB) == 64 * MIB


def test_on_a_cpu_what_is_reserved_is_not_given_twice() -> None:
    room = available_bytes(CPU)
    with pytest.raises(ModelDoesNotFit, match="are left beside the weights"):
        kv_bytes(CPU, room, 64 * MIB, ONE_MIB)
    assert kv_bytes(CPU, room - 1024 * MIB, None, ONE_MIB) <= 1024 * MIB


def test_a_cache_that_holds_no_whole_request_is_refused_with_what_would_do() -> None:
    longest = LongestRequest(tokens=2040, block_tokens=16, block_bytes=MIB // 8)
    refused = (
        r"--kv-cache-memory is 8\.06 MiB, and .* of --max-model-len \(2040\) tokens needs 16\.00 "
        r"MiB; give at least --kv-cache-memory=16Mi or lower --max-model-len to at most 1024$"
    )
    with pytest.raises(ModelDoesNotFit, match=refused):
        kv_bytes(CPU, 0, 8 * MIB + MIB // 16, longest)  # half a block more holds no token more
    assert kv_bytes(CPU, 0, 16 * MIB, longest) == 16 * MIB
    assert kv_bytes(CPU, 0, 8 * MIB, replace(longest, tokens=1024)) == 8 * MIB


def test_a_cache_that_holds_no_block_is_refused_without_a_length() -> None:
    with pytest.raises(ModelDoesNotFit, match=r"is 1 bytes, .* --kv-cache-memory=1Mi$"):
        kv_bytes(CPU, 0, 1, ONE_MIB)


def test_host_memory_that_is_not_there_is_refused_at_the_start() -> None:
    expect_host_room(MIB)
    with pytest.raises(ModelDoesNotFit, match="--prefix-cache-host-memory is"):
        expect_host_room(1 << 50)
