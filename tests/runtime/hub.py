"""A Hugging Face hub on a local address, for tests: real HTTP, and faults on request.

It speaks the part of the hub's API that a download needs: the listing of a repository and the
files of a commit, with ranges; large files by way of a redirect, as the real one does.

In a test:                      with Hub() as hub: hub.add("org/model", directory)
As a process of its own:        python -m tests.runtime.hub org/model=DIRECTORY --port 8123
"""

import argparse
import asyncio
import hashlib
import json
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from aiohttp import web

LARGE = (".safetensors", ".bin")  # files that a real hub keeps outside of git
PIECE_BYTES = 64 << 10


@dataclass
class Faults:
    """What goes wrong. Tests set it; each entry of a list happens once."""

    statuses: list[int] = field(default_factory=list)  # answers to the next requests
    every_status: int | None = None  # answer to all requests
    break_after: dict[str, list[int]] = field(default_factory=dict)  # file → bytes of each answer
    corrupt: set[str] = field(default_factory=set)  # files with one byte changed on the way
    no_ranges: bool = False
    piece_delay_s: float = 0.0  # before each piece of a file
    silent: bool = False  # takes requests and never answers


@dataclass(frozen=True)
class Repository:
    """A directory under a name."""

    directory: Path
    commit: str
    branch: str
    token: str | None
    gated: bool


@dataclass(frozen=True)
class Seen:
    """A request that arrived."""

    host: str
    path: str
    range: str | None
    authorization: str | None


class Hub:
    """A hub in a thread of its own while the context is open."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, cdn_host: str | None = None) -> None:
        self.faults = Faults()
        self.seen: list[Seen] = []
        self._host = host
        self._port = port
        self._cdn_host = cdn_host  # where redirects lead; None: to the host of the request
        self._repositories: dict[str, Repository] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def url(self) -> str:
        """The endpoint: the value for HF_ENDPOINT."""
        return f"http://{self._host}:{self._port}"

    def add(
        self,
        name: str,
        directory: Path,
        *,
        branch: str = "main",
        token: str | None = None,
        gated: bool = False,
    ) -> str:
        """Offer a directory as `ORGANISATION/MODEL`; return its commit.

        With `token`, nobody reads it without; `gated`, nobody reads it at all.
        """
        content = hashlib.sha1(name.encode())
        for path in sorted(directory.rglob("*")):
            if path.is_file():
                content.update(path.relative_to(directory).as_posix().encode() + path.read_bytes())
        commit = content.hexdigest()
        self._repositories[name] = Repository(directory, commit, branch, token, gated)
        return commit

    def paths(self) -> list[str]:
        """Paths of the requests that arrived."""
        return [request.path for request in self.seen]

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> None:
        app = web.Application(middlewares=[self._interfere])
        app.router.add_get("/api/models/{owner}/{name}", self._listing)
        app.router.add_get("/api/models/{owner}/{name}/revision/{revision}", self._listing)
        app.router.add_get("/cdn/{owner}/{name}/{file:.+}", self._content)
        app.router.add_get("/{owner}/{name}/resolve/{revision}/{file:.+}", self._resolve)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port).start()
        self._port = self._runner.addresses[0][1]

    @web.middleware
    async def _interfere(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        headers = request.headers
        self.seen.append(
            Seen(request.host, request.path, headers.get("Range"), headers.get("Authorization"))
        )
        if self.faults.silent:
            await asyncio.sleep(3600)
        if self.faults.every_status is not None:
            return _error(self.faults.every_status, "", "out of order")
        if self.faults.statuses:
            return _error(self.faults.statuses.pop(0), "", "out of order for a moment")
        return await handler(request)

    async def _listing(self, request: web.Request) -> web.StreamResponse:
        repository = self._find(request)
        if isinstance(repository, web.Response):
            return repository
        directory = repository.directory
        files = sorted(path for path in directory.rglob("*") if path.is_file())
        answer = {
            "_id": "0",
            "id": _name(request),
            "modelId": _name(request),
            "sha": repository.commit,
            "private": repository.token is not None,
            "siblings": [_sibling(directory, path) for path in files],
        }
        return web.Response(text=json.dumps(answer), content_type="application/json")

    async def _resolve(self, request: web.Request) -> web.StreamResponse:
        repository = self._find(request)
        if isinstance(repository, web.Response):
            return repository
        path = repository.directory / request.match_info["file"]
        if not path.is_file():
            return _error(404, "EntryNotFound", "Entry not found")
        if path.suffix not in LARGE:
            return await self._send(request, path)
        host = request.host
        if self._cdn_host is not None:
            host = f"{self._cdn_host}:{self._port}"
        location = f"http://{host}/cdn/{_name(request)}/{request.match_info['file']}?signature=s"
        return web.Response(status=302, headers={"Location": location})

    async def _content(self, request: web.Request) -> web.StreamResponse:
        repository = self._repositories[_name(request)]
        return await self._send(request, repository.directory / request.match_info["file"])

    def _find(self, request: web.Request) -> Repository | web.Response:
        """The repository, or the answer that says why not."""
        repository = self._repositories.get(_name(request))
        authorization = request.headers.get("Authorization")
        if repository is None:
            status = 401 if authorization is None else 404  # as the real one: it tells no stranger
            return _error(status, "RepoNotFound", "Repository not found")
        if repository.token is not None and authorization != f"Bearer {repository.token}":
            return _error(401, "RepoNotFound", "Repository not found")
        if repository.gated:
            return _error(403, "GatedRepo", "Access to this model is restricted")
        revision = request.match_info.get("revision", repository.branch)
        if revision not in (repository.branch, repository.commit):
            return _error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repository

    async def _send(self, request: web.Request, path: Path) -> web.StreamResponse:
        content = self._bytes(path)
        start = 0 if self.faults.no_ranges else request.http_range.start or 0
        if start > len(content):
            return web.Response(status=416)
        response = web.StreamResponse(status=206 if start else 200)
        response.content_length = len(content) - start
        if start:
            end = len(content) - 1
            response.headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        await response.prepare(request)
        breaks = self.faults.break_after.get(path.name)
        stop = start + breaks.pop(0) if breaks else len(content)
        for begin in range(start, min(stop, len(content)), PIECE_BYTES):
            await asyncio.sleep(self.faults.piece_delay_s)
            await response.write(content[begin : min(begin + PIECE_BYTES, stop)])
        if stop < len(content) and request.transport is not None:
            request.transport.close()
        return response

    def _bytes(self, path: Path) -> bytes:
        content = path.read_bytes()
        if path.name in self.faults.corrupt:
            return content[:-1] + bytes([content[-1] ^ 1])
        return content


def _name(request: web.Request) -> str:
    return f"{request.match_info['owner']}/{request.match_info['name']}"


def _sibling(directory: Path, path: Path) -> dict[str, object]:
    content = path.read_bytes()
    blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
    name = path.relative_to(directory).as_posix()
    sibling: dict[str, object] = {"rfilename": name, "size": len(content), "blobId": blob}
    if path.suffix in LARGE:
        sha256 = hashlib.sha256(content).hexdigest()
        sibling["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
    return sibling


def _error(status: int, code: str, message: str) -> web.Response:
    return web.Response(
        status=status, text=message, headers={"X-Error-Code": code, "X-Error-Message": message}
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve directories until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("repository", nargs="+", help="ORGANISATION/MODEL=DIRECTORY")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8123)
    parser.add_argument("--token", help="without it nothing can be read")
    parser.add_argument("--piece-delay", type=float, default=0.0, help="seconds per 64 KiB")
    given = parser.parse_args(arguments)
    with Hub(given.host, given.port) as hub:
        hub.faults.piece_delay_s = given.piece_delay
        for repository in given.repository:
            name, _, directory = repository.partition("=")
            hub.add(name, Path(directory), token=given.token)
        print(f"HF_ENDPOINT={hub.url}", flush=True)  # noqa: T201
        threading.Event().wait()


if __name__ == "__main__":
    main()
