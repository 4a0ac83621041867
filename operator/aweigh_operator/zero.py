"""Whether no pod may run while nothing is asked: only where what the spec asks for serves. Pure.

A wrong URI, or an image that does not exist, would else be found out by the first client. Which
pods have served last the Deployment notes, so that a restarted operator wakes nobody to see it.
"""

from aweigh_api import names
from aweigh_api.scaling import Scaling
from aweigh_operator import rollout, troubles
from aweigh_operator.observe import Observed


def note(observed: Observed, made_from: str, scaling: Scaling | None) -> str | None:
    """What the Deployment notes: hash of the pods that have served last; None: nothing.

    Args:
        observed: the service now.
        made_from: hash of what its pods shall be made from.
        scaling: the part of the spec; nothing is noted where a pod always runs.
    """
    if scaling is None or not scaling.to_zero:
        return None
    return made_from if _serves(observed, made_from) else _noted(observed)


def shown(observed: Observed, made_from: str | None, replicas: int) -> bool:
    """Whether pods as the spec asks for are seen to serve, or did before the last one went.

    Args:
        observed: the service now.
        made_from: hash of what its pods shall be made from.
        replicas: pods that are wanted now.
    """
    if replicas == 0:
        return _noted(observed) == made_from
    return _serves(observed, made_from)


def blocked(observed: Observed, made_from: str | None) -> bool:
    """Whether nothing but want of room keeps new pods away, while old ones have their places.

    Args:
        observed: the service now.
        made_from: hash of what its pods shall be made from.
    """
    placed = any(pod.scheduled and pod.template_hash == made_from for pod in observed.live_pods)
    return not placed and rollout.blocked(observed, made_from) is not None


def _serves(observed: Observed, made_from: str | None) -> bool:
    """Whether one does, and not just for the moment between two crashes."""
    return any(
        pod.template_hash == made_from and troubles.steady(pod, observed)
        for pod in observed.live_pods
    )


def _noted(observed: Observed) -> str | None:
    metadata = observed.children.get("Deployment", {}).get("metadata", {})
    found: str | None = (metadata.get("annotations") or {}).get(names.SERVED)
    return found
