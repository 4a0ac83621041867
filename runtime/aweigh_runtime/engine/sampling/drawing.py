"""Draws the tokens of all rows of a step: on a GPU by kernels, elsewhere by torch's operations."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from aweigh_runtime.engine.messages import Sampling
from aweigh_runtime.engine.sampling.noise import Stream
from aweigh_runtime.engine.sampling.pending import Drawn
from aweigh_runtime.engine.sampling.race import draw_filtered, draw_plain
from aweigh_runtime.engine.sampling.row import Row, Way
from aweigh_runtime.engine.sampling.verification import NO_TOKEN

if TYPE_CHECKING:
    from aweigh_kernels import sampling_gpu

_Draw = Callable[[torch.Tensor, torch.Tensor, Sequence[Row]], torch.Tensor]
_DRAWS: dict[Way, _Draw] = {Way.PLAIN: draw_plain, Way.FILTERED: draw_filtered}


class Draws:
    """Remembers how the rows of the last step were drawn: mostly the next one has the same."""

    def __init__(self) -> None:
        self._samplings: list[Sampling] = []
        self._settings: sampling_gpu.Settings | None = None

    def draw(self, logits: torch.Tensor, rows: Sequence[Row]) -> Drawn:
        """What every row chooses by itself.

        Args:
            logits: [S, V], fp32, contiguous.
            rows: S of them.
        """
        if not rows:
            empty = logits.new_empty(0)
            return Drawn(empty.long(), empty)
        return self._by_kernels(logits, rows) if logits.is_cuda else by_torch(logits, rows)

    def _by_kernels(self, logits: torch.Tensor, rows: Sequence[Row]) -> Drawn:
        from aweigh_kernels import sampling_gpu  # Triton is not everywhere

        size = logits.shape[-1]
        if size > sampling_gpu.MOST_TOKENS:
            return by_torch(logits, rows)
        samplings = [row.sampling for row in rows]
        if self._settings is None or samplings != self._samplings:
            self._samplings = samplings
            self._settings = settings_of(rows, size)
        settings = self._settings
        packed = settings.at([row.position for row in rows], logits.device)
        found = sampling_gpu.sample(logits, packed, races=settings.races, weighs=settings.weighs)
        return Drawn(*found)


def by_torch(logits: torch.Tensor, rows: Sequence[Row]) -> Drawn:
    """The same by torch's operations, on any device."""
    best, tokens = logits.max(dim=-1)  # the first of equals; NaN counts as the largest
    for way, draw in _DRAWS.items():
        drawn = [index for index, row in enumerate(rows) if row.way is way]
        if len(drawn) == len(rows):
            tokens = draw(logits, best, rows)
        elif drawn:
            at = torch.tensor(drawn, device=logits.device)
            tokens[at] = draw(logits[at], best[at], [rows[index] for index in drawn])
    return Drawn(torch.where(best.isfinite(), tokens, NO_TOKEN), best)


def settings_of(rows: Sequence[Row], vocab_size: int) -> "sampling_gpu.Settings":
    """How the kernels draw these rows, their positions left out."""
    from aweigh_kernels import sampling_gpu

    def choice(row: Row) -> sampling_gpu.Choice:
        sampling = row.sampling
        if row.way is Way.GREEDY:
            return sampling_gpu.Choice(temperature=1.0, top_k=1)
        return sampling_gpu.Choice(
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            seed=sampling.seed ^ Stream.CHOICE,
        )

    alike = {id(row.sampling): row for row in rows}  # those of one draft share it
    places = {key: place for place, key in enumerate(alike)}
    settings = sampling_gpu.Settings.of([choice(row) for row in alike.values()], vocab_size)
    return settings.of_rows([places[id(row.sampling)] for row in rows])
