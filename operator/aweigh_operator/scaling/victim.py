"""Which pods go when there are too many: those whose caches are worth least. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aweigh_api.state import State
from aweigh_operator.scaling.look import Pod


@dataclass(frozen=True, slots=True)
class Savings:
    """What a report says of them: much less than all of it, which is kept for minutes."""

    boot_id: str
    seconds: float  # of prefill that hits have saved since the boot

    @classmethod
    def told(cls, state: State) -> "Savings":
        """By a report."""
        return cls(state.boot_id, state.saved_prefill_seconds or 0.0)


def cheapest_first(pods: Sequence[Pod], before: Mapping[str, Savings]) -> list[str]:
    """Uids of pods, the one whose loss costs least first.

    One that does not serve yet costs nothing, and one that serves and does not tell what it has
    saved may be worth most; of the others, the seconds of prefill that their hits
    have saved since `before` count, then how many requests they have, then who is younger.

    Args:
        pods: all that live.
        before: what their reports said a while ago, by uid.
    """

    def cost(pod: Pod) -> tuple[bool, bool, float, int, float]:
        state = pod.state
        busy = 0 if state is None else (state.running or 0) + (state.waiting or 0)
        serves, saved = pod.ready_for_s is not None, _saved(before.get(pod.uid), state)
        return serves, serves and state is None, saved, busy, pod.age_s

    return [pod.uid for pod in sorted(pods, key=cost)]


def _saved(before: Savings | None, state: State | None) -> float:
    if state is None:
        return 0.0
    after = Savings.told(state)
    same = before is not None and before.boot_id == after.boot_id
    return after.seconds - (before.seconds if same and before is not None else 0.0)
