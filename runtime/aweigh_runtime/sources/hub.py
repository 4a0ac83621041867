"""Models from a Hugging Face hub: ask what is there, download what is missing, never in part.

CACHE/hub/ORGANISATION--MODEL/COMMIT.json    what the commit holds, written first
CACHE/hub/ORGANISATION--MODEL/COMMIT/        its files; one gets its name once it is verified
"""

import errno
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from aweigh_runtime.failures import InvalidConfiguration, ModelDoesNotFit
from aweigh_runtime.sources import Progress
from aweigh_runtime.sources.access import read_token
from aweigh_runtime.sources.client import Client
from aweigh_runtime.sources.listing import COMMIT, Listing
from aweigh_runtime.sources.transfer import Tally, bring, part_of, size_of

REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
DEFAULT_ENDPOINT = "https://huggingface.co"
PARALLEL_FILES = 4  # one connection rarely fills the line
_LISTING = TypeAdapter(Listing)


def download(
    repository: str, revision: str, secret_dir: Path | None, cache_dir: Path, progress: Progress
) -> Path:
    """Bring `ORGANISATION/MODEL` at a revision here; see `fetch`."""
    if not REPOSITORY.fullmatch(repository):
        raise InvalidConfiguration(
            f"hf://{repository} is not a repository; expected hf://ORGANISATION/MODEL"
        )
    folder = cache_dir / "hub" / repository.replace("/", "--")
    endpoint = (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")
    try:
        if COMMIT.fullmatch(revision) and (complete := _complete(folder, revision)):
            return complete
        with Client(endpoint, repository, read_token(secret_dir)) as client:
            return fetch_commit(client, client.listing(revision), folder, progress)
    except OSError as error:
        raise _unwritable(cache_dir, error) from error


def fetch_commit(client: Client, listing: Listing, folder: Path, progress: Progress) -> Path:
    """Bring one commit into a repository's folder of the cache."""
    target = folder / listing.commit
    target.mkdir(parents=True, exist_ok=True)
    with _alone(folder / ".lock"):
        _write(folder / f"{listing.commit}.json", _LISTING.dump_json(listing))
        _expect_room(client, listing, target)
        _bring_all(client, listing, target, Tally(listing.size, progress))
    return target


def _bring_all(client: Client, listing: Listing, target: Path, tally: Tally) -> None:
    with ThreadPoolExecutor(PARALLEL_FILES) as pool:
        jobs = [
            pool.submit(bring, client, listing.commit, file, target, tally)
            for file in listing.files
        ]
        try:
            for job in as_completed(jobs):
                job.result()  # the first failure ends the others
        except BaseException:  # also when this thread is told to go
            client.stop()
            pool.shutdown(cancel_futures=True)
            raise


def _complete(folder: Path, commit: str) -> Path | None:
    """The commit's directory, if all of it is here already: then no network is needed."""
    try:
        listing = _LISTING.validate_json((folder / f"{commit}.json").read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    target = folder / commit
    for file in listing.files:
        path = target / file.name
        if not path.is_file() or size_of(path) != file.size:
            return None
    return target


def _expect_room(client: Client, listing: Listing, target: Path) -> None:
    needed = sum(
        file.size - max(size_of(target / file.name), size_of(part_of(target, file)))
        for file in listing.files
    )
    free = shutil.disk_usage(target).free
    if needed > free:
        raise ModelDoesNotFit(
            f"{client.uri} needs {needed / 1e9:.2f} GB more disk at {target}, and "
            f"{free / 1e9:.2f} GB are free; give --cache-dir more room"
        )


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Let one process at a time write a repository's files."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write(path: Path, content: bytes) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_bytes(content)
    fresh.replace(path)


def _unwritable(cache_dir: Path, error: OSError) -> Exception:
    if error.errno == errno.ENOSPC:
        return ModelDoesNotFit(f"the disk of --cache-dir {cache_dir} is full; give it more room")
    return InvalidConfiguration(f"--cache-dir {cache_dir} cannot be used: {error.strerror}")
