"""Which pods go when there are too many: those whose caches are worth least. Pure."""

from collections.abc import Mapping, Sequence

from aweigh_api.state import State
from aweigh_operator.scaling.look import Pod


def cheapest_first(pods: Sequence[Pod], before: Mapping[str, State]) -> list[str]:
    """Uids of pods, the one whose loss costs least first.

    One that does not serve yet costs nothing, and one that serves and does not tell what it has
    saved may be worth most; of the others, the seconds of prefill that their hits
    have saved since `before` count, then how many requests they have, then who is younger.

    Args:
        pods: all that live.
        before: their reports a while ago, by uid.
    """

    def cost(pod: Pod) -> tuple[bool, bool, float, int, float]:
        state = pod.state
        busy = 0 if state is None else (state.running or 0) + (state.waiting or 0)
        serves, saved = pod.ready_for_s is not None, _saved(before.get(pod.uid), state)
        return serves, serves and state is None, saved, busy, pod.age_s

    return [pod.uid for pod in sorted(pods, key=cost)]


def _saved(before: State | None, after: State | None) -> float:
    if after is None:
        return 0.0
    same = before is not None and before.boot_id == after.boot_id
    old = before.saved_prefill_seconds or 0.0 if same and before is not None else 0.0
    return (after.saved_prefill_seconds or 0.0) - old
