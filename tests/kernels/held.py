"""What memory something keeps alive."""

from types import ModuleType

import torch


def held_bytes(root: object) -> int:
    """Of all tensors that an object leads to, closures included; each memory once."""
    waiting, seen, storages = [root], set(), {}
    while waiting:
        each = waiting.pop()
        if id(each) in seen or isinstance(each, type | ModuleType):
            continue
        seen.add(id(each))
        if isinstance(each, torch.Tensor):
            storage = each.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        else:
            waiting += parts_of(each)
    return sum(storages.values())


def parts_of(each: object) -> list[object]:
    if isinstance(each, dict):
        return list(each.values())
    if isinstance(each, list | tuple):
        return list(each)
    found = list(getattr(each, "__dict__", {}).values())
    found += [getattr(each, name, None) for name in getattr(each, "__slots__", ())]
    found += [cell.cell_contents for cell in getattr(each, "__closure__", None) or ()]
    return [*found, getattr(each, "__self__", None)]
