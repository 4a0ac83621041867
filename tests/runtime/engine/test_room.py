import pytest
import torch

from aweigh_runtime.engine.room import expect_host_room, kv_bytes
from aweigh_runtime.failures import ModelDoesNotFit
from aweigh_runtime.model.memory import available_bytes

CPU = torch.device("cpu")
MIB = 1 << 20


def test_a_wanted_amount_is_taken_as_it_is() -> None:
    assert kv_bytes(CPU, 0, 64 * MIB, MIB, 2048) == 64 * MIB


def test_on_a_cpu_what_is_reserved_is_not_given_twice() -> None:
    room = available_bytes(CPU)
    with pytest.raises(ModelDoesNotFit, match="are left beside the weights"):
        kv_bytes(CPU, room, 64 * MIB, MIB, 2048)
    assert kv_bytes(CPU, room - 1024 * MIB, None, MIB, 2048) <= 1024 * MIB


def test_a_cache_that_holds_no_whole_request_is_refused_with_a_length_that_fits() -> None:
    with pytest.raises(ModelDoesNotFit, match="lower --max-model-len to at most 1024"):
        kv_bytes(CPU, 0, 8 * MIB, 16 * MIB, 2048)


def test_host_memory_that_is_not_there_is_refused_at_the_start() -> None:
    expect_host_room(MIB)
    with pytest.raises(ModelDoesNotFit, match="--prefix-cache-host-memory is"):
        expect_host_room(1 << 50)
