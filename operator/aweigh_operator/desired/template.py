"""The pod template: what a serving pod runs, and with how few rights.

What the pods are made from is hashed from the spec, not from the rendered template, and what the
operator put in is recorded beside the hash. While the hash stays, the same template is taken again,
image included, whatever this version of the operator would render (`made`). What the users put in
is not recorded: it is in the spec, and may be large.
"""

from aweigh_api import flags, names
from aweigh_api.model_uri import FETCHED, claim_of
from aweigh_api.quantity import NotAQuantity, to_bytes
from aweigh_api.spec import InferenceService, Spec
from aweigh_api.template import Template
from aweigh_operator.desired.made import Made, made
from aweigh_operator.desired.metadata import Manifest, fingerprint

USER = 65532
GRACE_MARGIN_S = 10  # for what the runtime does after its last request
LIVENESS = {"periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": 3}
READINESS = {"periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": 2}
TMP_LIMIT = "1Gi"  # of what lies there for moments; a pod with more is evicted
KERNELS_LIMIT = "8Gi"  # of compiled kernels, which take some hundred MiB
ENVIRONMENT = {
    "HOME": names.CACHE_MOUNT,
    "HF_HOME": f"{names.CACHE_MOUNT}/huggingface",
    "TRITON_CACHE_DIR": f"{names.CACHE_MOUNT}/triton",
}
SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "seccompProfile": {"type": "RuntimeDefault"},
}
NO_RIGHTS = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}
PORTS = [
    {"name": "http", "containerPort": names.HTTP_PORT, "protocol": "TCP"},
    {"name": "admin", "containerPort": names.ADMIN_PORT, "protocol": "TCP"},
]
_PLACEMENT = (
    "nodeSelector",
    "tolerations",
    "affinity",
    "runtimeClassName",
    "priorityClassName",
)


def pods(owner: InferenceService, deployment: Manifest | None, image: str) -> Made:
    """What the pods shall be made with.

    Args:
        owner: the InferenceService.
        deployment: the one that is there.
        image: of new pods.
    """
    return made(
        owner,
        deployment,
        lambda upgrade: template_hash(owner, upgrade),
        lambda made_from: bare(owner, image, made_from),
    )


def template_hash(owner: InferenceService, upgrade: str | None) -> str:
    """Hash of everything that the pods are made from, the runtime image apart."""
    # Defaults are left out, so that a field that a newer version brings changes no hash.
    spec = owner.spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    made_from = {
        part: spec[part]
        for part in (
            "model",
            "quantization",
            "speculativeDecoding",
            "prefixCache",
            "resources",
            "drain",
            "auth",
            "tls",
            "template",
        )
        if part in spec
    }
    made_from["model"].get("cache", {}).pop("prefetch", None)  # of no account to a pod
    deadline = spec.get("rollout", {}).get("progressDeadlineSeconds")
    return fingerprint([made_from, deadline, upgrade])


def bare(owner: InferenceService, image: str, made_from: str) -> Manifest:
    """The template without what the users put in."""
    return {
        "metadata": {
            "labels": names.labels(owner.metadata.name),
            "annotations": {names.TEMPLATE_HASH: made_from},
        },
        "spec": pod(owner, image),
    }


def pod(owner: InferenceService, image: str) -> Manifest:
    """A pod of this image, without what the users put in."""
    return {
        "serviceAccountName": owner.metadata.name,
        "automountServiceAccountToken": False,
        # A Service called `aweigh` would otherwise set AWEIGH_PORT, which is a flag of ours.
        "enableServiceLinks": False,
        # The kernel drops a signal to the first process of a namespace that has no handler yet: a
        # pod deleted while its server starts would stay for all of the grace period.
        "shareProcessNamespace": True,
        "terminationGracePeriodSeconds": grace_s(owner),
        "securityContext": _security(owner),
        "containers": [_container(owner, image)],
        "volumes": [volume for volume, _ in _volumes(owner)],
    }


def _security(owner: InferenceService) -> Manifest:
    if owner.spec.model.cache is None:
        return SECURITY
    # So that the pod may write what others of its kind have written.
    return {**SECURITY, "fsGroup": USER, "fsGroupChangePolicy": "OnRootMismatch"}


def dressed(owner: InferenceService, template: Manifest) -> Manifest:
    """A bare template with what the users put in."""
    shape = owner.spec.template or Template()
    metadata, spec = template["metadata"], template["spec"]
    (container,) = spec["containers"]
    theirs = [{"name": each.name, "value": each.value} for each in shape.env or []]
    env = {each["name"]: each for each in [*container["env"], *theirs]}
    return {
        "metadata": {
            "labels": {**(shape.labels or {}), **metadata["labels"]},
            "annotations": {**(shape.annotations or {}), **metadata["annotations"]},
        },
        "spec": {
            **spec,
            "containers": [{**container, "env": list(env.values())}],
            **_placement(owner, shape),
        },
    }


def image_of(deployment: Manifest | None) -> str | None:
    """The image that a Deployment runs."""
    spec = (deployment or {}).get("spec", {}).get("template", {}).get("spec", {})
    images = [
        each.get("image") for each in spec.get("containers", []) if each["name"] == names.CONTAINER
    ]
    return images[0] if images else None


def _container(owner: InferenceService, image: str) -> Manifest:
    resources = _resources(owner)
    return {
        "name": names.CONTAINER,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": flags.pod_arguments(owner),
        "env": [{"name": name, "value": value} for name, value in ENVIRONMENT.items()],
        "ports": PORTS,
        **({} if resources is None else {"resources": resources}),
        "securityContext": NO_RIGHTS,
        # Once each second for as long as the rollout may take: loading has no other limit.
        "startupProbe": {
            **probe("/readyz"),
            "periodSeconds": 1,
            "timeoutSeconds": 1,
            "failureThreshold": owner.spec.rollout.progress_deadline_seconds,
        },
        "readinessProbe": {**probe("/readyz"), **READINESS},
        "livenessProbe": {**probe("/livez"), **LIVENESS},
        "terminationMessagePath": names.TERMINATION_LOG,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [mount for _, mount in _volumes(owner)],
    }


def _resources(owner: InferenceService) -> Manifest | None:
    """What the pod asks of its node, the host memory of the prefix cache included."""
    given = owner.spec.resources.manifest() if owner.spec.resources else None
    host_memory = owner.spec.prefix_cache.host_memory
    if host_memory is None:
        return given
    given = given or {}
    limits, requests = given.get("limits", {}), given.get("requests", {})
    if "memory" not in requests and "memory" not in limits:
        requests = {"memory": 0}  # else Kubernetes takes the limit
    raised = {"limits": _more(limits, host_memory), "requests": _more(requests, host_memory)}
    return {part: amounts for part, amounts in raised.items() if amounts}


def _more(amounts: Manifest, memory: int | str) -> Manifest:
    if "memory" not in amounts:
        return amounts
    try:
        total = to_bytes(amounts["memory"]) + to_bytes(memory)
    except NotAQuantity:  # a notation that only Kubernetes knows: it will judge what it means
        return amounts
    return {**amounts, "memory": str(total)}


def probe(path: str) -> Manifest:
    """A look at the admin port."""
    return {"httpGet": {"path": path, "port": "admin", "scheme": "HTTP"}}


def _volumes(owner: InferenceService) -> list[tuple[Manifest, Manifest]]:
    """Each volume with its mount."""
    model = owner.spec.model
    volumes: list[tuple[Manifest, Manifest]] = [
        ({"name": "cache", **_cache(owner.spec)}, _mount("cache", names.CACHE_MOUNT)),
        ({"name": "tmp", "emptyDir": {"sizeLimit": TMP_LIMIT}}, _mount("tmp", "/tmp")),
    ]
    volumes += _claims(owner.spec)
    if model.secret_ref:
        volumes.append(_secret("model-secret", model.secret_ref.name, names.SECRET_MOUNT))
    return [*volumes, *secrets(owner)]


def secrets(owner: InferenceService) -> list[tuple[Manifest, Manifest]]:
    """Those that pods and routers share, each with its mount."""
    auth, tls = owner.spec.auth, owner.spec.tls
    shared = names.router_secret(owner.metadata.name, owner.metadata.uid)
    volumes = [_secret(names.ROUTER_SECRET_VOLUME, shared, names.ROUTER_SECRET_MOUNT)]
    if auth:
        volumes.append(_secret("api-keys", auth.api_keys.secret_ref.name, names.API_KEYS_MOUNT))
    if tls:
        volumes.append(_secret(names.TLS_VOLUME, tls.secret_ref.name, names.TLS_MOUNT))
    return volumes


def _cache(spec: Spec) -> Manifest:
    """Where downloads and compiled kernels are kept.

    How large a download will be is not known here, and a limit that is wrong evicts the pod again
    and again: there the users' limit of ephemeral-storage bounds it, if they set one.
    """
    if spec.model.cache is not None:
        return {"persistentVolumeClaim": {"claimName": spec.model.cache.claim}}
    downloads = any(uri.startswith(FETCHED) for uri in spec.uris)
    return {"emptyDir": {} if downloads else {"sizeLimit": KERNELS_LIMIT}}


def _claims(spec: Spec) -> list[tuple[Manifest, Manifest]]:
    """Every claim once, wherever in it the models are."""
    claims = dict.fromkeys(filter(None, map(claim_of, spec.uris)))
    # The claim of the model bears the name that it has in templates of older operators, too.
    of_model = claim_of(spec.model.uri)
    found = []
    for number, claim in enumerate(claims):
        volume = "model" if claim == of_model else f"draft-{number}"
        source = {"claimName": claim, "readOnly": True}
        mount = _mount(volume, f"{names.MODEL_MOUNT}/{claim}", read_only=True)
        found.append(({"name": volume, "persistentVolumeClaim": source}, mount))
    return found


def _secret(volume: str, name: str, path: str) -> tuple[Manifest, Manifest]:
    """A Secret without which the pod does not start."""
    source = {"name": volume, "secret": {"secretName": name}}
    return source, _mount(volume, path, read_only=True)


def _mount(volume: str, path: str, read_only: bool = False) -> Manifest:
    mount: Manifest = {"name": volume, "mountPath": path}
    return {**mount, "readOnly": True} if read_only else mount


def _placement(owner: InferenceService, shape: Template) -> Manifest:
    given = shape.manifest()
    placement = {part: given[part] for part in _PLACEMENT if given.get(part)}
    constraints = given.get("topologySpreadConstraints")
    if not constraints:  # an empty list says what none says
        return placement
    selector = {"matchLabels": names.selector(owner.metadata.name)}
    spread = [{**constraint, "labelSelector": selector} for constraint in constraints]
    return {**placement, "topologySpreadConstraints": spread}


def grace_s(owner: InferenceService) -> int:
    """How long a pod may take to go."""
    drain = owner.spec.drain
    return drain.settle_seconds + drain.timeout_seconds + GRACE_MARGIN_S
