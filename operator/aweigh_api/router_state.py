"""What a router tells the operator about itself: `/state`, and each line of `/wake`.

As for pods, a field that is absent is unknown, and counters start at 0 with every `boot_id`.
"""

from pydantic import BaseModel, ConfigDict

from aweigh_api.state import Phase

WAKE_PATH = "/wake"  # GET, admin port: a line of JSON, a `RouterState`, at once, and
WAKE_EVERY_S = 5.0  # so often, and whenever requests begin to wait for a pod


class RouterState(BaseModel):
    """One router's report."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    boot_id: str
    uptime_s: float
    phase: Phase

    arrived_requests: int | None = None  # prompts, as pods count them, also those turned away
    waiting: int | None = None  # requests for answers that no pod has taken yet
    oldest_waiting_s: float | None = None  # absent: none waits
    in_flight: int | None = None  # requests whose body arrives, or that a pod answers
    known_pods: int | None = None  # that are ready
    blind_pods: int | None = None  # of all, those that take this router for a client

    def to_json(self) -> str:
        """The report without what is unknown."""
        return self.model_dump_json(exclude_none=True)
