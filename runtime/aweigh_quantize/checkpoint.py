"""A dense model on disk: its shape, where its tensors lie, and what tells it from others."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from aweigh_runtime.failures import UnsupportedModel
from aweigh_runtime.formats.checkpoint import read_quantization
from aweigh_runtime.model.architectures import read_config
from aweigh_runtime.model.config import ModelConfig
from aweigh_runtime.model.header import StoredTensor
from aweigh_runtime.model.homes import Stored, by_canonical_name, homes_of
from aweigh_runtime.model.mapped import expect_finite, fill, mapped, rows_of
from aweigh_runtime.model.placement import Place
from aweigh_runtime.model.shards import stored_tensors

_SAMPLES = 16  # of a weight file, for the fingerprint
_SAMPLE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What is read of a dense model before any of its weights is."""

    directory: Path
    config: ModelConfig
    stored: Stored  # by canonical name; its own name is in it

    def fill(self, weights: Mapping[str, torch.Tensor], places: Iterable[Place]) -> None:
        """Copy tensors into weights of the decoder.

        Raises:
            ModelUnreadable: some of their numbers are not finite.
        """
        wanted = {self.stored[place.name].name: place for place in places}
        for tensor, values in mapped(self.stored[place.name] for place in wanted.values()):
            place = wanted[tensor.name]
            weight = weights[place.weight]
            fill(weight, place, values)
            expect_finite(tensor, values, rows_of(weight, place))

    def own_name(self, place: Place) -> str:
        """What this checkpoint calls a tensor."""
        return self.stored[place.name].name

    def module(self, place: Place) -> str:
        """What this checkpoint calls the module whose matrix it is."""
        return self.own_name(place).removesuffix(".weight")

    def fingerprint(self) -> str:
        """As of its folder."""
        return fingerprint(self.directory, self.stored.values())


def fingerprint(directory: Path, tensors: Iterable[StoredTensor]) -> str:
    """Differs for models that differ: of config, tokenizer, headers and samples of weights."""
    digest = hashlib.sha256()
    for name in ("config.json", "tokenizer.json"):
        path = directory / name
        digest.update(path.read_bytes() if path.is_file() else b"")
    for path in sorted({tensor.path for tensor in tensors}):
        digest.update(path.name.encode())
        _sample(path, digest)
    return digest.hexdigest()


def read_checkpoint(directory: Path) -> Checkpoint:
    """Find every tensor of a dense model.

    Raises:
        ModelNotFound, ModelUnreadable, UnsupportedModel: it is none, or quantized already.
    """
    config = read_config(directory)
    if quantization := read_quantization(directory):
        raise UnsupportedModel(
            f"{directory} is quantized already: {quantization.description}; expected a dense "
            "model: quantize what it was made of"
        )
    stored = by_canonical_name(stored_tensors(directory), config)
    homes_of(directory, config, stored, None)  # refuses what is missing, or too much
    return Checkpoint(directory, config, stored)


def _sample(path: Path, digest: "hashlib._Hash") -> None:
    size = path.stat().st_size
    digest.update(size.to_bytes(8, "little"))
    with path.open("rb") as file:
        for index in range(_SAMPLES):
            file.seek(index * max(size - _SAMPLE_BYTES, 0) // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))
