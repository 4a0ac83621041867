"""How many pods a node drain must leave. With fewer than two pods it would only block the drain."""

from aweigh_api import names
from aweigh_api.spec import InferenceService
from aweigh_operator.desired.metadata import Manifest, metadata


def manifest(owner: InferenceService) -> Manifest | None:
    """The PodDisruptionBudget."""
    replicas, disruption = owner.spec.wanted_replicas, owner.spec.disruption
    if replicas < 2:
        return None
    stay = None if disruption is None else disruption.min_available
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(owner),
        "spec": {
            "minAvailable": replicas - 1 if stay is None else stay,
            "selector": {"matchLabels": names.selector(owner.metadata.name)},
            # A pod that does not serve is no reason to hold up a drain.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }
