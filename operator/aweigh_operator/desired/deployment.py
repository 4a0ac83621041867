"""The Deployment: how many pods, and how a new template reaches them."""

from aweigh_api import names
from aweigh_api.spec import InferenceService
from aweigh_operator.desired import template
from aweigh_operator.desired.made import Made
from aweigh_operator.desired.metadata import Manifest, metadata

REVISION_HISTORY = 2


def manifest(
    owner: InferenceService, pods: Made, replicas: int, *, in_place: bool, served: str | None
) -> Manifest:
    """The Deployment of so many pods made with this."""
    noted = pods.notes if served is None else {**pods.notes, names.SERVED: served}
    common, spec = metadata(owner), owner.spec
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {**common, "annotations": noted},
        "spec": {
            "replicas": replicas,
            "progressDeadlineSeconds": spec.rollout.progress_deadline_seconds,
            "revisionHistoryLimit": REVISION_HISTORY,
            "selector": {"matchLabels": names.selector(owner.metadata.name)},
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": _rolling(in_place),
            },
            "template": template.dressed(owner, pods.bare),
        },
    }


def _rolling(in_place: bool) -> Manifest:
    """One more pod for the while of a rollout; or one less, where no GPU is spare."""
    if in_place:
        return {"maxSurge": 0, "maxUnavailable": 1}
    return {"maxSurge": 1, "maxUnavailable": 0}
