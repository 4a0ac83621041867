"""How many pods a node drain must leave. With fewer than two pods it would only block the drain."""

from aweigh_api import names
from aweigh_api.spec import InferenceService
from aweigh_operator.desired.metadata import Manifest, metadata, router_metadata


def manifest(owner: InferenceService, replicas: int) -> Manifest | None:
    """The PodDisruptionBudget of so many pods."""
    if replicas < 2:
        return None
    disruption = owner.spec.disruption
    stay = None if disruption is None else disruption.min_available
    # Where the load has left as few pods as must stay, one may still be moved.
    least = replicas - 1 if stay is None else min(stay, replicas - 1)
    return _budget(metadata(owner), names.selector(owner.metadata.name), least)


def of_router(owner: InferenceService, replicas: int) -> Manifest | None:
    """The same of so many routers."""
    if replicas < 2:
        return None
    selector = names.router_selector(owner.metadata.name)
    return _budget(router_metadata(owner), selector, replicas - 1)


def _budget(metadata: Manifest, selector: dict[str, str], least: int) -> Manifest:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata,
        "spec": {
            "minAvailable": least,
            "selector": {"matchLabels": selector},
            # A pod that does not serve is no reason to hold up a drain.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }
