"""What routers may ask the API server: which pods are ready, in their namespace, and no more."""

from aweigh_api import names
from aweigh_api.spec import InferenceService
from aweigh_operator.desired.metadata import Manifest, router_metadata

_RBAC = "rbac.authorization.k8s.io"


def service_account(owner: InferenceService) -> Manifest:
    """The identity of the routers; their pods alone ask for its token."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": router_metadata(owner),
        "automountServiceAccountToken": False,
    }


def role(owner: InferenceService) -> Manifest:
    """The Role. A watch cannot be limited to one Service's EndpointSlices."""
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "Role",
        "metadata": router_metadata(owner),
        "rules": [
            {
                "apiGroups": ["discovery.k8s.io"],
                "resources": ["endpointslices"],
                "verbs": ["list", "watch"],
            }
        ],
    }


def role_binding(owner: InferenceService) -> Manifest:
    """Who has it."""
    name = names.router(owner.metadata.name)
    account = {"kind": "ServiceAccount", "name": name, "namespace": owner.metadata.namespace}
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "RoleBinding",
        "metadata": router_metadata(owner),
        "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": name},
        "subjects": [account],
    }
