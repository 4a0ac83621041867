"""Brings requests that wait and pods that have room together, and wakes those who have waited."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from aweigh_api.names import model_label
from aweigh_api.reasons import Reason
from aweigh_http.errors import unknown_model
from aweigh_router import choice, errors, rooms
from aweigh_router.calls import Call
from aweigh_router.choice import Order
from aweigh_router.line import Line, LineFull
from aweigh_router.matching import RevisionGone, Round
from aweigh_router.rooms import Pod, Pods
from aweigh_router.shares import Shares

# Waiting helps nobody: somebody has to change something.
HOPELESS = frozenset(
    {
        Reason.INVALID_SPEC,
        Reason.INVALID_CONFIGURATION,
        Reason.UNSUPPORTED_MODEL,
        Reason.OUT_OF_MEMORY_FOR_MODEL,
        Reason.NAME_CONFLICT,
        Reason.OBJECT_REFUSED,
        Reason.MODEL_NOT_FOUND,
        Reason.MODEL_UNREADABLE,
        Reason.ACCESS_DENIED,
        Reason.SUSPENDED,
        Reason.PODS_REFUSED,
    }
)
# It is tried again, and may go well: so long a request waits for that.
DOUBTFUL = frozenset(
    {
        Reason.IMAGE_PULL_FAILED,
        Reason.MOUNT_FAILED,
        Reason.CANNOT_START,
        Reason.CRASH_LOOPING,
        Reason.OUT_OF_MEMORY,
        Reason.INTERNAL_ERROR,
    }
)
DOUBTFUL_S = 120.0

_BETWEEN_MATCHES_S = 0.05  # for pods whose rest is over; all else is noticed at once
_BETWEEN_LOOKS_S = 1.0
_BETWEEN_SIGNS_S = 5.0  # of life, to a client whose stream waits


class Dispatch:
    """All requests and all pods."""

    def __init__(
        self,
        line: Line[Call],
        pods: Pods,
        clock: Callable[[], float],
        keep: Callable[[Call, Pod, float], None] = lambda *_: None,
    ) -> None:
        """`keep` is told for which request a pod is held, and when."""
        self.line = line
        self.pods = pods
        self.clock = clock
        self._keep = keep
        self.model: str | None = None  # the name that the InferenceService gives it
        self.coming: frozenset[str] = frozenset()  # `model_label` of names that pods will have
        self.reason: str | None = None  # why the InferenceService is not ready
        self.deleted = False  # what lists its pods is gone …
        self.ending = False  # … and this router is to go: then no pod will come
        self._in_vain: asyncio.Future[None] | None = None
        self._shares = Shares()
        self._seats: dict[Call, asyncio.Future[Pod]] = {}  # of those that wait
        self._asked_for: Counter[str | None] = Counter()  # models, by those that wait

    async def keep_looking(self) -> None:
        """Notice what only time tells, for ever."""
        looked_s = self.clock()
        while True:
            await asyncio.sleep(_BETWEEN_MATCHES_S)
            now_s = self.clock()
            if now_s >= looked_s + _BETWEEN_LOOKS_S:
                looked_s = now_s
                self.pods.look(now_s)
            self.match()

    def join(self, call: Call, num_tenants: int) -> None:
        """A new request waits.

        Raises:
            ApiError: the line is full.
        """
        now_s = self.clock()
        try:
            self.line.join(call, num_tenants)
        except LineFull as full:
            oldest_s = self.line.oldest_s() or now_s
            raise errors.line_full(str(full), now_s - oldest_s) from full
        if call.num_answers:
            self._shares.add(call.asked.prefix, call.num_answers, now_s)

    def expect_model(self, call: Call) -> None:
        """For a request that waits, or is about to.

        Raises:
            ApiError: there is no pod for the model of this name, and none will come.
        """
        asked, models = call.asked.model, self.pods.models or {self.model}
        if asked is None or None in models or asked in models:
            return
        if model_label(asked) in self.coming:
            return
        if call.begun:
            raise errors.not_resumable("none serves a model of this name.")
        raise unknown_model(asked, filter(None, models))

    async def seat(self, call: Call, on_wait: Callable[[], Coroutine[Any, Any, None]]) -> Pod:
        """Wait for a pod. The request counts as computed there until `leave`.

        Args:
            call: a new one has joined the line; others come back to their place.
            on_wait: called now and then meanwhile.

        Raises:
            ApiError: the deadline has passed, nobody can go on with the stream, or there is no pod
                for its model.
        """
        if not call.waits:
            self.line.put_back(call)
        seat: asyncio.Future[Pod] = asyncio.get_running_loop().create_future()
        self._seats[call] = seat
        self._asked_for[call.asked.model] += 1
        try:
            self.match()
            if not seat.done():
                self._expect_or_wake(call)
            while not seat.done():
                await asyncio.wait({seat}, timeout=self._patience_s(call))
                if not seat.done():
                    await _unless(seat, on_wait())
            return seat.result()
        except BaseException:
            if seat.done() and not seat.exception():
                self.leave(call, seat.result())
            raise
        finally:
            del self._seats[call]
            self._asked_for -= Counter((call.asked.model,))  # what nobody asks for is dropped
            if call.waits:
                self.line.leave(call)

    def since_s(self) -> list[float]:
        """Since when those wait that want an answer: what a pod is started for."""
        return [each.since_s for each in self._seats if each.waits and each.num_answers]

    def next_in_vain(self) -> asyncio.Future[None]:
        """Done when a request next begins to wait while no pod serves."""
        if self._in_vain is None:
            self._in_vain = asyncio.get_running_loop().create_future()
        return self._in_vain

    def _expect_or_wake(self, call: Call) -> None:
        """There shall be a pod for it, now or soon."""
        self.expect_model(call)
        if call.num_answers and not self.pods.taking(self.clock(), call.asked.model):
            self._wake()

    def _wake(self) -> None:
        if self._in_vain is not None and not self._in_vain.done():
            self._in_vain.set_result(None)
        self._in_vain = None

    def _patience_s(self, call: Call) -> float:
        now_s = self.clock()
        left_s = call.deadline_s - now_s
        self.expect_model(call)
        serves = bool(self.pods.taking(now_s, call.asked.model))
        if not serves and self.deleted and self.ending:
            raise errors.deleted()
        if not serves and (left_s <= 0 or self._hopeless(now_s - call.since_s)):
            raise errors.no_pods(self.reason)
        if left_s <= 0:
            raise errors.waited_too_long(now_s - call.since_s)
        return min(left_s, _BETWEEN_SIGNS_S)

    def _hopeless(self, waited_s: float) -> bool:
        return self.reason in HOPELESS or (self.reason in DOUBTFUL and waited_s > DOUBTFUL_S)

    def leave(self, call: Call, pod: Pod, *, took: bool = True) -> None:
        """It is not computed there any more; `took` says whether the pod had begun it at all."""
        over = rooms.end if took else rooms.refused
        over(pod, call, self.clock())
        self.match()

    def clear(self, killer: Call) -> None:
        """Of this one pods have died, for certain: not of those that were beside it and wait."""
        for call in self._seats:
            if call.waits:
                call.clear(killer.died)

    def match(self) -> None:
        """Send off whoever may go. Called whenever a pod may have got room."""
        if not len(self.line):
            return
        now_s = self.clock()
        taking = self.pods.taking(now_s)
        if not taking:
            return
        round = Round(taking, now_s, self._asked_for)
        if round.over and not self.line.needs_no_room():
            return  # before the line is put in order: it may be long, and pods are full most often
        for call in self.line.in_order():
            if round.over and call.num_answers:
                return
            self._try_to_place(call, round, now_s)

    def _try_to_place(self, call: Call, round: Round, now_s: float) -> None:
        seat = self._seats.get(call)
        if seat is None or seat.done():
            return
        try:
            pod = round.place(call, self._order(call, now_s))
        except RevisionGone:
            seat.set_exception(errors.not_resumable("none serves this revision of the model."))
            return
        if pod is None and call.held is not None:
            if call.held in self.pods.names:
                self._keep(call, self.pods.get(call.held), now_s)
            else:
                call.hold(None)
        if pod is not None:
            call.hold(None)
            self.line.take(call)
            seat.set_result(pod)

    def _order(self, call: Call, now_s: float) -> Order:
        names = self.pods.names
        if call.order is None or call.order[0] is not names:
            share = self._shares.of(call.asked.prefix, now_s)
            asked = call.asked
            call.order = names, choice.order(asked.prefix, asked.conversation, share, names)
        return call.order[1]


async def _unless(seat: asyncio.Future[Any], sign: Coroutine[Any, Any, None]) -> None:
    """Give a sign of life. A client that does not read it keeps no place that is there by now."""
    giving: asyncio.Future[Any] = asyncio.ensure_future(sign)
    try:
        await asyncio.wait({seat, giving}, return_when=asyncio.FIRST_COMPLETED)
        if giving.done():
            giving.result()
    finally:
        giving.cancel()
        await asyncio.wait({giving})
