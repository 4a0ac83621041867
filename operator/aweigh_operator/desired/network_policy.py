"""Who may reach pods and routers, and what they may reach.

Pods reach where the model and the traces are, routers the pods and the API server, and no more.
"""

from collections.abc import Collection, Iterable
from urllib.parse import urlsplit

from aweigh_api import model_uri, names
from aweigh_api.spec import InferenceService
from aweigh_operator.desired.metadata import Manifest, metadata, router_metadata

HTTPS_PORT = 443
_DEFAULT_PORTS = {"http": 80, "https": HTTPS_PORT}
_ENDPOINTS = (
    "HF_ENDPOINT",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "https_proxy",
    "http_proxy",
)
_COLLECTORS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def manifest(owner: InferenceService, *, routed: bool, closed: bool) -> Manifest | None:
    """The NetworkPolicy of all pods but routers.

    Args:
        owner: the InferenceService.
        routed: routers may reach its pods.
        closed: nobody else may use the API there.
    """
    if not owner.spec.network_policy.enabled:
        return None
    name = owner.metadata.name
    others = {"key": names.LABEL_NAME, "operator": "NotIn", "values": [names.ROUTER]}
    routers = [_pods(names.router_selector(name))] if routed or closed else []
    peers = routers if closed else _clients(owner, routers)
    api = _to_api(peers)
    selector = {"matchLabels": names.every_pod(name), "matchExpressions": [others]}
    return _policy(metadata(owner), selector, api, _egress(owner))


def of_router(owner: InferenceService, api_server_ports: Iterable[int]) -> Manifest | None:
    """The NetworkPolicy of the routers, which may ask the API server at one of these ports."""
    if not owner.spec.network_policy.enabled:
        return None
    name = owner.metadata.name
    pods = {"ports": [_port(names.HTTP_PORT)], "to": [_pods(names.selector(name))]}
    out = [{"ports": _DNS}, pods, {"ports": [_port(each) for each in api_server_ports]}]
    selector = {"matchLabels": names.router_selector(name)}
    return _policy(router_metadata(owner), selector, _to_api(_clients(owner)), out)


def _policy(metadata: Manifest, pods: Manifest, api: Manifest, out: list[Manifest]) -> Manifest:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata,
        "spec": {
            "podSelector": pods,
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [api, _admin()],
            "egress": out,
        },
    }


def _to_api(peers: list[Manifest] | None) -> Manifest:
    """From these, or from everywhere."""
    rule: Manifest = {"ports": [_port(names.HTTP_PORT)]}
    return rule if peers is None else {**rule, "from": peers}


def _clients(owner: InferenceService, routers: Iterable[Manifest] = ()) -> list[Manifest] | None:
    """Whoever may use the API, and routers; None: everybody."""
    peers = owner.spec.network_policy.ingress_from
    return None if peers is None else [*(peer.manifest() for peer in peers), *routers]


def _pods(labels: dict[str, str]) -> Manifest:
    """Of the same namespace."""
    return {"podSelector": {"matchLabels": labels}}


def _admin() -> Manifest:
    """Reading only, so every pod may: Prometheus and the operator live in other namespaces."""
    return {"ports": [_port(names.ADMIN_PORT)], "from": [{"namespaceSelector": {}}]}


def _egress(owner: InferenceService) -> list[Manifest]:
    ports = _ports_out(owner)
    return [{"ports": _DNS}, {"ports": [_port(port) for port in sorted(ports)]}] if ports else []


def _ports_out(owner: InferenceService) -> set[int]:
    fetched = [uri for uri in owner.spec.uris if uri.startswith(model_uri.FETCHED)]
    if not fetched:
        return _ports_of(_values(owner, _COLLECTORS))
    urls = [
        *fetched,
        *_values(owner, _ENDPOINTS + _COLLECTORS),
    ]  # a registry has its port in the URI
    return {HTTPS_PORT, *_ports_of(urls)}


def _values(owner: InferenceService, variables: Collection[str]) -> list[str]:
    template = owner.spec.template
    environment = (template.env if template else None) or []
    return [variable.value for variable in environment if variable.name in variables]


def _ports_of(urls: Iterable[str]) -> set[int]:
    return set(filter(None, map(_port_of, urls)))


def _port_of(url: str) -> int | None:
    try:
        parts = urlsplit(url)
        return parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:  # not a URL: the runtime will say so
        return None


def _port(port: int, protocol: str = "TCP") -> Manifest:
    return {"protocol": protocol, "port": port}


_DNS = [_port(53, "UDP"), _port(53, "TCP")]
