"""What a model's directory says of its quantization. It reads no weights."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from aweigh_runtime.fields import Fields, read_object
from aweigh_runtime.formats import awq, compressed_tensors, fp8, gptq, marlin24, modelopt
from aweigh_runtime.formats.files import CONFIG, CONFIG_FIELDS, SIDE_FILES
from aweigh_runtime.formats.layout import Quantization

_READERS: Mapping[str, Callable[[Fields], Quantization]] = {
    "gptq": gptq.quantization,
    "gptq_marlin_24": marlin24.quantization,
    "awq": awq.quantization,
    "fp8": fp8.quantization,
    "fbgemm_fp8": fp8.quantization,
    "compressed-tensors": compressed_tensors.quantization,
    "modelopt": modelopt.quantization,
    "modelopt_fp4": modelopt.quantization,
}


def read_quantization(directory: Path) -> Quantization | None:
    """How the weights of a model are stored; None: dense.

    Raises:
        ModelUnreadable: a file is no JSON object, or a field is missing or has a value that it
            cannot have.
        UnsupportedModel: a method or a variant that is not read; the message says which are.
    """
    described = next(_descriptions(directory), None)
    if described is None:
        return None
    return quantization(*described)


def quantization(fields: Fields, method: str | None = None) -> Quantization:
    """What such fields say.

    Args:
        fields: `quantization_config` of config.json, or what stands for it.
        method: theirs, if they do not name it.

    Raises:
        ModelUnreadable, UnsupportedModel: as `read_quantization`.
    """
    name = fields.spelling("quant_method", "method")
    return _READERS[fields.choice(name, fields.text(name, method), sorted(_READERS))](fields)


def _descriptions(directory: Path) -> Iterator[tuple[Fields, str | None]]:
    """Fields that describe quantization, with the method that they may leave out."""
    config = directory / CONFIG
    if config.is_file():
        whole = Fields(config, read_object(config))
        yield from ((whole.object(name), None) for name in CONFIG_FIELDS if name in whole)
    for name, method in SIDE_FILES.items():
        path = directory / name
        if path.is_file():
            yield Fields(path, read_object(path)), method
