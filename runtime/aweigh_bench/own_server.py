"""A server of this machine that a measurement starts for itself: `aweigh serve` on free ports."""

import asyncio
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from aweigh_bench.failures import BenchFailure

START_S = 1800.0  # a large model is downloaded first
STOP_S = 15.0
POLL_S = 0.1
LOG_LINES = 5
_PR_SET_PDEATHSIG = 1
# The server ends with the measurement, even when that is killed.
_MAIN = (
    f"import ctypes; ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, {signal.SIGTERM:d}); "
    "from aweigh_cli.main import main; main()"
)


@dataclass(frozen=True, slots=True)
class OwnServer:
    """A server that is ready, and what it tells about itself."""

    pid: int
    base_url: str
    admin_url: str

    async def state(self) -> dict[str, Any]:
        """The report of `/state`."""
        state: dict[str, Any] = msgspec.json.decode(await _get(f"{self.admin_url}/state"))
        return state

    async def metric(self, name: str) -> float | None:
        """The sum of a metric over its labels; None where there is no such metric."""
        lines = (await _get(f"{self.admin_url}/metrics")).decode().splitlines()
        samples = [line for line in lines if line.split("{")[0].split(" ")[0] == name]
        return sum(float(line.rsplit(" ", 1)[1]) for line in samples) if samples else None


@asynccontextmanager
async def own_server(
    model: str, flags: Sequence[str] = (), threads: int | None = None
) -> AsyncIterator[OwnServer]:
    """Start a server, wait until it is ready, end it.

    Args:
        model: URI, as for `aweigh serve`.
        flags: further flags of `aweigh serve`.
        threads: for torch; None leaves it to the server.

    Raises:
        BenchFailure: it does not start; the message has the end of its log.
    """
    port, admin_port = _free_ports()
    command = [
        *(sys.executable, "-c", _MAIN, "serve", model, "--host=127.0.0.1"),
        *(f"--port={port}", f"--admin-port={admin_port}", "--drain-timeout-seconds=1", *flags),
    ]
    environment = dict(os.environ)
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    with tempfile.TemporaryDirectory(prefix="aweigh-bench-") as folder:
        log = Path(folder) / "log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *command, stdout=output, stderr=output, env=environment, start_new_session=True
            )
        try:
            server = OwnServer(
                process.pid, f"http://127.0.0.1:{port}/v1", f"http://127.0.0.1:{admin_port}"
            )
            await _wait_ready(server, process, log)
            yield server
        finally:
            await _end(process)


async def _wait_ready(server: OwnServer, process: asyncio.subprocess.Process, log: Path) -> None:
    deadline_s = time.monotonic() + START_S
    while not await _ready(server):
        if process.returncode is not None or time.monotonic() > deadline_s:
            raise BenchFailure(f"`aweigh serve` did not become ready: {_last_lines(log)}")
        await asyncio.sleep(POLL_S)


def _last_lines(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])


async def _ready(server: OwnServer) -> bool:
    try:
        await _get(f"{server.admin_url}/readyz")
    except (aiohttp.ClientError, OSError):
        return False
    return True


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_S)
    except TimeoutError:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def _get(url: str) -> bytes:
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)) as session,
        session.get(url, raise_for_status=True) as response,
    ):
        return await response.read()


def _free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as b:
        return one.getsockname()[1], b.getsockname()[1]
