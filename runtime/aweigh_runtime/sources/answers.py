"""HTTP answers and errors that may pass become Transient. It asks nothing itself."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from aweigh_runtime.sources.patience import Transient

HEADERS = {"User-Agent": "aweigh", "Accept-Encoding": "identity"}
_TRANSIENT = (408, 425, 429)


@contextmanager
def transient_errors() -> Iterator[None]:
    """What goes wrong on the way may go right the next time."""
    try:
        yield
    except httpx.RequestError as error:
        raise Transient(str(error) or type(error).__name__) from error


def expect_no_trouble(response: httpx.Response) -> None:
    """Raise Transient if the server asks for patience; other refusals are for the caller."""
    status = response.status_code
    if status in _TRANSIENT or status >= 500:
        raise Transient(f"it answered {status}", _after_s(response))


def read_bounded(response: httpx.Response, most_bytes: int) -> bytes:
    """The body of a streamed response.

    Raises:
        ValueError: it is larger.
    """
    content = bytearray()
    for piece in response.iter_raw():
        content += piece
        if len(content) > most_bytes:
            raise ValueError(f"the answer has more than {most_bytes} bytes")
    return bytes(content)


def _after_s(response: httpx.Response) -> float:
    asked = response.headers.get("Retry-After", "")
    return float(asked) if asked.isascii() and asked.isdigit() else 0.0
