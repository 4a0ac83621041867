"""One request of a client, from its arrival to the end of its answer. Pure."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from aweigh_router.asked import Asked
from aweigh_router.choice import Order
from aweigh_router.line import Ticket
from aweigh_router.rooms import rest_s

ALONE_AFTER_DEATHS = 2  # then a request runs with nothing beside it


def nothing() -> None:
    """There is no try to give up."""


@dataclass(slots=True, eq=False)
class Call(Ticket):
    """A request that waits, or that a pod computes."""

    asked: Asked = field(default_factory=Asked)
    deadline_s: float = 0.0  # to wait no longer; later once something of the answer has come
    avoid: set[str] = field(default_factory=set)  # pods that it has failed on
    rounds: int = 0  # in which all pods have failed it, though it takes no room …
    rests_until_s: float = 0.0  # … and until when it leaves them alone
    died: list[tuple[str, str | None]] = field(default_factory=list)  # pods that computed it
    held: str | None = None  # the pod that it waits for, alone or with room for all its answers …
    kept_s: float = -math.inf  # … and when that was last asked to keep others out
    taken: bool = False  # a pod has begun it
    begun: bool = False  # its client has a part of the answer …
    revision: str | None = None  # … of this revision of the model
    owing_since_s: float | None = None  # since when its pod owes a stream the first event
    due_s: float = math.inf  # when its pod must have said something …
    until_s: float = math.inf  # … at the latest, where the pod counts it among what it computes
    silent_s: float = 0.0  # that pods were given in vain since something of the answer last came …
    quiet_since_s: float = 0.0  # … and since when the present one has had it, or passed nothing on
    give_up: Callable[[], None] = nothing  # ends the present try: its pod will not answer
    order: tuple[tuple[str, ...], Order] | None = None  # of these pods

    @property
    def num_answers(self) -> int:
        """That a pod must have room for."""
        return self.asked.num_answers

    def failed_on(self, pod: str, now_s: float) -> None:
        """Others come first now. What takes no room is held back by no pod's rest: it has its own.

        After it, all are asked again: any of them may be the one that takes it by then.
        """
        if not self.num_answers and pod in self.avoid:  # it was asked again, as all had failed
            self.avoid.clear()
            self.rounds += 1
        self.avoid.add(pod)
        self.rests_until_s = now_s + rest_s(self.rounds)

    @property
    def alone(self) -> bool:
        """Whether it is to run with nothing beside it."""
        return self.num_answers > 0 and self.deaths >= ALONE_AFTER_DEATHS

    @property
    def deaths(self) -> int:
        """Of pods that computed it."""
        return len(self.died)

    def clear(self, shared: Sequence[tuple[str, str | None]]) -> None:
        """It was not what these pods have died of. It waits no more for one of its own."""
        self.died = [each for each in self.died if each not in shared]
        if not self.alone:
            self.hold(None)
            self.avoid.clear()

    def hold(self, pod: str | None) -> None:
        """It waits for this pod, which has yet to be asked to keep others out."""
        if pod != self.held:
            self.held, self.kept_s = pod, -math.inf

    @property
    def suspect(self) -> bool:
        """Whether a pod has died of it, or beside it."""
        return self.deaths > 0
