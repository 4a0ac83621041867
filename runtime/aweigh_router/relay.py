"""One request's way: wait, ask a pod, and another one when that fails, until the client has all."""

import asyncio
import logging
import math
from contextlib import suppress
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from aweigh_api.routing import NO_ROOM, ROOM_HEADER, TENANT_HEADER
from aweigh_http.errors import ApiError
from aweigh_http.every_request import ERROR
from aweigh_router import errors, rooms
from aweigh_router.calls import ALONE_AFTER_DEATHS, Call, nothing
from aweigh_router.dispatch import Dispatch
from aweigh_router.events import Events, Progress, Transcript, error_code
from aweigh_router.line import ACCUSED, BROKEN_OFF
from aweigh_router.metrics import Metrics
from aweigh_router.pod_client import PodClient, passed_on
from aweigh_router.reply import Reply
from aweigh_router.reports import Reports
from aweigh_router.rooms import Pod
from aweigh_router.settings import Settings

BYTES_PER_TOKEN = 4  # roughly; to charge a tenant for text

# Named to the next pod for what one has taken without a key: no key has this digest. Else what is
# open while keys are introduced would end with a 401.
_ADMITTED = bytes(32).hex()
_TERMINATOR_S = 1.0  # from the last event to the end of the answer

# Codes of errors by which a pod says that it is not the one to ask.
_TAKES_NOTHING = (NO_ROOM, "overloaded")
_SERVES_NOT = ("draining", "loading")
_ENGINE = "engine"  # with 500: it has died of what it computed; with 503: it is not there

_log = logging.getLogger("aweigh.router")


class PodFailed(Exception):
    """This pod has not answered; another one may. The message is for the log and for metrics."""

    def __init__(self, why: str, *, died: bool, reached: bool = True) -> None:
        super().__init__(why)
        self.died = died
        self.reached = reached


class NoRoom(Exception):
    """The pod has not begun anything."""


class WantsKey(Exception):
    """The pod has keys and this router has none, as while they are introduced. Another may not."""


@dataclass(frozen=True, slots=True)
class Tried:
    """A pod as it was when it was asked."""

    pod: str
    boot_id: str | None
    revision: str | None


@dataclass(slots=True)
class Errand:
    """A client's request, as pods are asked."""

    call: Call
    method: str
    path: str  # with its query
    headers: CIMultiDict[str]
    body: bytes | bytearray | None
    transcript: Transcript = field(default_factory=Transcript)
    resumable: bool = True  # all of the client's text came with its tokens

    def next_body(self) -> bytes | bytearray | None:
        """What the next pod is asked for: all, or what the client does not have."""
        if self.body is None or not self.transcript.begun:
            return self.body
        return self.transcript.resume(self.body)


class Relay:
    """Brings requests to pods and answers back."""

    def __init__(
        self,
        dispatch: Dispatch,
        pods: PodClient,
        reports: Reports,
        metrics: Metrics,
        settings: Settings,
    ) -> None:
        self._dispatch = dispatch
        self._pods = pods
        self._reports = reports
        self._metrics = metrics
        self._wait_s = settings.wait_seconds
        self._patience_s = settings.patience_seconds
        self._open: set[asyncio.Timeout] = set()  # one for each answer
        self._ended = False

    async def answer(self, errand: Errand, request: web.Request) -> web.StreamResponse:
        """The answer, whoever it comes from.

        Args:
            errand: its call has joined the line.
            request: the client's.
        """
        asked = errand.call.asked
        errand.transcript.answers = [Progress() for _ in range(asked.num_answers)]
        reply = Reply(request, streams=asked.stream)
        try:
            async with asyncio.timeout(None) as limit:
                self._open.add(limit)
                if self._ended:  # its body has come too late
                    _end_now(limit)
                try:
                    return await self._complete(errand, reply)
                finally:
                    self._open.discard(limit)
        except TimeoutError:
            if not limit.expired():
                raise
            failure = errors.draining()
        except ApiError as error:
            failure = error
        request[ERROR] = failure
        return await reply.fail(failure)

    def end(self) -> None:
        """Nothing is answered any more: clients are told so."""
        self._ended = True
        for limit in self._open:
            _end_now(limit)

    async def _complete(self, errand: Errand, reply: Reply) -> web.StreamResponse:
        while True:
            done = await self._once(errand, reply)
            if done is not None:
                return done

    async def _once(self, errand: Errand, reply: Reply) -> web.StreamResponse | None:
        """One pod's attempt; None: another one is to try.

        Raises:
            ApiError: no other may, or all together have had their time.
        """
        call, dispatch = errand.call, self._dispatch
        pod = await dispatch.seat(call, reply.sign_of_life)
        tried = Tried(pod.found.name, pod.boot_id, pod.revision)
        now_s = dispatch.clock()
        call.owing_since_s = now_s if call.asked.stream else None
        call.quiet_since_s = now_s
        self._expect(call, pod)
        failed: PodFailed | NoRoom | WantsKey | None = None
        try:
            return await self._try(errand, pod, reply)
        except (PodFailed, NoRoom, WantsKey) as failure:
            failed = failure
        finally:
            call.owing_since_s, call.due_s = None, math.inf
            dispatch.leave(call, pod, took=failed is None or isinstance(failed, WantsKey))
        call.silent_s += dispatch.clock() - call.quiet_since_s
        if call.silent_s >= self._wait_s:
            raise errors.too_late(
                self._wait_s, streams=call.asked.stream, begun=errand.transcript.begun
            )
        match failed:
            case NoRoom():
                if not call.num_answers:  # others keep to the pod that has their prefix
                    call.failed_on(pod.found.name, dispatch.clock())
                self._metrics.retried("no_room")
            case WantsKey():
                call.failed_on(pod.found.name, dispatch.clock())
                self._metrics.retried("moved")
            case PodFailed():
                self._take_elsewhere(errand, tried, failed)
        return None

    def _take_elsewhere(self, errand: Errand, tried: Tried, failed: PodFailed) -> None:
        """The request has to go to another pod.

        Raises:
            ApiError: that makes no sense.
        """
        call, now_s = errand.call, self._dispatch.clock()
        call.failed_on(tried.pod, now_s)
        if failed.died:
            call.died.append((tried.pod, tried.boot_id))
            call.deadline_s = now_s + self._wait_s  # who has to wait for a pod of its own has time
        if failed.reached:
            errand.headers.setdefault(TENANT_HEADER, _ADMITTED)
        self._metrics.retried("died" if failed.died else "moved")
        fields = {"pod": tried.pod, "reason": str(failed), "begun": errand.transcript.begun}
        _log.warning("a request goes to another pod", extra={"fields": fields})
        if call.deaths > ALONE_AFTER_DEATHS:
            self._dispatch.clear(call)
            raise errors.deadly(call.deaths)
        if call.alone:
            call.priority = ACCUSED
        if errand.transcript.begun:
            if not errand.resumable:
                raise errors.not_resumable("it has not said which tokens it had sent.")
            call.begun, call.revision = True, tried.revision
            call.priority = BROKEN_OFF
            call.since_s = now_s
            self._metrics.resumed()

    async def _try(self, errand: Errand, pod: Pod, reply: Reply) -> web.StreamResponse:
        """Ask this pod.

        Raises:
            NoRoom: it refuses.
            WantsKey: it wants what this router has never asked for.
            PodFailed: it cannot, or it dies.
        """
        try:
            async with asyncio.timeout(None) as limit:
                errand.call.give_up = lambda: _end_now(limit)
                async with self._pods.ask(
                    pod,
                    errand.method,
                    errand.path,
                    errand.headers,
                    errand.next_body(),
                    alone=errand.call.alone,
                ) as response:
                    return await self._pass_on(errand, pod, reply, response)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise PodFailed(f"cannot connect: {error}", died=False, reached=False) from error
        except (aiohttp.ClientError, ConnectionError) as error:
            raise PodFailed(
                f"it broke off: {str(error) or type(error).__name__}", died=True
            ) from error
        except TimeoutError as error:
            if not limit.expired():
                raise
            silent = pod.silent(self._dispatch.clock())
            why = "it is silent" if silent else "nothing comes of this request"
            # One that reports lives, however long it takes for this request.
            raise PodFailed(why, died=silent) from error
        finally:
            errand.call.give_up = nothing

    def _expect(self, call: Call, pod: Pod) -> None:
        """Give the pod time: for the next of a stream, or for all of an answer.

        Nothing tells the latter from one that never comes, if the pod counts it; if not, and there
        is another pod, it has been lost there.
        """
        now_s, left_s = self._dispatch.clock(), self._wait_s - call.silent_s
        patient_s = min(self._patience_s, left_s)
        if call.asked.stream:
            call.due_s = call.until_s = now_s + patient_s
            return
        call.until_s = now_s + left_s
        call.due_s = now_s + patient_s if self._another(call, pod) else call.until_s

    async def _pass_on(
        self, errand: Errand, pod: Pod, reply: Reply, response: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        room = response.headers.get(ROOM_HEADER)
        if room is None and errand.call.num_answers:
            self._reports.open_anew(pod)
        if response.content_type == "text/event-stream" and response.status == 200:
            self._took(errand.call, pod)
            return await self._stream(errand, pod, reply, response)
        body = await response.read()
        keyless = TENANT_HEADER not in errand.headers and response.status == 401
        if room is not None and keyless and self._another(errand.call, pod):
            raise WantsKey
        if response.status >= 400:
            _expect_for_the_client(response.status, body)
        self._took(errand.call, pod)
        self._dispatch.line.charge(errand.call.tenant, len(body) // BYTES_PER_TOKEN)
        return await reply.whole(response.status, passed_on(response.headers), body)

    def _took(self, call: Call, pod: Pod) -> None:
        rooms.took(pod)
        if not call.taken:  # it was sent there when the pod's time began
            call.taken = True
            self._metrics.waited(call.quiet_since_s - call.since_s)

    def _another(self, call: Call, pod: Pod) -> bool:
        """Whether one that it has not failed on is there, beside this pod."""
        taking = self._dispatch.pods.taking(self._dispatch.clock(), call.asked.model)
        return bool({each.found.name for each in taking} - call.avoid - {pod.found.name})

    async def _stream(
        self, errand: Errand, pod: Pod, reply: Reply, response: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        """Pass events on."""
        told = ROOM_HEADER in response.headers  # their tokens come with them
        call, clock, line = errand.call, self._dispatch.clock, self._dispatch.line
        events, transcript = Events(errand.transcript), errand.transcript
        while not (transcript.complete or events.broken):
            data = await response.content.readany()
            if not data:
                raise PodFailed("the stream ended early", died=True)
            if call.owing_since_s is not None:
                self._dispatch.pods.first_event(clock() - call.owing_since_s)
                call.owing_since_s = None
            passed = events.feed(data)
            if passed:
                errand.resumable &= told
                await reply.write(passed)
                call.silent_s, call.quiet_since_s = 0.0, clock()
                call.deadline_s = call.quiet_since_s + self._wait_s
            self._expect(call, pod)
            line.charge(call.tenant, events.take_count())
        if events.broken is not None:
            raise PodFailed(f"it ends: {events.broken}", died=events.broken not in _SERVES_NOT)
        done = await reply.end()
        with suppress(TimeoutError, aiohttp.ClientError, ConnectionError):
            async with asyncio.timeout(_TERMINATOR_S):  # else its connection is not used again
                await response.content.readany()
        return done


def _expect_for_the_client(status: int, body: bytes) -> None:
    """Most errors say what is wrong with a request; some, that the pod cannot take it now."""
    code = error_code(body)
    if status == 429 and code in _TAKES_NOTHING:
        raise NoRoom
    if status == 503 and code in (*_SERVES_NOT, _ENGINE):
        raise PodFailed(f"it answers {status} {code}", died=False)
    if status == 500 and code == _ENGINE:
        raise PodFailed(f"it answers {status} {code}", died=True)


def _end_now(limit: asyncio.Timeout) -> None:
    if not limit.expired():
        limit.reschedule(asyncio.get_running_loop().time())
