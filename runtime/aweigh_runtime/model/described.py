"""What a model's folder says of its shape and of how its matrices are kept. No weights are read."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aweigh_api.number_formats import SchemeName
from aweigh_runtime.model.config import ModelConfig
from aweigh_runtime.model.footprint import KeptBytes

if TYPE_CHECKING:  # it needs torch, whose import takes seconds
    from aweigh_runtime.formats.layout import Quantization


@dataclass(frozen=True, slots=True)
class Described:
    """What a model says of itself."""

    config: ModelConfig
    quantization: "Quantization | None" = None  # of its matrices; None: they are dense
    kept_bytes: KeptBytes | None = None  # of them, as loading computes it
    directory: Path | None = None  # where it is; None: not on this machine


def describe(directory: Path, scheme: SchemeName) -> Described:
    """The model in a folder, as it would be served. Dense ones are described without torch.

    Args:
        directory: of the model; its config alone suffices.
        scheme: of its matrices, as in `aweigh serve --quantization`.

    Raises:
        StartFailure: it is no model that can be served so.
    """
    from aweigh_runtime.model.architectures import read_config

    config = read_config(directory)
    if scheme in ("auto", "none") and not _says(directory):
        return Described(config, directory=directory)
    from aweigh_runtime.formats.choice import choose
    from aweigh_runtime.model.announcement import announced
    from aweigh_runtime.model.homes import by_canonical_name, homes_of
    from aweigh_runtime.model.shards import stored_tensors

    quantization = choose(directory, scheme)
    if any(directory.glob("*.safetensors")):
        stored = by_canonical_name(stored_tensors(directory), config)
        homes = homes_of(directory, config, stored, quantization)
        return Described(config, quantization, homes.kept_bytes, directory)
    kept_bytes = announced(directory, config, quantization).get
    return Described(config, quantization, kept_bytes, directory)


def _says(directory: Path) -> bool:
    """Whether anything says how the weights are quantized."""
    from aweigh_runtime.fields import read_object
    from aweigh_runtime.formats.files import CONFIG, CONFIG_FIELDS, SIDE_FILES

    beside = any((directory / name).is_file() for name in SIDE_FILES)
    return beside or not read_object(directory / CONFIG).keys().isdisjoint(CONFIG_FIELDS)
