"""The stable address of the OpenAI API. The admin port is never behind it."""

from aweigh_api import names
from aweigh_api.spec import InferenceService
from aweigh_operator.desired.metadata import Manifest, metadata


def manifest(owner: InferenceService) -> Manifest:
    """The Service."""
    protocol = "https" if owner.spec.tls else "http"
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(owner),
        "spec": {
            "type": "ClusterIP",
            "selector": names.selector(owner.metadata.name),
            "ports": [
                {
                    "name": protocol,
                    "port": names.HTTP_PORT,
                    "targetPort": "http",  # the container's port bears this name with TLS too
                    "protocol": "TCP",
                    "appProtocol": protocol,
                }
            ],
        },
    }
