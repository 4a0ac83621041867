"""What a model says of its shape and its quantization, wherever it is. No weights are fetched."""

import tempfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from aweigh_api.number_formats import SchemeName
from aweigh_cli.failures import CommandFailure, ExitStatus

if TYPE_CHECKING:
    from aweigh_runtime.model.described import Described

FETCHING_NEEDS = ("httpx", "huggingface_hub", "obstore")


def described(uri: str, revision: str | None, wanted: SchemeName) -> "Described":
    """The model at a URI, as it would be served.

    Args:
        uri: of the model.
        revision: of an hf:// one.
        wanted: scheme of its matrices, as in `aweigh serve --quantization`.

    Raises:
        CommandFailure: it cannot be read from this machine, or is no model that can be served so.
    """
    from aweigh_runtime.failures import StartFailure
    from aweigh_runtime.model.described import describe
    from aweigh_runtime.sources import local

    source, _, rest = uri.partition("://")
    try:
        if source in ("builtin", "file"):
            found = local.builtin(rest) if source == "builtin" else local.directory(rest)
            return describe(found, wanted)
        with tempfile.TemporaryDirectory(prefix="aweigh-plan-") as folder:
            for name, content in _fetched(uri, revision).items():
                (Path(folder) / name).write_bytes(content)
            return replace(describe(Path(folder), wanted), directory=None)
    except StartFailure as failure:
        raise CommandFailure(str(failure), failure.exit_code) from failure


def _fetched(uri: str, revision: str | None) -> dict[str, bytes]:
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
