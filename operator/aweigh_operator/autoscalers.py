"""Who else scales a service: one look at the autoscalers of a namespace serves all services in it.

KEDA's ScaledObjects are seen, too: each makes a HorizontalPodAutoscaler with the same target.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from aweigh_api import names
from aweigh_api.scaling import Scaling
from aweigh_operator.cluster import Cluster
from aweigh_operator.observe import Autoscaler, Key

FORGOTTEN_S = 600.0  # a look that nobody has asked for in that time: its namespace may be gone


@dataclass(slots=True)
class _Look:
    began_s: float = float("-inf")
    found: Sequence[Autoscaler] = ()
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Autoscalers:
    """The last look at each namespace."""

    def __init__(self, cluster: Cluster, clock: Callable[[], float]) -> None:
        """`clock` gives seconds and never goes back."""
        self._cluster = cluster
        self._clock = clock
        self._looks: dict[str, _Look] = {}

    async def rival(
        self, key: Key, scaling: Scaling | None, age_s: float | None
    ) -> Autoscaler | None:
        """Who scales what is ours to scale, as `of` knows it; None also for an age of None.

        An autoscaler of the InferenceService is welcome where its `replicas` count.
        """
        if age_s is None:
            return None
        kinds = ["Deployment"]
        if scaling is not None and scaling.enforced:
            kinds.append(names.KIND)
        found = await self.of(key.namespace, age_s)
        rivals = [each for each in found if each.target == key.name and each.kind in kinds]
        return min(rivals, key=lambda each: (kinds.index(each.kind), each.name), default=None)

    async def of(self, namespace: str, age_s: float) -> Sequence[Autoscaler]:
        """All of a namespace, as they were at most so long before this call.

        Who comes while somebody asks waits for that answer, and asks again only if it is too old.
        """
        if namespace not in self._looks:
            self._forget()
        look = self._looks.setdefault(namespace, _Look())
        oldest_s = self._clock() - age_s
        async with look.turn:
            if look.began_s <= oldest_s:
                began_s = self._clock()
                look.found = await self._cluster.autoscalers(namespace)
                look.began_s = began_s
            return look.found

    def _forget(self) -> None:
        oldest_s = self._clock() - FORGOTTEN_S
        for namespace, look in list(self._looks.items()):
            if look.began_s < oldest_s and not look.turn.locked():
                del self._looks[namespace]
