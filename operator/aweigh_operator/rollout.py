"""How new pods replace old ones. Pure.

One new pod more, and none less, is the rule. Where no node has room for one more, two or more pods
are replaced in their own places, one at a time; a single pod waits, unless downtime is allowed.
"""

from aweigh_operator.observe import UNSCHEDULABLE, Observed, Pod

# The scheduler's words for what a pod that goes gives back.
_NO_ROOM = ("Insufficient", "Too many pods", "anti-affinity", "free ports", "max volume count")
PATIENCE_S = 60.0  # for a node to be added, or freed


def in_place(
    observed: Observed,
    template_hash: str,
    replicas: int,
    *,
    allow_downtime: bool,
) -> bool:
    """Whether an old pod goes before its new one starts.

    Args:
        observed: what there is.
        template_hash: of the pods that are wanted.
        replicas: how many are wanted.
        allow_downtime: rollout.allowDowntime.
    """
    if allow_downtime:
        return True
    if replicas < 2:
        return False
    begun = _rolling_in_place(observed) and _old(observed, template_hash)
    return bool(begun or blocked(observed, template_hash))


def blocked(observed: Observed, template_hash: str | None) -> Pod | None:
    """A new pod for which no node has room while an old one has its place; None: there is none.

    One that no node takes for another reason, such as its labels, would not come though an old one
    went.
    """
    if template_hash is None or not _old(observed, template_hash):
        return None
    waiting = [
        pod
        for pod in observed.live_pods
        if pod.template_hash == template_hash
        and any(each in (pod.unschedulable or "") for each in _NO_ROOM)
        and observed.lasted_s(pod, UNSCHEDULABLE) >= PATIENCE_S
    ]
    return waiting[0] if waiting else None


def _old(observed: Observed, template_hash: str) -> list[Pod]:
    return [pod for pod in observed.live_pods if pod.template_hash != template_hash]


def _rolling_in_place(observed: Observed) -> bool:
    """What has been begun is finished so: the new pod that no node took has its place by then."""
    strategy = observed.children.get("Deployment", {}).get("spec", {}).get("strategy", {})
    return bool(strategy.get("rollingUpdate", {}).get("maxSurge") == 0)
