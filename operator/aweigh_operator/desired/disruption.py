"""How many pods a node drain must leave. With fewer than two pods it would only block the drain."""

from aweigh_api import names
from aweigh_api.spec import InferenceService
from aweigh_operator.desired.metadata import Manifest, metadata


def manifest(owner: InferenceService, replicas: int) -> Manifest | None:
    """The PodDisruptionBudget of so many pods."""
    if replicas < 2:
        return None
    disruption = owner.spec.disruption
    stay = None if disruption is None else disruption.min_available
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(owner),
        "spec": {
            # Where the load has left as few pods as must stay, one may still be moved.
            "minAvailable": replicas - 1 if stay is None else min(stay, replicas - 1),
            "selector": {"matchLabels": names.selector(owner.metadata.name)},
            # A pod that does not serve is no reason to hold up a drain.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }
