"""What the benchmark asks of the API server: writes, counts and one watch. No client library."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import aiohttp

from aweigh_api import names
from aweigh_operator.resources import RESOURCES

AT_ONCE = 24
MERGE = {"Content-Type": "application/merge-patch+json"}
METADATA_ONLY = {"Accept": "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"}
CHILDREN = ("ServiceAccount", "NetworkPolicy", "Service", "Deployment")
Manifest = dict[str, Any]


class Api:
    """The API server, as its administrator."""

    def __init__(self, kubeconfig: Path) -> None:
        found = json.loads(kubeconfig.read_text())
        cluster, user = found["clusters"][0]["cluster"], found["users"][0]["user"]
        tls = ssl.create_default_context(cafile=cluster["certificate-authority"])
        tls.load_cert_chain(user["client-certificate"], user["client-key"])
        connector = aiohttp.TCPConnector(ssl=tls, limit=0)
        self._session = aiohttp.ClientSession(cluster["server"], connector=connector)

    async def close(self) -> None:
        await self._session.close()

    async def create(self, manifests: Iterable[Manifest]) -> None:
        """Create them, many at once."""
        await _all(manifests, self._create)

    async def patch(self, kind: str, at: Iterable[tuple[str, str]], change: Manifest) -> None:
        """Change all of them alike, many at once."""
        text = json.dumps(change)
        await _all(at, lambda each: self._call("PATCH", path(kind, *each), text, MERGE))

    async def versions(self, kinds: Iterable[str]) -> dict[str, str]:
        """The resource version of every one of our objects of these kinds, by uid."""
        found: dict[str, str] = {}
        for kind in kinds:
            where = path(kind)
            if kind != names.KIND:
                where += f"?labelSelector={names.LABEL_MANAGED_BY}={names.MANAGED_BY}"
            for each in (await self._call("GET", where, None, METADATA_ONLY))["items"] or ():
                found[each["metadata"]["uid"]] = each["metadata"]["resourceVersion"]
        return found

    async def count(self, kind: str) -> int:
        """Objects of a kind, whosever they are."""
        listing = await self._call("GET", f"{path(kind)}?limit=1", None, METADATA_ONLY)
        more: int = listing["metadata"].get("remainingItemCount", 0)
        return len(listing["items"] or ()) + more

    async def num_ready(self) -> int:
        """InferenceServices that are Ready."""
        items = (await self._call("GET", f"{path(names.KIND)}?resourceVersion=0"))["items"]
        conditions = [each.get("status", {}).get("conditions", []) for each in items]
        return sum(
            any(one["type"] == "Ready" and one["status"] == "True" for one in of_one)
            for of_one in conditions
        )

    async def read(self, kind: str, namespace: str, name: str) -> Manifest:
        return await self._call("GET", path(kind, namespace, name))

    async def lease_holder(self, namespace: str, name: str) -> str:
        where = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{name}"
        return str((await self._call("GET", where))["spec"].get("holderIdentity", ""))

    async def version(self, kind: str, namespace: str) -> str:
        """What a watch of these objects may begin with."""
        listing = await self._call("GET", f"{path(kind, namespace)}?limit=1")
        return str(listing["metadata"]["resourceVersion"])

    async def watch(self, kind: str, namespace: str, since: str) -> AsyncIterator[Manifest]:
        """Every version of the objects of a namespace since that one."""
        where = path(kind, namespace)
        url = f"{where}?watch=1&resourceVersion={since}"
        timeout = aiohttp.ClientTimeout(total=None)
        async with self._session.get(url, timeout=timeout, read_bufsize=2**20) as response:
            async for line in response.content:
                yield json.loads(line)["object"]

    async def _create(self, manifest: Manifest) -> None:
        where = path(manifest["kind"], manifest["metadata"].get("namespace", ""))
        await self._call("POST", where, json.dumps(manifest), {"Content-Type": "application/json"})

    async def _call(
        self,
        method: str,
        where: str,
        text: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Manifest:
        async with self._session.request(method, where, data=text, headers=headers) as response:
            answer: Manifest = await response.json(content_type=None)
            if response.status >= 300:
                raise RuntimeError(f"{method} {where}: {response.status} {answer.get('message')}")
            return answer


def path(kind: str, namespace: str = "", name: str = "") -> str:
    """Where a kind, its objects of one namespace, or one object are."""
    version, plural = ("v1", "namespaces") if kind == "Namespace" else RESOURCES[kind]
    root = "/apis" if "/" in version else "/api"
    scope = f"/namespaces/{namespace}" if namespace else ""
    return f"{root}/{version}{scope}/{plural}" + (f"/{name}" if name else "")


async def _all(items: Iterable[Any], do: Callable[[Any], Any]) -> None:
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(item: Any) -> None:
        async with gate:
            await do(item)

    await asyncio.gather(*map(one, items))
