"""The only module that talks to the API server.

Children are written by server-side apply: we own the fields that we send, and all others stay as
they are. Every call has a time limit, and a refusal carries the server's own sentence.
"""

import asyncio
import json
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol
from urllib.request import getproxies

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from aweigh_api import names
from aweigh_operator.observe import NOT_CREATED, Autoscaler, Key, Manifest, Waiting
from aweigh_operator.replicas import Mark
from aweigh_operator.resources import (
    AUTOSCALERS,
    CORE_EVENTS,
    EVENTS,
    LEASES,
    OURS,
    RESOURCES,
    SECRETS,
    path_of,
)

REQUEST_TIMEOUT_S = 10.0
MAX_CONNECTIONS = 16  # each holds a quarter of a MiB
PAGE = 500  # objects of one listing
STATUS_MANAGER = f"{names.FIELD_MANAGER}-status"
_SCALABLE = {"Deployment": "apps", names.KIND: names.GROUP}  # others have such a kind, too
_JSON = "application/json"
_METADATA_ONLY = f"{_JSON};as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
_SCHEMA_OF = "x-kubernetes-group-version-kind"
_NAMESPACES = "namespaces"
_TRANSIENT = (0, 408, 409, 429)  # 0: no answer
_SECONDS = re.compile(r"[0-9]{1,4}")  # the API server names no date


class ApiError(Exception):
    """The API server refused a request, or did not answer."""

    expected = True  # a fact about the cluster, not a bug of ours

    def __init__(
        self,
        what: str,
        status: int,
        sentence: str,
        cause: str = "",
        retry_after_s: float = 0.0,
    ) -> None:
        answer = f"the API server answered {status}" if status else "the API server did not answer"
        super().__init__(f"cannot {what}: {answer}: {sentence}")
        self.status = status
        self.cause = cause
        self.retry_after_s = retry_after_s  # no sooner, as the server has asked

    @property
    def transient(self) -> bool:
        """Whether the same request may succeed in a moment; what succeeds has made no sense."""
        senseless = 200 <= self.status <= 299
        return senseless or self.status in _TRANSIENT or self.status >= 500

    @property
    def namespace_leaves(self) -> bool:
        """Whether a child could not be applied because its namespace is being deleted, or gone."""
        return self.cause in ("NamespaceTerminating", _NAMESPACES)


class Cluster(Protocol):
    """What a reconcile may ask of the world and do to it."""

    async def read(self, kind: str, key: Key) -> Manifest | None:
        """One object as it is now."""
        ...

    async def uids(self, kind: str, namespace: str | None) -> set[str]:
        """What is there of a kind: every InferenceService, or all children of any."""
        ...

    async def stuck(self, namespace: str, pod: str) -> Waiting | None:
        """What was said last about a pod whose container cannot be created."""
        ...

    async def apply(self, manifest: Manifest, *, force: bool = True) -> Manifest:
        """Create or update one child; without force, no field that another set is changed."""
        ...

    async def delete(self, kind: str, key: Key, uid: str) -> None:
        """Delete this very object, if it is still there."""
        ...

    async def create_secret(self, secret: Manifest) -> bool:
        """Create it; False when there is one of its name."""
        ...

    async def mark(self, namespace: str, mark: Mark) -> None:
        """Say what the deletion of this very pod costs, if it is still there."""
        ...

    async def autoscalers(self, namespace: str) -> list[Autoscaler]:
        """Those of a namespace that scale Deployments or InferenceServices."""
        ...

    async def write_status(self, body: Manifest, status: Manifest) -> Manifest | None:
        """Replace the status; gives the InferenceService as stored, None when it is gone."""
        ...

    async def create_event(self, event: Manifest) -> None:
        """Write a new event."""
        ...

    async def repeat_event(self, namespace: str, name: str, series: Manifest) -> bool:
        """Say that an event happened again; False when it has expired."""
        ...


async def load_configuration() -> Configuration:
    """How to reach the API server: as a pod's account, else as the kubeconfig says."""
    configuration = Configuration()
    if "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ:
        config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]
    else:
        await config.load_kube_config(  # type: ignore[no-untyped-call]
            config_file=os.environ.get("KUBECONFIG"), client_configuration=configuration
        )
    configuration.connection_pool_maxsize = MAX_CONNECTIONS
    # Else each request looks for a .netrc file first, in a thread.
    configuration.client_session_kwargs = {"trust_env": bool(getproxies())}
    return configuration


class ApiServer:
    """The Cluster behind an API server."""

    def __init__(self, configuration: Configuration, counted: Callable[[str, int], None]) -> None:
        """`counted` is told the method and the status of each request.

        Set `writable_s` where several operators take turns: it says how long a write that begins
        now may take.
        """
        self._client = ApiClient(configuration)
        self._client.user_agent = names.OPERATOR
        self._counted = counted
        self.writable_s: Callable[[], float] = lambda: REQUEST_TIMEOUT_S

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()  # type: ignore[no-untyped-call]

    async def read(self, kind: str, key: Key) -> Manifest | None:
        """One object as it is now."""
        return await self._find(f"read {kind} {key}", "GET", path_of(RESOURCES[kind], *key))

    async def uids(self, kind: str, namespace: str | None) -> set[str]:
        """What is there of a kind: every InferenceService, or all children of any."""
        query = {"limit": str(PAGE)}
        if kind != names.KIND:
            query["labelSelector"] = OURS
        path, what = path_of(RESOURCES[kind], namespace), f"list {RESOURCES[kind][1]}"
        found: set[str] = set()
        while True:
            page = await self._call(what, "GET", path, query, content=_METADATA_ONLY)
            found |= {each["metadata"]["uid"] for each in _items(page)}
            query["continue"] = page.get("metadata", {}).get("continue", "")
            if not query["continue"]:
                return found

    async def stuck(self, namespace: str, pod: str) -> Waiting | None:
        """What was said last about a pod whose container cannot be created."""
        query = {"fieldSelector": f"involvedObject.name={pod},type=Warning", "limit": "50"}
        path = path_of(CORE_EVENTS, namespace)
        listed = _items(await self._call(f"list the events of {pod}", "GET", path, query))
        found = [each for each in listed if each.get("reason") in NOT_CREATED]
        newest = max(found, key=lambda each: each.get("lastTimestamp") or "", default=None)
        return None if newest is None else Waiting(newest["reason"], newest.get("message", ""))

    async def listable(self, kind: str, namespace: str | None) -> None:
        """Raise an ApiError unless this kind exists and may be listed."""
        what = f"list {RESOURCES[kind][1]} in {namespace or 'all namespaces'}"
        await self._call(what, "GET", path_of(RESOURCES[kind], namespace), {"limit": "1"})

    async def schema(self) -> Manifest:
        """What the API server keeps of an InferenceService; empty before it has published that."""
        path = f"/openapi/v3/apis/{names.API_VERSION}"
        published = await self._find("read the schema of InferenceServices", "GET", path) or {}
        group, _, version = names.API_VERSION.partition("/")
        wanted = {"group": group, "kind": names.KIND, "version": version}
        schemas: dict[str, Manifest] = published.get("components", {}).get("schemas", {})
        found = (each for each in schemas.values() if wanted in each.get(_SCHEMA_OF, ()))
        return next(found, {})

    async def apply(self, manifest: Manifest, *, force: bool = True) -> Manifest:
        """Create or update one child; without force, no field that another set is changed."""
        kind, metadata = manifest["kind"], manifest["metadata"]
        path = path_of(RESOURCES[kind], metadata["namespace"], metadata["name"])
        what = f"apply {kind} {metadata['namespace']}/{metadata['name']}"
        return await self._apply(what, path, manifest, names.FIELD_MANAGER, force)

    async def delete(self, kind: str, key: Key, uid: str) -> None:
        """Delete this very object, if it is still there."""
        body = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        await self._find(f"delete {kind} {key}", "DELETE", path_of(RESOURCES[kind], *key), body)

    async def create_secret(self, secret: Manifest) -> bool:
        """Create it; False when there is one of its name, which nobody here may read."""
        namespace, name = secret["metadata"]["namespace"], secret["metadata"]["name"]
        what = f"create Secret {namespace}/{name}"
        try:
            await self._call(what, "POST", path_of(SECRETS, namespace), body=secret)
        except ApiError as error:
            if error.status == 409:
                return False
            raise
        return True

    async def mark(self, namespace: str, mark: Mark) -> None:
        """Say what the deletion of this very pod costs, if it is still there."""
        cost = None if mark.cost is None else str(mark.cost)
        body = {"metadata": {"uid": mark.uid, "annotations": {names.DELETION_COST: cost}}}
        path, merge = path_of(RESOURCES["Pod"], namespace, mark.pod), "application/merge-patch+json"
        try:
            await self._find(f"mark pod {namespace}/{mark.pod}", "PATCH", path, body, merge)
        except ApiError as error:
            if error.status not in (409, 422):  # another pod of this name: the watch will tell
                raise

    async def autoscalers(self, namespace: str) -> list[Autoscaler]:
        """Those of a namespace that scale Deployments or InferenceServices."""
        path = path_of(AUTOSCALERS, namespace)
        listing = await self._call(f"list the autoscalers in {namespace}", "GET", path)
        targets = [
            (each["metadata"]["name"], each["spec"]["scaleTargetRef"]) for each in _items(listing)
        ]
        return [
            Autoscaler(name, to["kind"], to["name"])
            for name, to in targets
            if _SCALABLE.get(to["kind"]) == to.get("apiVersion", "").partition("/")[0]
        ]

    async def read_lease(self, key: Key) -> Manifest | None:
        """The Lease as it is now."""
        return await self._find(f"read the Lease {key}", "GET", path_of(LEASES, *key))

    async def write_lease(self, lease: Manifest) -> Manifest | None:
        """Create it, or replace the very version that was read; None: another was faster."""
        metadata = lease["metadata"]
        namespace, name = metadata["namespace"], metadata["name"]
        known = "resourceVersion" in metadata
        method, path = ("PUT", (namespace, name)) if known else ("POST", (namespace,))
        what = f"hold the Lease {namespace}/{name}"
        try:
            return await self._call(what, method, path_of(LEASES, *path), body=lease)
        except ApiError as error:
            if error.status in (404, 409):
                return None
            raise

    async def write_status(self, body: Manifest, status: Manifest) -> Manifest | None:
        """Replace the status; gives the InferenceService as stored, None when it is gone."""
        metadata = body["metadata"]
        manifest = {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {key: metadata[key] for key in ("name", "namespace", "uid")},
            "status": status,
        }
        key = Key(metadata["namespace"], metadata["name"])
        path = f"{path_of(RESOURCES[names.KIND], *key)}/status"
        try:
            return await self._apply(f"write the status of {key}", path, manifest, STATUS_MANAGER)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def create_event(self, event: Manifest) -> None:
        """Write a new event."""
        path = path_of(EVENTS, event["metadata"]["namespace"])
        await self._call("write an event", "POST", path, body=event)

    async def repeat_event(self, namespace: str, name: str, series: Manifest) -> bool:
        """Say that an event happened again; False when it has expired."""
        path = path_of(EVENTS, namespace, name)
        body, merge = {"series": series}, "application/merge-patch+json"
        return await self._find("repeat an event", "PATCH", path, body, merge) is not None

    async def _apply(
        self, what: str, path: str, manifest: Manifest, manager: str, force: bool = True
    ) -> Manifest:
        query = {"fieldManager": manager, "force": str(force).lower()}
        content = "application/apply-patch+yaml"
        return await self._call(what, "PATCH", path, query, manifest, content)

    async def _find(
        self,
        what: str,
        method: str,
        path: str,
        body: Manifest | None = None,
        content: str = _JSON,
    ) -> Manifest | None:
        try:
            return await self._call(what, method, path, body=body, content=content)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def _call(
        self,
        what: str,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Manifest | None = None,
        content: str = _JSON,
    ) -> Manifest:
        timeout_s = REQUEST_TIMEOUT_S
        if method != "GET" and not path.startswith(f"/apis/{LEASES[0]}/"):
            timeout_s = min(timeout_s, self.writable_s())
            if timeout_s <= 0.0:
                raise ApiError(what, 0, "this operator no longer leads")
        request = self._request(method, path, query or {}, body, content)
        status, text, retry_after_s = await self._send(await request, timeout_s)
        self._counted(method, status)
        if not 200 <= status <= 299:
            raise ApiError(what, status, *_refusal(text), retry_after_s)
        return _object(what, status, text)

    async def _request(
        self, method: str, path: str, query: Mapping[str, str], body: Manifest | None, content: str
    ) -> tuple[Any, ...]:
        """`content` is the form of what is sent, or of what a GET asks for."""
        accepted = content if method == "GET" else _JSON
        found: tuple[Any, ...] = await self._client.param_serialize(
            method,
            path,
            query_params=list(query.items()),
            header_params={"Accept": accepted, "Content-Type": content},
            body=body,
            auth_settings=["BearerToken"],
        )
        return found

    async def _send(self, request: tuple[Any, ...], timeout_s: float) -> tuple[int, str, float]:
        """Status and text of the answer, and after how many seconds it asks to be asked again."""
        try:
            async with asyncio.timeout(timeout_s):
                response = (await self._client.call_api(*request)).response
                after = response.headers.get("Retry-After", "")
                after_s = float(after) if _SECONDS.fullmatch(after) else 0.0
                return response.status, await response.text("utf-8", "replace"), after_s
        except TimeoutError:
            return 0, f"no answer within {timeout_s:.0f} s", 0.0
        except (aiohttp.ClientError, OSError) as error:
            return 0, str(error), 0.0


def _items(listing: Manifest) -> list[Manifest]:
    items: list[Manifest] | None = listing.get("items")  # null where there is nothing
    return items or []


def _object(what: str, status: int, text: str) -> Manifest:
    """What was answered; a proxy's page, or half an answer, is a failure that may pass."""
    try:
        answer: Any = json.loads(text)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise ApiError(what, status, f"expected an object as JSON, got {text.strip()[:200]!r}")
    return answer


def _refusal(text: str) -> tuple[str, str]:
    """Message and cause of a Status object, else the beginning of whatever came.

    The cause of one that names none is the kind of what was not found or not allowed.
    """
    try:
        answer: Any = json.loads(text)
        details = answer.get("details", {})
        causes = details.get("causes") or [{}]
        cause = causes[0].get("reason", details.get("kind", ""))
        return str(answer["message"])[:1000], str(cause)
    except (ValueError, KeyError, TypeError, AttributeError):
        return text.strip()[:200], ""
