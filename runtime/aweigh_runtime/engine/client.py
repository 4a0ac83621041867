"""The API process's view of the engine process: work goes out, tokens come in."""

import asyncio
import itertools
import logging
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from aweigh_api.flags import draft_of
from aweigh_api.state import Loading
from aweigh_api.termination import ExitCode, Termination
from aweigh_runtime import wire
from aweigh_runtime.child import Child
from aweigh_runtime.config import Config
from aweigh_runtime.engine.heartbeat import Heartbeat
from aweigh_runtime.engine.messages import (
    Counters,
    Draft,
    Failed,
    Failure,
    Fetched,
    FromEngine,
    KvTokens,
    Output,
    Progress,
    Ready,
    Speculation,
    Start,
    Stepped,
    Submission,
    Work,
)
from aweigh_runtime.failures import internal_error, killed

_log = logging.getLogger("aweigh.engine")

_MODULE = "aweigh_runtime.engine.process"
# Tokens of a stream that came faster than they were taken, and alternatives to them: for each
# answer 20 MB.
MAX_UNREAD = 1 << 16
_MOST_AT_ONCE = 256  # outputs: who has left many unread must not hold up the others
_IDLE = Stepped([], [], 0, 0, 0, Counters(), KvTokens(), None, None)


class EngineStopped(Exception):
    """The engine has ended, or hangs."""

    def __init__(self, exit_code: int, termination: Termination) -> None:
        super().__init__(termination.message)
        self.exit_code = exit_code
        self.termination = termination


class RequestFailed(Exception):
    """The engine cannot finish one answer; it goes on with the others."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.kind = failure.kind


class LeftUnread(Exception):
    """More of a request's tokens wait to be taken than are kept; the rest is not computed."""


class Ticket:
    """The choices of one HTTP request, as their tokens come back."""

    def __init__(self, ids: Sequence[int], *, streamed: bool = False) -> None:
        """What is not streamed is taken by this server itself, however slow its client is."""
        self.choice_of = {id: choice for choice, id in enumerate(ids)}
        self.ids = list(ids)
        self._arrived: deque[tuple[int, Output]] = deque()
        self._most_unread = MAX_UNREAD * len(ids) if streamed else None
        self._unread = 0
        self._failure: Exception | None = None
        self._news = asyncio.Event()

    @property
    def overflows(self) -> bool:
        """Too much waits to be taken."""
        return self._most_unread is not None and self._unread > self._most_unread

    async def next(self) -> list[tuple[int, Output]]:
        """Choices and their new tokens: what has arrived, at least one, in handy pieces.

        Raises:
            Exception: what the ticket failed with.
        """
        await self._news.wait()
        if self._failure is not None:
            raise self._failure
        count = min(len(self._arrived), _MOST_AT_ONCE)
        taken = [self._arrived.popleft() for _ in range(count)]
        self._unread -= sum(_weight(output) for _, output in taken)
        if self._arrived:
            await asyncio.sleep(0)  # nothing else would let the others' turn come
        else:
            self._news.clear()
        return taken

    def push(self, output: Output) -> None:
        """Tokens have come."""
        self._arrived.append((self.choice_of[output.id], output))
        self._unread += _weight(output)
        self._news.set()

    def fail(self, failure: Exception) -> None:
        """No more tokens will come, and those that were not taken are lost."""
        self._failure = failure
        self._arrived.clear()
        self._news.set()


class EngineClient:
    """Starts the engine, hands it requests and passes its tokens on."""

    def __init__(self, child: Child, on_progress: Callable[[Loading], None]) -> None:
        self._child = child
        self._on_progress = on_progress
        self._ids = itertools.count(1)
        self._tickets: dict[int, Ticket] = {}  # by request
        self._submitted: list[Submission] = []
        self._aborted: list[int] = []
        self._failed: Failed | None = None
        self._refusal: Exception | None = None
        self.loading: Loading | None = None
        self.directory: asyncio.Future[Path] = asyncio.get_running_loop().create_future()
        self.ready: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        self.stepped = _IDLE
        self.heartbeat = Heartbeat()
        self.on_step: Callable[[float, int], None] = lambda duration_s, num_tokens: None

    @classmethod
    async def start(cls, config: Config, on_progress: Callable[[Loading], None]) -> "EngineClient":
        """Start the process; it begins to fetch and load at once."""
        child = await Child.start(_MODULE)
        child.send(_start(config))
        return cls(child, on_progress)

    @property
    def pid(self) -> int:
        """Of the engine process."""
        return self._child.process.pid

    def submit(self, wanted: Sequence[Submission], *, streamed: bool = False) -> Ticket:
        """Ask for the answers of one HTTP request. Their ids are given here.

        Raises:
            Exception: what `refuse` was called with.
        """
        if self._refusal is not None:
            raise self._refusal
        submissions = [msgspec.structs.replace(each, id=next(self._ids)) for each in wanted]
        ticket = Ticket([submission.id for submission in submissions], streamed=streamed)
        self._tickets.update(dict.fromkeys(ticket.ids, ticket))
        self._submitted += submissions
        self._send_soon()
        return ticket

    def abort(self, ids: Sequence[int]) -> None:
        """Nobody waits for these answers any more; finished ones are no error."""
        open_ids = [id for id in ids if self._tickets.pop(id, None) is not None]
        if open_ids:
            self._aborted += open_ids
            self._send_soon()

    def fail_open(self, failure: Exception) -> None:
        """Give up on every request that is open now."""
        for ticket in set(self._tickets.values()):
            ticket.fail(failure)

    def refuse(self, failure: Exception) -> None:
        """Give up for good: on what is open, and on what is still on its way here."""
        self._refusal = failure
        self.fail_open(failure)

    async def watch(self) -> EngineStopped:
        """Pass on what the engine says until it ends; then say why it did."""
        try:
            while True:
                body = await wire.read_frame(self._child.reader)
                self._hear(msgspec.msgpack.decode(body, type=FromEngine))
        except EOFError:
            pass
        return self._stopped(await self._child.process.wait())

    async def close(self) -> None:
        """End the process."""
        await self._child.kill()

    def _hear(self, message: FromEngine) -> None:
        match message:
            case Stepped():
                self._step(message)
            case Progress():
                self.loading = Loading(
                    stage=message.stage,
                    done_bytes=message.done_bytes,
                    total_bytes=message.total_bytes,
                )
                self._on_progress(self.loading)
            case Fetched():
                self.directory.set_result(Path(message.directory))
            case Ready():
                self.heartbeat.start(time.monotonic(), message.largest_step_s)
                self.ready.set_result(message)
            case Failed():
                self._failed = message

    def _step(self, stepped: Stepped) -> None:
        _tell(self.stepped.speculation, stepped.speculation)
        self.stepped = stepped
        self.heartbeat.beat(time.monotonic(), stepped.duration_s)
        if stepped.duration_s is not None:
            self.on_step(stepped.duration_s, stepped.num_tokens)
        for output in stepped.outputs:
            ticket = self._tickets.get(output.id)
            if ticket is None:  # aborted while the step ran
                continue
            if output.finish is not None:
                del self._tickets[output.id]
            ticket.push(output)
            if ticket.overflows:
                ticket.fail(LeftUnread())
                self.abort(ticket.ids)
        for failure in stepped.failures:
            ticket = self._tickets.pop(failure.id, None)
            if ticket is not None:
                ticket.fail(RequestFailed(failure))

    def _send_soon(self) -> None:
        """One message for all that happens in this turn of the event loop."""
        asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        if self._submitted or self._aborted:
            self._child.send(Work(self._submitted, self._aborted))
            self._submitted, self._aborted = [], []

    def _stopped(self, return_code: int) -> EngineStopped:
        if self._failed is not None:
            termination = Termination.model_validate_json(self._failed.termination)
            return EngineStopped(self._failed.exit_code, termination)
        return _lost(return_code)


def _weight(output: Output) -> int:
    """Those of the prompt have a bound of their own."""
    return len(output.tokens) + sum(len(each.top) for each in output.logprobs or ())


def _lost(return_code: int) -> EngineStopped:
    if return_code == -signal.SIGKILL:  # no process of ours does that to one that works
        by = "by the kernel, as memory ran out, or by somebody, and has made no error itself"
        return EngineStopped(
            ExitCode.KILLED, killed(f"the engine process was killed by SIGKILL: {by}")
        )
    ended = f"ended with exit code {return_code}"
    if return_code < 0:
        ended = f"was ended by {signal.Signals(-return_code).name}"
    return EngineStopped(ExitCode.BUG, internal_error(f"the engine process {ended}"))


def _start(config: Config) -> Start:
    return Start(
        uri=config.uri,
        revision=config.revision,
        secret_dir=None if config.secret_dir is None else str(config.secret_dir),
        cache_dir=str(config.cache_dir),
        max_model_len=config.max_model_len,
        dtype=config.dtype,
        quantization=config.quantization,
        kv_cache_dtype=config.kv_cache_dtype,
        device=config.device,
        exact=config.exact,
        max_running=config.max_running,
        step_tokens=config.step_tokens,
        block_tokens=config.prefix_cache_block_tokens,
        kv_cache_bytes=config.kv_cache_memory,
        prefix_caching=config.prefix_cache_enabled,
        prefix_cache_bytes=config.prefix_cache_size,
        host_memory_bytes=config.prefix_cache_host_memory,
        speculation=config.speculation_method,
        drafts=[Draft(*draft_of(each)) for each in config.draft_model],
        max_draft_tokens=config.max_draft_tokens,
        min_acceptance_percent=config.min_acceptance_percent,
        random_weights=config.random_weights,
    )


def _tell(before: Speculation | None, now: Speculation | None) -> None:
    """Log what has become of drafting, and which draft models are missing."""
    if now is None or (before is not None and before.state == now.state):
        return
    missing = now.state == "failed" or (now.state == "active" and now.message)
    level = logging.WARNING if missing else logging.INFO
    but = ", but" if now.state == "active" else ":"
    _log.log(level, "speculation is %s%s", now.state, f"{but} {now.message}" if now.message else "")
