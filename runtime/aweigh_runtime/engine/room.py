"""How much memory keys and values get. It measures and decides; it allocates nothing of its own."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from aweigh_runtime.engine import sizing
from aweigh_runtime.engine.out_of_memory import out_of_memory, return_unused_memory
from aweigh_runtime.failures import ModelDoesNotFit
from aweigh_runtime.model.memory import available_bytes


def peak_bytes(device: torch.device, work: Callable[[], None]) -> int:
    """What `work` allocates on a GPU at most; on a CPU it is run, and nothing is measured.

    Raises:
        ModelDoesNotFit: there is no memory for it.
    """
    try:
        return _peak_bytes(device, work)
    except Exception as error:
        if not out_of_memory(error):
            raise
    return_unused_memory()
    raise ModelDoesNotFit(
        f"there is no memory for the largest step on {device} beside the weights; give more "
        "memory, lower --max-running or --step-tokens, or serve a smaller model"
    )


def _peak_bytes(device: torch.device, work: Callable[[], None]) -> int:
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
            f"--prefix-cache-host-memory is {_size(wanted)}, and {_size(room)} of host memory are "
            "left; lower it or give more memory"
        )


@dataclass(frozen=True, slots=True)
class LongestRequest:
    """What one request may take of the cache."""

    tokens: int  # prompt and answer
    block_tokens: int
    block_bytes: int

    @property
    def num_bytes(self) -> int:
        """Whole blocks."""
        return -(-self.tokens // self.block_tokens) * self.block_bytes

    def tokens_in(self, room: int) -> int:
        """How long a request may be for which `room` bytes suffice."""
        return room // self.block_bytes * self.block_tokens


def kv_bytes(
    device: torch.device, reserved: int, wanted: int | None, longest: LongestRequest
) -> int:
    """Bytes for keys and values.

    Args:
        device: where they will be.
        reserved: bytes that a step needs beside them.
        wanted: a number that the user has chosen; None: what is reasonable.
        longest: must fit.

    Raises:
        ModelDoesNotFit: there is no room for one such request, or for what is wanted.
    """
    spare = sizing.spare_bytes(device.type, _device_bytes(device))
    room = max(available_bytes(device) - reserved - spare, 0)
    if wanted is not None and wanted > room:
        raise ModelDoesNotFit(
            f"--kv-cache-memory is {_size(wanted)}, and {_size(room)} are left beside the weights "
            "and the largest step; lower it or give more memory"
        )
    needed = longest.num_bytes
    chosen = sizing.kv_bytes(device.type, room, needed) if wanted is None else wanted
    if chosen < needed:
        raise ModelDoesNotFit(_too_small(chosen, longest, named=wanted is not None))
    return chosen


def _too_small(chosen: int, longest: LongestRequest, *, named: bool) -> str:
    needed, tokens = longest.num_bytes, longest.tokens
    remedies = [
        f"give at least --kv-cache-memory={_quantity(needed)}" if named else "give more memory"
    ]
    if fits := longest.tokens_in(chosen):
        remedies.append(f"lower --max-model-len to at most {fits}")
    given = f"--kv-cache-memory is {_size(chosen)}" if named else f"{_size(chosen)} are left"
    return (
        f"{given}, and the cache of one request of --max-model-len ({tokens}) tokens needs "
        f"{_size(needed)}; {' or '.join(remedies)}"
    )


def _device_bytes(device: torch.device) -> int:
    if device.type != "cuda":
        return 0
    return int(torch.cuda.get_device_properties(device).total_memory)


def _size(count: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} bytes"


def _quantity(count: int) -> str:
    """As the flag takes it: no less, and at most 1 KiB more."""
    kibibytes = -(-count // 1024)
    return f"{kibibytes}Ki" if kibibytes % 1024 else f"{kibibytes // 1024}Mi"
