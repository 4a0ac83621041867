"""What somebody has added to the pods of a Deployment of ours. Pure.

Server-side apply brings back the fields that we set and leaves all others: a variable that
`kubectl set env` adds stays, and comes with each new pod. It may be meant, or be the work of an
admission webhook that would add it again and again; so it is told, and not undone.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from aweigh_operator import compare
from aweigh_operator.places import WITH_PODS, kind_of

MAX_NAMED = 5
_AMOUNTS = ("limits", "requests")
# Of a pod and a container, what is there only if somebody has set it.
_CHOSEN = frozenset(
    {
        "affinity",
        "command",
        "envFrom",
        "hostIPC",
        "hostNetwork",
        "hostPID",
        "imagePullSecrets",
        "lifecycle",
        "nodeName",
        "nodeSelector",
        "priorityClassName",
        "runtimeClassName",
        "tolerations",
        "topologySpreadConstraints",
        "workingDir",
    }
)


def told(
    children: Mapping[str, Mapping[str, Any]], wanted: Mapping[str, Mapping[str, Any]]
) -> str | None:
    """A sentence about what was added by hand; None: nothing was.

    Args:
        children: that are there, by place.
        wanted: as they should be.
    """
    for place in WITH_PODS:
        there, ours = children.get(place), wanted.get(place)
        # What is about to be applied takes away what we have set before.
        if there is None or ours is None or not compare.holds(there, ours):
            continue
        found = list(added(there, ours))
        if found:
            kind, name = kind_of(place), there["metadata"]["name"]
            more = f" and {len(found) - MAX_NAMED} more" if len(found) > MAX_NAMED else ""
            return (
                f"somebody has added {', '.join(found[:MAX_NAMED])}{more} to the pods of {kind} "
                f"{name}, and it stays: take it away with `kubectl edit {kind.lower()} {name}`; "
                "what pods shall have belongs into `template`"
            )
    return None


def added(there: Mapping[str, Any], ours: Mapping[str, Any]) -> Iterator[str]:
    """What the pods of a Deployment have and ours have not, as containers[runtime].env[NAME]."""
    yield from _added(there["spec"]["template"]["spec"], ours["spec"]["template"]["spec"], "")


def _added(there: Mapping[str, Any], ours: Mapping[str, Any], at: str) -> Iterator[str]:
    for field, value in there.items():
        path = f"{at}{field}"
        if field in compare.MERGED:
            yield from _entries(value, ours.get(field) or [], compare.MERGED[field], path)
        elif field == "resources":
            yield from _added(value, ours.get(field) or {}, f"{path}.")
        elif field in _AMOUNTS:  # requests may follow from limits
            known = {*(ours.get(field) or {}), *(ours.get("limits") or {})}
            yield from (f"{path}.{each}" for each in value if each not in known)
        elif field in _CHOSEN and field not in ours and value:
            yield path


def _entries(there: list[Any], ours: list[Any], key: str, path: str) -> Iterator[str]:
    known = {each[key]: each for each in ours}
    for each in there:
        name = each.get(key)
        if name not in known:
            yield f"{path}[{name}]"
        else:
            yield from _added(each, known[name], f"{path}[{name}].")
