"""A model's config.json, wherever the model is. Nothing but this one small file is fetched."""

import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from aweigh_cli.failures import CommandFailure, ExitStatus

if TYPE_CHECKING:
    from aweigh_runtime.model.config import ModelConfig

FETCHING_NEEDS = ("httpx", "huggingface_hub", "obstore")


def model_config(uri: str, revision: str | None) -> "ModelConfig":
    """The shape of the model at a URI.

    Raises:
        CommandFailure: it cannot be read from this machine, or is no model that can be served.
    """
    from aweigh_runtime.failures import StartFailure
    from aweigh_runtime.model.architectures import read_config
    from aweigh_runtime.sources import local

    scheme, _, rest = uri.partition("://")
    try:
        if scheme == "builtin":
            return read_config(local.builtin(rest))
        if scheme == "file":
            return read_config(local.directory(rest))
        with tempfile.TemporaryDirectory(prefix="aweigh-plan-") as folder:
            (Path(folder) / "config.json").write_bytes(_fetched(uri, revision))
            return read_config(Path(folder))
    except StartFailure as failure:
        raise CommandFailure(str(failure), failure.exit_code) from failure


def _fetched(uri: str, revision: str | None) -> bytes:
    scheme, _, rest = uri.partition("://")
    if scheme not in ("hf", "s3", "oci"):
        raise _unreachable(uri)
    missing = [name for name in FETCHING_NEEDS if find_spec(name) is None]
    if missing:
        raise CommandFailure(
            f"reading from {scheme}:// needs {', '.join(missing)}, not installed here; expected "
            "the extra `runtime`: install aweigh[runtime]"
        )
    from aweigh_runtime.sources import description

    if scheme == "hf":
        return description.of_hub(rest, revision)
    return description.of_bucket(rest) if scheme == "s3" else description.of_artifact(rest)


def _unreachable(uri: str) -> CommandFailure:
    if uri.startswith("pvc://"):
        return CommandFailure(
            f"the model is at {uri}, a volume that only pods of its cluster can read; copy its "
            "config.json into a directory here, plan file:///DIRECTORY, and say where it will run "
            "with --gpu or --memory",
            ExitStatus.BAD_INPUT,
        )
    return CommandFailure(
        f"the model URI is {uri!r}; expected builtin://, file:///, hf://, s3:// or oci://",
        ExitStatus.BAD_INPUT,
    )
