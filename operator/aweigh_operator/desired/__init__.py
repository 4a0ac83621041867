"""Desired state: the objects that an InferenceService owns. Pure: same input, same manifests.

A pod template is rendered once and then kept (`made`), so that a newer operator, which may render
another one, never restarts pods that serve.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from aweigh_api import names
from aweigh_api.names import OF_ROUTER
from aweigh_api.spec import InferenceService
from aweigh_operator.desired import (
    deployment,
    disruption,
    network_policy,
    prefetch,
    router,
    router_rights,
    secret,
    service,
    service_account,
    template,
)
from aweigh_operator.desired.made import Made
from aweigh_operator.desired.metadata import Manifest, fingerprint
from aweigh_operator.places import PLACES, PODS_SERVICE, ROUTER_DEPLOYMENT
from aweigh_operator.route import STRAIGHT, Route
from aweigh_operator.settings import Settings

__all__ = ["Chosen", "Manifest", "Templates", "children", "fingerprint", "secret", "templates"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """What the spec leaves open."""

    replicas: int  # pods
    in_place: bool = False  # an old pod goes before its new one starts
    route: Route = STRAIGHT
    reason: str | None = None  # why it is not ready
    served: str | None = None  # what the Deployment notes, where there may be no pod


@dataclass(frozen=True, slots=True)
class Templates:
    """What pods and routers shall be made with."""

    pods: Made
    routers: Made


def templates(
    owner: InferenceService, there: Mapping[str, Manifest], settings: Settings
) -> Templates:
    """What pods and routers shall be made with.

    Args:
        owner: the InferenceService.
        there: the children that are there, by place.
        settings: with the images of new pods.
    """
    return Templates(
        template.pods(owner, there.get("Deployment"), settings.runtime_image),
        router.pods(owner, there.get(ROUTER_DEPLOYMENT), settings.router_image),
    )


def children(
    owner: InferenceService, made: Templates, settings: Settings, chosen: Chosen
) -> dict[str, Manifest]:
    """What should be there, by place.

    Args:
        owner: the InferenceService.
        made: what pods and routers shall be made with.
        settings: with the images of new pods.
        chosen: what was decided.
    """
    way, replicas = chosen.route.way, chosen.replicas
    routed, closed = chosen.route.supplied, way.closed
    wanted = {
        "ServiceAccount": service_account.manifest(owner),
        "NetworkPolicy": network_policy.manifest(owner, routed=routed, closed=closed),
        "Service": service.manifest(owner, by_router=way.by_router),
        "PodDisruptionBudget": disruption.manifest(owner, replicas),
        "Job": prefetch.manifest(owner, settings.runtime_image),
        "Deployment": deployment.manifest(
            owner, made.pods, replicas, in_place=chosen.in_place, served=chosen.served
        ),
        **_of_router(owner, made.routers, settings, chosen),
    }
    found = {place: wanted.get(place) for place in PLACES}
    return {place: _signed(each) for place, each in found.items() if each is not None}


def _of_router(
    owner: InferenceService, made: Made, settings: Settings, chosen: Chosen
) -> dict[str, Manifest | None]:
    if not chosen.route.supplied:
        return {}
    routers = chosen.route.routers
    running = None if routers is None else router.manifest(owner, made, routers)
    return {
        f"ServiceAccount{OF_ROUTER}": router_rights.service_account(owner),
        f"Role{OF_ROUTER}": router_rights.role(owner),
        f"RoleBinding{OF_ROUTER}": router_rights.role_binding(owner),
        f"NetworkPolicy{OF_ROUTER}": network_policy.of_router(owner, settings.api_server_ports),
        f"PodDisruptionBudget{OF_ROUTER}": disruption.of_router(owner, routers or 0),
        PODS_SERVICE: service.of_pods(owner, chosen.reason),
        ROUTER_DEPLOYMENT: running,
    }


def _signed(manifest: Manifest) -> Manifest:
    """The manifest with its own hash, which tells later that a field was taken away."""
    metadata = manifest["metadata"]
    annotations = {**metadata.get("annotations", {}), names.APPLIED_HASH: fingerprint(manifest)}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}
