"""What one look at a service's pods, and at its routers, shows. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from aweigh_api.router_state import RouterState
from aweigh_api.state import State

WARM_S = 45.0  # a younger pod's cache says nothing yet of what it will be worth
LONGEST_START_S = 1800.0  # that is believed of a pod, however long a rollout may take


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """One pod that lives."""

    uid: str
    age_s: float  # since it was created
    ready_for_s: float | None  # None: it takes no requests
    unschedulable: bool = False
    restarted: bool = False  # its container has: how long it took to serve first is not known
    state: State | None = None  # its newest report; None: it does not answer

    @property
    def warm(self) -> bool:
        """It has served for long enough to be judged by."""
        return self.ready_for_s is not None and self.ready_for_s >= WARM_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Router:
    """One router that lives."""

    uid: str
    state: RouterState | None = None  # its newest report; None: it does not answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """All that is known at one moment."""

    now_s: float  # on any clock that never goes back
    replicas: int  # that are wanted now
    pods: Sequence[Pod]
    routers: Sequence[Router] | None = None  # None: requests go straight to the pods
    shown: bool = True  # what the spec asks for serves, or did before the last pod went
    blocked: bool = False  # new pods find no room that old ones do not have
    longest_start_s: float = LONGEST_START_S  # that is believed of a pod
    refused: bool = False  # the API server creates none, as where a quota is used up

    @property
    def serving(self) -> list[Pod]:
        """Pods that take requests."""
        return [pod for pod in self.pods if pod.ready_for_s is not None]

    @property
    def untried(self) -> bool:
        """No pod is there, and what the spec asks for has not served.

        While old ones still go, their Deployment may not be asked for another: its controller might
        never see that there shall be none of them.
        """
        return self.replicas == 0 and not self.shown and not self.pods

    @property
    def queue(self) -> int:
        """Requests that wait in routers."""
        return sum(each.state.waiting or 0 for each in self.routers or () if each.state is not None)

    @property
    def states(self) -> dict[str, State]:
        """Reports by the pod's uid."""
        return {pod.uid: pod.state for pod in self.pods if pod.state is not None}
