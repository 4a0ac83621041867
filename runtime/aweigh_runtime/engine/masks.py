"""Which tokens the grammars of a step allow. A row costs microseconds.

All rows are computed in parallel. After a slow step they are computed one by one, until no row is
slow: so the time goes on the account of the row that takes it.
"""

import time
from collections.abc import Sequence

import numpy as np
from llguidance import LLExecutor
from numpy.typing import NDArray

from aweigh_runtime.engine.matcher import Matcher
from aweigh_runtime.engine.processors import usable_cpus

_TOKENS_PER_WORD = 32
_USUAL_S = 20e-6
_SLOW_S = 0.002


class Masks:
    """Computes masks for one vocabulary."""

    def __init__(self, vocab_size: int) -> None:
        self._words = -(-vocab_size // _TOKENS_PER_WORD)
        self._executor: LLExecutor | None = None
        self._watched = False

    def of(self, matchers: Sequence[Matcher]) -> NDArray[np.int32]:
        """One bit for each token, the lowest first: [G, V ÷ 32]. Failed rows are arbitrary."""
        masks = np.zeros((len(matchers), self._words), np.int32)
        if self._watched:
            self._watched = _fill_one_by_one(matchers, masks)
        else:
            started = time.perf_counter()
            self._fill_together(matchers, masks)
            usual_s = _SLOW_S + _USUAL_S * len(matchers)
            self._watched = time.perf_counter() - started > usual_s
        return masks

    def _fill_together(self, matchers: Sequence[Matcher], masks: NDArray[np.int32]) -> None:
        if self._executor is None:  # its threads are for those who use grammars
            self._executor = LLExecutor(max(1, usable_cpus() // 2))
        entries = [(matcher.backend, line) for line, matcher in enumerate(matchers)]
        self._executor.unsafe_compute_mask_ptr(
            entries, masks.ctypes.data, masks.strides[0], len(masks)
        )


def _fill_one_by_one(matchers: Sequence[Matcher], masks: NDArray[np.int32]) -> bool:
    """True: one of them was slow. What other processes take is not counted."""
    slow = False
    for matcher, row in zip(matchers, masks, strict=True):
        started = time.thread_time()
        matcher.backend.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)
        computing_s = time.thread_time() - started
        if computing_s > _SLOW_S:
            matcher.charge(computing_s)
            slow = True
    return slow
