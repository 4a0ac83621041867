"""The router: a Deployment of small pods that lead requests to the pods that serve.

As with those, the pods' template is rendered once and kept while nothing that it is made from
changes: a newer operator restarts no router, and `kubectl aweigh upgrade` moves both together.
"""

from aweigh_api import flags, names
from aweigh_api.spec import InferenceService
from aweigh_operator.desired import template
from aweigh_operator.desired.made import Made, made
from aweigh_operator.desired.metadata import Manifest, fingerprint, router_metadata

REVISION_HISTORY = 2
PROGRESS_DEADLINE_S = 120  # it loads nothing
RESOURCES = {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "2Gi"}}
_TMP_LIMIT = "64Mi"


def pods(owner: InferenceService, deployment: Manifest | None, image: str) -> Made:
    """What routers shall be made with.

    Args:
        owner: the InferenceService.
        deployment: of routers, the one that is there.
        image: of new routers.
    """
    return made(
        owner,
        deployment,
        lambda upgrade: template_hash(owner, upgrade),
        lambda made_from: bare(owner, image, made_from),
    )


def manifest(owner: InferenceService, routers: Made, replicas: int) -> Manifest:
    """The Deployment of so many routers made with this."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {**router_metadata(owner), "annotations": routers.notes},
        "spec": {
            "replicas": replicas,
            "progressDeadlineSeconds": PROGRESS_DEADLINE_S,
            "revisionHistoryLimit": REVISION_HISTORY,
            "selector": {"matchLabels": names.router_selector(owner.metadata.name)},
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
            },
            "template": routers.bare,
        },
    }


def template_hash(owner: InferenceService, upgrade: str | None) -> str:
    """Hash of everything that routers are made from, their image apart."""
    spec = owner.spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    made_from = {part: spec[part] for part in ("drain", "auth", "tls") if part in spec}
    return fingerprint([made_from, owner.model_name, upgrade])


def bare(owner: InferenceService, image: str, made_from: str) -> Manifest:
    """The template of routers of this image; users put nothing in."""
    name = owner.metadata.name
    volumes = _volumes(owner)
    return {
        "metadata": {
            "labels": names.router_labels(name),
            "annotations": {names.TEMPLATE_HASH: made_from},
        },
        "spec": {
            "serviceAccountName": names.router(name),
            "automountServiceAccountToken": True,  # it watches which pods are ready
            "enableServiceLinks": False,
            "shareProcessNamespace": True,
            "terminationGracePeriodSeconds": template.grace_s(owner),
            "securityContext": template.SECURITY,
            "affinity": _apart(name),
            "containers": [_container(owner, image, [mount for _, mount in volumes])],
            "volumes": [volume for volume, _ in volumes],
        },
    }


def _apart(name: str) -> Manifest:
    """On several nodes, where there are: one that fails shall not take all of them."""
    selector = {"matchLabels": names.router_selector(name)}
    term = {"topologyKey": "kubernetes.io/hostname", "labelSelector": selector}
    preferred = [{"weight": 100, "podAffinityTerm": term}]
    return {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}


def _container(owner: InferenceService, image: str, mounts: list[Manifest]) -> Manifest:
    return {
        "name": names.ROUTER_CONTAINER,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": flags.router_arguments(owner),
        "env": [],
        "ports": template.PORTS,
        "resources": RESOURCES,
        "securityContext": template.NO_RIGHTS,
        "startupProbe": {
            **template.probe("/readyz"),
            "periodSeconds": 1,
            "timeoutSeconds": 1,
            "failureThreshold": PROGRESS_DEADLINE_S,
        },
        "readinessProbe": {**template.probe("/readyz"), **template.READINESS},
        "livenessProbe": {**template.probe("/livez"), **template.LIVENESS},
        "terminationMessagePath": names.TERMINATION_LOG,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    }


def _volumes(owner: InferenceService) -> list[tuple[Manifest, Manifest]]:
    """Each volume with its mount: what a router must know to judge a request, and no model."""
    tmp = {"name": "tmp", "emptyDir": {"sizeLimit": _TMP_LIMIT}}
    return [(tmp, {"name": "tmp", "mountPath": "/tmp"}), *template.secrets(owner)]
