"""A queue of keys: each key is worked on by one worker at a time, and no addition is lost.

It remembers that a key wants work, never why: what is to be done is found out by looking. Keys
that somebody waits for come first, all others in the order in which they were added. A key that
fails comes back after a pause that doubles, or a longer one that its error asks for, whoever adds
it meanwhile; somebody who waits for it ends the former and not the latter. A key that asks for it
comes back after its delay.
"""

import asyncio
import itertools
import logging
import random
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

K = TypeVar("K", bound=Hashable)

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 300.0
logger = logging.getLogger(__name__)


class Observer(Protocol):
    """Who is told what the queue does."""

    def added(self, depth: int) -> None:
        """A key waits."""

    def started(self, depth: int, waited_s: float) -> None:
        """A worker took a key."""

    def finished(self, worked_s: float, error: bool) -> None:
        """A worker is done with a key."""


@dataclass(frozen=True, slots=True)
class _Rest:
    """After a failure."""

    until_s: float  # the key is not worked on …
    asked_until_s: float  # … and until then not though it is urgent: somebody else has said so


_NO_REST = _Rest(float("-inf"), float("-inf"))


class WorkQueue(Generic[K]):
    """Keys that want work, and the workers."""

    def __init__(
        self,
        work: Callable[[K], Awaitable[float | None]],
        observer: Observer,
        *,
        workers: int = 16,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """`work` returns after how many seconds its key wants to come back, None for never."""
        self._work = work
        self._observer = observer
        self._num_workers = workers
        self._jitter = jitter
        self._ready: asyncio.PriorityQueue[tuple[int, int, K | None]] = asyncio.PriorityQueue()
        self._places = itertools.count()  # in that queue
        self._urgent: set[K] = set()
        self._added_at: dict[K, float] = {}  # of keys that wait or have been added during work
        self._working: dict[K, float] = {}  # since when
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._failures: dict[K, int] = {}
        self._rests: dict[K, _Rest] = {}  # of keys whose last work has failed
        self._stopping = False
        self._open = asyncio.Event()
        self._open.set()
        self._tasks: list[asyncio.Task[None]] = []

    def add(self, key: K, *, urgent: bool = False) -> None:
        """Have this key worked on as soon as a worker is free; an urgent one before others."""
        hastens = urgent and key not in self._urgent
        if self._stopping or (key in self._added_at and not hastens):
            return
        rest = self._rests.get(key, _NO_REST)
        until_s = rest.asked_until_s if urgent else rest.until_s
        if self._now() < until_s and key not in self._working:
            if urgent:
                self._urgent.add(key)  # it is before others then, too
            self._appoint(key, until_s)
            return
        self._added_at.setdefault(key, self._now())
        if urgent:
            self._urgent.add(key)
        if key not in self._working:
            self._enqueue(key)

    def add_after(self, key: K, delay_s: float) -> None:
        """The same, later; an earlier appointment of this key stands."""
        rest = self._rests.get(key, _NO_REST)
        self._appoint(key, max(self._now() + delay_s, rest.until_s))

    def _appoint(self, key: K, due: float) -> None:
        timer = self._timers.get(key)
        if self._stopping or (timer is not None and timer.when() <= due):
            return
        self._cancel_timer(key)
        self._timers[key] = asyncio.get_running_loop().call_at(due, self._ring, key)

    def pause(self) -> None:
        """Let keys wait; what is in work goes on."""
        self._open.clear()

    def resume(self) -> None:
        """Work on them again."""
        now = self._now()
        self._added_at = dict.fromkeys(self._added_at, now)  # they have waited for nobody
        self._open.set()

    def start(self) -> None:
        """Start the workers."""
        self._tasks = [
            asyncio.create_task(self._worker(), name=f"reconcile worker {number}")
            for number in range(self._num_workers)
        ]

    async def stop(self, grace_s: float) -> None:
        """Take no more keys, and give the work in flight this long to finish."""
        self._stopping = True
        self._open.set()
        for key in list(self._timers):
            self._cancel_timer(key)
        for _ in self._tasks:
            self._ready.put_nowait((0, next(self._places), None))
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=grace_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    @property
    def depth(self) -> int:
        """Keys that wait for a worker."""
        again = sum(key in self._added_at for key in self._working)  # they wait for their worker
        return len(self._added_at) - again

    def oldest_age_s(self) -> float:
        """How long the key that has waited or is worked on longest has been at it."""
        waiting = self._added_at if self._open.is_set() else {}
        since = [*waiting.values(), *self._working.values()]
        return max(0.0, self._now() - min(since)) if since else 0.0

    def longest_work_s(self) -> float:
        """How long the key that is worked on longest has been at its worker."""
        now = self._now()
        return now - min(self._working.values(), default=now)

    def broken(self) -> bool:
        """Whether a worker has ended though nobody stopped it."""
        return not self._stopping and any(task.done() for task in self._tasks)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _ring(self, key: K) -> None:
        del self._timers[key]
        urgent = key in self._urgent
        self._urgent.discard(key)
        self.add(key, urgent=urgent)

    def _cancel_timer(self, key: K) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    def _enqueue(self, key: K) -> None:
        rank = 0 if key in self._urgent else 1
        self._ready.put_nowait((rank, next(self._places), key))
        self._observer.added(self.depth)

    async def _worker(self) -> None:
        while (key := await self._take()) is not None:
            started_at = self._working[key]
            failed = not await self._attempt(key)
            self._observer.finished(self._now() - started_at, failed)
            del self._working[key]
            if key not in self._added_at:
                continue
            if failed:  # what was added during the work waits for the rest, too
                urgent = key in self._urgent
                del self._added_at[key]
                self._urgent.discard(key)
                self.add(key, urgent=urgent)
            else:
                self._enqueue(key)

    async def _take(self) -> K | None:
        while True:
            _, _, key = await self._ready.get()
            await self._open.wait()
            if key is None or self._stopping:
                return None
            if key in self._added_at and key not in self._working:
                break  # else it has become urgent meanwhile, and this was its place before
        self._urgent.discard(key)
        self._cancel_timer(key)
        now = self._now()
        self._observer.started(self.depth, now - self._added_at.pop(key))
        self._working[key] = now
        return key

    async def _attempt(self, key: K) -> bool:
        try:
            again_after_s = await self._work(key)
        except Exception as error:
            self._failures[key] = self._failures.get(key, 0) + 1
            asked_s = self._asked_s(error)
            pause_s = max(self._pause_s(self._failures[key]), asked_s)
            now = self._now()
            self._rests[key] = _Rest(now + pause_s, now + asked_s)
            known = getattr(error, "expected", False)
            logger.warning("%s; next try of %s in %.1f s", error, key, pause_s, exc_info=not known)
            self.add_after(key, pause_s)
            return False
        self._failures.pop(key, None)
        self._rests.pop(key, None)
        if again_after_s is not None:
            self.add_after(key, again_after_s)
        return True

    def _pause_s(self, failures: int) -> float:
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures - 1, 20))
        return pause_s * (0.5 + self._jitter() / 2)

    def _asked_s(self, error: Exception) -> float:
        """What a server that is asked too much wants, and a bit more: not all at once."""
        asked_s: float = getattr(error, "retry_after_s", 0.0)
        return min(LONGEST_PAUSE_S, asked_s * (1.0 + self._jitter() / 2))
