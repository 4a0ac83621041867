"""Chooses the next token of every row of a step on a GPU, without a sort (Triton).

A weight is e^((logit - largest) ÷ temperature). Of the tokens of a row, top_k keeps the likeliest,
top_p the likeliest of those until their weights reach that share of theirs, and min_p those whose
weight is not below it; the one with the largest weight ÷ noise is chosen. Noise is exponential and
a function of seed, position and token. Ties go to the lowest token.

Nothing here asks the device anything, so a chain of these launches can be captured in a graph.
Bound: memory; the logits are read once where top_k or top_p leave few.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import triton
from numpy.typing import NDArray

from aweigh_kernels.dense import expect_dense, starts_early
from aweigh_kernels.gpu import sampling

MOST_TOKENS = sampling.LAST_TOKEN.value + 1  # of a vocabulary
NO_TOKEN = -1
SUMMARIZE_WARPS = 4
SUMMARIZE_REGISTERS = 40  # of a thread at most: 12 programs and more on a multiprocessor
SPREAD_WARPS = 8
DECIDE_WARPS = 16
DECIDE_SHARED_BYTES = 48 << 10  # at most

_NEAR = 6.0  # logits below the largest: of rows that go no further, few tokens are listed
_REACH = 50.0  # temperatures below the largest: nothing behind can win


@dataclass(frozen=True, slots=True)
class Choice:
    """How one row's token is chosen."""

    temperature: float  # greater than 0; of no account where top_k is 1
    top_k: int = 0  # 0: all; 1: the likeliest
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0  # 64 bits


@dataclass(frozen=True, slots=True)
class Settings:
    """How the tokens of S rows are chosen, as the kernels read it."""

    packed: NDArray[np.int64]  # [S, 6]: seed, position, temperature, top_p, min_p, top_k
    races: bool  # of some row every token runs
    weighs: bool  # of some row top_p alone leaves out tokens

    @classmethod
    def of(cls, choices: Sequence[Choice], vocab_size: int) -> "Settings":
        """Pack them; positions are 0."""
        packed = np.zeros((len(choices), sampling.SETTINGS.value), np.int64)
        packed[:, 0] = np.array([each.seed % (1 << 64) for each in choices], np.uint64).view("i8")
        reals = [(each.temperature, each.top_p, each.min_p) for each in choices]
        packed[:, 2:5] = np.array(reals, np.float64).reshape(-1, 3).view(np.int64)
        packed[:, 5] = [_top_k(each, vocab_size) for each in choices]
        weighs = [
            not top_k and each.top_p < 1.0
            for top_k, each in zip(packed[:, 5], choices, strict=True)
        ]
        return cls(packed, bool((packed[:, 5] == sampling.RACED.value).any()), any(weighs))

    def of_rows(self, places: Sequence[int]) -> "Settings":
        """The same for rows that are drawn as those in these places."""
        return Settings(self.packed[np.array(places, np.int64)], self.races, self.weighs)

    def at(self, positions: Sequence[int], device: torch.device) -> torch.Tensor:
        """On the device, for tokens at these positions: [S, 6], int64. It does not wait.

        Args:
            positions: S of them.
            device: a GPU.
        """
        self.packed[:, 1] = positions
        packed = torch.from_numpy(self.packed)
        return packed.pin_memory().to(device, non_blocking=True)


def sample(
    logits: torch.Tensor, settings: torch.Tensor, *, races: bool, weighs: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose a token of each row.

    Args:
        logits: [S, V], fp32, contiguous, on a GPU; S may be 0, V at most MOST_TOKENS.
        settings: [S, 6], int64: those of `Settings`, at the rows' positions.
        races: as in `Settings`; a row that needs it when it is not said gets any token.
        weighs: as in `Settings`, likewise.

    Returns:
        tokens: [S], int64; NO_TOKEN where the largest logit is no finite number.
        largest: [S], fp32, the largest logit of each row.

    Raises:
        ValueError: shapes, number formats, strides or devices are others.
    """
    num_rows, size = logits.shape
    expect_dense("logits", logits, [num_rows, size], [torch.float32])
    expect_dense("settings", settings, [num_rows, sampling.SETTINGS.value], [torch.int64])
    if not 0 < size <= MOST_TOKENS:
        raise ValueError(f"logits have {size} tokens; expected 1 to {MOST_TOKENS}")
    early = starts_early(logits.device)
    return launch(logits, settings, races=races, weighs=weighs, early=early)


def launch(
    logits: torch.Tensor, settings: torch.Tensor, *, races: bool, weighs: bool, early: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """`sample` of tensors that are as they should be, which Triton's interpreter takes, too."""
    num_rows, size = logits.shape
    chunks = triton.cdiv(size, sampling.CHUNK.value)
    groups_up = triton.next_power_of_2(chunks * sampling.GROUPS.value)
    tokens = torch.empty(num_rows, dtype=torch.int64, device=logits.device)
    largest = logits.new_empty(num_rows)
    if not num_rows:
        return tokens, largest
    maxima = logits.new_empty(num_rows, chunks * sampling.GROUPS.value)
    sums = tokens.new_empty(num_rows, chunks)
    order = torch.empty(num_rows, groups_up, dtype=torch.int32, device=logits.device)
    listed = tokens.new_empty(num_rows, sampling.CAPACITY.value)
    sampling.summarize[(num_rows * chunks,)](
        logits, maxima, size, chunks, EARLY=early, num_warps=SUMMARIZE_WARPS, launch_pdl=early
    )
    spreads = races or weighs
    if spreads:
        sampling.spread[(num_rows * chunks,)](
            logits,
            settings,
            maxima,
            sums,
            size,
            chunks,
            GROUPS_UP=groups_up,
            EARLY=early,
            num_warps=SPREAD_WARPS,
            launch_pdl=early,
        )
    sampling.decide[(num_rows,)](
        logits,
        settings,
        maxima,
        sums,
        order,
        listed,
        tokens,
        largest,
        size,
        chunks,
        GROUPS_UP=groups_up,
        SUMMED=spreads,
        EARLY=early,
        num_warps=DECIDE_WARPS,
        launch_pdl=early,
    )
    return tokens, largest


def _top_k(choice: Choice, vocab_size: int) -> int:
    """As the kernels take it."""
    top_k = choice.top_k if choice.top_k < vocab_size else 0
    if top_k or choice.top_p < 1.0:
        return top_k
    reach = _REACH if choice.min_p <= 0.0 else min(_REACH, -math.log(choice.min_p))
    return sampling.RACED.value if reach * choice.temperature > _NEAR else 0
