"""Who else scales a service: one look at the autoscalers of a namespace serves all services in it.

KEDA's ScaledObjects are seen, too: each makes a HorizontalPodAutoscaler with the same target.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from aweigh_api import names
from aweigh_api.scaling import Scaling
from aweigh_operator.cluster import ApiError, Cluster
from aweigh_operator.observe import Autoscaler, Key

FORGOTTEN_S = 600.0  # a look that nobody has asked for in that time: its namespace may be gone
AGAIN_S = 15.0  # after the API server has not told

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rival:
    """Who else scales a service."""

    found: Autoscaler | None = None
    ask_again_s: float | None = None  # who was known last is meant: nobody tells; later perhaps


@dataclass(slots=True)
class _Look:
    began_s: float = float("-inf")
    found: Sequence[Autoscaler] = ()
    error: ApiError | None = None  # of the last one, if it has failed,
    again_s: float = float("-inf")  # and when to try again: until then it is everybody's answer
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Autoscalers:
    """The last look at each namespace."""

    def __init__(self, cluster: Cluster, clock: Callable[[], float]) -> None:
        """`clock` gives seconds and never goes back."""
        self._cluster = cluster
        self._clock = clock
        self._looks: dict[str, _Look] = {}

    async def rival(
        self,
        key: Key,
        scaling: Scaling | None,
        age_s: float | None,
        before: Autoscaler | None = None,
    ) -> Rival:
        """Who scales what is ours to scale, as `of` knows it; nobody for an age of None.

        An autoscaler of the InferenceService is welcome where its `replicas` count; `before` is who
        was known last.
        """
        if age_s is None:
            return Rival()
        kinds = ["Deployment"]
        if scaling is not None and scaling.enforced:
            kinds.append(names.KIND)
        try:
            found = await self.of(key.namespace, age_s)
        except ApiError as error:
            return Rival(before, _pause_s(error))
        rivals = [each for each in found if each.target == key.name and each.kind in kinds]
        return Rival(
            min(rivals, key=lambda each: (kinds.index(each.kind), each.name), default=None)
        )

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
                if look.error is not None and began_s < look.again_s:
                    raise look.error
                try:
                    look.found = await self._cluster.autoscalers(namespace)
                except ApiError as error:
                    logger.warning("%s; the number of pods stays until that is known", error)
                    look.error, look.again_s = error, self._clock() + _pause_s(error)
                    raise
                look.began_s, look.error = began_s, None
            return look.found

    def _forget(self) -> None:
        oldest_s = self._clock() - FORGOTTEN_S
        for namespace, look in list(self._looks.items()):
            last_s = max(look.began_s, look.again_s)
            if last_s < oldest_s and not look.turn.locked():
                del self._looks[namespace]


def _pause_s(error: ApiError) -> float:
    return max(AGAIN_S, error.retry_after_s)
