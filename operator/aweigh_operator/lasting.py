"""For how long what is seen of pods has lasted, by a clock that never goes back. Pure.

Time stamps come from the clocks of other machines, and each clock, ours too, may be wrong or jump.
So what must last before it counts is waited for from when this operator saw it first; after its
restart such a wait begins anew.
"""

from collections.abc import Collection, Iterable, Mapping

from aweigh_operator.observe import MOUNTING, UNSCHEDULABLE, Pod, Sign

_CREATING = ("ContainerCreating", "PodInitializing")


def since(
    before: Mapping[Sign, float] | None, pods: Collection[Pod], now_s: float, *, served: bool
) -> dict[Sign, float]:
    """When each sign that is there now was seen first; those that are gone are forgotten.

    Args:
        before: what the last look gave; None: this is the first one.
        pods: of one service.
        now_s: of a clock that never goes back.
        served: a pod served, so a status tells, before this operator looked. Then those that are
            ready have crashed long ago: a restart of the operator is no news of them.
    """
    known = _over(pods) if before is None and served else before or {}
    return {sign: known.get(sign, now_s) for pod in pods for sign in _signs(pod)}


def _over(pods: Iterable[Pod]) -> dict[Sign, float]:
    return {Sign(pod.uid, pod.crash): float("-inf") for pod in pods if pod.ready and pod.crash}


def _signs(pod: Pod) -> list[Sign]:
    there = (
        (pod.unschedulable is not None, UNSCHEDULABLE),
        (_mounts(pod), MOUNTING),
        (pod.crash is not None, pod.crash),
    )
    return [Sign(pod.uid, what) for is_there, what in there if is_there and what is not None]


def _mounts(pod: Pod) -> bool:
    """Whether its container is being created, for which all volumes must be there."""
    if not pod.live or not pod.scheduled or pod.running or pod.crash is not None:
        return False
    return pod.waiting is None or pod.waiting.reason in _CREATING
