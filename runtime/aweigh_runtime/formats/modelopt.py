"""Checkpoints of NVIDIA ModelOpt: 8- and 4-bit floating point, alone or mixed.

It says so in config.json (quant_method modelopt) and in hf_quant_config.json, with almost the same
words.
"""

from collections.abc import Callable

from aweigh_runtime.failures import UnsupportedModel
from aweigh_runtime.fields import Fields
from aweigh_runtime.formats import selection
from aweigh_runtime.formats.compressed_scheme import rounded
from aweigh_runtime.formats.fp4_layout import MODELOPT, Fp4Layout
from aweigh_runtime.formats.fp8_layout import Fp8Layout
from aweigh_runtime.formats.layout import Layout, Quantization

METHODS = ("modelopt", "modelopt_fp4")
MIXED = "MIXED_PRECISION"
_DENSE_LISTS = ("exclude_modules", "ignore")
_LAYOUTS: dict[str, Layout] = {
    "FP8": Fp8Layout(granularity="tensor", activation="static"),
    "FP8_PER_CHANNEL_PER_TOKEN": Fp8Layout(granularity="channel", activation="token"),
    "NVFP4": Fp4Layout(spelling=MODELOPT, activations=True),
}
_SCHEMES = {"FP8": "fp8", "FP8_PER_CHANNEL_PER_TOKEN": "fp8", "NVFP4": "nvfp4", MIXED: "mixed"}


def quantization(fields: Fields) -> Quantization:
    """What either file says, whole.

    Raises:
        UnsupportedModel: an algorithm that is not read here.
        ModelUnreadable: a field has no meaning.
    """
    nested = fields.object("quantization")
    fields = fields if nested.empty else nested
    algorithm = fields.text("quant_algo").upper()
    fields.choice("quant_algo", algorithm, tuple(_SCHEMES))
    dense = selection.listed(fields, selection.names(fields, *_DENSE_LISTS))
    stored = _mixed(fields) if algorithm == MIXED else _uniform(fields, algorithm)

    def layout_of(module: str) -> Layout | None:
        return None if dense(module) else stored(module)

    return Quantization(
        scheme=_SCHEMES[algorithm],
        description=f"modelopt {algorithm}",
        layout_of=layout_of,
        kv_cache_scheme=_kv_cache_scheme(fields),
    )


def _uniform(fields: Fields, algorithm: str) -> Callable[[str], Layout | None]:
    layout = _layout(fields, algorithm)
    return lambda module: layout if selection.kind(module) == "Linear" else None


def _mixed(fields: Fields) -> Callable[[str], Layout | None]:
    """A layout for each module that is named; all others are dense."""
    layers = fields.object("quantized_layers")
    if layers.empty:
        raise UnsupportedModel(
            f"{fields.path}: quant_algo is {MIXED} without quantized_layers; expected the modules "
            "that are quantized"
        )
    layouts = {}
    for name in layers.names:
        layer = layers.object(name)
        layouts[name] = _layout(layer, layer.text("quant_algo").upper())
    return layouts.get


def _layout(fields: Fields, algorithm: str) -> Layout:
    layout = _LAYOUTS[fields.choice("quant_algo", algorithm, tuple(_LAYOUTS))]
    if algorithm == "NVFP4":
        size = fields.integer("group_size", 1, 1 << 20, 16)
        fields.choice("group_size", str(size), ("16",))
    return layout


def _kv_cache_scheme(fields: Fields) -> str | None:
    if "kv_cache_quant_algo" in fields:
        algorithm = fields.text("kv_cache_quant_algo").upper()
        fields.choice("kv_cache_quant_algo", algorithm, ("FP8",))
        return "fp8"
    if "kv_cache_scheme" in fields:
        words = rounded(fields.object("kv_cache_scheme")).words
        fields.choice("kv_cache_scheme", words, ("float8 by tensor",))
        return "fp8"
    return None
