"""A child process that runs one of our modules, talks over a socket and never outlives us."""

import asyncio
import ctypes
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

import msgspec

from aweigh_runtime import wire

_PR_SET_PDEATHSIG = 1
_READ_LIMIT = 1 << 20


@dataclass(slots=True)
class Child:
    """The parent's side."""

    process: asyncio.subprocess.Process
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def start(cls, module: str, environment: Mapping[str, str] | None = None) -> Self:
        """Run `python -m module`; the child finds the socket's descriptor in its arguments.

        Args:
            module: has a `main`.
            environment: the child's; None: ours.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # modules come from the installation, never from the working directory
                "-m",
                module,
                str(theirs.fileno()),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # Ctrl-C in a terminal is for us to answer
            )
        reader, writer = await asyncio.open_connection(sock=ours, limit=_READ_LIMIT)
        return cls(process, reader, writer)

    def send(self, message: msgspec.Struct) -> None:
        """Hand a message to the event loop; a child that is gone is noticed by who reads."""
        if not self.writer.is_closing():
            self.writer.write(wire.frame(message))

    async def kill(self) -> None:
        """End it at once and reap it."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.kill()
        await self.process.wait()
        self.writer.close()


def channel_to_parent() -> wire.Channel:
    """The child's side."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    return wire.Channel(socket.socket(fileno=int(sys.argv[1])))
