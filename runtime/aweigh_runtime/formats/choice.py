"""Which quantization a server uses: the checkpoint's, or what was asked for of a dense one."""

import math
from pathlib import Path

from aweigh_api.number_formats import SchemeName
from aweigh_runtime.failures import InvalidConfiguration
from aweigh_runtime.formats import converted, online
from aweigh_runtime.formats.checkpoint import read_quantization
from aweigh_runtime.formats.layout import Layout, Quantization


def choose(directory: Path, wanted: SchemeName) -> Quantization | None:
    """How the matrices of a model are quantized; None: they stay dense.

    Args:
        directory: of the model.
        wanted: auto follows the checkpoint; another must be what it has, or one that a dense
            checkpoint, or one of NVFP4, can be brought to while it is loaded.

    Raises:
        InvalidConfiguration: the checkpoint has something else.
        ModelUnreadable, UnsupportedModel: what it says of itself cannot be read.
    """
    found = read_quantization(directory)
    has = "none" if found is None else found.scheme
    if wanted in ("auto", has):
        return found
    if found is None and (wanted == "fp8" or wanted == "int8"):
        return online.quantization(wanted)
    if found is not None and has == "nvfp4" and wanted == "fp8":
        return converted.to_fp8(found)
    if found is None:
        raise InvalidConfiguration(
            f"--quantization is {wanted}, but the weights of {directory} are dense; expected auto, "
            f"none, or {' or '.join(online.SCHEMES)}, to which they are brought while they are "
            "loaded: serve a checkpoint in that format, which aweigh quantize makes"
        )
    others = ", or fp8, to which they are brought while they are loaded" if has == "nvfp4" else ""
    raise InvalidConfiguration(
        f"--quantization is {wanted}, but the weights of {directory} are {found.description}; "
        f"expected auto or {has}{others}"
    )


def kept_bytes(layout: Layout, rows: int, columns: int) -> int:
    """Memory of a quantized matrix: what its tensors take, or will take once it is quantized.

    What is kept differs by less than a tenth, but for 4 bits on a CPU in groups of less than 64,
    or in fp32 of less than 128: scales that torch takes there are larger than stored ones. So are a
    GPU's, by a tenth or more in groups of less than 64; and there 2 bits in groups that are no
    multiple of 32, and 3 in groups that are none of 64, take 4.
    """
    if isinstance(layout, online.OnlineLayout | converted.ConvertedLayout):
        return math.ceil(layout.item_bytes * rows * columns)
    parts = layout.parts(rows, columns).values()
    return sum(part.num_bytes for part in parts if not part.optional)
