"""Which way requests come to a service's pods, and how it is changed without losing one. Pure.

    straight   the Service leads to the pods, and whoever may call the API reaches them
    both       the Service leads to the routers, and pods are still open
    routed     the Service leads to the routers, and pods are open to them alone

A service comes from one end to the other through the middle. To be routed, all its pods must know
routers and all its routers be ready; then the Service leads to them; then, once every client has
learned that and what it had asked of pods has ended, the pods are closed. Back it goes the other
way round: pods are opened, and once that has spread and one of them serves, the Service leads to
them and the routers drain. What those need stays until the last of them has gone.

What clients need to learn of a change takes no longer than `drain.settleSeconds`: it says so for
pods that go, too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from aweigh_api import names
from aweigh_api.spec import Spec
from aweigh_operator.observe import Manifest, Observed, knows_routers
from aweigh_operator.places import ROUTER_DEPLOYMENT

CONNECTED_S = 90.0  # that a client stays connected to a pod at most, between requests


@dataclass(frozen=True, slots=True)
class Way:
    """How requests come."""

    by_router: bool  # the Service leads to routers
    closed: bool  # pods are open to routers alone


@dataclass(frozen=True, slots=True)
class Route:
    """How requests shall come now."""

    way: Way
    routers: int | None  # that run; None: none, and no Deployment
    supplied: bool  # all else that routers need is there
    made_from: str | None = None  # hash of what routers shall be made from
    due_s: float | None = None  # after which time alone asks for the next step; None: never


STRAIGHT = Route(Way(by_router=False, closed=False), None, supplied=False)


def route(spec: Spec, observed: Observed, made_from: str) -> Route:
    """The next step on the way that the spec asks for.

    Args:
        spec: of the InferenceService.
        observed: what there is.
        made_from: hash of what routers shall be made from; others may lack keys, or a certificate.
    """
    return replace(_route(spec, observed, made_from), made_from=made_from)


def _route(spec: Spec, observed: Observed, made_from: str) -> Route:
    there, stopped = way(observed.children), spec.wanted_replicas(1) == 0
    settle_s, lasted_s = spec.drain.settle_seconds, observed.way_lasted_s
    if not spec.routed:
        settled = lasted_s >= settle_s and not there.closed
        if not there.by_router or stopped or (_serves(observed) and settled):
            return replace(STRAIGHT, supplied=bool(observed.routers))
        way_back = Way(by_router=True, closed=False)
        due_s = None if settled else max(0.0, settle_s - lasted_s)
        return Route(way_back, _running(observed), supplied=True, due_s=due_s)
    routers = 0 if stopped else spec.routers
    if there.by_router:
        left_s = max(settle_s, CONNECTED_S + spec.drain.timeout_seconds)
        closed = there.closed or lasted_s >= left_s
        ahead = Way(by_router=True, closed=closed)
        due_s = None if closed else left_s - lasted_s
        return Route(ahead, routers, supplied=True, due_s=due_s)
    if "Service" not in observed.children and known(observed):
        return Route(Way(by_router=True, closed=True), routers, supplied=True)
    goes = known(observed) and (0 < routers <= _ready(observed, made_from) or not _serves(observed))
    return Route(Way(by_router=goes, closed=False), routers, supplied=True)


def way(children: Mapping[str, Manifest]) -> Way:
    """As it is: without a Service nobody comes."""
    service = children.get("Service", {}).get("spec", {})
    policy = children.get("NetworkPolicy", {}).get("spec", {})
    peers = [each["from"] for each in policy.get("ingress") or [] if "from" in each]
    return Way(
        by_router=service.get("selector", {}).get(names.LABEL_NAME) == names.ROUTER,
        closed=any(map(_only_routers, peers)),
    )


def known(observed: Observed) -> bool:
    """Whether all pods know routers, and all that come will: those of older operators do not."""
    spec = observed.children.get("Deployment", {}).get("spec")
    coming = spec is None or knows_routers(spec["template"]["spec"])
    return coming and all(pod.knows_routers for pod in observed.live_pods)


def _serves(observed: Observed) -> bool:
    return any(pod.ready for pod in observed.live_pods)


def _ready(observed: Observed, made_from: str) -> int:
    routers = (pod for pod in observed.live_routers if pod.template_hash == made_from)
    return sum(pod.ready for pod in routers)


def _running(observed: Observed) -> int:
    deployment = observed.children.get(ROUTER_DEPLOYMENT, {})
    return max(1, int(deployment.get("spec", {}).get("replicas", 1)))


def _only_routers(peers: list[Manifest]) -> bool:
    selected = [(each.get("podSelector") or {}).get("matchLabels") or {} for each in peers]
    return all(each.get(names.LABEL_NAME) == names.ROUTER for each in selected)
