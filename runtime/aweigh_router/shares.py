"""Which prefixes make up how much of the recent load. A bounded count; it forgets."""

import math

FORGETS_S = 120.0  # after so long a request counts for 1/e
MOST_KEYS = 1024
DOUBT = 32.0  # requests of others that are assumed besides: a first request is not all of the load

_LARGEST = 1e100  # weights grow with time, so that nothing has to be aged


class Shares:
    """Counts requests by key; at most `MOST_KEYS` of them, the heaviest stay."""

    def __init__(self) -> None:
        self._weights: dict[bytes, float] = {}
        self._total = 0.0
        self._since_s: float | None = None

    def __len__(self) -> int:
        return len(self._weights)

    def add(self, key: bytes, count: int, now_s: float) -> None:
        """So many answers for requests that begin with `key`."""
        weight = count * self._one(now_s)
        self._weights[key] = self._weights.get(key, 0.0) + weight
        self._total += weight
        if len(self._weights) > MOST_KEYS:
            self._drop_the_lighter_half()

    def of(self, key: bytes, now_s: float) -> float:
        """The part of the load that is this key's, 0 … 1."""
        one = self._one(now_s)
        return self._weights.get(key, 0.0) / (self._total + DOUBT * one)

    def _one(self, now_s: float) -> float:
        """What a request weighs that comes now."""
        if self._since_s is None:
            self._since_s = now_s
        one = math.exp((now_s - self._since_s) / FORGETS_S)
        if one < _LARGEST:
            return one
        self._weights = {key: weight / one for key, weight in self._weights.items()}
        self._total /= one
        self._since_s = now_s
        return 1.0

    def _drop_the_lighter_half(self) -> None:
        heaviest = sorted(self._weights.items(), key=lambda each: each[1], reverse=True)
        self._weights = dict(heaviest[: MOST_KEYS // 2])
