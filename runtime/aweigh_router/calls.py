"""One request of a client, from its arrival to the end of its answer. Pure."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from aweigh_router.asked import Asked
from aweigh_router.choice import Order
from aweigh_router.line import Ticket


def nothing() -> None:
    """There is no try to give up."""


@dataclass(slots=True, eq=False)
class Call(Ticket):
    """A request that waits, or that a pod computes."""

    asked: Asked = field(default_factory=Asked)
    deadline_s: float = 0.0  # to wait no longer; later once something of the answer has come
    avoid: set[str] = field(default_factory=set)  # pods that it has failed on
    deaths: int = 0  # of pods that computed it
    begun: bool = False  # its client has a part of the answer …
    revision: str | None = None  # … of this revision of the model
    owing_since_s: float | None = None  # since when its pod owes a stream the first event
    due_s: float = math.inf  # when its pod must have said something at the latest
    silent_s: float = 0.0  # that pods were given in vain since something of the answer last came …
    quiet_since_s: float = 0.0  # … and since when the present one has had it, or passed nothing on
    give_up: Callable[[], None] = nothing  # ends the present try: its pod will not answer
    order: tuple[tuple[str, ...], Order] | None = None  # of these pods

    @property
    def num_answers(self) -> int:
        """That a pod must have room for."""
        return self.asked.num_answers

    @property
    def suspect(self) -> bool:
        """Whether a pod has died of it, or beside it."""
        return self.deaths > 0
