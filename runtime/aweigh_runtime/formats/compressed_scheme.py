"""One group of a compressed-tensors checkpoint: how the weights of its modules are stored."""

from collections.abc import Callable
from dataclasses import dataclass

from aweigh_kernels.fp4_weight import GROUP
from aweigh_kernels.fp8_weight import BLOCK
from aweigh_kernels.rounding import Rounding
from aweigh_runtime.fields import Fields
from aweigh_runtime.formats.fp4_layout import COMPRESSED_TENSORS, Fp4Layout
from aweigh_runtime.formats.fp8_layout import Fp8Layout, Granularity
from aweigh_runtime.formats.int8_layout import Int8Layout
from aweigh_runtime.formats.int_groups import IntGroups
from aweigh_runtime.formats.layout import Layout
from aweigh_runtime.formats.marlin24 import COMPRESSED_TENSORS_NAMES, Marlin24Layout
from aweigh_runtime.formats.packed_int_layout import PackedIntLayout
from aweigh_runtime.formats.plain_int_layout import PlainIntLayout

KINDS = ("int", "float")
STRATEGIES = ("tensor", "channel", "group", "block", "token", "tensor_group")
MIXED = "mixed-precision"
_WHEN: dict[str | bool, str] = {False: "", True: "dynamic ", "local": "local "}
_INT_WIDTHS = (2, 3, 4, 8)
_FP8_WEIGHTS: dict[str, Granularity] = {
    "float8 by tensor": "tensor",
    "float8 by channel": "channel",
    f"float8 by block of {BLOCK}x{BLOCK}": "block",
}
_FP8_ACTIVATIONS: dict[str, Rounding | None] = {
    "none": None,
    "float8 by tensor": "static",
    # One scale for all tokens of a step would make answers depend on other requests: finer here.
    "dynamic float8 by tensor": "token",
    "dynamic float8 by token": "token",
    f"dynamic float8 by group of {BLOCK}": "group",
}
_FP4 = f"float4 by tensor_group of {GROUP}"
_FP4_ACTIVATIONS = {"none": False, f"local {_FP4}": True}
_MARLIN24_WEIGHTS = [
    f"int{width} by {each}" for width in (4, 8) for each in ("channel", "group of 128")
]
_INT8_ACTIVATIONS = {
    f"{dynamic}int8 by {strategy}{zeros}": (not dynamic, not zeros)
    for dynamic, strategy in (("dynamic ", "token"), ("dynamic ", "tensor"), ("", "tensor"))
    for zeros in ("", " with zero points")
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounded:
    """How the numbers of a tensor are rounded."""

    kind: str  # one of KINDS
    bits: int
    strategy: str  # one of STRATEGIES
    size: tuple[int, ...]  # of a group, or of a block's rows and columns
    symmetric: bool
    dynamic: str | bool  # `local`: all but the global scale

    @property
    def words(self) -> str:
        """`dynamic int8 by token with zero points`."""
        when = _WHEN[self.dynamic]
        size = f" of {'x'.join(map(str, self.size))}" if self.size else ""
        zeros = "" if self.symmetric else " with zero points"
        return f"{when}{self.kind}{self.bits} by {self.strategy}{size}{zeros}"


def layout(group: Fields, default_format: str) -> Layout | None:
    """How the weights of a group are stored; None: dense.

    Args:
        group: one of config_groups.
        default_format: of the checkpoint; empty: it follows from the numbers.

    Raises:
        UnsupportedModel: in a way that is not read here.
        ModelUnreadable: a field has no meaning.
    """
    if "weights" not in group:
        for name in ("input_activations", "output_activations"):
            if name in group:
                group.choice(name, "without weights", ("with weights",))
        return None
    weights = rounded(group.object("weights"))
    activations = "none"
    if "input_activations" in group:
        activations = rounded(group.object("input_activations")).words
    default = "" if default_format == MIXED else default_format
    found = group.text("format", default or _inferred(weights, activations))
    return _READERS[group.choice("format", found, tuple(_READERS))](group, weights, activations)


def rounded(fields: Fields) -> Rounded:
    """How numbers are rounded, with the library's defaults."""
    kind = fields.choice("type", fields.text("type", "int").lower(), KINDS)
    group_size = fields.optional_integer("group_size", -1, 1 << 20, None) or -1
    inferred = "group" if group_size > 0 else "channel" if "group_size" in fields else "tensor"
    strategy = fields.text("strategy", inferred).lower()
    if strategy in ("group", "tensor_group"):
        fields.integer("group_size", 1, 1 << 20)
    block = fields.integers("block_structure", 1, 1 << 20)
    return Rounded(
        kind=kind,
        bits=fields.integer("num_bits", 1, 16, 8),
        strategy=fields.choice("strategy", strategy, STRATEGIES),
        size=(group_size,) if group_size > 0 else tuple(block),
        symmetric=fields.boolean("symmetric", True),
        dynamic=fields.one_of("dynamic", (False, True, "local"), False),
    )


def _inferred(weights: Rounded, activations: str) -> str:
    """The format that the library chooses for such numbers."""
    if weights.words == _FP4:
        return "nvfp4-pack-quantized"
    if weights.kind == "int":
        return "pack-quantized" if activations == "none" else "int-quantized"
    return "naive-quantized" if activations == "none" else "float-quantized"


def _packed(group: Fields, weights: Rounded, activations: str) -> Layout:
    return PackedIntLayout(
        groups=_groups(group, weights, activations), act_order=_in_act_order(group)
    )


def _plain(group: Fields, weights: Rounded, activations: str) -> Layout:
    if weights.kind == "float":
        return _fp8(group, weights, activations)
    if _in_act_order(group):
        group.choice("weights.actorder", "group", ("weight",))
    if activations == "none":
        return PlainIntLayout(_groups(group, weights, activations))
    found = group.choice("weights", weights.words, ("int8 by channel", "int8 by tensor"))
    seen = group.choice("input_activations", activations, tuple(_INT8_ACTIVATIONS))
    static, symmetric = _INT8_ACTIVATIONS[seen]
    return Int8Layout(by_row=found == "int8 by channel", static=static, symmetric=symmetric)


def _fp8(group: Fields, weights: Rounded, activations: str) -> Layout:
    found = group.choice("weights", weights.words, tuple(_FP8_WEIGHTS))
    seen = group.choice("input_activations", activations, tuple(_FP8_ACTIVATIONS))
    return Fp8Layout(granularity=_FP8_WEIGHTS[found], activation=_FP8_ACTIVATIONS[seen])


def _fp4(group: Fields, weights: Rounded, activations: str) -> Layout:
    group.choice("weights", weights.words, (_FP4,))
    seen = group.choice("input_activations", activations, tuple(_FP4_ACTIVATIONS))
    return Fp4Layout(spelling=COMPRESSED_TENSORS, activations=_FP4_ACTIVATIONS[seen])


def _marlin24(group: Fields, weights: Rounded, activations: str) -> Layout:
    group.choice("input_activations", activations, ("none",))
    group.choice("weights", weights.words, _MARLIN24_WEIGHTS)
    return Marlin24Layout(
        bits=weights.bits,
        group=weights.size[0] if weights.size else None,
        names=COMPRESSED_TENSORS_NAMES,
    )


_Reader = Callable[[Fields, Rounded, str], Layout]
_READERS: dict[str, _Reader] = {
    "pack-quantized": _packed,
    "int-quantized": _plain,
    "float-quantized": _plain,
    "naive-quantized": _plain,
    "nvfp4-pack-quantized": _fp4,
    "marlin-24": _marlin24,
}


def _groups(group: Fields, weights: Rounded, activations: str) -> IntGroups:
    """Of integers that meet activations of 16 bits."""
    group.choice("input_activations", activations, ("none",))
    strategies = ("tensor", "channel", "group")
    size = f" of {weights.size[0]}" if weights.strategy == "group" and weights.size else ""
    zeros = "" if weights.symmetric else " with zero points"
    group.choice(
        "weights",
        weights.words,
        [f"int{width} by {each}{size}{zeros}" for width in _INT_WIDTHS for each in strategies],
    )
    return IntGroups(
        bits=weights.bits,
        size=weights.size[0] if size else None,
        by_row=weights.strategy != "tensor",
        zeros=not weights.symmetric,
    )


def _in_act_order(group: Fields) -> bool:
    """Whether columns have groups of their own. Ordered by weight, they lie as ever."""
    words = ("group", "dynamic", "weight", "static", True, False)
    return group.object("weights").one_of("actorder", words, False) in ("group", "dynamic", True)
