"""Who of several operators works: the one that holds a Lease, and nobody else may write.

A holder that has not renewed for RENEW_S stops, and another takes over DURATION_S after it has seen
the last renewal, by its own clock: neither trusts the other's. Writes in between end in time,
because none is given longer than the Lease still lasts (`writable_s`).
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from aweigh_operator.cluster import ApiError
from aweigh_operator.observe import Key, Manifest

DURATION_S = 10  # of a Lease that nobody renews
RENEW_S = 7.0  # after which its holder no longer relies on it
RETRY_S = 1.5
_MARGIN_S = 0.5  # between the last write of one holder and the first of the next
logger = logging.getLogger(__name__)


class LeaseApi(Protocol):
    """Where Leases are."""

    async def read_lease(self, key: Key) -> Manifest | None:
        """The Lease as it is now."""
        ...

    async def write_lease(self, lease: Manifest) -> Manifest | None:
        """Create it, or replace the very version that was read; None: another was faster."""
        ...


@dataclass(frozen=True, slots=True)
class _Seen:
    """A Lease, and since when it has been seen like this."""

    spec: Manifest
    since_s: float


class Lease:
    """One operator's part in it."""

    def __init__(
        self,
        api: LeaseApi,
        key: Key,
        identity: str,
        changed: Callable[[bool], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`changed` is told when this operator begins or ceases to hold it."""
        self._api = api
        self._key = key
        self._identity = identity
        self._changed = changed
        self._clock = clock
        self._stored: Manifest | None = None  # as we have written it last
        self._renewed_s: float | None = None  # when our last renewal was begun
        self._seen: _Seen | None = None
        self._held = False

    @property
    def writable_s(self) -> float:
        """How long a write that begins now may take; 0: it may not begin."""
        if self._renewed_s is None:
            return 0.0
        age_s = self._clock() - self._renewed_s
        return DURATION_S - _MARGIN_S - age_s if age_s < RENEW_S else 0.0

    async def keep(self) -> None:
        """Try to hold it, for ever."""
        while True:
            await self.attempt()
            await asyncio.sleep(RETRY_S)

    async def attempt(self) -> None:
        """Take or renew it, if that is possible."""
        began_s = self._clock()
        try:
            async with asyncio.timeout(RENEW_S - RETRY_S):
                renewed = await self._take()
        except (ApiError, TimeoutError) as error:
            logger.warning("the Lease %s is not renewed: %s", self._key, error)
        except Exception:  # whatever it is: who ceases to try would lead for ever
            logger.exception("the Lease %s is not renewed", self._key)
            self._stored = None  # it may be what cannot be read
        else:
            self._renewed_s = began_s if renewed else None
        self._tell()

    async def release(self) -> None:
        """Let another have it at once."""
        stored, self._stored, self._renewed_s = self._stored, None, None
        self._tell()
        if stored is None:
            return
        spec = {**stored["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
        try:
            await self._api.write_lease({**stored, "spec": spec})
        except ApiError as error:
            logger.warning("the Lease %s is not released: %s", self._key, error)

    async def _take(self) -> bool:
        lease = self._stored or await self._api.read_lease(self._key)
        if lease is not None and not self._free(lease):
            return False
        self._stored = await self._api.write_lease(self._renewed(lease))
        if self._stored is None and self._held:
            # Was it another, or our own last write, whose answer was lost?
            lease = await self._api.read_lease(self._key)
            if lease is None or _holder(lease) == self._identity:
                self._stored = await self._api.write_lease(self._renewed(lease))
        return self._stored is not None

    def _free(self, lease: Manifest) -> bool:
        """It is ours, or nobody's, or its holder has been silent for as long as it lasts."""
        spec: Manifest = lease.get("spec") or {}
        if _holder(lease) in ("", self._identity):
            return True
        if self._seen is None or self._seen.spec != spec:
            self._seen = _Seen(spec, self._clock())
        lasts_s = spec.get("leaseDurationSeconds", DURATION_S)
        return bool(self._clock() - self._seen.since_s > lasts_s)

    def _renewed(self, lease: Manifest | None) -> Manifest:
        metadata = {"namespace": self._key.namespace, "name": self._key.name}
        found = lease or {"metadata": metadata, "spec": {}}
        spec, now = found.get("spec") or {}, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        ours = spec.get("holderIdentity") == self._identity
        changes = spec.get("leaseTransitions", 0)
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            **found,
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": DURATION_S,
                "acquireTime": spec.get("acquireTime", now) if ours else now,
                "renewTime": now,
                "leaseTransitions": changes if ours else changes + 1,
            },
        }

    @property
    def transitions(self) -> int | None:
        """How often the holder has changed, as of our last renewal; None: it is not ours."""
        spec = {} if self._stored is None else self._stored["spec"]
        found: int | None = spec.get("leaseTransitions")
        return found

    def _tell(self) -> None:
        held = self.writable_s > 0.0
        if held is not self._held:
            self._held = held
            self._changed(held)


def _holder(lease: Manifest) -> str:
    spec: Manifest = lease.get("spec") or {}
    return str(spec.get("holderIdentity") or "")
