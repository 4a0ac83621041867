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


Place = tuple[Matcher, Sequence[int]]
"""Where an answer stands, and what may follow: each of these tokens needs a mask of its own."""


class Masks:
    """Computes masks for one vocabulary."""

    def __init__(self, vocab_size: int) -> None:
        self._words = -(-vocab_size // _TOKENS_PER_WORD)
        self._executor: LLExecutor | None = None
        self._watched = False

    def of(self, places: Sequence[Place]) -> NDArray[np.int32]:
        """One bit for each token, the lowest first: [G, V ÷ 32].

        A place with n tokens to follow has n + 1 rows: before each of them and after the last.
        After a token that the grammar does not allow, or that ends it, its rows allow nothing.
        Failed rows are arbitrary.
        """
        rows = sum(1 + len(tokens) for _, tokens in places)
        masks = np.zeros((rows, self._words), np.int32)
        if self._watched:
            self._watched = _fill_one_by_one(places, masks)
        else:
            started = time.perf_counter()
            self._fill_together(places, masks)
            usual_s = _SLOW_S + _USUAL_S * rows
            self._watched = time.perf_counter() - started > usual_s
        return masks

    def _fill_together(self, places: Sequence[Place], masks: NDArray[np.int32]) -> None:
        if self._executor is None:  # its threads are for those who use grammars
            self._executor = LLExecutor(max(1, usable_cpus() // 2))
        at = (masks.ctypes.data, masks.strides[0], len(masks))
        plain, drafted, line = [], [], 0
        for matcher, tokens in places:
            if tokens:
                drafted.append((matcher.backend, line, list(tokens)))
            else:  # llguidance refuses a draft of no tokens
                plain.append((matcher.backend, line))
            line += 1 + len(tokens)
        if plain:
            self._executor.unsafe_compute_mask_ptr(plain, *at)
        if drafted:
            self._executor.unsafe_compute_mask_ptr_with_draft_token(drafted, *at)


def _fill_one_by_one(places: Sequence[Place], masks: NDArray[np.int32]) -> bool:
    """True: one of them was slow. What other processes take is not counted."""
    slow = False
    line = 0
    for matcher, tokens in places:
        rows = masks[line : line + 1 + len(tokens)]
        line += len(rows)
        started = time.thread_time()
        matcher.backend.unsafe_compute_mask_ptr_with_draft_token(  # type: ignore[attr-defined]
            rows.ctypes.data, rows.strides[0], list(tokens)
        )
        computing_s = (time.thread_time() - started) / len(rows)  # drafts are not its own wish
        if computing_s > _SLOW_S:
            matcher.charge(computing_s)
            slow = True
    return slow
