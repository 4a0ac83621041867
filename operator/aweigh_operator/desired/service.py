"""The stable address of the OpenAI API, and the pods' own. The admin port is behind neither."""

from aweigh_api import names
from aweigh_api.spec import InferenceService
from aweigh_operator.desired.metadata import Manifest, metadata


def manifest(owner: InferenceService, *, by_router: bool) -> Manifest:
    """The Service, which leads to the routers or to the pods."""
    name = owner.metadata.name
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(owner),
        "spec": {
            "type": "ClusterIP",
            "selector": names.router_selector(name) if by_router else names.selector(name),
            "ports": [_port(owner)],
        },
    }


def of_pods(owner: InferenceService, reason: str | None) -> Manifest:
    """The headless Service by whose EndpointSlices routers know the pods.

    Its labels come with those, so that routers learn why no pod serves, and which name the model
    will have before the first pod has it. So they need no further right.

    Args:
        owner: the InferenceService.
        reason: of its condition Ready, where that is False.
    """
    common, name = metadata(owner), owner.metadata.name
    known = {names.MODEL: names.model_label(owner.model_name)}
    why = {} if reason is None else {names.REASON: reason}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            **common,
            "name": names.pods_service(name),
            "labels": {**common["labels"], **known, **why},
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": "None",
            "selector": names.selector(name),
            "ports": [_port(owner)],
        },
    }


def _port(owner: InferenceService) -> Manifest:
    protocol = "https" if owner.spec.tls else "http"
    return {
        "name": protocol,
        "port": names.HTTP_PORT,
        "targetPort": "http",  # the container's port bears this name with TLS too
        "protocol": "TCP",
        "appProtocol": protocol,
    }
