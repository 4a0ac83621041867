"""Who reads what pods and routers tell, as a reconcile asks for it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from aweigh_api.router_state import RouterState
from aweigh_api.state import State
from aweigh_operator.observe import Key, Pod


class PodReader(Protocol):
    """Who reads the pods' reports."""

    async def read(self, pods: Iterable[Pod], fresh_s: float | None) -> dict[str, State]:
        """What these pods say, by uid; no older than this, if they answer."""
        ...


class RouterReader(Protocol):
    """Who reads the routers' reports, and is told when requests wait for a first pod."""

    async def read(self, routers: Iterable[Pod], fresh_s: float | None) -> dict[str, RouterState]:
        """What these routers say, by uid; no older than this, if they answer."""
        ...

    def listen(self, key: Key, routers: Iterable[Pod]) -> None:
        """Keep streams to these routers of a service that has no pod, and to no others of it."""
        ...

    def forget(self) -> None:
        """Listen to nobody any more."""
        ...


@dataclass(frozen=True, slots=True)
class Readers:
    """Who reads what pods tell."""

    pods: PodReader
    routers: RouterReader
