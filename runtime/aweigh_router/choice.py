"""Which pod a request goes to. Pure: the same pods give the same order in every router.

Nothing is remembered of what pods have cached. For each key the pods have an order that hashing
gives (rendezvous), and a pod that comes or goes moves only the keys whose first it is.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

FAIR_PART = 0.15  # of a pod's fair load: more than this one prefix does not bring to any pod
OVERLOAD = 1.25  # times the mean load: beyond, a chat may leave its pod for the prefix's next


@dataclass(frozen=True, slots=True)
class Order:
    """All pods, best first."""

    names: tuple[str, ...]
    num_near: int  # so many of them have the prefix; how they are ordered is the conversation's


def order(prefix: bytes, conversation: bytes, share: float, names: Sequence[str]) -> Order:
    """In which order a request would have the pods.

    Args:
        prefix: key of what it begins with.
        conversation: key of the chat that it belongs to.
        share: of the load that begins so, 0 … 1.
        names: of all pods.
    """
    by_prefix = rendezvous(prefix, names)
    num_near = spread(share, len(names))
    near = rendezvous(conversation, by_prefix[:num_near])
    return Order((*near, *by_prefix[num_near:]), num_near)


def spread(share: float, num_pods: int) -> int:
    """How many pods a prefix may use: more, the more of the load it brings."""
    return max(1, min(num_pods, math.ceil(share * num_pods / FAIR_PART)))


def rendezvous(key: bytes, names: Iterable[str]) -> list[str]:
    """The names in the order that belongs to the key."""
    return sorted(names, key=lambda name: _weight(key, name))


def _weight(key: bytes, name: str) -> bytes:
    return hashlib.blake2b(name.encode(), key=key, digest_size=8).digest()


def pick(wanted: Order, loads: Mapping[str, int], fits: Callable[[str], bool]) -> str | None:
    """The pod to go to now; None: none has room.

    A pod that has the prefix is left for another that has it when it is loaded beyond measure,
    and for one that has it not when none of the first has room.

    Args:
        wanted: the order of the request; all of its names are in `loads` unless they take nothing.
        loads: what each pod does, in answers; pods that take nothing are missing.
        fits: whether a pod has room.
    """
    near = [name for name in wanted.names[: wanted.num_near] if name in loads and fits(name)]
    limit = OVERLOAD * sum(loads.values()) / max(1, len(loads)) + 1
    for name in near:
        if loads[name] <= limit:
            return name
    if near:
        return min(near, key=loads.__getitem__)
    far = wanted.names[wanted.num_near :]
    return next((name for name in far if name in loads and fits(name)), None)


def least_loaded(loads: Mapping[str, int], fits: Callable[[str], bool]) -> str | None:
    """Where a request goes that has nothing to look for."""
    return min(filter(fits, loads), key=loads.__getitem__, default=None)
