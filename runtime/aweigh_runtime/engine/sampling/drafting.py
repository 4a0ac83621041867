"""Chooses the tokens of a draft on the device, without asking it anything on the way.

A drafted token follows the draft's own distribution under the request's temperature and filters.
Penalties, biases and grammars are left to the verification: without them a draft is refused more
often, never wrong.
"""

from collections.abc import Sequence

import numpy as np
import torch

from aweigh_runtime.engine.sampling.noise import Stream
from aweigh_runtime.engine.sampling.race import Origins, near_probabilities
from aweigh_runtime.engine.sampling.row import Row, Way
from aweigh_runtime.model.step_plan import on_device


class DraftSampler:
    """Draws one token after another for some rows."""

    def __init__(self, rows: Sequence[Row], device: torch.device) -> None:
        """Take rows before their next token.

        Args:
            rows: R of them.
            device: of the logits.
        """
        drawn = [index for index, row in enumerate(rows) if row.way is not Way.GREEDY]
        self._drawn = [rows[index] for index in drawn]
        self._line = {index: line for line, index in enumerate(drawn)}  # among those drawn
        self._at = on_device(np.array(drawn, np.int64), device)
        streams = [Stream.CHOICE if row.sampling.seeded else Stream.DRAFT for row in self._drawn]
        self._origins = Origins(self._drawn, device, streams) if drawn else None
        self._probabilities: list[torch.Tensor | None] = []  # [drawn rows, V], by place

    def draw(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The next token of each row, and how likely the likeliest was before it was drawn.

        Args:
            logits: [R, V], fp32; or of the first rows alone, when the others need no more.

        Returns:
            [R], int64, and [R], fp32.
        """
        best, tokens = logits.max(dim=-1)
        num_drawn = sum(index < len(logits) for index in self._line)
        if num_drawn < len(logits):
            confidence = (logits - best.unsqueeze(-1)).exp_().sum(dim=-1).reciprocal_()
        else:
            confidence = torch.empty_like(best)
        probabilities = None
        if self._origins is not None and num_drawn:
            at = self._at[:num_drawn]
            probabilities = near_probabilities(logits[at], best[at], self._drawn[:num_drawn])
            every = torch.arange(logits.shape[-1], device=logits.device)
            noise = self._origins.noise(every, later=len(self._probabilities))
            tokens[at] = (probabilities / noise[:num_drawn]).argmax(dim=-1)
            confidence[at] = probabilities.amax(dim=-1)
        self._probabilities.append(probabilities)
        return tokens, confidence

    def probabilities(self, row: int, length: int) -> torch.Tensor | None:
        """What the first `length` tokens of a row were drawn from: [length, V].

        None for a greedy row.
        """
        line = self._line.get(row)
        if line is None or length == 0:
            return None
        places = self._probabilities[:length]
        return torch.stack([each[line] for each in places if each is not None])
