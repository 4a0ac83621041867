"""The places of an InferenceService's children: of what kind each is, and how it is called. Pure.

A place is the child's kind, and the end of its name behind the InferenceService's: the Deployment
`chat` has the place Deployment, the Deployment `chat-router` the place Deployment-router. One name
can be two places: there may be an InferenceService called `chat-router`, too.
"""

from aweigh_api.names import OF_PODS, OF_ROUTER

ROUTER_DEPLOYMENT = f"Deployment{OF_ROUTER}"
PODS_SERVICE = f"Service{OF_PODS}"
# In the order of creation: a pod needs its account, and should not be reached before its policy.
PLACES = (
    "ServiceAccount",
    f"ServiceAccount{OF_ROUTER}",
    f"Role{OF_ROUTER}",
    f"RoleBinding{OF_ROUTER}",
    "NetworkPolicy",
    f"NetworkPolicy{OF_ROUTER}",
    "Service",
    PODS_SERVICE,
    "PodDisruptionBudget",
    f"PodDisruptionBudget{OF_ROUTER}",
    "Job",
    ROUTER_DEPLOYMENT,
    "Deployment",
)
WITH_PODS = (ROUTER_DEPLOYMENT, "Deployment")  # the last ones
BOUND = (f"RoleBinding{OF_ROUTER}",)  # refused while the Role that it names is not there


def kind_of(place: str) -> str:
    """The kind of what has this place."""
    return place.partition("-")[0]


def name_at(place: str, service: str) -> str:
    """What the child of an InferenceService of this name is called."""
    return service + place.removeprefix(kind_of(place))


def places(kind: str, name: str) -> list[tuple[str, str]]:
    """The names of the InferenceServices that an object may belong to, each with its place."""
    found = []
    for place in PLACES:
        end = place.removeprefix(kind_of(place))
        if kind_of(place) == kind and name.endswith(end) and name != end:
            found.append((name.removesuffix(end), place))
    return found
