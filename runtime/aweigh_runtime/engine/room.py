"""How much memory keys and values get. It measures and decides; it allocates nothing of its own."""

from collections.abc import Callable

import torch

from aweigh_runtime.engine import sizing
from aweigh_runtime.failures import ModelDoesNotFit
from aweigh_runtime.model.memory import available_bytes


def peak_bytes(device: torch.device, work: Callable[[], None]) -> int:
    """What `work` allocates on a GPU at most; on a CPU it is run, and nothing is measured."""
    if device.type != "cuda":
        work()
        return 0
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device) - before
    torch.cuda.empty_cache()
    return peak


def expect_host_room(wanted: int) -> None:
    """Refuse more host memory for evicted blocks than this machine or container has left.

    Raises:
        ModelDoesNotFit: it has less.
    """
    room = available_bytes(torch.device("cpu"))
    if wanted > room:
        raise ModelDoesNotFit(
            f"--prefix-cache-host-memory is {_gib(wanted)}, and {_gib(room)} of host memory are "
            "left; lower it or give more memory"
        )


def kv_bytes(
    device: torch.device, reserved: int, wanted: int | None, longest: int, max_model_len: int
) -> int:
    """Bytes for keys and values.

    Args:
        device: where they will be.
        reserved: bytes that a step needs beside them.
        wanted: a number that the user has chosen; None: what is reasonable.
        longest: bytes that one request of `max_model_len` tokens needs.
        max_model_len: in tokens.

    Raises:
        ModelDoesNotFit: there is no room for one such request, or for what is wanted.
    """
    spare = sizing.spare_bytes(device.type, _device_bytes(device))
    room = max(available_bytes(device) - reserved - spare, 0)
    if wanted is not None and wanted > room:
        raise ModelDoesNotFit(
            f"--kv-cache-memory is {_gib(wanted)}, and {_gib(room)} are left beside the weights "
            "and the largest step; lower it or give more memory"
        )
    chosen = sizing.kv_bytes(device.type, room, longest) if wanted is None else wanted
    if chosen < longest:
        fits = int(chosen / longest * max_model_len)
        raise ModelDoesNotFit(
            f"the cache of one request needs {_gib(longest)} for {max_model_len} tokens, and there "
            f"are {_gib(chosen)} for it; lower --max-model-len to at most {fits} or give more "
            "memory"
        )
    return chosen


def _device_bytes(device: torch.device) -> int:
    if device.type != "cuda":
        return 0
    return int(torch.cuda.get_device_properties(device).total_memory)


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
