"""Weights out of thin air: a model of any size to measure, without a file of it.

They are made on the device from a seed. What such a model says is noise; what it costs is what a
trained one of its shape costs.
"""

from pathlib import Path

import torch

from aweigh_runtime.failures import InvalidConfiguration
from aweigh_runtime.model.architectures import read_config
from aweigh_runtime.model.building import Frame, build, expect_room
from aweigh_runtime.model.decoder import Decoder
from aweigh_runtime.model.footprint import model_len, weight_bytes
from aweigh_runtime.model.load import Loaded, Wish
from aweigh_runtime.model.number_format import NAMED, compute_dtype

_SPREAD = 0.02  # as models are initialised before they are trained


def make_up(directory: Path, wish: Wish, device: torch.device, seed: int = 0) -> Loaded:
    """A decoder of a configuration alone.

    Args:
        directory: holds config.json.
        wish: how it shall be computed.
        device: where the weights are made.
        seed: of the weights: models of one shape that shall differ have others.

    Raises:
        ModelNotFound, ModelUnreadable, UnsupportedModel: the configuration cannot be served.
        ModelDoesNotFit: the weights exceed the free memory.
        InvalidConfiguration: max_model_len exceeds the model's positions, or quantized weights are
            wanted.
    """
    if wish.scheme not in ("auto", "none"):
        raise InvalidConfiguration(
            f"--quantization is {wish.scheme}, and --random-weights makes dense ones; leave one of "
            "them out"
        )
    config = read_config(directory)
    named = {str(each): each for each in NAMED.values()}
    stored = named.get(f"torch.{config.dtype}", torch.bfloat16)
    dtype = compute_dtype(wish.dtype, stored, device)
    needed = weight_bytes(config, dtype.itemsize)
    expect_room(directory, needed, dtype, device)
    length = model_len(config, wish.max_model_len)
    frame = Frame(max_model_len=length, dtype=dtype, device=device, exact=wish.exact)
    decoder = build(config, frame)
    _fill(decoder, seed)
    decoder.settle()
    return Loaded(decoder=decoder, weight_bytes=needed, quantization=None, kv_scales=None)


def _fill(decoder: Decoder, seed: int) -> None:
    generator = torch.Generator(decoder.device).manual_seed(seed)
    for name, weight in decoder.weights.items():
        if name.endswith("norm.weight"):
            weight.fill_(1.0)
        else:
            weight.normal_(0.0, _SPREAD, generator=generator)
