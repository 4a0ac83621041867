"""Models from a Hugging Face hub, kept as CACHE/hub/ORGANISATION--MODEL/COMMIT."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aweigh_runtime.failures import InvalidConfiguration
from aweigh_runtime.sources import Progress
from aweigh_runtime.sources.access import read_token
from aweigh_runtime.sources.cache import complete, keep, writable
from aweigh_runtime.sources.client import Client
from aweigh_runtime.sources.hub_answer import COMMIT
from aweigh_runtime.sources.listing import RemoteFile
from aweigh_runtime.sources.patience import Effort
from aweigh_runtime.sources.transfer import Content

REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
DEFAULT_ENDPOINT = "https://huggingface.co"


def download(
    repository: str,
    revision: str,
    secret_dir: Path | None,
    cache_dir: Path,
    progress: Progress,
    effort: Effort,
) -> Path:
    """Bring `ORGANISATION/MODEL` at a revision here; see `fetch`."""
    expect_repository(repository)
    folder = cache_dir / "hub" / repository.replace("/", "--")
    with writable(cache_dir):
        if COMMIT.fullmatch(revision) and (here := complete(folder, revision)):
            return here
        with Client(endpoint(), repository, read_token(secret_dir), effort) as client:
            listing = client.listing(revision)
            return keep(Commit(client, listing.version), listing, folder, progress)


def expect_repository(name: str) -> None:
    """Refuse what no hub can have.

    Raises:
        InvalidConfiguration: it is not `ORGANISATION/MODEL`.
    """
    if not REPOSITORY.fullmatch(name):
        raise InvalidConfiguration(
            f"hf://{name} is not a repository; expected hf://ORGANISATION/MODEL"
        )


def endpoint() -> str:
    """The hub that is asked."""
    return (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")


class Commit:
    """The files of one commit."""

    def __init__(self, client: Client, commit: str) -> None:
        self.uri = client.uri
        self.patience = client.patience
        self._client = client
        self._commit = commit

    @contextmanager
    def content(self, file: RemoteFile, offset: int) -> Iterator[Content]:
        """A file's bytes from `offset` on, or all of them."""
        with self._client.file(self._commit, file.name, offset) as response:
            yield Content(offset if response.status_code == 206 else 0, response.iter_raw())
