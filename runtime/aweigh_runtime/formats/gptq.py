"""What a GPTQ checkpoint says of its weights, in the spellings of AutoGPTQ and GPTQModel."""

from collections.abc import Callable
from dataclasses import dataclass

from aweigh_kernels import bits as stream
from aweigh_runtime.fields import Fields
from aweigh_runtime.formats import marlin24, selection
from aweigh_runtime.formats.gptq_layout import VERSIONS, GptqLayout
from aweigh_runtime.formats.groups import read_group
from aweigh_runtime.formats.layout import Quantization
from aweigh_runtime.formats.modules import in_layer, is_head


def quantization(fields: Fields) -> Quantization:
    """Of `quantization_config` in config.json, or of quantize_config.json.

    Raises:
        ModelUnreadable: a field is missing or has a value that it cannot have.
        UnsupportedModel: a variant that is not read, such as gptq_p or marlin.
    """
    if _format(fields) == "marlin_24":
        return marlin24.quantization(fields)
    fields.choice("pack_dtype", fields.text("pack_dtype", "int32"), ["int32"])
    layout = _layout(fields, None)
    modules = _Modules(
        layout=layout,
        rules=_rules(fields.object("dynamic"), layout),
        suffixes=tuple(fields.flat_texts("modules_in_block_to_quantize")),
        lm_head=fields.boolean("lm_head", False),
    )
    rules = f", {len(modules.rules)} rules for modules" if modules.rules else ""
    return Quantization(
        scheme="gptq", description=f"{layout.name}{rules}", layout_of=modules.layout_of
    )


@dataclass(frozen=True, slots=True)
class _Rule:
    """What differs for the modules whose names begin with a pattern."""

    matches: Callable[[str], bool]
    layout: GptqLayout | None  # None: they are dense


@dataclass(frozen=True, slots=True, kw_only=True)
class _Modules:
    layout: GptqLayout
    rules: tuple[_Rule, ...]  # the first that matches counts
    suffixes: tuple[str, ...]  # of the modules that are quantized; none: all
    lm_head: bool

    def layout_of(self, module: str) -> GptqLayout | None:
        if not self._is_quantized(module):
            return None
        for rule in self.rules:
            if rule.matches(module):
                return rule.layout
        return self.layout

    def _is_quantized(self, module: str) -> bool:
        if is_head(module):
            return self.lm_head
        listed = not self.suffixes or any(f".{module}".endswith(f".{s}") for s in self.suffixes)
        return in_layer(module) and listed


def _format(fields: Fields) -> str:
    if fields.boolean("is_marlin_24_format", False):
        return "marlin_24"
    name = fields.spelling("checkpoint_format", "format")
    marlin = fields.boolean("is_marlin_format", False)
    found = "marlin" if marlin else fields.text(name, "gptq")
    return fields.choice(name, found, [*VERSIONS, "marlin_24"])


def _layout(fields: Fields, outer: GptqLayout | None) -> GptqLayout:
    """Of the whole checkpoint, or of a rule within, which says only what differs from `outer`."""
    bits = fields.integer("bits", 1, 32, outer.bits if outer else None)
    fields.choice("bits", str(bits), [str(width) for width in stream.WIDTHS])
    return GptqLayout(
        bits=bits,
        group=outer.group
        if outer and "group_size" not in fields
        else read_group(fields, "group_size"),
        version=_version(fields, outer.version if outer else 1),
        symmetric=fields.boolean("sym", outer.symmetric if outer else True),
        act_order=fields.boolean("desc_act", outer.act_order if outer else False),
    )


def _version(fields: Fields, absent: int) -> int:
    name = fields.spelling("checkpoint_format", "format")
    if name not in fields:
        return absent
    return VERSIONS[fields.choice(name, fields.text(name), list(VERSIONS))]


def _rules(dynamic: Fields, outer: GptqLayout) -> tuple[_Rule, ...]:
    """GPTQModel's `dynamic`: `-:pattern` leaves modules dense, `+:pattern` or a bare one alters."""
    return tuple(
        _Rule(
            selection.regex(dynamic, name.removeprefix("-:").removeprefix("+:")),
            None if name.startswith("-:") else _layout(dynamic.object(name), outer),
        )
        for name in dynamic.names
    )
