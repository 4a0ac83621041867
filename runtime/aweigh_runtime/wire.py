"""Messages between two of our own processes: a length of four bytes, then msgpack.

Both ends run the same code and trust each other; nothing that a client sends is framed here.
"""

import asyncio
import math
import select
import socket
import struct

import msgspec

_LENGTH = struct.Struct("!I")
_READ_BYTES = 1 << 20
_encoder = msgspec.msgpack.Encoder()


def frame(message: msgspec.Struct) -> bytes:
    """One message as it stands on the wire."""
    body = _encoder.encode(message)
    return _LENGTH.pack(len(body)) + body


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """The next message's body.

    Raises:
        EOFError: the other process has closed its end.
    """
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        return await reader.readexactly(length)
    except ConnectionError as error:
        raise EOFError from error


class Channel:
    """The blocking end, for a process that has one thing to do at a time."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = bytearray()
        # Not select(), which knows descriptors up to 1023: ours is numbered as in the parent.
        self._readable = select.poll()
        self._readable.register(connection, select.POLLIN)

    def send(self, message: msgspec.Struct) -> None:
        """Send one message; waits while the other side does not read."""
        self._connection.sendall(frame(message))

    def receive(self) -> bytes:
        """Wait for the next message, where the other side sends one and waits for the answer.

        Raises:
            EOFError: the other process has closed its end.
        """
        while not (bodies := self.poll(None)):
            pass
        (body,) = bodies
        return body

    def poll(self, timeout_s: float | None) -> list[bytes]:
        """Messages that have arrived; waits for the first one, at most so long.

        Raises:
            EOFError: the other process has closed its end.
        """
        wait_ms = None if timeout_s is None else math.ceil(1000 * timeout_s)
        while self._readable.poll(wait_ms):
            try:
                data = self._connection.recv(_READ_BYTES)
            except ConnectionError:
                data = b""
            if not data:
                raise EOFError
            self._received += data
            wait_ms = 0
        return self._split()

    def _split(self) -> list[bytes]:
        bodies, at = [], 0
        while len(self._received) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._received, at)
            end = at + _LENGTH.size + length
            if end > len(self._received):
                break
            bodies.append(bytes(self._received[at + _LENGTH.size : end]))
            at = end
        del self._received[:at]
        return bodies
