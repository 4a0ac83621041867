"""How others decide about a number of pods, from their documents. They see what our law sees.

queue       KEDA on vllm:num_requests_waiting, 5 for each pod: production-stack's chart
in flight   KubeAI: the mean of requests in flight over 10 minutes ÷ a target; 100 is its default
APA         AIBrix: in flight ÷ ready pods against a target, within 10 %, at most twice or half
saturation  llm-d's workload variant autoscaler: one more pod when spare memory or queue is short
"""

from collections import deque
from collections.abc import Callable
from math import ceil, floor

from aweigh_operator.scaling.look import Look

Rule = Callable[[Look], int]


def _busy(look: Look) -> int:
    return sum(
        (pod.state.running or 0) + (pod.state.waiting or 0) for pod in look.serving if pod.state
    )


def _waiting(look: Look) -> int:
    return sum(pod.state.waiting or 0 for pod in look.serving if pod.state)


class Queue:
    """Waiting requests, 5 a pod; down by one pod a minute, after 5 minutes of lower votes."""

    def __init__(self, target: float = 5.0) -> None:
        self._target = target
        self._votes: deque[tuple[float, int]] = deque()
        self._went_s = float("-inf")

    def __call__(self, look: Look) -> int:
        """The number of pods."""
        wanted = max(1, ceil(_waiting(look) / self._target))
        self._votes.append((look.now_s, wanted))
        while self._votes[0][0] < look.now_s - 300:
            self._votes.popleft()
        if wanted > look.replicas:
            return min(wanted, 2 * look.replicas)
        highest = max(pods for _, pods in self._votes)
        if highest < look.replicas and look.now_s - self._went_s >= 60:
            self._went_s = look.now_s
            return look.replicas - 1
        return look.replicas


class InFlight:
    """The mean over 10 minutes; down after 30 s of lower votes."""

    def __init__(self, target: float) -> None:
        self._target = target
        self._seen: deque[tuple[float, int]] = deque()
        self._lower_since_s: float | None = None

    def __call__(self, look: Look) -> int:
        """The number of pods."""
        self._seen.append((look.now_s, _busy(look)))
        while self._seen[0][0] < look.now_s - 600:
            self._seen.popleft()
        mean = sum(busy for _, busy in self._seen) / len(self._seen)
        wanted = max(1, ceil(mean / self._target))
        if wanted >= look.replicas:
            self._lower_since_s = None
            return wanted
        if self._lower_since_s is None:
            self._lower_since_s = look.now_s
        return wanted if look.now_s - self._lower_since_s >= 30 else look.replicas


class Apa:
    """In flight for each pod against a target, over 3 minutes; down after 5 minutes."""

    def __init__(self, target: float = 40.0) -> None:
        self._target = target
        self._seen: deque[tuple[float, float]] = deque()
        self._moved_s = float("-inf")

    def __call__(self, look: Look) -> int:
        """The number of pods."""
        serving = max(1, len(look.serving))
        self._seen.append((look.now_s, _busy(look) / serving))
        while self._seen[0][0] < look.now_s - 180:
            self._seen.popleft()
        ratio = sum(each for _, each in self._seen) / len(self._seen) / self._target
        pods = look.replicas
        if ratio > 1.1:  # of pods that are ready: those that start do not multiply
            wanted = max(min(ceil(serving * ratio), 2 * serving), pods)
        elif ratio < 0.9 and look.now_s - self._moved_s >= 300:
            wanted = max(ceil(pods * ratio), floor(pods / 2), 1)
        else:
            return pods
        if wanted != pods:
            self._moved_s = look.now_s
        return wanted


class Saturation:
    """One more below a spare of 10 % of memory or 3 requests; one less if that keeps both."""

    KV, QUEUE = 0.8, 5.0  # from which a pod is saturated
    SPARE_KV, SPARE_QUEUE = 0.1, 3.0

    def __init__(self) -> None:
        self._looked_s = float("-inf")

    def __call__(self, look: Look) -> int:
        """The number of pods."""
        pods = look.replicas
        told = [pod.state for pod in look.serving if pod.state]
        starting = any(pod.ready_for_s is None for pod in look.pods)
        if starting or not told or look.now_s - self._looked_s < 30:
            return pods
        self._looked_s = look.now_s
        used = [
            each.kv_tokens.held / each.kv_tokens.capacity
            for each in told
            if each.kv_tokens and each.kv_tokens.capacity and each.kv_tokens.held is not None
        ]
        kv = sum(used) / len(used) if used else 0.0
        queue = _waiting(look) / len(told)
        if self.KV - kv < self.SPARE_KV or self.QUEUE - queue < self.SPARE_QUEUE:
            return pods + 1
        more = pods / (pods - 1) if pods > 1 else 0.0
        keeps = (
            self.KV - kv * more >= self.SPARE_KV and self.QUEUE - queue * more >= self.SPARE_QUEUE
        )
        return pods - 1 if pods > 1 and keeps else pods
