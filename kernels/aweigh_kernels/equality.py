"""Whether two weights may share a product: what must be the same of them, tensors among it."""

from dataclasses import fields, is_dataclass

import torch


def same(one: object, other: object) -> bool:
    """Whether two tensors, dataclasses of tensors, or plain values hold the same."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    if is_dataclass(one):
        return all(same(getattr(one, each.name), getattr(other, each.name)) for each in fields(one))
    return one == other
