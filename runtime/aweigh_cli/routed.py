"""Several servers on this machine, and a router before them: what a cluster would run."""

import asyncio
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import typer
import uvloop

from aweigh_api.mounts import UnusableSecret
from aweigh_api.routing import SECRET_FILE
from aweigh_cli.failures import CommandFailure
from aweigh_http import logs
from aweigh_http.door import UnsafeParser
from aweigh_router import settings
from aweigh_router.lifetime import PortTaken, run

_SERVE = "from aweigh_cli.main import main; main()"
_ENDING_S = 30.0
_LAST_WORDS = 2000  # characters of a server's log


@dataclass(frozen=True, slots=True)
class Servers:
    """How servers are started."""

    arguments: Sequence[str]  # what follows `aweigh`, but for ports
    environment: Mapping[str, str]
    number: int

    @property
    def scheme(self) -> str:
        """What they speak."""
        return "https" if self.environment.get("AWEIGH_TLS_DIR") else "http"


@dataclass(frozen=True, slots=True)
class LocalPod:
    """One server."""

    process: "subprocess.Popen[bytes]"
    url: str
    log: Path


def serve(servers: Servers, router: Sequence[str]) -> None:
    """Run until a signal, or until no server is left.

    Args:
        servers: how they are started.
        router: flags of `aweigh-router`.

    Raises:
        CommandFailure: the router cannot start, or all servers have ended.
    """
    with tempfile.TemporaryDirectory(prefix="aweigh-") as name, ExitStack() as stack:
        folder = Path(name)
        (folder / SECRET_FILE).write_text(secrets.token_hex(32))
        secret = f"--router-secret-dir={folder}"
        pods = [
            stack.enter_context(_pod(servers, secret, folder / f"server-{number}.log"))
            for number in range(1, servers.number + 1)
        ]
        flags = [*router, secret, *(f"--pod={pod.url}" for pod in pods)]
        logs.configure()
        try:
            uvloop.run(_route(settings.read(flags, os.environ), pods))
        except (PortTaken, UnsafeParser, UnusableSecret) as error:
            raise CommandFailure(str(error)) from error


async def _route(chosen: settings.Settings, pods: Sequence[LocalPod]) -> None:
    scheme = "http" if chosen.tls_dir is None else "https"

    def say(port: int, _: int) -> None:
        typer.echo(f"{scheme}://{chosen.host}:{port}/v1: {len(pods)} servers start; requests wait")

    routing = asyncio.create_task(run(chosen, say))
    watching = asyncio.create_task(_until_none_is_left(pods))
    await asyncio.wait({routing, watching}, return_when=asyncio.FIRST_COMPLETED)
    watching.cancel()
    if not routing.done():
        routing.cancel()
        await asyncio.gather(routing, return_exceptions=True)
        words = pods[-1].log.read_text(errors="replace")[-_LAST_WORDS:]
        raise CommandFailure(f"all servers have ended; the last one said:\n{words}")
    routing.result()


async def _until_none_is_left(pods: Sequence[LocalPod]) -> None:
    left = list(pods)
    while left:
        await asyncio.sleep(0.2)
        for pod in [pod for pod in left if pod.process.poll() is not None]:
            left.remove(pod)
            typer.echo(f"the server at {pod.url} has ended; {len(left)} are left", err=True)


@contextmanager
def _pod(servers: Servers, secret: str, log: Path) -> Iterator[LocalPod]:
    """A server in a process group of its own: Ctrl-C is for the router, which ends first."""
    port, admin_port = _free_ports()
    here = ["--host=127.0.0.1", f"--port={port}", f"--admin-port={admin_port}"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", _SERVE, *servers.arguments, secret, *here],
            env=servers.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            process_group=0,
        )
    try:
        yield LocalPod(process, f"{servers.scheme}://127.0.0.1:{port}", log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_ENDING_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]
