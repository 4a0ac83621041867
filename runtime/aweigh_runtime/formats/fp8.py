"""Checkpoints of quant_method fp8 and fbgemm_fp8: weights and activations of 8-bit floating point.

Written by AutoFP8, DeepSeek, Qwen, transformers and, as fbgemm_fp8, Meta. All but the lists that
they bring along is quantized, except the embedding and the head, which these writers leave.
"""

from aweigh_kernels.fp8_weight import BLOCK
from aweigh_kernels.rounding import Rounding
from aweigh_runtime.failures import UnsupportedModel
from aweigh_runtime.fields import Fields
from aweigh_runtime.formats import selection
from aweigh_runtime.formats.fp8_layout import E4M3, E5M2, Fp8Layout
from aweigh_runtime.formats.layout import Layout, Quantization

METHODS = ("fp8", "fbgemm_fp8")
_FORMATS = {"e4m3": (E4M3,), "e5m2": (E5M2,)}
_DENSE_LISTS = ("ignored_layers", "modules_to_not_convert")
_SCALE_NAMES = ("weight_scale", "weight_scale_inv")  # the second is how transformers names it
_ACTIVATION_NAMES = ("input_scale", "activation_scale")  # likewise


def quantization(fields: Fields) -> Quantization:
    """What such a checkpoint says.

    Raises:
        UnsupportedModel: blocks of another size, or something else that is not read here.
        ModelUnreadable: a field has no meaning.
    """
    method = fields.choice("quant_method", fields.text("quant_method"), METHODS)
    if "modules_to_convert" in fields and fields.texts("modules_to_convert"):
        fields.choice("modules_to_convert", "of tables of embeddings", ("none",))
    layout: Layout = _channels() if method == "fbgemm_fp8" else _layout(fields)
    dense = selection.listed(fields, selection.names(fields, *_DENSE_LISTS))

    def layout_of(module: str) -> Layout | None:
        quantized = selection.kind(module) == "Linear" and not module.endswith("lm_head")
        return layout if quantized and not dense(module) else None

    return Quantization(
        scheme="fp8",
        description=f"{method}: {layout.name}",
        layout_of=layout_of,
        kv_cache_scheme=_kv_cache_scheme(fields),
    )


def _kv_cache_scheme(fields: Fields) -> str | None:
    """AutoFP8 writes `static`: a scale for keys and one for values in each layer."""
    if "kv_cache_scheme" not in fields:
        return None
    fields.choice("kv_cache_scheme", fields.text("kv_cache_scheme"), ("static",))
    return "fp8"


def _channels() -> Fp8Layout:
    """fbgemm_fp8. Its bound on activations only clips outliers: it is not needed to be right."""
    return Fp8Layout(granularity="channel", activation="token")


def _layout(fields: Fields) -> Fp8Layout:
    dtypes: tuple[str, ...] = (E4M3, E5M2)
    if "fmt" in fields:
        dtypes = _FORMATS[fields.choice("fmt", fields.text("fmt"), tuple(_FORMATS))]
    # Both are stored as floats: powers of two are floats, too.
    fields.choice("scale_fmt", fields.text("scale_fmt", "float"), ("float", "ue8m0"))
    scheme = fields.text("activation_scheme", "dynamic").lower()
    fields.choice("activation_scheme", scheme, ("dynamic", "static"))
    if fields.integers("weight_block_size", 1, 1 << 20):
        return _blocks(fields, scheme, dtypes)
    rounding: Rounding = "static" if scheme == "static" else "token"
    return Fp8Layout(
        granularity="tensor",
        activation=rounding,
        dtypes=dtypes,
        scale_names=_SCALE_NAMES,
        activation_names=_ACTIVATION_NAMES,
    )


def _blocks(fields: Fields, scheme: str, dtypes: tuple[str, ...]) -> Fp8Layout:
    size = fields.integers("weight_block_size", 1, 1 << 20)
    if size != [BLOCK, BLOCK] or scheme == "static":
        raise UnsupportedModel(
            f"{fields.path}: weight_block_size {size} with {scheme} activations is not supported; "
            f"supported: [{BLOCK}, {BLOCK}] with dynamic ones"
        )
    return Fp8Layout(
        granularity="block", activation="group", dtypes=dtypes, scale_names=("weight_scale_inv",)
    )
