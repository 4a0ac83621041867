"""The Secret that a service's pods and routers share. The operator makes it and never reads one.

Every service has it, be it routed or not: pods that know it need no restart to get a router.
"""

from aweigh_api import names
from aweigh_api.spec import InferenceService
from aweigh_operator.desired.metadata import Manifest, metadata


def manifest(owner: InferenceService) -> Manifest:
    """The Secret but for its value, which is drawn when it is made."""
    name = names.router_secret(owner.metadata.name, owner.metadata.uid)
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {**metadata(owner), "name": name},
        "type": "Opaque",
    }
