"""Weights out of thin air: a model of any size to measure, without a file of it.

They are made on the device from a seed. What such a model says is noise; what it costs is what a
trained one of its shape costs.
"""

from pathlib import Path

import torch
from torch.nn.functional import pad

from aweigh_api.number_formats import SchemeName
from aweigh_kernels.int_weight import IntWeight
from aweigh_kernels.weight import Weight
from aweigh_runtime.failures import InvalidConfiguration
from aweigh_runtime.formats import online
from aweigh_runtime.formats.layout import Layout, Quantization
from aweigh_runtime.formats.online import OnlineLayout
from aweigh_runtime.model.architectures import read_config
from aweigh_runtime.model.building import Frame, build, expect_room
from aweigh_runtime.model.config import ModelConfig
from aweigh_runtime.model.decoder import Decoder
from aweigh_runtime.model.footprint import model_len, weight_bytes
from aweigh_runtime.model.homes import Homes, Shard, homes_by_matrix
from aweigh_runtime.model.load import Loaded, Wish
from aweigh_runtime.model.number_format import NAMED, compute_dtype
from aweigh_runtime.model.placement import Place, places

SCHEMES: tuple[SchemeName, ...] = ("fp8", "int8", "int4")  # of what is not dense
_SPREAD = 0.02  # as models are initialised before they are trained
_GROUP = 128  # columns that share a scale in int4, as `aweigh quantize` has them


def make_up(directory: Path, wish: Wish, device: torch.device, seed: int = 0) -> Loaded:
    """A decoder of a configuration alone.

    Its matrices are quantized where a checkpoint of the scheme would have them so, and prepared
    as loaded ones are.

    Args:
        directory: holds config.json.
        wish: how it shall be computed.
        device: where the weights are made.
        seed: of the weights: models of one shape that shall differ have others.

    Raises:
        ModelNotFound, ModelUnreadable, UnsupportedModel: the configuration cannot be served.
        ModelDoesNotFit: the weights exceed the free memory.
        InvalidConfiguration: max_model_len exceeds the model's positions, or the scheme is none
            that random weights have.
    """
    quantization = _quantization(wish.scheme)
    config = read_config(directory)
    named = {str(each): each for each in NAMED.values()}
    stored = named.get(f"torch.{config.dtype}", torch.bfloat16)
    dtype = compute_dtype(wish.dtype, stored, device)
    homes = _homes(config, quantization)
    needed = weight_bytes(config, dtype.itemsize, None if wish.exact else homes.kept_bytes)
    expect_room(directory, needed, dtype, device)
    frame = Frame(
        max_model_len=model_len(config, wish.max_model_len),
        dtype=dtype,
        device=device,
        exact=wish.exact,
        quantized=homes.names,
    )
    decoder = build(config, frame)
    _fill(decoder, homes, seed)
    decoder.settle()
    return Loaded(decoder=decoder, weight_bytes=needed, quantization=quantization, kv_scales=None)


def _to_int4(weight: torch.Tensor) -> IntWeight:
    """Rounded to nearest, symmetric. A trained matrix would lose much: others ask for a checkpoint.

    Args:
        weight: [N, K], bf16, fp16 or fp32.
    """
    columns = weight.shape[1]
    groups = torch.unflatten(pad(weight, (0, -columns % _GROUP)), 1, (-1, _GROUP))
    scale = groups.abs().amax(2).div_(7).half()  # [N, K/128]
    q = groups.div(scale[..., None].to(weight.dtype)).round_().clamp_(-7, 7).add_(8)
    q = q.to(torch.uint8).flatten(1)[:, :columns].contiguous()
    return IntWeight(q=q, scale=scale, bits=4, group=_GROUP)


_INT4 = OnlineLayout(f"int4 in groups of {_GROUP}", _to_int4, item_bytes=0.5 + 2 / _GROUP)


def _quantization(scheme: SchemeName) -> Quantization | None:
    if scheme in ("auto", "none"):
        return None
    if scheme == "fp8" or scheme == "int8":
        return online.quantization(scheme)
    if scheme == "int4":
        return online.of_layers(scheme, _INT4)
    raise InvalidConfiguration(
        f"--quantization is {scheme}, and --random-weights makes no such weights; expected "
        f"{', '.join(SCHEMES)}, or none for dense ones"
    )


def _homes(config: ModelConfig, quantization: Quantization | None) -> Homes:
    """As those of a checkpoint, without its tensors."""

    def layout_of(place: Place) -> Layout | None:
        if quantization is None or not place.matrix:
            return None
        return quantization.layout_of(place.module)

    return homes_by_matrix([Shard(place, layout_of(place), {}) for place in places(config)])


def _fill(decoder: Decoder, homes: Homes, seed: int) -> None:
    generator = torch.Generator(decoder.device).manual_seed(seed)
    for name, weight in decoder.weights.items():
        if name.endswith("norm.weight"):
            weight.fill_(1.0)
        else:
            weight.normal_(0.0, _SPREAD, generator=generator)
    for (name, expert), shards in homes.quantized.items():
        made = [_made(shard, decoder, generator) for shard in shards]
        decoder.matrices[name][expert].fill(made)


def _made(shard: Shard, decoder: Decoder, generator: torch.Generator) -> torch.Tensor | Weight:
    rows, columns = shard.place.shape
    weight = torch.empty(rows, columns, dtype=decoder.dtype, device=decoder.device)
    weight.normal_(0.0, _SPREAD, generator=generator)
    return weight if shard.layout is None else shard.layout.read({"weight": weight}, rows, columns)
