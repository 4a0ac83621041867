"""How far policies let the number of pods move, as behavior of autoscaling/v2 says it. Pure."""

from collections.abc import Sequence
from itertools import pairwise

from aweigh_operator.scaling.look import Look
from aweigh_operator.scaling.rules import Behavior, Select


def reachable(
    changes: Sequence[tuple[float, int]], look: Look, behavior: Behavior, direction: int
) -> int:
    """The number of pods that policies let one direction go to."""
    if behavior.select is Select.DISABLED:
        return look.replicas
    if not behavior.policies:
        return look.replicas + direction * 1_000_000
    reaches = []
    for policy in behavior.policies:
        moved = _moved(changes, look.now_s - policy.period_s, direction)
        at_first = look.replicas - direction * moved
        reaches.append(at_first + direction * policy.reach(at_first))
    farthest = max(reaches) if direction > 0 else min(reaches)
    nearest = min(reaches) if direction > 0 else max(reaches)
    return farthest if behavior.select is Select.MAX else nearest


def _moved(changes: Sequence[tuple[float, int]], since_s: float, direction: int) -> int:
    """Pods that came, or went, since then."""
    steps = (
        direction * (after - before)
        for (_, before), (at_s, after) in pairwise(changes)
        if at_s > since_s
    )
    return sum(step for step in steps if step > 0)
