"""Models that are already on this machine: shipped with the runtime, in a directory or a volume."""

import os
from importlib import resources
from pathlib import Path

from aweigh_runtime.failures import InvalidConfiguration, ModelNotFound, ModelUnreadable


def builtin(name: str) -> Path:
    """The directory of a model that ships with the runtime."""
    shipped = Path(str(resources.files("aweigh_runtime"))) / "builtin"
    known = sorted(path.parent.name for path in shipped.glob("*/config.json"))
    if name not in known:
        raise ModelNotFound(f"there is no builtin://{name}; expected one of {', '.join(known)}")
    return shipped / name


def directory(path: str) -> Path:
    """An absolute path."""
    if not path.startswith("/"):
        raise InvalidConfiguration(
            f"file://{path} is not an absolute path; expected file:///PATH, with three slashes"
        )
    return _existing(Path(path), f"file://{path}")


def claim(rest: str, mounts: Path) -> Path:
    """`CLAIM/PATH`, where claims are mounted in `mounts` by their names."""
    name, _, path = rest.partition("/")
    mount = mounts / name
    if not name or not mount.is_dir():
        raise ModelNotFound(
            f"pvc://{rest} is read from {mount}, where a pod mounts the claim {name}, and there is "
            "no such directory here; outside of a cluster use file:///PATH"
        )
    return _existing(mount / path.lstrip("/"), f"pvc://{rest}")


def _existing(path: Path, uri: str) -> Path:
    try:
        if path.is_file():
            raise ModelNotFound(f"{uri} is a file; expected the directory that holds config.json")
        if not path.is_dir():
            raise ModelNotFound(f"{uri}: there is no directory {path}; check its URI")
    except PermissionError as error:
        raise _closed(path) from error
    if not os.access(path, os.R_OK | os.X_OK):
        raise _closed(path)
    return path


def _closed(path: Path) -> ModelUnreadable:
    return ModelUnreadable(
        f"{path} cannot be read: permission denied; let the user that runs this into it"
    )
