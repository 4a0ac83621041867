"""What is expensive to make is kept in the cache under the hash of what it was made from."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.cluster import places

VERSIONS_KEPT = 2


def digest(files: Iterable[Path], *words: str) -> str:
    """A short name for the content of files and folders, and for some words beside them."""
    total = hashlib.sha256("\0".join(words).encode())
    for top in files:
        for path in [top] if top.is_file() else sorted(_content(top)):
            total.update(f"\0{path.relative_to(top.parent)}\0".encode())
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:12]


def _content(folder: Path) -> list[Path]:
    found = (path for path in folder.rglob("*") if "__pycache__" not in path.parts)
    return [path for path in found if path.is_file()]


def folder(kind: str, name: str, key: str) -> Path:
    """Where something made from the inputs that `key` stands for is kept, made or not."""
    return places.cache() / kind / f"{name}-{key}"


def made(kind: str, name: str, key: str, make: Callable[[Path], None]) -> Path:
    """Return the kept folder; make it first where it is missing.

    It is filled under another name and renamed, so one that exists is whole. A lock keeps others
    from making the same, and what an earlier one left half made is removed.
    """
    kept = folder(kind, name, key)
    if not kept.exists():
        with places.lock(kept.parent / f".{name}.lock"):
            if not kept.exists():
                unfinished = kept.parent / f".{name}.unfinished"
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir(parents=True)
                make(unfinished)
                unfinished.rename(kept)
    os.utime(kept)
    _prune(kept.parent, name)
    return kept


def _prune(parent: Path, name: str) -> None:
    """Remove all but the versions that were used last."""
    versions = [path for path in parent.glob(f"{name}-*") if path.is_dir()]
    versions.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for old in versions[VERSIONS_KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
