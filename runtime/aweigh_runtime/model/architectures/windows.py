"""Reads which layers see all earlier tokens and which only a window of them."""

from aweigh_runtime.failures import ModelUnreadable
from aweigh_runtime.fields import Fields

FULL, SLIDING = "full_attention", "sliding_attention"
_MAX_WINDOW = 1 << 30


def window(fields: Fields, absent: int | None) -> int | None:
    """Tokens that a layer with a window sees; None: all."""
    return fields.optional_integer("sliding_window", 1, _MAX_WINDOW, absent)


def kinds(fields: Fields, default: list[str]) -> list[str]:
    """`layer_types`, one for each layer, or `default`."""
    if "layer_types" not in fields:
        return default
    found = fields.texts("layer_types")
    for kind in found:
        fields.choice("layer_types", kind, (FULL, SLIDING))
    if len(found) != len(default):
        raise ModelUnreadable(
            f"{fields.path}: layer_types has {len(found)} entries; expected one for each of "
            f"{len(default)} layers"
        )
    return found


def windows(fields: Fields, size: int | None, default: list[str]) -> list[int | None]:
    """The window of each layer."""
    found = kinds(fields, default)
    if size is None and SLIDING in found:
        raise ModelUnreadable(
            f"{fields.path}: layer_types has {SLIDING}, but sliding_window is not given or not used"
        )
    return [size if kind == SLIDING else None for kind in found]
