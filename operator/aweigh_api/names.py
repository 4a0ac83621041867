"""Names, labels, ports and paths that more than one side must agree on. No other module spells one.

Every child of an InferenceService carries the InferenceService's own name: there is one of each
kind, so `kubectl get deploy,svc,pdb chat` shows what belongs to `chat`. What belongs to its router
is called `chat-router`, and the Service that leads past the router to its pods `chat-pods`.
"""

import hashlib

GROUP = "serving.aweigh.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "InferenceService"
PLURAL = "inferenceservices"
SINGULAR = "inferenceservice"
SHORT_NAME = "infs"
CATEGORIES = ("all", "ai")

FIELD_MANAGER = "aweigh"  # of server-side apply
CONTAINER = "runtime"  # the container of a serving pod
ROUTER_CONTAINER = "router"  # the container of a router's pod
OF_ROUTER, OF_PODS = "-router", "-pods"  # ends of children's names

LABEL_NAME = "app.kubernetes.io/name"
LABEL_INSTANCE = "app.kubernetes.io/instance"
LABEL_COMPONENT = "app.kubernetes.io/component"
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
LABEL_PART_OF = "app.kubernetes.io/part-of"
MANAGED_BY = "aweigh"
RUNTIME = "aweigh-runtime"
PREFETCH = "aweigh-prefetch"
ROUTER = "aweigh-router"
OPERATOR = "aweigh-operator"

TEMPLATE_HASH = f"{GROUP}/template-hash"  # annotation: what the pods were made from, image apart
TEMPLATE = f"{GROUP}/template"  # annotation: our part of the template as made, fingerprinted
APPLIED_HASH = f"{GROUP}/applied-hash"  # annotation: of the manifest that was applied last
FETCHED = f"{GROUP}/fetched"  # annotation of a Job: hash of what it fetches
# Annotation. Of an InferenceService: a new value moves its pods to the current images, unless they
# are as they would be made now. Of a Deployment: that with which its pods were made.
UPGRADE = f"{GROUP}/upgrade"
UPGRADE_FORCED = "/force"  # ends an upgrade that moves pods in any case
UPGRADE_ANSWERED = f"{GROUP}/upgrade-answered"  # annotation of a Deployment: the last one asked for
SERVED = f"{GROUP}/served"  # annotation of a Deployment: hash of the pods that have served last
REASON = f"{GROUP}/reason"  # label of the Service NAME-pods, and so of its EndpointSlices: of Ready
MODEL = f"{GROUP}/model"  # another one there: `model_label` of the name that the model shall have

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"  # annotation of pods; Kubernetes' own

HTTP_PORT = 8000  # the OpenAI API and /health
ADMIN_PORT = 9090  # /livez, /readyz, /metrics, /state; reading only
OPERATOR_PROBE_PORT = 8080
OPERATOR_METRICS_PORT = 8081

MODEL_MOUNT = "/mnt/models"  # where a pod finds the claims of pvc:// URIs by name, read-only
SECRET_MOUNT = "/etc/aweigh/model-secret"  # where a pod finds the Secret of model.secretRef
API_KEYS_MOUNT = "/etc/aweigh/api-keys"  # where a pod finds the Secret of auth.apiKeys.secretRef
TLS_MOUNT = "/etc/aweigh/tls"  # where a pod finds the Secret of tls.secretRef
ROUTER_SECRET_MOUNT = "/etc/aweigh/router-secret"  # where pods and routers find what only they know
ROUTER_SECRET_VOLUME = "router-secret"  # of pods: one without it does not know routers
TLS_VOLUME = "tls"  # of pods and routers: one without it speaks plain HTTP
CACHE_MOUNT = "/var/cache/aweigh"  # downloads and compiled kernels; writable
TERMINATION_LOG = "/dev/termination-log"

SECRET_TOKEN_KEYS = ("token", "HF_TOKEN")  # keys of that Secret, the first that exists is taken

MAX_NAME_LENGTH = 50  # leaves room for the suffixes that Kubernetes adds to pods


def selector(name: str) -> dict[str, str]:
    """Labels that select the serving pods of the InferenceService `name`."""
    return {LABEL_NAME: RUNTIME, LABEL_INSTANCE: name}


def every_pod(name: str) -> dict[str, str]:
    """Labels that select all pods of the InferenceService `name`, also one that fetches."""
    return {LABEL_INSTANCE: name, LABEL_MANAGED_BY: MANAGED_BY}


def labels(name: str) -> dict[str, str]:
    """Labels of every child of the InferenceService `name`, and of its serving pods."""
    return {
        **selector(name),
        LABEL_COMPONENT: "runtime",
        LABEL_MANAGED_BY: MANAGED_BY,
        LABEL_PART_OF: "aweigh",
    }


def prefetch_labels(name: str) -> dict[str, str]:
    """Labels of the pod that fetches the models of the InferenceService `name`."""
    return {**labels(name), LABEL_NAME: PREFETCH, LABEL_COMPONENT: "prefetch"}


def router_selector(name: str) -> dict[str, str]:
    """Labels that select the router's pods of the InferenceService `name`."""
    return {LABEL_NAME: ROUTER, LABEL_INSTANCE: name}


def router_labels(name: str) -> dict[str, str]:
    """Labels of the router's pods of the InferenceService `name`, and of what belongs to them."""
    return {**labels(name), **router_selector(name), LABEL_COMPONENT: "router"}


def router(name: str) -> str:
    """Name of the router's Deployment, and of what belongs to it."""
    return name + OF_ROUTER


def pods_service(name: str) -> str:
    """Name of the headless Service that leads to the pods themselves."""
    return name + OF_PODS


def router_secret(name: str, uid: str) -> str:
    """Name of the Secret that a service's pods and routers share.

    It holds a part of the InferenceService's uid: what has this name is this service's, so the
    operator never has to read it to know.
    """
    return f"{router(name)}-{uid[:8]}"


def model_label(model: str) -> str:
    """A model's name, be it a client's, as a label can say it: those have fewer characters."""
    return hashlib.sha256(model.encode(errors="surrogatepass")).hexdigest()[:16]


def url(name: str, namespace: str, tls: bool) -> str:
    """Base URL of the OpenAI API of an InferenceService, as seen from inside the cluster."""
    return f"{'https' if tls else 'http'}://{host(name, namespace)}:{HTTP_PORT}/v1"


def host(name: str, namespace: str) -> str:
    """The name in the cluster's DNS, which a certificate must be for."""
    return f"{name}.{namespace}.svc"


ENV_PREFIX = "AWEIGH_"  # of variables that are settings


def environment_variable(flag: str) -> str:
    """What gives the setting of `--flag` from the environment: `--port` is AWEIGH_PORT."""
    return ENV_PREFIX + flag.removeprefix("--").replace("-", "_").upper()
