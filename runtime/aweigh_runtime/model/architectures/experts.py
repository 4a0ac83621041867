"""Reads how many experts a layer has and how many of them a token uses."""

from aweigh_runtime.fields import Fields
from aweigh_runtime.model.config import Experts

_MAX_EXPERTS = 1 << 12


def experts(
    fields: Fields, names: tuple[str, ...], count: int, per_token: int, normalized: bool
) -> Experts:
    """`names`: what the number of experts may be called; `count`, `per_token`: when left out."""
    name = next((name for name in names if name in fields), names[0])
    found = fields.integer(name, 1, _MAX_EXPERTS, count)
    return Experts(
        count=found,
        per_token=fields.integer("num_experts_per_tok", 1, found, min(per_token, found)),
        normalized=normalized,
    )
