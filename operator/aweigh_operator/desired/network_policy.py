"""Who may reach the pods, and what they may reach: where the model and the traces are, no more."""

from collections.abc import Collection, Iterable
from urllib.parse import urlsplit

from aweigh_api import model_uri, names
from aweigh_api.spec import InferenceService
from aweigh_operator.desired.metadata import Manifest, metadata

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


def manifest(owner: InferenceService) -> Manifest | None:
    """The NetworkPolicy."""
    if not owner.spec.network_policy.enabled:
        return None
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(owner),
        "spec": {
            "podSelector": {"matchLabels": names.every_pod(owner.metadata.name)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [_api(owner), _admin()],
            "egress": _egress(owner),
        },
    }


def _api(owner: InferenceService) -> Manifest:
    rule: Manifest = {"ports": [_port(names.HTTP_PORT)]}
    peers = owner.spec.network_policy.ingress_from
    if peers is not None:
        rule["from"] = [peer.manifest() for peer in peers]
    return rule


def _admin() -> Manifest:
    """Reading only, so every pod may: Prometheus and the operator live in other namespaces."""
    return {"ports": [_port(names.ADMIN_PORT)], "from": [{"namespaceSelector": {}}]}


def _egress(owner: InferenceService) -> list[Manifest]:
    ports = _ports_out(owner)
    dns = [_port(53, "UDP"), _port(53, "TCP")]
    return [{"ports": dns}, {"ports": [_port(port) for port in sorted(ports)]}] if ports else []


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
