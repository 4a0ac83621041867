"""A Hugging Face hub on a local address, for tests: real HTTP, and faults on request.

It speaks the part of the hub's API that a download needs: the listing of a repository and the
files of a commit, with ranges; large files by way of a redirect, as the real one does.

In a test:                      with Hub() as hub: hub.add("org/model", directory)
As a process of its own:        python -m tests.runtime.hub org/model=DIRECTORY --port 8123
"""

import argparse
import hashlib
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from tests.runtime.local_server import LocalServer

LARGE = (".safetensors", ".bin")  # files that a real hub keeps outside of git


@dataclass(frozen=True)
class Repository:
    """A directory under a name."""

    directory: Path
    commit: str
    branch: str
    token: str | None
    gated: bool


class Hub(LocalServer):
    """A hub in a thread of its own while the context is open."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, cdn_host: str | None = None) -> None:
        super().__init__(host, port)
        self._cdn_host = cdn_host  # where redirects lead; None: to the host of the request
        self._repositories: dict[str, Repository] = {}

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

    def routes(self, app: web.Application) -> None:
        app.router.add_get("/api/models/{owner}/{name}", self._listing)
        app.router.add_get("/api/models/{owner}/{name}/revision/{revision}", self._listing)
        app.router.add_get("/cdn/{owner}/{name}/{file:.+}", self._content)
        app.router.add_get("/{owner}/{name}/resolve/{revision}/{file:.+}", self._resolve)

    def refusal(self, status: int) -> web.Response:
        return _error(status, "", "out of order")

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
            return await self.send(request, path.name, path.read_bytes())
        host = request.host
        if self._cdn_host is not None:
            host = f"{self._cdn_host}:{self._port}"
        location = f"http://{host}/cdn/{_name(request)}/{request.match_info['file']}?signature=s"
        return web.Response(status=302, headers={"Location": location})

    async def _content(self, request: web.Request) -> web.StreamResponse:
        repository = self._repositories[_name(request)]
        path = repository.directory / request.match_info["file"]
        return await self.send(request, path.name, path.read_bytes())

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
