"""The Job that fetches models into the claim of `model.cache`, so that pods find them there.

It runs until it has succeeded, with the kubelet's back-off, as a serving pod would: what was wrong
may be mended meanwhile. A Job's template cannot be changed, so another model needs another Job.
"""

from aweigh_api import flags, model_uri, names
from aweigh_api.spec import InferenceService
from aweigh_operator import compare
from aweigh_operator.desired import template
from aweigh_operator.desired.metadata import Manifest, fingerprint, metadata

_RETRIES = 2**31 - 1  # the most that the API server takes
_REQUESTS = {"cpu": "100m", "memory": "256Mi"}
_VOLUMES = (
    "cache",
    "tmp",
    "model-secret",
)  # what a server needs beside them is none of its business


def manifest(owner: InferenceService, image: str) -> Manifest | None:
    """The Job, if there is something to fetch, and somewhere to keep it."""
    cache = owner.spec.model.cache
    if cache is None or not cache.prefetch or owner.spec.suspend or not _sources(owner):
        return None
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {**metadata(owner), "annotations": {names.FETCHED: _hash(owner)}},
        "spec": {"backoffLimit": _RETRIES, "template": _pod(owner, image)},
    }


def same(job: Manifest, wanted: Manifest) -> bool:
    """Whether a Job fetches what is wanted, and can be seen."""
    labels = {"labels": wanted["metadata"]["labels"]}
    return _fetches(job) == _fetches(wanted) and compare.holds(job["metadata"], labels)


def done(job: Manifest | None, wanted: Manifest) -> bool:
    """Whether what is wanted has been fetched."""
    if job is None or not same(job, wanted):
        return False
    told = {each["type"]: each["status"] for each in job.get("status", {}).get("conditions", [])}
    return told.get("Complete") == "True"


def _fetches(job: Manifest) -> str | None:
    annotations = job["metadata"].get("annotations") or {}
    return annotations.get(names.FETCHED)


def _sources(owner: InferenceService) -> list[tuple[str, str | None]]:
    """URI and revision of everything that is downloaded, the model first."""
    model = owner.spec.model
    each = [(model.uri, model.revision)]
    each += [(draft.uri, draft.revision) for draft in owner.spec.draft_models]
    return [(uri, revision) for uri, revision in each if uri.startswith(model_uri.FETCHED)]


def _hash(owner: InferenceService) -> str:
    secret = owner.spec.model.secret_ref
    cache = owner.spec.model.cache
    return fingerprint(
        [_sources(owner), secret and secret.name, cache and cache.claim, _environment(owner)]
    )


def _environment(owner: InferenceService) -> list[Manifest]:
    """Variables of the user: where a hub is, or a proxy."""
    shape = owner.spec.template
    return [each.manifest() for each in (shape.env if shape else None) or []]


def _pod(owner: InferenceService, image: str) -> Manifest:
    """As a serving pod in rights, place and volumes; it needs no GPU, and nobody asks it."""
    pods = template.pod(owner, image)
    (serving,) = pods["containers"]
    container = {
        part: serving[part]
        for part in (
            "name",
            "image",
            "imagePullPolicy",
            "env",
            "securityContext",
            "terminationMessagePath",
            "terminationMessagePolicy",
        )
    }
    container |= {
        "volumeMounts": [each for each in serving["volumeMounts"] if each["name"] in _VOLUMES],
        "args": flags.fetch_arguments(owner, _sources(owner)),
        "ports": [{"name": "admin", "containerPort": names.ADMIN_PORT, "protocol": "TCP"}],
        "resources": {"requests": _REQUESTS},
        "readinessProbe": serving["readinessProbe"],  # never: it tells how far it is, no more
    }
    name = owner.metadata.name
    pod = {
        "metadata": {"labels": names.prefetch_labels(name), "annotations": {}},
        "spec": {
            **pods,
            "containers": [container],
            "volumes": [each for each in pods["volumes"] if each["name"] in _VOLUMES],
            "restartPolicy": "OnFailure",
            "terminationGracePeriodSeconds": template.GRACE_MARGIN_S,
        },
    }
    return template.dressed(owner, pod)
