"""Greedy drafts while the device verifies them, and what the host reads of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from aweigh_runtime.engine.sampling.continued import Continued, continued_by, explain
from aweigh_runtime.engine.sampling.pending import Drawn
from aweigh_runtime.engine.sampling.row import Row
from aweigh_runtime.engine.sampling.verification import NO_TOKEN, Ahead, Drafted, Unread


@dataclass(frozen=True, slots=True)
class Verified:
    """What became of drafts, and what they were: [R, n], of which answers have their counts."""

    continued: Continued
    tokens: list[list[int]]
    confidences: list[list[float]]


class Verifying:
    """What a model says of some drafts: on the device at once, on the host when somebody asks."""

    def __init__(
        self, drafted: Unread, rows: Sequence[Row], draw: Callable[[Sequence[Row]], Drawn]
    ) -> None:
        """Begin to copy the drafts, and to choose.

        Args:
            drafted: for each answer.
            rows: of the answers, greedy, none of them special.
            draw: begins to choose the token at each place of a draft and the one behind it, answer
                by answer, for rows that stand there.
        """
        self.drafted = drafted
        self.rows = rows
        # Before anything is chosen: that is what `read` waits for.
        self._tokens = drafted.tokens.to("cpu", non_blocking=True)
        self._confidences = drafted.confidences.to("cpu", non_blocking=True)
        self._drawn = draw(
            [
                each
                for row, count in zip(rows, drafted.counts, strict=True)
                for each in row.ahead([NO_TOKEN] * count)
            ]
        )

    @property
    def chosen(self) -> torch.Tensor:
        """[sum of counts and one more each], int64, on the device; NO_TOKEN where a row failed."""
        return self._drawn.tokens

    def read(self) -> Verified:
        """What became of them; it waits for that, and for nothing that was launched later."""
        drawn = self._drawn.read()
        tokens: list[list[int]] = self._tokens.tolist()
        drafts = [
            Drafted(each[:count]) for each, count in zip(tokens, self.drafted.counts, strict=True)
        ]
        ahead = Ahead(self.rows, drafts)
        continued = continued_by(ahead, dict(enumerate(drawn)), {})
        explain(continued, self._drawn.largest, ahead, {})
        return Verified(continued, tokens, self._confidences.tolist())
