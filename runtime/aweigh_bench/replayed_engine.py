"""An engine whose answers are those of a record: all is computed, and the record is told instead.

Without that an answer leaves its record where two tokens are about as likely and a step of another
size rounds otherwise, and the drafts that follow are wrong more often than was stated.
"""

from dataclasses import replace
from itertools import takewhile

import torch

from aweigh_bench.recorded import Recorded, Replay
from aweigh_runtime.engine.assembly import Parts
from aweigh_runtime.engine.loop import Engine
from aweigh_runtime.engine.messages import Start
from aweigh_runtime.engine.sampling.choice import Continued
from aweigh_runtime.engine.sampling.verification import Drafted
from aweigh_runtime.engine.scheduler import Part
from aweigh_runtime.engine.speculation.loading import speculator
from aweigh_runtime.engine.step_fit import StepFitter


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
