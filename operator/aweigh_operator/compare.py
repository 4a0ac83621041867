"""Does an object hold what we want? Only the fields that we set are compared; others are not ours.

The API server adds defaults, drops empty values and rewrites quantities, and other controllers add
entries to maps and to lists that are keyed: none of that is a difference. A field that the API
server takes as one value is compared as one: there, what somebody adds changes what we said, and
applying the field again takes it away.
"""

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

_QUANTITY = re.compile(r"^([+-]?[0-9.]+)(?:([numkMGTPE]i?)|[eE]([+-]?[0-9]+))?$")
_SUFFIXES = {
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate("kMGTPE", start=1)},
    **{f"{suffix}i": Decimal(1024) ** power for power, suffix in enumerate("KMGTPE", start=1)},
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
}
_OF_QUANTITIES = ("limits", "requests")
_LIST_KEYS = ("uid", "name")  # by which the API server merges a list's entries
# Lists of pods whose entries the API server merges, and what names one.
MERGED = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "volumeMounts": "mountPath",
}
# Of the fields that we set, those that are atomic in Kubernetes' schemas: x-kubernetes-map-type
# atomic, or a list of type atomic.
ATOMIC = frozenset(
    {
        "selector",
        "podSelector",
        "namespaceSelector",
        "labelSelector",
        "nodeSelector",
        "tolerations",
        "policyTypes",
        "ingress",
        "egress",
        "rules",
        "subjects",
        "requiredDuringSchedulingIgnoredDuringExecution",
        "preferredDuringSchedulingIgnoredDuringExecution",
    }
)
# Inside of those, an empty struct says something (every namespace), but not these two.
_SAY_NOTHING_EMPTY = ("matchLabels", "preference")


def holds(observed: Any, desired: Any) -> bool:
    """True when every field of `desired` has its value in `observed`."""
    if isinstance(desired, Mapping):
        return isinstance(observed, Mapping) and all(
            _field_holds(observed, field, value) for field, value in desired.items()
        )
    if isinstance(desired, list | tuple):
        return isinstance(observed, list | tuple) and _list_holds(observed, desired)
    return bool(observed == desired)


def same_quantity(one: Any, other: Any) -> bool:
    """'1000m' and '1' are the same."""
    return str(one) == str(other) or _number(one) == _number(other)


def _field_holds(observed: Mapping[str, Any], field: str, value: Any) -> bool:
    if field not in observed:
        return value in ("", None) or value == {} or value == []
    found = observed[field]
    if field in MERGED:
        return _named_hold(found, value, MERGED[field])
    if field in ATOMIC:
        return bool(_essence(found) == _essence(value))
    if field in _OF_QUANTITIES and isinstance(value, Mapping):
        return all(
            name in found and same_quantity(found[name], each) for name, each in value.items()
        )
    return holds(found, value)


def _essence(value: Any) -> Any:
    """An atomic value without what the API server drops when it stores it."""
    if isinstance(value, Mapping):
        return {
            field: _essence(each)
            for field, each in value.items()
            if each not in ("", None, []) and not (field in _SAY_NOTHING_EMPTY and each == {})
        }
    return [_essence(each) for each in value] if isinstance(value, list | tuple) else value


def _list_holds(observed: Sequence[Any], desired: Sequence[Any]) -> bool:
    key = _list_key(desired)
    if key is None:
        return len(observed) == len(desired) and all(map(holds, observed, desired))
    return _named_hold(observed, desired, key)


def _named_hold(observed: Sequence[Any], desired: Sequence[Any], key: str) -> bool:
    """What is there besides, others have added."""
    found = {each.get(key): each for each in observed if isinstance(each, Mapping)}
    return all(each[key] in found and holds(found[each[key]], each) for each in desired)


def _list_key(entries: Sequence[Any]) -> str | None:
    for key in _LIST_KEYS:
        if entries and all(isinstance(each, Mapping) and key in each for each in entries):
            return key
    return None


def _number(quantity: Any) -> Decimal | None:
    match = _QUANTITY.match(str(quantity))
    if match is None:
        return None
    digits, suffix, exponent = match.groups()
    if exponent is not None:
        return Decimal(f"{digits}e{exponent}")
    return Decimal(digits) * _SUFFIXES.get(suffix, Decimal(1))
