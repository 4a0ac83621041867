"""What all requests of a router share, and what it tells the operator of itself."""

import asyncio
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from aweigh_api.router_state import RouterState
from aweigh_api.state import Phase
from aweigh_http.bodies import Bodies
from aweigh_router import errors
from aweigh_router.dispatch import Dispatch
from aweigh_router.metrics import Metrics
from aweigh_router.relay import Relay
from aweigh_router.settings import Settings


class Service:
    """One router. The phase goes from loading over ready to draining, never back."""

    def __init__(
        self, settings: Settings, dispatch: Dispatch, relay: Relay, metrics: Metrics
    ) -> None:
        self.settings = settings
        self.dispatch = dispatch
        self.relay = relay
        self.metrics = metrics
        self.bodies = Bodies(settings.max_held_bytes)
        self.boot_id = secrets.token_hex(8)
        self.phase: Phase = "loading"  # until it knows which pods there are
        self.refusing = False  # draining, and clients have had time to notice
        self.arrived_requests = 0  # for answers
        self._started_s = dispatch.clock()
        self._num_open = 0
        self._nothing_open = asyncio.Event()
        self._nothing_open.set()
        for name, documentation, value in (
            ("waiting_requests", "Requests that wait for a pod.", lambda: len(dispatch.line)),
            ("open_requests", "Requests that arrive, wait or are answered.", lambda: self.num_open),
            ("pods", "Pods that serve.", lambda: len(dispatch.pods.taking(dispatch.clock()))),
            ("blind_pods", "Pods that hold another secret.", lambda: self.num_blind),
            ("held_bytes", "Bodies of open requests.", lambda: self.bodies.held_bytes),
        ):
            metrics.watch(f"aweigh_router_{name}", documentation, value)

    @property
    def num_open(self) -> int:
        """Requests whose body arrives, that wait, or that pods answer."""
        return self._num_open

    @property
    def num_blind(self) -> int:
        """Pods that take this router for a client, though it has a secret."""
        return 0 if self.settings.router_secret_dir is None else self.dispatch.pods.num_blind

    def expect_open(self) -> None:
        """For a request that has come now.

        Raises:
            ApiError: none is taken any more.
        """
        if self.refusing:
            raise errors.draining()

    @contextmanager
    def counted(self) -> Iterator[None]:
        """A request is open."""
        self._num_open += 1
        self._nothing_open.clear()
        try:
            yield
        finally:
            self._num_open -= 1
            if not self._num_open:
                self._nothing_open.set()

    async def until_idle(self) -> None:
        """Wait for the end of all requests."""
        await self._nothing_open.wait()

    def state(self) -> RouterState:
        """The report for the operator."""
        dispatch, now_s = self.dispatch, self.dispatch.clock()
        since_s = dispatch.since_s()
        return RouterState(
            boot_id=self.boot_id,
            uptime_s=round(now_s - self._started_s, 1),
            phase=self.phase,
            arrived_requests=self.arrived_requests,
            waiting=len(since_s),
            oldest_waiting_s=round(now_s - min(since_s), 3) if since_s else None,
            in_flight=self._num_open - len(dispatch.line),
            known_pods=len(dispatch.pods.taking(now_s)),
            blind_pods=self.num_blind,
        )
