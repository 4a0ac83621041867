"""What a checkpoint's quantized matrices will take, from what it says alone: no tensor is read."""

from pathlib import Path

from aweigh_runtime.formats.choice import kept_bytes
from aweigh_runtime.formats.layout import Quantization
from aweigh_runtime.formats.modules import is_router
from aweigh_runtime.model.config import ModelConfig
from aweigh_runtime.model.homes import expected_parts, spellings
from aweigh_runtime.model.placement import Place, places


def announced(
    directory: Path, config: ModelConfig, quantization: Quantization | None
) -> dict[Place, int]:
    """Memory of each quantized matrix of a checkpoint whose tensors are not at hand.

    Routers are taken to be dense, and so is what is dense by any name that it may have there.

    Raises:
        UnsupportedModel: a matrix has a shape that cannot be stored as the checkpoint says.
    """
    found = {}
    for place in places(config):
        if quantization is None or not place.matrix or is_router(place.module):
            continue
        layouts = [quantization.layout_of(name) for name in spellings(place.module, config)]
        if layouts[0] is not None and None not in layouts:
            expected_parts(directory, place, layouts[0])
            found[place] = kept_bytes(layouts[0], *place.shape)
    return found
