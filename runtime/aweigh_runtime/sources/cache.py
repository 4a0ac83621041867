"""Downloads that are kept: whole or not at all, written by one process at a time.

FOLDER/VERSION.json    what the version holds
FOLDER/VERSION/        its files; one gets its name once it is verified
"""

import errno
import fcntl
import hashlib
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from aweigh_runtime.failures import InvalidConfiguration, ModelDoesNotFit
from aweigh_runtime.sources import Progress
from aweigh_runtime.sources.listing import Listing
from aweigh_runtime.sources.transfer import Source, Tally, bring, is_here, part_of, size_of

PARALLEL_FILES = 4  # one connection rarely fills the line
_LISTING = TypeAdapter(Listing)


def folder_name(text: str) -> str:
    """A file name of its own for any text, and readable."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "--", text)[-80:].lstrip(".-")
    return f"{readable}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def complete(folder: Path, version: str) -> Path | None:
    """The version's directory, if all of it is here already: then no network is needed."""
    try:
        listing = _LISTING.validate_json(_listing_path(folder, version).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    target = folder / version
    return target if all(is_here(target, file) for file in listing.files) else None


def keep(source: Source, listing: Listing, folder: Path, progress: Progress) -> Path:
    """Bring one version into its folder."""
    target = folder / listing.version
    target.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        record(folder, listing)
        bring_all(source, listing, target, progress)
    return target


def bring_all(source: Source, listing: Listing, target: Path, progress: Progress) -> None:
    """Bring the files of a version into a directory, if the disk has room for them."""
    expect_room(source.uri, _missing_bytes(listing, target), target)
    tally = Tally(listing.size, progress)
    with ThreadPoolExecutor(PARALLEL_FILES) as pool:
        jobs = [pool.submit(bring, source, file, target, tally) for file in listing.files]
        try:
            for job in as_completed(jobs):
                job.result()  # the first failure ends the others
        except BaseException:  # also when this thread is told to go
            source.patience.stop()
            pool.shutdown(cancel_futures=True)
            raise


def record(folder: Path, listing: Listing) -> None:
    """Remember what a version holds."""
    path = _listing_path(folder, listing.version)
    fresh = path.with_suffix(".new")
    fresh.write_bytes(_LISTING.dump_json(listing))
    fresh.replace(path)


def expect_room(uri: str, num_bytes: int, target: Path) -> None:
    """Refuse what does not fit on the disk before it fills it."""
    free = shutil.disk_usage(target).free
    if num_bytes > free:
        raise ModelDoesNotFit(
            f"{uri} needs {num_bytes / 1e9:.2f} GB more disk at {target}, and "
            f"{free / 1e9:.2f} GB are free; give --cache-dir more room (in Kubernetes the claim of "
            "model.cache)"
        )


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Let one process at a time write a folder's files."""
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def writable(cache_dir: Path) -> Iterator[None]:
    """What the disk refuses becomes a failure with a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise ModelDoesNotFit(
                f"the disk of --cache-dir {cache_dir} is full; give it more room"
            ) from error
        raise InvalidConfiguration(
            f"--cache-dir {cache_dir} cannot be used: {error.strerror}"
        ) from error


def _missing_bytes(listing: Listing, target: Path) -> int:
    return sum(
        file.size - size_of(part_of(target, file))
        for file in listing.files
        if not is_here(target, file)
    )


def _listing_path(folder: Path, version: str) -> Path:
    return folder / f"{version}.json"
