"""Copies blocks of the cache to host memory and back. It never decides which.

On a GPU the copies run beside the computation: blocks are gathered into a buffer in the order of
the computation, and travel between that buffer and pinned host memory on a stream of their own.
Host memory: exactly num_slots blocks. Device memory: a buffer of at most 64 blocks at a time.
"""

import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from aweigh_runtime.model.cache import KVCache
from aweigh_runtime.model.step_plan import on_device

_BATCH_BLOCKS = 64
_MEASURED_BLOCKS = 8

Pairs = Sequence[tuple[int, int]]


class HostCopies:
    """Room for blocks in host memory, and the way there and back."""

    def __init__(self, cache: KVCache, num_slots: int) -> None:
        self._layers = cache.layers  # [layers, B, P, 2K, D]
        on_gpu = cache.layers.device.type == "cuda"
        num_layers, _, *block = cache.layers.shape
        self._host = torch.empty(
            num_slots, num_layers, *block, dtype=cache.layers.dtype, pin_memory=on_gpu
        )  # [slots, layers, P, 2K, D]
        # It computes nothing: products may not run beside those of the stream that does.
        self._stream = torch.cuda.Stream(cache.layers.device) if on_gpu else None  # type: ignore[no-untyped-call]  # noqa: TID251

    def run(self, to_host: Pairs, from_host: Pairs) -> None:
        """Copy blocks to slots, then slots to blocks, before whatever is computed next.

        Args:
            to_host: block and slot.
            from_host: slot and block.
        """
        for pairs in _batches(to_host):
            self._store([block for block, _ in pairs], [slot for _, slot in pairs])
        for pairs in _batches(from_host):
            self._load([slot for slot, _ in pairs], [block for _, block in pairs])

    def seconds_per_block(self) -> float:
        """What bringing a block back takes, measured. Overwrites the first blocks of the cache."""
        count = min(_MEASURED_BLOCKS, self._host.shape[0], self._layers.shape[1])
        self._host[:count].zero_()  # what memory happens to hold must not get into the cache
        slots = list(range(count))
        self._load(slots, slots)
        self._wait()
        started = time.perf_counter()
        self._load(slots, slots)
        self._wait()
        return (time.perf_counter() - started) / count

    def _store(self, blocks: list[int], slots: list[int]) -> None:
        buffer = self._layers[:, self._index(blocks)].transpose(0, 1).contiguous()
        if self._stream is None:
            self._host[self._index(slots)] = buffer
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._layers.device))
        with torch.cuda.stream(self._stream):
            for index, slot in enumerate(slots):
                self._host[slot].copy_(buffer[index], non_blocking=True)
        buffer.record_stream(self._stream)

    def _load(self, slots: list[int], blocks: list[int]) -> None:
        if self._stream is None:
            buffer = self._host[self._index(slots)]
        else:
            with torch.cuda.stream(self._stream):
                buffer = torch.empty(
                    len(slots), *self._host.shape[1:],
                    dtype=self._host.dtype, device=self._layers.device,
                )  # fmt: skip
                for index, slot in enumerate(slots):
                    buffer[index].copy_(self._host[slot], non_blocking=True)
            compute = torch.cuda.current_stream(self._layers.device)
            compute.wait_stream(self._stream)
            buffer.record_stream(compute)
        self._layers[:, self._index(blocks)] = buffer.transpose(0, 1)

    def _index(self, values: list[int]) -> torch.Tensor:
        device = self._host.device if self._stream is None else self._layers.device
        return on_device(np.array(values), device)

    def _wait(self) -> None:
        if self._stream is not None:
            torch.cuda.synchronize(self._layers.device)


def _batches(pairs: Pairs) -> Iterator[Pairs]:
    for first in range(0, len(pairs), _BATCH_BLOCKS):
        yield pairs[first : first + _BATCH_BLOCKS]
