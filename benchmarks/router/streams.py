"""Many open streams, straight from a pod and through a router: what the router takes of each."""

import asyncio
import os
import re
import resource
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import cast

SECRET = "benchmark-secret-0123456789"
RAMP_PER_S = 400  # connections
SETTLE_S = 5.0
_BODY = b'{"model":"bench","stream":true,"prompt":"' + b"word " * 200 + b'"}'
_STAMP = re.compile(rb'"t":(\d+)\}')
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Found:
    """Of one way, in the window."""

    events_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float | None = None  # of the router, for each event
    stream_bytes: float | None = None  # of the router's memory, for each stream


class Reader(asyncio.Protocol):
    """One client of a stream."""

    def __init__(self, delays_ns: list[int]) -> None:
        self._delays_ns = delays_ns
        self.counts = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        head = b"POST /v1/completions HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        self.transport.write(head + b"Content-Length: %d\r\n\r\n" % len(_BODY) + _BODY)

    def data_received(self, data: bytes) -> None:
        if self.counts:
            now_ns = time.monotonic_ns()
            self._delays_ns += [now_ns - int(stamp) for stamp in _STAMP.findall(data)]


async def measured(num_streams: int, window_s: float, folder: Path) -> tuple[Found, Found]:
    """Straight, and through a router."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    (folder / "secret").write_text(SECRET)
    async with _process("-m", "benchmarks.router.pod", SECRET) as (_, words):
        pod_port = int(words[0])
        straight = await _window(pod_port, num_streams, window_s, None)
        flags = [f"--pod=http://127.0.0.1:{pod_port}", "--port=0", "--admin-port=0"]
        flags.append(f"--router-secret-dir={folder}")
        async with _process("-m", "aweigh_router.main", *flags) as (router, words):
            await asyncio.sleep(SETTLE_S)
            routed = await _window(int(words[2].rstrip(",")), num_streams, window_s, router.pid)
    return straight, routed


async def _window(port: int, num_streams: int, window_s: float, router: int | None) -> Found:
    delays_ns: list[int] = []
    before_bytes = 0 if router is None else _memory(router)
    readers = await _opened(port, num_streams, delays_ns)
    await asyncio.sleep(SETTLE_S)
    for reader in readers:
        reader.counts = True
    began_s, spent_s = time.monotonic(), 0.0 if router is None else _spent(router)
    await asyncio.sleep(window_s)
    took_s = time.monotonic() - began_s
    spent_s = 0.0 if router is None else _spent(router) - spent_s
    taken = 0 if router is None else _memory(router) - before_bytes
    num_events = len(delays_ns)
    for reader in readers:
        reader.transport.abort()
    cuts = quantiles(delays_ns, n=100)
    return Found(
        num_events / took_s,
        cuts[49] / 1e6,
        cuts[98] / 1e6,
        None if router is None else spent_s / num_events * 1e6,
        None if router is None else taken / num_streams,
    )


async def _opened(port: int, num_streams: int, delays_ns: list[int]) -> list[Reader]:
    loop, readers = asyncio.get_running_loop(), list[Reader]()
    for _ in range(num_streams):
        _, reader = await loop.create_connection(lambda: Reader(delays_ns), "127.0.0.1", port)
        readers.append(reader)
        await asyncio.sleep(1 / RAMP_PER_S)
    return readers


@asynccontextmanager
async def _process(*command: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, list[str]]]:
    """Another Python; with the words of its first line."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield process, (await process.stdout.readline()).decode().split()
    finally:
        process.kill()
        await process.wait()


def _spent(pid: int) -> float:
    """Seconds of CPU, of all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _memory(pid: int) -> int:
    """Resident bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()
