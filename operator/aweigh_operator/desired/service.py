"""The stable address of the OpenAI API. The admin port is never behind it."""

from aweigh_api import names
from aweigh_api.spec import InferenceService
from aweigh_operator.desired.metadata import Manifest, metadata


def manifest(owner: InferenceService) -> Manifest:
    """The Service."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(owner),
        "spec": {
            "type": "ClusterIP",
            "selector": names.selector(owner.metadata.name),
            "ports": [
                {
                    "name": "http",
                    "port": names.HTTP_PORT,
                    "targetPort": "http",
                    "protocol": "TCP",
                    "appProtocol": "http",
                }
            ],
        },
    }
