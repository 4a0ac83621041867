"""Checkpoints of quant_method compressed-tensors: groups of modules, each stored in its own way.

The library of that name writes them (compressed-tensors 0.20; llm-compressor uses it).
"""

from collections.abc import Callable, Mapping

from aweigh_runtime.fields import Fields
from aweigh_runtime.formats import selection
from aweigh_runtime.formats.compressed_scheme import MIXED, layout, rounded
from aweigh_runtime.formats.fp4_layout import Fp4Layout
from aweigh_runtime.formats.fp8_layout import Fp8Layout
from aweigh_runtime.formats.int8_layout import Int8Layout
from aweigh_runtime.formats.layout import Layout, Quantization
from aweigh_runtime.formats.marlin24 import Marlin24Layout
from aweigh_runtime.formats.packed_int_layout import PackedIntLayout
from aweigh_runtime.formats.plain_int_layout import PlainIntLayout

_Match = Callable[[str], bool]
_KV_CACHES = ("float8 by tensor", "dynamic float8 by tensor")


def quantization(fields: Fields) -> Quantization:
    """What such a checkpoint says. Old ones nest it once more; both are read.

    Raises:
        UnsupportedModel: something that is not read here.
        ModelUnreadable: a field has no meaning.
    """
    nested = fields.object("quantization_config")
    _refuse_more(fields)
    fields = fields if nested.empty else nested
    _refuse_more(fields)
    kv_cache_scheme = _kv_cache_scheme(fields)
    layouts = _layouts(fields, may_have_outputs=kv_cache_scheme is not None)
    ignored = _ignored(fields)
    targets = _targets(fields)

    def layout_of(module: str) -> Layout | None:
        if ignored(module):
            return None
        found = next((group for group, matches in targets if matches(module)), None)
        return None if found is None else layouts[found]

    return Quantization(
        scheme=_scheme(layouts),
        description=_description(layouts),
        layout_of=layout_of,
        kv_cache_scheme=kv_cache_scheme,
    )


def _refuse_more(fields: Fields) -> None:
    """Refuse what would change the meaning of the weights."""
    sparsity = fields.object("sparsity_config")
    if not sparsity.empty:
        sparsity.choice("format", sparsity.text("format", "dense"), ("dense",))
    for name in ("transform_config", "moe_sparsity_config"):
        if not fields.object(name).empty:
            fields.choice(name, ", ".join(fields.object(name).names), ("none",))
    status = fields.text("quantization_status", "compressed")
    fields.choice("quantization_status", status, ("compressed", "frozen"))  # the second: in 2024


def _kv_cache_scheme(fields: Fields) -> str | None:
    if "kv_cache_scheme" not in fields:
        return None
    fields.choice("kv_cache_scheme", rounded(fields.object("kv_cache_scheme")).words, _KV_CACHES)
    return "fp8"


def _layouts(fields: Fields, may_have_outputs: bool) -> dict[str, Layout | None]:
    """By the group's name. Old files say by its outputs that keys and values are rounded."""
    groups = fields.object("config_groups")
    default_format = fields.text("format", MIXED)
    layouts = {}
    for name in groups.names:
        group = groups.object(name)
        if "output_activations" in group and not may_have_outputs:
            words = rounded(group.object("output_activations")).words
            group.choice("output_activations", words, ("none",))
        layouts[name] = layout(group, default_format)
    return layouts


def _ignored(fields: Fields) -> _Match:
    names = selection.names(fields, "ignore")
    regexes = [selection.regex(fields, name) for name in names if selection.is_regex(name)]
    exact = set(names)

    def matches(module: str) -> bool:
        named = module in exact or selection.kind(module) in exact
        return named or any(found(module) for found in regexes)

    return matches


def _targets(fields: Fields) -> list[tuple[str, _Match]]:
    """Groups and what they match: names first, then expressions by alphabet, then classes.

    That is the library's order. A target of several groups belongs to the last.
    """
    groups = fields.object("config_groups")
    group_of = {
        target: name for name in groups.names for target in groups.object(name).texts("targets")
    }
    selection.expect_few(fields, group_of)
    targets: list[tuple[str, _Match]] = []
    exact = {target: name for target, name in group_of.items() if not selection.is_regex(target)}
    for target, name in exact.items():
        targets.append((name, target.__eq__))
    for target in sorted(set(group_of) - set(exact)):
        targets.append((group_of[target], selection.regex(fields, target)))
    for target, name in exact.items():
        targets.append((name, _of_class(target)))
    return targets


def _of_class(target: str) -> _Match:
    return lambda module: selection.kind(module) == target


def _scheme(layouts: Mapping[str, Layout | None]) -> str:
    schemes = {_scheme_of(each) for each in layouts.values() if each is not None}
    return "mixed" if len(schemes) > 1 else next(iter(schemes), "none")


def _scheme_of(layout: Layout) -> str:
    match layout:
        case Fp8Layout():
            return "fp8"
        case Fp4Layout():
            return "nvfp4"
        case PackedIntLayout() | PlainIntLayout():
            return f"int{layout.groups.bits}"
        case Int8Layout():
            return "int8"
        case Marlin24Layout():
            return "marlin24"
    raise TypeError(f"{layout.name} is of no scheme")


def _description(layouts: Mapping[str, Layout | None]) -> str:
    names = dict.fromkeys(each.name for each in layouts.values() if each is not None)
    return f"compressed-tensors: {'; '.join(names) or 'dense'}"
