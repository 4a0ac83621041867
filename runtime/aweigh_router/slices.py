"""Which pods there are, as EndpointSlices of a Service say. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from aweigh_api import names
from aweigh_router.rooms import Found

SERVICE_LABEL = "kubernetes.io/service-name"


class Slices:
    """The slices of one Service, by name. A pod may stand in two of them while it moves."""

    def __init__(self, *, tls: bool) -> None:
        self._scheme = "https" if tls else "http"
        self._slices: dict[str, list[Found]] = {}
        self._labels: dict[str, Mapping[str, str]] = {}

    def replace(self, items: Iterable[Mapping[str, Any]]) -> None:
        """These there are, and no others."""
        self._slices, self._labels = {}, {}
        for item in items:
            self.change("ADDED", item)

    def change(self, kind: str, item: Mapping[str, Any]) -> None:
        """One was added, modified or deleted."""
        if kind == "DELETED":
            self._slices.pop(_name(item), None)
            self._labels.pop(_name(item), None)
        else:
            self._slices[_name(item)] = self._pods(item)
            self._labels[_name(item)] = item["metadata"].get("labels") or {}

    @property
    def gone(self) -> bool:
        """Whether the Service is, for all that is known: without pods it has an empty slice."""
        return not self._slices

    def found(self) -> list[Found]:
        """All pods, those that are not ready and those that end included."""
        pods: dict[str, Found] = {}
        for each in self._slices.values():
            for pod in each:
                if pod.name not in pods or pod.ready:
                    pods[pod.name] = pod
        return [pods[name] for name in sorted(pods)]

    def reason(self) -> str | None:
        """Why the InferenceService is not ready, as the operator has labelled the Service."""
        return next(filter(None, self._said(names.REASON)), None)

    def models(self) -> frozenset[str]:
        """`model_label` of the name that the InferenceService gives; of two while it is changed."""
        return frozenset(filter(None, self._said(names.MODEL)))

    def _said(self, label: str) -> list[str | None]:
        return [labels.get(label) for labels in self._labels.values()]

    def _pods(self, item: Mapping[str, Any]) -> list[Found]:
        ports = item.get("ports") or ()
        port = next((each["port"] for each in ports if each.get("port")), names.HTTP_PORT)
        return [
            Found(
                (endpoint.get("targetRef") or {}).get("name") or endpoint["addresses"][0],
                f"{self._scheme}://{_host(endpoint['addresses'][0])}:{port}",
                bool((endpoint.get("conditions") or {}).get("ready", True)),
            )
            for endpoint in item.get("endpoints") or ()
            if endpoint.get("addresses")
        ]


def _name(item: Mapping[str, Any]) -> str:
    name: str = item["metadata"]["name"]
    return name


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address
