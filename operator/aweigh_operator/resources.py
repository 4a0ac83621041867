"""Where the API server has what the operator reads and writes. Pure."""

from urllib.parse import quote

from aweigh_api import names

_RBAC = "rbac.authorization.k8s.io/v1"
# Of each kind: the API it belongs to, and its name in paths.
RESOURCES = {
    names.KIND: (names.API_VERSION, names.PLURAL),
    "Deployment": ("apps/v1", "deployments"),
    "Service": ("v1", "services"),
    "ServiceAccount": ("v1", "serviceaccounts"),
    "NetworkPolicy": ("networking.k8s.io/v1", "networkpolicies"),
    "PodDisruptionBudget": ("policy/v1", "poddisruptionbudgets"),
    "Job": ("batch/v1", "jobs"),
    "Role": (_RBAC, "roles"),
    "RoleBinding": (_RBAC, "rolebindings"),
    "Pod": ("v1", "pods"),
}
LEASES = ("coordination.k8s.io/v1", "leases")
SECRETS = ("v1", "secrets")
CORE_EVENTS = ("v1", "events")
EVENTS = ("events.k8s.io/v1", "events")
AUTOSCALERS = ("autoscaling/v2", "horizontalpodautoscalers")
OURS = f"{names.LABEL_MANAGED_BY}={names.MANAGED_BY}"  # labels of all but InferenceServices


def path_of(resource: tuple[str, str], namespace: str | None, name: str | None = None) -> str:
    """Of one object, or of all of a kind, in a namespace or in all."""
    version, plural = resource
    scope = f"/namespaces/{quote(namespace)}" if namespace else ""
    path = f"/{'apis' if '/' in version else 'api'}/{version}{scope}/{plural}"
    return f"{path}/{quote(name)}" if name else path
