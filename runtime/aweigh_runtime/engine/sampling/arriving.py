"""Numbers on their way from the device to the host.

On a GPU they travel on a stream of their own, so that reading them does not wait for what has been
launched since.
"""

from functools import cache

import torch


class Arriving:
    """A copy of some integers that has begun."""

    def __init__(self, values: torch.Tensor) -> None:
        """Begin to copy.

        Args:
            values: of one dimension, as they will be when all is done that was launched until now.
        """
        self._host = values
        self._arrived: torch.cuda.Event | None = None
        if not values.is_cuda:
            return
        stream = _stream(values.device)
        self._host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(values.device))
        with torch.cuda.stream(stream):
            self._host.copy_(values, non_blocking=True)
            self._arrived.record(stream)
        values.record_stream(stream)

    def read(self) -> list[int]:
        """The numbers, once they are there."""
        if self._arrived is not None:
            self._arrived.synchronize()
        values: list[int] = self._host.tolist()
        return values


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return stream
