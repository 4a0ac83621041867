"""What is known of each pod: whether it takes requests, and for how many it has room. Pure.

A pod's reports say what room it has, and how many of its places this router holds: both together
the router may fill, whatever of it is on its way when the report comes. Other routers send, too,
and a pod that has no room after all refuses, which costs little.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

from aweigh_api.routing import Room

SILENT_S = 12.0  # without a report, of which one comes every 5 s: the pod hangs
SLOW_S = 10.0  # until the first event of a stream; with such a wait a pod gets nothing more …
SLOW_TIMES = 4.0  # … if that is so many times what is usual
BLIND_ROOM = 16  # of a pod that tells nothing of its room
# After refusals; doubled by each round of them that follows. Another router may have been first, so
# the first round costs no rest.
REST_S, LONGEST_REST_S = 0.05, 2.0

# A place that ends here is free for this router first, and its line would take it for ever. So now
# and then it waits until all routers have been told of it: reports come every 50 ms.
TURN_ENDS, TURN_EVERY_S, TURN_S = 4, 1.0, 0.06

Hearing = Literal["nothing", "reports", "blind"]  # blind: it answers, but does not report


@dataclass(frozen=True, slots=True)
class Found:
    """A pod as the cluster names it."""

    name: str
    url: str  # without a path
    ready: bool  # as its probes say


class Try(Protocol):
    """A request that a pod computes."""

    @property
    def num_answers(self) -> int:
        """That it takes room for."""
        ...

    @property
    def suspect(self) -> bool:
        """Whether a pod has died of it, or beside it."""
        ...

    @property
    def owing_since_s(self) -> float | None:
        """Since when its pod owes a stream the first event; None: it does not."""
        ...

    @property
    def due_s(self) -> float:
        """When its pod must have said something."""
        ...

    @property
    def until_s(self) -> float:
        """Likewise, where the pod counts it."""
        ...

    @property
    def give_up(self) -> Callable[[], None]:
        """To be called when the pod will not answer."""
        ...


@dataclass(slots=True, eq=False)
class Pod:
    """One pod."""

    found: Found
    hearing: Hearing = "nothing"
    report: Room | None = None
    boot_id: str | None = None  # at the last report
    model: str | None = None  # the name of its model, likewise; None: it has not said
    heard_s: float = 0.0
    places: int = 0  # that this router may fill, by the last word about it
    has_been_ready: bool = False
    refusals: int = 0  # rounds of them, since it last took something
    refused_s: float = -math.inf  # when the last round began
    sent: int = 0  # answers that it was asked for since it last reported or refused
    rests_until_s: float = 0.0
    ends: int = 0  # of answers while it was full, since others had their turn …
    turned_s: float = -math.inf  # … which was then
    alone: bool = False  # one request has it for itself
    gone: bool = False  # the cluster names it no more
    slow: bool = False
    in_flight: int = 0  # answers that it computes for this router
    suspects: int = 0  # requests there that a pod has died of, or beside
    tries: set[Try] = field(default_factory=set)

    @property
    def room(self) -> int:
        """Answers that could begin there, as far as this router can tell."""
        return self.places - self.in_flight

    @property
    def revision(self) -> str | None:
        """Of the model that it serves; None: unknown."""
        return None if self.report is None else self.report.revision

    @property
    def load(self) -> int:
        """Answers that it computes, for whichever router.

        What was sent there counts until it has said more; but when it has refused, what it has not
        answered by then is refused most likely, too: then its report counts, and what follows.
        """
        if self.report is None:
            return self.in_flight
        if self.refusals:
            return self.report.running + self.sent
        return max(self.report.running, self.in_flight)

    @property
    def counts_all(self) -> bool:
        """Whether it has all that this router has sent there, for all that it says."""
        yours = None if self.report is None else self.report.yours
        return yours is None or yours >= self.in_flight

    @property
    def done(self) -> bool:
        """Whether nothing will be heard of it that matters."""
        return self.gone and not self.tries

    @property
    def idle(self) -> bool:
        """Whether it computes nothing, for certain."""
        return self.load == 0 and self.in_flight == 0

    def silent(self, now_s: float) -> bool:
        """Whether it should have reported by now: it hangs, or cannot be reached."""
        return self.hearing != "blind" and now_s > self.heard_s + SILENT_S

    def takes(self, now_s: float) -> bool:
        """Whether it serves, as far as can be told."""
        if self.hearing == "blind":
            return self.found.ready
        if self.report is None or self.hearing == "nothing" or self.silent(now_s):
            return False
        # A pod says sooner that it is ready than its probes do. One that was and is not is broken.
        return self.report.phase == "ready" and (self.found.ready or not self.has_been_ready)

    @property
    def promises(self) -> bool:
        """Whether it serves or will: not one that ends, or of which nothing is known yet."""
        if self.report is not None:
            return self.report.phase != "draining"
        return self.found.ready or self.model is not None

    def may_serve(self, model: str | None) -> bool:
        """Whether the model of this name is there, for all that it has said; None: any is."""
        return model is None or self.model in (None, model)

    def fits(self, num_answers: int, now_s: float) -> bool:
        """Whether so many answers could begin at once."""
        if self.alone or now_s < self.rests_until_s:
            return False
        room = BLIND_ROOM - self.in_flight if self.hearing == "blind" else self.room
        return room >= num_answers or (num_answers > 1 and self.idle)

    def late_s(self, now_s: float) -> float:
        """How long it has owed a first event. O(what it computes)."""
        since = [each.owing_since_s for each in self.tries]
        return max((now_s - each for each in since if each is not None), default=0.0)


class Pods:
    """All pods that there are."""

    def __init__(self) -> None:
        self._pods: dict[str, Pod] = {}
        self._gone: list[Pod] = []  # and may still answer
        self._names: tuple[str, ...] = ()
        self._first_event_s = SLOW_S / SLOW_TIMES  # what is usual, roughly

    def __len__(self) -> int:
        return len(self._pods)

    def __iter__(self) -> Iterator[Pod]:
        return iter(self._pods.values())

    @property
    def names(self) -> tuple[str, ...]:
        """Of all; the same object until one comes or goes."""
        return self._names

    @property
    def num_blind(self) -> int:
        """Pods that take this router for a client."""
        return sum(pod.hearing == "blind" for pod in self)

    def get(self, name: str) -> Pod:
        """The pod of that name."""
        return self._pods[name]

    def follow(self, found: Iterable[Found]) -> tuple[list[Pod], list[Pod]]:
        """What the cluster says now; returns the pods that are new and those that are gone."""
        now = {each.name: each for each in found}
        gone = [
            pod
            for name, pod in self._pods.items()
            if name not in now or now[name].url != pod.found.url
        ]
        for pod in gone:
            pod.gone = True
            del self._pods[pod.found.name]
        self._gone += gone
        for name, pod in self._pods.items():
            pod.found = now[name]
            pod.has_been_ready |= now[name].ready
        unknown = [each for name, each in now.items() if name not in self._pods]
        new = [Pod(each, has_been_ready=each.ready) for each in unknown]
        self._pods |= {pod.found.name: pod for pod in new}
        if new or gone:
            self._names = tuple(sorted(self._pods))
        return new, gone

    @property
    def models(self) -> set[str | None]:
        """The names of the models that pods serve, or will; None: one has not said it."""
        return {pod.model for pod in self if pod.promises}

    def taking(self, now_s: float, model: str | None = None) -> list[Pod]:
        """Who gets requests for this model. Slow ones only where all of the same model are."""
        takes = [pod for pod in self if pod.may_serve(model) and pod.takes(now_s)]
        quick = {pod.model for pod in takes if not pod.slow}
        return [pod for pod in takes if not pod.slow or pod.model not in quick]

    def look(self, now_s: float) -> None:
        """Notice who is slow, and who is silent. O(all requests): now and then."""
        limit_s = max(SLOW_S, SLOW_TIMES * self._first_event_s)
        self._gone = [pod for pod in self._gone if pod.tries]
        for pod in (*self, *self._gone):
            _give_up(pod, math.inf if pod.silent(now_s) else now_s)
        for pod in self:
            pod.slow = pod.late_s(now_s) > limit_s
            if pod.refusals and pod.report is not None:  # it has not taken its word back
                pod.places = _places(pod, pod.report)

    def first_event(self, waited_s: float) -> None:
        """A stream has begun."""
        self._first_event_s += (waited_s - self._first_event_s) / 64


def _give_up(pod: Pod, now_s: float) -> None:
    """Whatever it must have answered by now."""
    counts_all = pod.counts_all
    for each in list(pod.tries):
        if now_s > (each.until_s if counts_all else each.due_s):
            each.give_up()


def reported(pod: Pod, report: Room, now_s: float) -> None:
    """A line of its report has come."""
    if pod.boot_id != report.boot_id:  # another process: what its probes said was of the last one
        if pod.boot_id is not None:
            pod.has_been_ready = pod.found.ready
        pod.boot_id, pod.refusals = report.boot_id, 0
    pod.hearing, pod.report, pod.heard_s = "reports", report, now_s
    pod.model = report.model
    pod.places, pod.sent = _places(pod, report), 0


def _places(pod: Pod, report: Room) -> int:
    """An older pod does not say what this router holds."""
    return report.room + (pod.in_flight if report.yours is None else report.yours)


def unheard(pod: Pod, now_s: float) -> None:
    """Its report has ended. Unless it is heard again soon, what it computes is given up."""
    if pod.hearing == "blind":  # it has answered until now
        pod.heard_s = now_s
    pod.hearing, pod.report, pod.places = "nothing", None, 0


def begin(pod: Pod, attempt: Try) -> None:
    """A request is sent there."""
    pod.tries.add(attempt)
    pod.in_flight += attempt.num_answers
    pod.sent += attempt.num_answers
    pod.suspects += attempt.suspect


def end(pod: Pod, attempt: Try, now_s: float) -> None:
    """It is over."""
    if attempt.num_answers and pod.hearing == "reports" and pod.room <= 0:
        _take_turns(pod, now_s)
    _leave(pod, attempt)


def _take_turns(pod: Pod, now_s: float) -> None:
    pod.ends += 1
    if pod.ends >= TURN_ENDS and now_s >= pod.turned_s + TURN_EVERY_S:
        pod.ends, pod.turned_s = 0, now_s
        pod.rests_until_s = max(pod.rests_until_s, now_s + TURN_S)


def _leave(pod: Pod, attempt: Try) -> None:
    pod.tries.remove(attempt)
    pod.in_flight -= attempt.num_answers
    pod.suspects -= attempt.suspect
    if attempt.num_answers:  # who had it for itself was the only one that took room
        pod.alone = False


def took(pod: Pod) -> None:
    """It answers."""
    pod.refusals = 0


def rest_s(rounds: int) -> float:
    """How long nobody asks again, after so many rounds of refusals before this one."""
    return min(LONGEST_REST_S, REST_S * 2.0 ** min(rounds, 10))


def refused(pod: Pod, attempt: Try, now_s: float) -> None:
    """It had no room after all, whatever it has said, or it has failed.

    What takes no room tells nothing of it: a pod that can hold no more long bodies begins short
    answers all the same.
    """
    _leave(pod, attempt)
    if not attempt.num_answers:
        return
    pod.places, pod.sent = pod.in_flight, 0
    if now_s < pod.refused_s + REST_S:  # it was sent before the round could be known
        return
    pod.refused_s = now_s
    if pod.refusals:
        pod.rests_until_s = now_s + rest_s(pod.refusals)
    pod.refusals += 1
