"""Desired state: the objects that an InferenceService owns. Pure: same input, same manifests.

The pod template is rendered once and then kept (`template.kept`), so that a newer operator, which
may render another one, never restarts pods that serve.
"""

from aweigh_api import names
from aweigh_api.spec import InferenceService
from aweigh_operator.desired import (
    deployment,
    disruption,
    network_policy,
    prefetch,
    service,
    service_account,
    template,
)
from aweigh_operator.desired.metadata import Manifest, fingerprint

__all__ = ["KINDS", "Manifest", "children", "fingerprint"]

# In the order of creation: a pod needs its account, and should not be reached before its policy.
KINDS = ("ServiceAccount", "NetworkPolicy", "Service", "PodDisruptionBudget", "Job", "Deployment")


def children(
    owner: InferenceService,
    current: Manifest | None,
    runtime_image: str,
    replicas: int,
    *,
    in_place: bool = False,
) -> dict[str, Manifest]:
    """What should be there, by kind.

    Args:
        owner: the InferenceService.
        current: the Deployment that is there.
        runtime_image: of new pods.
        replicas: how many pods.
        in_place: an old pod goes before its new one starts.
    """
    ours = template.bare(owner, runtime_image)
    pods = template.kept(owner, current, ours) or ours
    wanted = {
        "ServiceAccount": service_account.manifest(owner),
        "NetworkPolicy": network_policy.manifest(owner),
        "Service": service.manifest(owner),
        "PodDisruptionBudget": disruption.manifest(owner, replicas),
        "Job": prefetch.manifest(owner, runtime_image),
        "Deployment": deployment.manifest(owner, pods, replicas, in_place=in_place),
    }
    return {kind: _signed(wanted[kind]) for kind in KINDS if wanted[kind]}


def _signed(manifest: Manifest | None) -> Manifest:
    """The manifest with its own hash, which tells later that a field was taken away."""
    assert manifest is not None
    metadata = manifest["metadata"]
    annotations = {**metadata.get("annotations", {}), names.APPLIED_HASH: fingerprint(manifest)}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}
