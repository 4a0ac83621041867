"""From a model directory to a decoder whose weights are in place. It runs no code of the model.

Files are mapped, not read: each dense tensor goes from the page cache straight to its rows of the
final parameter, converted on the way, so memory holds the weights once. Quantized matrices are
taken out of their checkpoint's layout and prepared one at a time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from aweigh_api.number_formats import SchemeName
from aweigh_api.spec import DTypeName
from aweigh_kernels.weight import Weight
from aweigh_runtime.failures import ModelUnreadable
from aweigh_runtime.formats.choice import choose
from aweigh_runtime.formats.kv_scales import read_kv_scale
from aweigh_runtime.formats.layout import LayoutError, Quantization
from aweigh_runtime.model.architectures import read_config
from aweigh_runtime.model.building import Frame, build, expect_room
from aweigh_runtime.model.cache import KvScales
from aweigh_runtime.model.config import ModelConfig
from aweigh_runtime.model.decoder import Decoder
from aweigh_runtime.model.footprint import model_len, weight_bytes
from aweigh_runtime.model.header import StoredTensor
from aweigh_runtime.model.homes import (
    Homes,
    Shard,
    Stored,
    by_canonical_name,
    checkpoint_format,
    homes_of,
)
from aweigh_runtime.model.mapped import expect_finite, fill, mapped, rows_of
from aweigh_runtime.model.number_format import STORED, compute_dtype
from aweigh_runtime.model.placement import canonical
from aweigh_runtime.model.shards import stored_tensors

Progress = Callable[[int, int], None]  # bytes done, bytes in total


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """How a model shall be computed."""

    dtype: DTypeName = "auto"  # of dense weights and activations (see `compute_dtype`)
    scheme: SchemeName = "auto"  # of quantized matrices (see `formats.choice`)
    max_model_len: int | None = None  # tokens of prompt and answer; None: what it was made for
    # A request's logits never depend on what else is in the step. Slower, and most quantized
    # matrices take as much memory as dense ones.
    exact: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A decoder, and what was learned of its checkpoint."""

    decoder: Decoder
    weight_bytes: int  # of all weights, as computed beforehand
    quantization: Quantization | None  # of its matrices; None: they are dense
    kv_scales: KvScales | None  # that the checkpoint was made with


def load(directory: Path, wish: Wish, device: torch.device, progress: Progress) -> Loaded:
    """Load a model.

    Args:
        directory: holds config.json and *.safetensors.
        wish: how it shall be computed.
        device: where the weights go.
        progress: called after each tensor.

    Raises:
        ModelNotFound, ModelUnreadable, UnsupportedModel: the directory holds no model that can run.
        ModelDoesNotFit: the weights exceed the free memory.
        InvalidConfiguration: max_model_len exceeds the model's positions, or the checkpoint is
            quantized otherwise.
    """
    config = read_config(directory)
    length = model_len(config, wish.max_model_len)
    quantization = choose(directory, wish.scheme)
    stored = by_canonical_name(stored_tensors(directory), config)
    homes = homes_of(directory, config, stored, quantization)
    chosen = compute_dtype(wish.dtype, STORED[checkpoint_format(config, stored)], device)
    needed = weight_bytes(config, chosen.itemsize, None if wish.exact else homes.kept_bytes)
    expect_room(directory, needed, chosen, device)
    frame = Frame(
        max_model_len=length,
        dtype=chosen,
        device=device,
        exact=wish.exact,
        quantized=homes.names,
    )
    decoder = build(config, frame)
    _fill(decoder, homes, stored, progress)
    decoder.settle()
    return Loaded(
        decoder=decoder,
        weight_bytes=needed,
        quantization=quantization,
        kv_scales=_kv_scales(homes, config),
    )


def _fill(decoder: Decoder, homes: Homes, stored: Stored, progress: Progress) -> None:
    dense = [stored[name] for name in homes.dense]
    shards = [shard for of_one in homes.quantized.values() for shard in of_one]
    quantized = [tensor for shard in shards for tensor in shard.tensors.values()]
    total = sum(tensor.num_bytes for tensor in (*dense, *quantized))
    done = 0
    progress(done, total)
    for tensor, values in mapped(dense):
        place = homes.dense[canonical(tensor.name, decoder.config)]
        weight = decoder.weights[place.weight]
        fill(weight, place, values)
        expect_finite(tensor, values, rows_of(weight, place))
        done += tensor.num_bytes
        progress(done, total)
    for (name, expert), of_one in homes.quantized.items():
        decoder.matrices[name][expert].fill([_read(shard, decoder) for shard in of_one])
        done += sum(tensor.num_bytes for shard in of_one for tensor in shard.tensors.values())
        progress(done, total)
    _expect_zeros(homes)


def _read(shard: Shard, decoder: Decoder) -> torch.Tensor | Weight:
    if shard.layout is None:
        return _read_dense(shard.tensors["weight"], decoder)
    parts = {
        # A copy: a file may change, and what is mapped with it.
        suffix: values.to(decoder.device, copy=True)
        for suffix, tensor in shard.tensors.items()
        for _, values in mapped([tensor])
    }
    rows, columns = shard.place.shape
    try:
        return shard.layout.read(parts, rows, columns)
    except LayoutError as error:
        path = next(iter(shard.tensors.values())).path
        raise ModelUnreadable(
            f"{path}: {shard.place.module} is no {shard.layout.name}: {error}"
        ) from error


def _read_dense(tensor: StoredTensor, decoder: Decoder) -> torch.Tensor:
    """Of a matrix that has quantized rows too."""
    ((_, stored),) = mapped([tensor])
    converted = stored.to(decoder.device, decoder.dtype, copy=True)
    expect_finite(tensor, stored, converted)
    return converted


def _expect_zeros(homes: Homes) -> None:
    for tensor, values in mapped(homes.zeros):
        if values.any():
            raise ModelUnreadable(
                f"{tensor.path}: {tensor.name} holds numbers other than 0, and the config.json "
                "implies no bias there"
            )


def _kv_scales(homes: Homes, config: ModelConfig) -> KvScales | None:
    """[layers, 2], of keys and values; None: the checkpoint has none."""
    if not homes.kv_scales:
        return None
    scales = torch.ones(config.num_layers, 2)
    for each in homes.kv_scales:
        for _, values in mapped([each.tensor]):
            for cached in each.cached:
                scales[each.layer, ("key", "value").index(cached)] = _kv_scale(each.tensor, values)
    return scales


def _kv_scale(tensor: StoredTensor, values: torch.Tensor) -> float:
    try:
        return read_kv_scale(tensor.name, values)
    except LayoutError as error:
        raise ModelUnreadable(f"{tensor.path}: {error}") from error
