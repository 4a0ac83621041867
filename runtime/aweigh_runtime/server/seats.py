"""The places that answers hold here, and how many more could begin at once.

A client may wait in the engine's line, within its share. The router may not: it has a line of its
own, where requests can still go elsewhere.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from aweigh_api.routing import KEEP_S
from aweigh_http.errors import ApiError
from aweigh_runtime.config import Config
from aweigh_runtime.engine.client import EngineClient
from aweigh_runtime.engine.messages import Stepped
from aweigh_runtime.server import errors
from aweigh_runtime.server.figures import Figures


class Seats:
    """All of one server."""

    def __init__(
        self,
        config: Config,
        engine: EngineClient,
        figures: Figures,
        on_change: Callable[[], None],
    ) -> None:
        self.num_callers = 1  # API keys that there are
        self.open_requests = 0
        self._max_running = config.max_running
        self._limit = config.max_running + config.max_waiting
        self._engine = engine
        self._figures = figures
        self._on_change = on_change
        self._taken: Counter[bytes] = Counter()
        self._routed: Counter[str] = Counter()  # those among them that a router has taken
        self._alone = False  # one request has this server for itself
        self._kept_for: str | None = None  # the router that has what becomes free …
        self._kept_until: asyncio.TimerHandle | None = None  # … as long as it asks for that
        self._nothing_open = asyncio.Event()
        self._nothing_open.set()

    @property
    def room(self) -> int:
        """Answers that could begin at once, if it is not for somebody else that places are free."""
        return room(self._engine.stepped, self.num_taken, self._max_running)

    @property
    def kept_for(self) -> str | None:
        """The router that has what becomes free; None: whoever comes first."""
        return self._kept_for

    def room_for(self, router: str | None) -> int:
        """Answers of this router that could begin at once."""
        return 0 if self._alone or self._kept_for not in (None, router) else self.room

    def keep(self, router: str) -> bool:
        """Let no other router have what becomes free, for a while; False: another one has it."""
        if self._kept_for not in (None, router):
            return False
        self._keep_no_longer()
        self._kept_for = router
        self._kept_until = asyncio.get_running_loop().call_later(KEEP_S, self._give_free)
        self._on_change()
        return True

    @property
    def num_taken(self) -> int:
        """Places that are held."""
        return self._taken.total()

    def held_for(self, router: str) -> int:
        """Places that the router of this name has taken."""
        return self._routed[router]

    @contextmanager
    def opened(self) -> Iterator[None]:
        """A request is open: from when it is let in, before its body arrives, to its end."""
        self.open_requests += 1
        self._nothing_open.clear()
        try:
            yield
        finally:
            self.open_requests -= 1
            if self.open_requests == 0:
                self._nothing_open.set()

    @contextmanager
    def take(
        self,
        count: int,
        caller: bytes = b"",
        *,
        prompts: int = 0,
        router: str | None = None,
        alone: bool = False,
    ) -> Iterator[None]:
        """Hold places, from before the prompt is tokenized to the answer's end.

        Args:
            count: of answers.
            caller: whose share it is of.
            prompts: that are turned away if there is no place: they have arrived all the same.
            router: its name: they begin at once or not at all, and have not arrived until they do.
            alone: whether a router wants nothing to run beside them.

        Raises:
            ApiError: there are not so many, or not for this caller.
        """
        if count > self._limit:
            raise errors.invalid(
                f"{count} answers exceed this server's limit of {self._limit}.", "n"
            )
        if router is None:
            self._expect_places(count, caller, prompts)
        else:
            self._expect_room(count, router, alone=alone)
            self._routed[router] += count
            self._alone = alone
            if alone or count > 1:  # what it has waited for
                self._keep_no_longer()
        self._taken[caller] += count
        self._on_change()
        try:
            yield
        finally:
            self._taken[caller] -= count
            self._taken = +self._taken  # without callers that hold none
            if router is not None:
                self._alone = False  # it was, or nothing would have begun beside it
                self._routed[router] -= count
                self._routed = +self._routed
            self._on_change()

    async def until_idle(self, deadline_s: float) -> None:
        """Wait until no request is open, at most so long."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._nothing_open.wait(), deadline_s)

    def _keep_no_longer(self) -> None:
        if self._kept_until is not None:
            self._kept_until.cancel()
        self._kept_for = self._kept_until = None

    def _give_free(self) -> None:
        self._keep_no_longer()
        self._on_change()

    def _expect_room(self, count: int, router: str, *, alone: bool) -> None:
        """More answers than the engine computes together may begin where nothing else is open."""
        others = self._alone or self._kept_for not in (None, router)
        begun = self.num_taken > 0
        if others or (begun and (alone or count > self.room)):
            raise errors.no_room()

    def _expect_places(self, count: int, caller: bytes, prompts: int) -> None:
        try:
            # What is only made tokens of, or text, runs beside nobody's answer.
            if self._taken.total() + count > self._limit or (self._alone and prompts):
                raise errors.overloaded(self._limit)
            self._expect_share_left(count, caller)
        except ApiError:
            self._figures.turned_away(prompts)
            raise

    def _expect_share_left(self, count: int, caller: bytes) -> None:
        """Nobody takes more than a part once half is taken, so that another caller gets in."""
        taken, held = self._taken.total(), self._taken[caller]
        rivals = min(len(self._taken.keys() | {caller}) + 1, self.num_callers)
        share = max(self._limit // rivals, 1)
        if taken and taken + count > self._limit // 2 and held + count > share:
            raise errors.share_taken(held, self._limit)


def room(stepped: Stepped, taken: int, max_running: int) -> int:
    """Answers that would not have to wait, as far as it can be told before a prompt is read.

    Args:
        stepped: what the engine has said last.
        taken: answers that are open, those among them of which the engine has not heard yet.
        max_running: answers that the engine computes together, at most.
    """
    if taken == 0:
        return max_running
    if stepped.waiting_prompt_tokens > 0:
        return 0
    places, own, kv = max_running - taken, stepped.unshared_tokens_per_request, stepped.kv
    if own:  # each more needs as much memory as a running one has for itself
        unheard = max(taken - stepped.running, 0)
        places = min(places, int((kv.capacity - kv.held) / own) - unheard)
    return max(places, 0)
