"""An engine whose answers are those of a record: all is computed, and the record is told instead.

Without that an answer leaves its record where two tokens are about as likely and a step of another
size rounds otherwise, and the drafts that follow are wrong more often than was stated.
"""

from dataclasses import replace
from itertools import takewhile

import numpy as np
import torch

from aweigh_bench.recorded import Recorded, Replay
from aweigh_runtime.engine.assembly import Parts
from aweigh_runtime.engine.loop import Engine
from aweigh_runtime.engine.messages import Start
from aweigh_runtime.engine.sampling.continued import Continued
from aweigh_runtime.engine.sampling.pending import Drawn
from aweigh_runtime.engine.sampling.verification import Drafted, Unread
from aweigh_runtime.engine.sampling.verifying import Verified, Verifying
from aweigh_runtime.engine.scheduler import Part
from aweigh_runtime.engine.speculation.loading import speculator
from aweigh_runtime.engine.step_fit import StepFitter
from aweigh_runtime.model.step_plan import on_device


class ReplayedEngine(Engine):
    """Takes only requests whose answers are recorded."""

    def __init__(self, recorded: Recorded, start: Start, parts: Parts) -> None:
        """Take the record, and what every engine is made of: its drafts are recorded, too."""
        draft = next(iter(parts.proposers.ready)) if start.drafts else None
        recording = replace(parts.proposers, ready=[Replay(recorded, draft)])
        super().__init__(
            parts.scheduler,
            parts.forward,
            parts.sampler,
            parts.compiler,
            parts.copy,
            speculator(start, recording),
        )
        # As `build` does. A step ahead of one that drafts nothing has the model's own token, not
        # the recorded one: that differs only where rounding has made it so.
        self.runs_ahead = parts.runs_ahead
        self.step_fitter = StepFitter(parts.known_steps)
        self._recorded = recorded
        self.corrected = 0  # tokens that the model itself would have chosen otherwise

    def _continued(
        self, complete: list[Part], behind: list[Drafted], logits: torch.Tensor
    ) -> Continued:
        own = super()._continued(complete, behind, logits)
        told = Continued([], [], own.logprobs, own.failures)
        for part, each, chosen in zip(complete, behind, own.tokens, strict=True):
            following = self._recorded.following(part.request, len(each.tokens) + 1)
            pairs = zip(each.tokens, following, strict=False)
            kept = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
            tokens = following[: kept + 1]
            if chosen != tokens:
                self.corrected += sum(a != b for a, b in zip(chosen, tokens, strict=False))
            told.tokens.append(tokens)
            told.kept.append(kept)
        return told

    def _verifying(self, complete: list[Part], logits: torch.Tensor, drafted: Unread) -> Verifying:
        own = super()._verifying(complete, logits, drafted)
        told: list[int] = []
        for part, count in zip(complete, drafted.counts, strict=True):
            following = self._recorded.following(part.request, count + 1)
            told += [*following, *[0] * (count + 1 - len(following))]
        return _Told(self, own, told)


class _Told(Verifying):
    """A verification that says what is recorded; it takes the time of the model's own."""

    def __init__(self, engine: ReplayedEngine, own: Verifying, told: list[int]) -> None:
        self._engine = engine
        self._own = own
        there = on_device(np.array(told, np.int64), own.chosen.device)
        super().__init__(own.drafted, own.rows, lambda rows: Drawn(there, there.float()))

    def read(self) -> Verified:
        own, told = self._own.read().continued, super().read()
        for chosen, tokens in zip(own.tokens, told.continued.tokens, strict=True):
            if chosen != tokens:
                differ = sum(a != b for a, b in zip(chosen, tokens, strict=False))
                self._engine.corrected += differ
        return told
