"""What somebody has added to the pods of a Deployment of ours. Pure.

Server-side apply brings back the fields that we set and leaves all others: a variable that
`kubectl set env` adds stays, and comes with each new pod. It may be meant, or be the work of an
admission webhook that would add it again and again; so it is told, and not undone.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from aweigh_api import names
from aweigh_operator import compare
from aweigh_operator.places import ROUTER_DEPLOYMENT, WITH_PODS, kind_of

MAX_NAMED = 5
_AMOUNTS = ("limits", "requests")
_MADE_FROM = (names.TEMPLATE_HASH, names.TEMPLATE)  # annotations of the Deployment
# `kubectl rollout restart` leaves it, and it does nothing to the pods that it comes with.
_RESTARTED = "kubectl.kubernetes.io/restartedAt"
# What the API server fills in where a Deployment's pods leave it out.
_FILLED_IN = {
    "dnsPolicy": "ClusterFirst",
    "enableServiceLinks": True,
    "restartPolicy": "Always",
    "schedulerName": "default-scheduler",
    "terminationGracePeriodSeconds": 30,
    "imagePullPolicy": "IfNotPresent",
    "terminationMessagePath": "/dev/termination-log",
    "terminationMessagePolicy": "File",
    "defaultMode": 0o644,  # of a volume's files
    "protocol": "TCP",
    "scheme": "HTTP",  # this and the rest: of probes
    "failureThreshold": 3,
    "periodSeconds": 10,
    "successThreshold": 1,
    "timeoutSeconds": 1,
}
# Lists whose entries have a name, and the fields that name one.
_NAMED = {
    **{field: (key,) for field, key in compare.MERGED.items()},
    "ports": ("containerPort", "protocol"),
}


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
        if there is None or ours is None or not _applied(there, ours):
            continue
        found = list(added(there, ours))
        if found:
            kind, name = kind_of(place), there["metadata"]["name"]
            more = f" and {len(found) - MAX_NAMED} more" if len(found) > MAX_NAMED else ""
            elsewhere = "; what pods shall have belongs into `template`"  # no router gets that
            return (
                f"somebody has added {', '.join(found[:MAX_NAMED])}{more} to the pods of {kind} "
                f"{name}, and it stays: take it away with `kubectl edit {kind.lower()} {name}`"
                f"{'' if place == ROUTER_DEPLOYMENT else elsewhere}"
            )
    return None


def _applied(there: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
    """Whether the pods are made from ours: else what we set before looks like an addition.

    How many there are is of no account.
    """
    annotations, wanted = there["metadata"].get("annotations") or {}, ours["metadata"]
    return all(
        annotations.get(each) == wanted["annotations"][each] for each in _MADE_FROM
    ) and compare.holds(there["spec"]["template"], ours["spec"]["template"])


def added(there: Mapping[str, Any], ours: Mapping[str, Any]) -> Iterator[str]:
    """What the pods of a Deployment have and ours have not, as containers[runtime].env[NAME]."""
    found, wanted = there["spec"]["template"], ours["spec"]["template"]
    for part in ("labels", "annotations"):
        known = {*(wanted["metadata"].get(part) or {}), _RESTARTED}
        theirs = found["metadata"].get(part) or {}
        yield from (f"{part}[{each}]" for each in theirs if each not in known)
    yield from _added(found["spec"], wanted["spec"], "")


def _added(there: Mapping[str, Any], ours: Mapping[str, Any], at: str) -> Iterator[str]:
    for field, value in there.items():
        path = f"{at}{field}"
        if field in _NAMED:
            yield from _entries(value or [], ours.get(field) or [], _NAMED[field], path)
        elif field == "resources":
            yield from _added(value or {}, ours.get(field) or {}, f"{path}.")
        elif field in _AMOUNTS:  # requests may follow from limits
            known = {*(ours.get(field) or {}), *(ours.get("limits") or {})}
            yield from (f"{path}.{each}" for each in value or {} if each not in known)
        elif field not in ours:
            if not _filled_in(field, value, there):
                yield path
        elif isinstance(value, Mapping) and field not in compare.ATOMIC:
            yield from _added(value, ours[field] or {}, f"{path}.")


def _entries(there: list[Any], ours: list[Any], keys: tuple[str, ...], path: str) -> Iterator[str]:
    known = {tuple(each.get(key) for key in keys): each for each in ours}
    for each in there:
        name = tuple(each.get(key) for key in keys)
        shown = f"{path}[{'/'.join(map(str, name))}]"
        if name not in known:
            yield shown
        else:
            yield from _added(each, known[name], f"{shown}.")


def _filled_in(field: str, value: Any, beside: Mapping[str, Any]) -> bool:
    """Whether nobody has chosen it."""
    if value is None or value in ("", [], {}):
        return True
    if field == "serviceAccount":  # the old name of the field
        return bool(value == beside.get("serviceAccountName"))
    return bool(value == _FILLED_IN.get(field))
