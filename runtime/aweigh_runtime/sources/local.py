"""Models that are already on this machine: shipped with the runtime, in a directory or a volume."""

from importlib import resources
from pathlib import Path

from aweigh_runtime.failures import InvalidConfiguration, ModelNotFound


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


def claim(rest: str, mount: Path) -> Path:
    """`CLAIM/PATH`, where the claim is mounted at `mount`."""
    name, _, path = rest.partition("/")
    if not mount.is_dir():
        raise ModelNotFound(
            f"pvc://{rest} is read from {mount}, where a pod mounts the claim {name}, and there is "
            "no such directory here; outside of a cluster use file:///PATH"
        )
    return _existing(mount / path.lstrip("/"), f"pvc://{rest}")


def _existing(path: Path, uri: str) -> Path:
    if path.is_file():
        raise ModelNotFound(f"{uri} is a file; expected the directory that holds config.json")
    if not path.is_dir():
        raise ModelNotFound(f"{uri}: there is no directory {path}; check model.uri")
    return path
