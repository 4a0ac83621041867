"""Reads rotary embedding, as newer configs write it (rope_parameters) and older (rope_scaling)."""

import math

from aweigh_runtime.failures import ModelUnreadable, UnsupportedModel
from aweigh_runtime.fields import Fields
from aweigh_runtime.model.architectures.plain import (
    MAX_POSITIONS,
    Defaults,
    head_dim,
    max_positions,
)
from aweigh_runtime.model.architectures.windows import FULL, SLIDING
from aweigh_runtime.model.config import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    Rope,
    Scaling,
    YarnScaling,
)

ROPE_TYPES = ("default", "linear", "dynamic", "llama3", "yarn")
_LOW_THETA, _HIGH_THETA = 1.01, 1e15


def rope(fields: Fields, defaults: Defaults, theta: float = 10_000.0) -> Rope:
    """The rotary embedding of a model whose layers share it."""
    found = _object(fields)
    if FULL in found or SLIDING in found:
        raise UnsupportedModel(
            f"{fields.path}: rope_parameters that differ by layer are not supported for this "
            "architecture; expected one object for all"
        )
    return _rope(fields, found, defaults, _theta(fields, "rope_theta", theta))


def layer_ropes(fields: Fields, defaults: Defaults) -> dict[str, Rope]:
    """The rotary embeddings of Gemma 3, for layers that see all tokens and for those that do not.

    Older configs scale the former only and name the base of the latter apart.
    """
    local = fields.object("rope_parameters").object(SLIDING)
    base, local_base = (
        _theta(fields, "rope_theta", 1_000_000.0),
        _theta(fields, "rope_local_base_freq", 10_000.0),
    )
    return {
        FULL: _rope(fields, _object(fields, FULL), defaults, base),
        SLIDING: _rope(fields, local, defaults, local_base),
    }


def phi_rope(fields: Fields, defaults: Defaults) -> Rope:
    """Phi-3 turns part of each head, and scales by lists of factors or not at all."""
    found = _object(fields)
    width, limit = head_dim(fields, defaults), max_positions(fields, defaults)
    share = fields.number("partial_rotary_factor", 0.0, 1.0, 1.0)
    size = int(width * found.number("partial_rotary_factor", 0.0, 1.0, share))
    if size < 2 or size % 2:
        raise ModelUnreadable(
            f"{fields.path}: partial_rotary_factor turns {size} of {width} values of a head; "
            "expected an even number above 0"
        )
    kind = _kind(found)
    kind = "longrope" if kind in ("su", "yarn") else kind  # what early checkpoints called it
    found.choice("rope_type", kind, ("default", "longrope"))
    scaling = _longrope(fields, found, size, limit) if kind == "longrope" else None
    return Rope(_theta(found, "rope_theta", _theta(fields, "rope_theta", 10_000.0)), size, scaling)


def served_positions(rope: Rope, limit: int) -> int:
    """Tokens that a model can be served for, when its config names `limit` positions.

    Configs with linear or dynamic scaling name the positions before it, and so do some with yarn.
    """
    match rope.scaling:
        case LinearScaling(factor) | DynamicScaling(factor):
            return min(int(limit * factor), MAX_POSITIONS)
        case YarnScaling(factor=factor, original_max_positions=original):
            return min(max(limit, int(original * factor)), MAX_POSITIONS)
        case _:
            return limit


def _rope(fields: Fields, found: Fields, defaults: Defaults, theta: float) -> Rope:
    kind = found.choice("rope_type", _kind(found), ROPE_TYPES)
    for place in (fields, found):
        if place.number("partial_rotary_factor", 0.0, 1.0, 1.0) != 1.0:
            raise UnsupportedModel(
                f"{fields.path}: partial_rotary_factor is not supported for this architecture; "
                "expected 1"
            )
    size, limit = head_dim(fields, defaults), max_positions(fields, defaults)
    return Rope(
        _theta(found, "rope_theta", theta), size, _scaling(fields, found, kind, limit, size)
    )


def _object(fields: Fields, layers: str = "") -> Fields:
    """What describes the rotary embedding; the older name wins, as in transformers."""
    old = fields.object("rope_scaling")
    if not old.empty:
        return old
    found = fields.object("rope_parameters")
    return found.object(layers) if layers in found else found


def _kind(found: Fields) -> str:
    return found.text("rope_type", found.text("type", "default"))


def _theta(fields: Fields, name: str, default: float) -> float:
    return fields.number(name, _LOW_THETA, _HIGH_THETA, default)


def _factor(found: Fields) -> float:
    return found.number("factor", 1.0, 1e6)


def _original(fields: Fields, found: Fields, limit: int) -> int:
    name = "original_max_position_embeddings"
    inner = found.integer(name, 2, MAX_POSITIONS, max(limit, 2))
    return fields.integer(name, 2, MAX_POSITIONS, inner)


def _scaling(fields: Fields, found: Fields, kind: str, limit: int, size: int) -> Scaling | None:
    match kind:
        case "linear":
            return LinearScaling(_factor(found))
        case "dynamic":
            if size < 4:
                raise ModelUnreadable(
                    f"{fields.path}: head_dim is {size}; dynamic scaling needs at least 4"
                )
            return DynamicScaling(_factor(found), limit)
        case "llama3":
            return _llama3(fields, found, limit)
        case "yarn":
            return _yarn(fields, found, limit)
        case _:
            return None


def _llama3(fields: Fields, found: Fields, limit: int) -> Llama3Scaling:
    low = found.number("low_freq_factor", 1e-3, 1e6)
    high = found.number("high_freq_factor", 1e-3, 1e6)
    if high <= low:
        raise ModelUnreadable(
            f"{fields.path}: high_freq_factor ({high:g}) must be above low_freq_factor ({low:g})"
        )
    return Llama3Scaling(_factor(found), low, high, _original(fields, found, limit))


def _yarn(fields: Fields, found: Fields, limit: int) -> YarnScaling:
    original = _original(fields, found, limit)
    factor = found.number("factor", 1.0, 1e6, max(limit / original, 1.0))
    mscale = found.number("mscale", 0.0, 1e3, 0.0)
    all_dim = found.number("mscale_all_dim", 0.0, 1e3, 0.0)
    amplified = _mscale(factor, 1.0)
    if mscale and all_dim:
        amplified = _mscale(factor, mscale) / _mscale(factor, all_dim)
    return YarnScaling(
        factor=factor,
        beta_fast=found.number("beta_fast", 1e-3, 1e6, 32.0),
        beta_slow=found.number("beta_slow", 1e-3, 1e6, 1.0),
        truncate=found.boolean("truncate", True),
        attention_factor=found.number("attention_factor", 0.0, 1e3, amplified),
        original_max_positions=original,
    )


def _mscale(factor: float, mscale: float) -> float:
    return 0.1 * mscale * math.log(factor) + 1.0


def _longrope(fields: Fields, found: Fields, size: int, limit: int) -> LongRopeScaling:
    original = _original(fields, found, 4096)
    factor = found.number("factor", 1.0, 1e6, max(limit / original, 1.0))
    amplified = math.sqrt(1 + math.log(factor) / math.log(original))
    return LongRopeScaling(
        short_factors=found.numbers("short_factor", size // 2, 1e-3, 1e6),
        long_factors=found.numbers("long_factor", size // 2, 1e-3, 1e6),
        attention_factor=found.number("attention_factor", 0.0, 1e3, amplified),
        original_max_positions=original,
    )
