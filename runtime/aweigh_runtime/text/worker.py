"""Asks a process of our own, one question at a time, and kills it when the answer is late.

Whoever asked may go away: the answer is read all the same, and the process serves the next one.

For what a client or a model can make slow or large. The process is started again when it is needed.
"""

import asyncio
import os
from contextlib import suppress

import msgspec

from aweigh_runtime import wire
from aweigh_runtime.child import Child

START_DEADLINE_S = 30.0
# What Python and strftime need. The rest, such as tokens, is none of the worker's business.
_ENVIRONMENT = ("PATH", "PYTHONHOME", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ")


class NoAnswer(Exception):
    """The process did not finish in time, or died; it is gone now."""


class Died(NoAnswer):
    """The process is gone without an answer."""


class Worker:
    """The asking side. `order` is the first message of every start, and is answered too."""

    def __init__(self, module: str, order: msgspec.Struct) -> None:
        self._module = module
        self._order = order
        self._child: Child | None = None
        self._turn = asyncio.Lock()
        self._closed = False

    async def start(self) -> bytes:
        """The answer to the order.

        Raises:
            NoAnswer: with the reason.
        """
        async with self._turn:
            return await self._start()

    async def ask(self, question: msgspec.Struct, deadline_s: float) -> bytes:
        """The answer to a question; the time for others' questions and for a start is not counted.

        Raises:
            NoAnswer: with the reason.
        """
        await self._turn.acquire()
        answering = asyncio.ensure_future(self._answer(question, deadline_s))
        answering.add_done_callback(_noted)
        return await asyncio.shield(answering)

    async def _answer(self, question: msgspec.Struct, deadline_s: float) -> bytes:
        try:
            if self._child is not None:
                with suppress(Died):  # perhaps long ago: this question need not be the reason
                    return await self._exchange(question, deadline_s)
            await self._start()
            return await self._exchange(question, deadline_s)
        finally:
            self._turn.release()

    async def close(self) -> None:
        """End the process for good: whoever waits for an answer does not start it again."""
        self._closed = True
        await self._end()
        async with self._turn:  # the last one to wait has noticed
            pass

    async def _end(self) -> None:
        if self._child is not None:
            child, self._child = self._child, None
            await child.kill()

    async def _start(self) -> bytes:
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        self._child = await Child.start(self._module, environment)
        if self._closed:
            await self._end()
            raise NoAnswer("the server ends")
        return await self._exchange(self._order, START_DEADLINE_S)

    async def _exchange(self, question: msgspec.Struct, deadline_s: float) -> bytes:
        assert self._child is not None
        answered = False
        try:
            self._child.send(question)
            body = await asyncio.wait_for(wire.read_frame(self._child.reader), deadline_s)
            answered = True
            return body
        except TimeoutError as error:
            raise NoAnswer(f"it did not finish within {deadline_s:g} s") from error
        except EOFError as error:
            raise Died("its process died, probably for want of memory") from error
        finally:  # an answer that is still to come would be taken for the next one's
            if not answered:
                await self._end()


def _noted(answering: asyncio.Future[bytes]) -> None:
    """A failure that nobody waits for any more is no bug."""
    if not answering.cancelled():
        answering.exception()
