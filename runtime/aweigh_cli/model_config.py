"""What a model says of its shape and its quantization, wherever it is. No weights are fetched."""

import tempfile
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from aweigh_api.number_formats import SchemeName
from aweigh_cli.failures import CommandFailure, ExitStatus

if TYPE_CHECKING:
    from aweigh_runtime.formats.layout import Quantization
    from aweigh_runtime.model.config import ModelConfig
    from aweigh_runtime.model.footprint import KeptBytes

FETCHING_NEEDS = ("httpx", "huggingface_hub", "obstore")


@dataclass(frozen=True, slots=True)
class Described:
    """What a model says of itself."""

    config: "ModelConfig"
    quantization: "Quantization | None" = None  # of its matrices; None: they are dense
    kept_bytes: "KeptBytes | None" = None  # of them, as loading computes it
    directory: Path | None = None  # where it is; None: not on this machine


def described(uri: str, revision: str | None, wanted: SchemeName) -> Described:
    """The model at a URI, as it would be served.

    Args:
        uri: of the model.
        revision: of an hf:// one.
        wanted: scheme of its matrices, as in `aweigh serve --quantization`.

    Raises:
        CommandFailure: it cannot be read from this machine, or is no model that can be served so.
    """
    from aweigh_runtime.failures import StartFailure
    from aweigh_runtime.sources import local

    source, _, rest = uri.partition("://")
    try:
        if source in ("builtin", "file"):
            found = local.builtin(rest) if source == "builtin" else local.directory(rest)
            return replace(_described(found, wanted), directory=found)
        with tempfile.TemporaryDirectory(prefix="aweigh-plan-") as folder:
            for name, content in _fetched(uri, revision).items():
                (Path(folder) / name).write_bytes(content)
            return _described(Path(folder), wanted)
    except StartFailure as failure:
        raise CommandFailure(str(failure), failure.exit_code) from failure


def _described(directory: Path, scheme: SchemeName) -> Described:
    from aweigh_runtime.model.architectures import read_config

    config = read_config(directory)
    if scheme in ("auto", "none") and not _says(directory):
        return Described(config)  # known without torch, whose import takes seconds
    from aweigh_runtime.formats.choice import choose
    from aweigh_runtime.model.announcement import announced
    from aweigh_runtime.model.homes import by_canonical_name, homes_of
    from aweigh_runtime.model.shards import stored_tensors

    quantization = choose(directory, scheme)
    if any(directory.glob("*.safetensors")):
        stored = by_canonical_name(stored_tensors(directory), config)
        homes = homes_of(directory, config, stored, quantization)
        return Described(config, quantization, homes.kept_bytes)
    return Described(config, quantization, announced(directory, config, quantization).get)


def _says(directory: Path) -> bool:
    """Whether anything says how the weights are quantized."""
    from aweigh_runtime.fields import read_object
    from aweigh_runtime.formats.files import CONFIG, CONFIG_FIELDS, SIDE_FILES

    beside = any((directory / name).is_file() for name in SIDE_FILES)
    return beside or not read_object(directory / CONFIG).keys().isdisjoint(CONFIG_FIELDS)


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
