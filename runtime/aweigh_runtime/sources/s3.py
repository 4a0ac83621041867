"""Models from an object store, kept as CACHE/s3/BUCKET-AND-PREFIX/VERSION."""

import re
from pathlib import Path

from aweigh_runtime.failures import InvalidConfiguration
from aweigh_runtime.sources import Progress
from aweigh_runtime.sources.bucket import Bucket
from aweigh_runtime.sources.cache import complete, folder_name, keep, writable
from aweigh_runtime.sources.patience import Effort
from aweigh_runtime.sources.s3_access import read_access

BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]*[a-z0-9]")


def download(
    rest: str, secret_dir: Path | None, cache_dir: Path, progress: Progress, effort: Effort
) -> Path:
    """Bring `BUCKET/PREFIX` here; see `fetch`."""
    name, prefix = place(rest)
    folder = cache_dir / "s3" / folder_name(f"{name}/{prefix}")
    with Bucket(name, prefix, read_access(secret_dir), effort) as bucket:
        listing = bucket.listing()
        with writable(cache_dir):
            return complete(folder, listing.version) or keep(bucket, listing, folder, progress)


def place(rest: str) -> tuple[str, str]:
    """Bucket and prefix.

    Raises:
        InvalidConfiguration: there is none, or no such bucket can be.
    """
    name, _, prefix = rest.partition("/")
    prefix = prefix.strip("/")
    if not BUCKET.fullmatch(name) or not prefix or "//" in prefix:
        raise InvalidConfiguration(
            f"s3://{rest} is no place of a model; expected s3://BUCKET/PREFIX"
        )
    return name, prefix
