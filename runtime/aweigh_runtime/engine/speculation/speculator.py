"""Decides before each step what is drafted, and learns from what became of it.

Each answer has one proposer at a time: the one that gains most by what is known of it in general
and in this answer. New answers try the others now and then.
"""

import logging
import time
from collections.abc import Sequence

from aweigh_runtime.engine.history import History
from aweigh_runtime.engine.messages import Speculation
from aweigh_runtime.engine.out_of_memory import out_of_memory
from aweigh_runtime.engine.request import Request
from aweigh_runtime.engine.sampling.verification import Drafted
from aweigh_runtime.engine.scheduler import Lookahead, Part
from aweigh_runtime.engine.speculation.pace import Pace
from aweigh_runtime.engine.speculation.proposer import Asked, Proposal, Proposer

_log = logging.getLogger("aweigh.engine")

_PROBED = 4  # answers that a probe drafts for
_CLEARLY = 1.05  # by which another proposer must be better
_TELL_S = 1.0
_REST_STEPS = 256
_PAUSED_S = 5.0  # of decoding without a draft that pays


class _Line:
    """A proposer and what is known of it."""

    def __init__(self, proposer: Proposer, pace: Pace) -> None:
        self.proposer = proposer
        self.pace = pace
        self.gone = False  # there was no memory for it
        self.length = 0  # in the next step
        self.floor = 0.0
        self.probing = False


class Speculator:
    """Drafts for the answers of a step. It never fails a request: without drafts they go on."""

    def __init__(
        self,
        proposers: Sequence[Proposer],
        longest: int,
        least_acceptance: float | None = None,
        failure: Speculation | None = None,
    ) -> None:
        """Begin with proposers that are ready.

        Args:
            proposers: none of them is known to be any good.
            longest: most tokens of a draft.
            least_acceptance: see `Pace`.
            failure: why another one is missing.
        """
        self._lines = [_Line(each, Pace(longest, least_acceptance)) for each in proposers]
        self._failure = failure
        self._rows = 1  # answers in a step
        self._probed = 0  # answers in the step to come
        self._rooms: dict[int, int] = {}  # tokens to be drafted in the step under way, by proposer
        self.drafting_s = 0.0  # that it took
        self._verifying: list[tuple[int, Asked, Proposal]] = []  # of the step under way
        self._losing_s: float | None = None  # since when nothing pays
        self._resting = 0  # steps to come that draft nothing
        self._told: Speculation | None = None
        self._told_s = 0.0
        self._now_s = 0.0

    def lookahead(self, rows: int, now_s: float) -> Lookahead | None:
        """How many tokens each answer of the next step wants; None: nobody wants any.

        Args:
            rows: answers, as far as is known.
            now_s: on any clock that never goes back.
        """
        self.drafting_s = 0.0
        self._rooms.clear()  # of a step that has failed
        self._verifying.clear()
        self._resting = max(self._resting - 1, 0)
        if not rows or not self._lines or self._resting:
            return None
        self._rows, self._now_s, self._probed = rows, now_s, 0
        wanted = False
        for line in self._lines:
            line.length = 0 if line.gone else line.pace.length(rows)
            if line.length:
                wanted = True
                line.probing = line.pace.probing
                line.floor = self._floor(line)
        if any(line.pace.pays is not False and not line.gone for line in self._lines):
            self._losing_s = None
        elif self._losing_s is None:
            self._losing_s = now_s
        return self._wanted if wanted else None

    def propose(self, parts: Sequence[Part]) -> dict[int, Drafted]:
        """Draft where there is room: by the index of the part."""
        started_s = time.perf_counter()
        drafted: dict[int, Drafted] = {}
        by_line: dict[int, list[int]] = {}
        for index, part in enumerate(parts):
            if part.room and part.request.history is not None:
                by_line.setdefault(part.request.history.proposer, []).append(index)
        for number, indices in by_line.items():
            line = self._lines[number]
            self._rooms[number] = sum(parts[i].room for i in indices)
            asked = [Asked(parts[i].request, parts[i].room, line.floor) for i in indices]
            proposals = self._proposals(line, asked)
            for index, one, proposal in zip(indices, asked, proposals, strict=True):
                if proposal.ready:
                    self._verifying.append((number, one, proposal))
                if proposal.drafted.tokens:
                    drafted[index] = proposal.drafted
        self.drafting_s = time.perf_counter() - started_s
        return drafted

    def verified(self, kept: dict[int, int]) -> None:
        """Learn from what became of drafts.

        Args:
            kept: how many drafted tokens stayed, by the id of the request; one that has failed is
                missing.
        """
        for number, asked, proposal in self._verifying:
            request, pace = asked.request, self._lines[number].pace
            stayed = kept.get(request.id)
            if stayed is None or request.history is None:
                continue
            request.history.record(number).observe(pace.expected(asked.room), stayed)
            drafted = len(proposal.drafted.tokens)
            pace.observe(asked.room, proposal.confidences, drafted, stayed)

    def took(self, rows: int, seconds: float, others: int) -> None:
        """The step is over.

        Args:
            rows: answers that it has advanced.
            seconds: of everything, drafting included.
            others: tokens of prompts in it; only a step without any tells the time of an answer.
        """
        if rows and not self._rooms and others == 0:
            for line in self._lines:
                line.pace.times.observe_plain(rows, seconds)
        elif rows and len(self._rooms) == 1:
            ((number, room),) = self._rooms.items()
            line = self._lines[number]
            if not line.probing:
                times, length = line.pace.times, room / rows
                times.observe_drafting(rows, length, self.drafting_s)
                if others == 0:
                    times.observe_verifying(rows, length, seconds - self.drafting_s)
        self._rooms.clear()
        self._verifying.clear()

    def rest(self) -> None:
        """There was no memory for a step with drafts: go without for a while."""
        self._resting = _REST_STEPS

    def release_idle(self) -> bool:
        """Memory is short: let go of what does not draft now; whether there was anything."""
        idle = [
            line
            for line in self._lines
            if not line.gone and line.pace.pays is False and line.proposer.holds_memory
        ]
        for line in idle:
            self._release(line)
        return bool(idle)

    def _release(self, line: _Line) -> None:
        line.gone = True
        line.proposer.release()
        self._told = None

    @property
    def state(self) -> Speculation:
        """What the pod reports: looked at after every step, found out once a second."""
        if self._told is None or self._now_s - self._told_s >= _TELL_S:
            self._told, self._told_s = self._found_out(), self._now_s
        return self._told

    def _found_out(self) -> Speculation:
        left = [line for line in self._lines if not line.gone]
        if not left:
            return self._failure or self._no_memory()
        missing = "" if self._failure is None else self._failure.message
        if self._losing_s is None or self._now_s - self._losing_s < _PAUSED_S:
            return Speculation("active", message=missing)
        best = max(left, key=lambda line: line.pace.rate)
        why = f"drafting with {best.proposer.name} does not pay: {best.pace.verdict(self._rows)}"
        return Speculation("paused", "NoGain" if best.pace.promising else "LowAcceptance", why)

    def _no_memory(self) -> Speculation:
        names = ", ".join(line.proposer.name for line in self._lines)
        return Speculation(
            "failed",
            "OutOfMemory",
            f"there was no memory left to draft with {names}; the model serves on without it. "
            "Lower --kv-cache-memory or give more memory",
        )

    def _floor(self, line: _Line) -> float:
        if not line.pace.warm:
            return 0.0
        ends_early = self._rows == 1 and line.proposer.stops_early
        return line.pace.floor(self._rows, line.length, ends_early=ends_early)

    def _wanted(self, request: Request) -> int:
        if not request.row.foreseeable:
            return 0
        history = self._history(request)
        line = self._lines[history.proposer]
        if line.length == 0:
            return 0
        if line.probing:
            self._probed += 1
            return line.length if self._probed <= _PROBED else 0
        record = history.record(history.proposer)
        chances = line.pace.acceptance.chances[: line.length]
        length = sum(record.ratio * chance >= line.floor for chance in chances)
        if length == 0:
            record.rest()
        return length

    def _history(self, request: Request) -> History:
        """An answer's, with the proposer that gains most for it by now."""
        if request.history is None:
            request.history = History(self._first_proposer())
        history = request.history
        if len(self._lines) > 1 and self._tried(history):
            gains = [self._gain(history, number) for number in range(len(self._lines))]
            best = max(range(len(gains)), key=gains.__getitem__)
            if gains[best] > _CLEARLY * gains[history.proposer]:
                history.proposer = best
        return history

    def _first_proposer(self) -> int:
        """Whom a new answer begins with: the best one, or one of which too little is known."""
        usable = [number for number, line in enumerate(self._lines) if not line.gone]
        if len(usable) < 2:
            return usable[0] if usable else 0
        cold = [number for number in usable if not self._lines[number].pace.warm]
        if cold:
            return min(cold, key=lambda number: self._lines[number].pace.verified)
        probing = [number for number in usable if self._lines[number].pace.probing]
        if probing:
            return probing[0]
        return max(usable, key=lambda number: self._lines[number].pace.best(self._rows)[1])

    def _tried(self, history: History) -> bool:
        """Its proposer has had its chance in this answer, or drafts nothing at present."""
        line = self._lines[history.proposer]
        return line.length == 0 or history.record(history.proposer).expected >= 1.0

    def _gain(self, history: History, number: int) -> float:
        """Tokens per second of this answer with a proposer ÷ without any."""
        line = self._lines[number]
        if line.gone:
            return 0.0
        length, gain = line.pace.best(self._rows)
        expected = line.pace.expected(length)
        known = history.records.get(number)
        ratio = 1.0 if known is None else min(known.ratio, 1.5)
        return gain * (1.0 + ratio * expected) / (1.0 + expected)

    def _proposals(self, line: _Line, asked: list[Asked]) -> list[Proposal]:
        """A proposer for which there is no memory drafts no more; the answers go on."""
        try:
            return line.proposer.propose(asked, line.pace.calibration.stays)
        except Exception as error:
            if not out_of_memory(error):
                _log.exception("drafting with %s failed", line.proposer.name)
                why = f"drafting with {line.proposer.name} failed: {error!r}; see the pod's log"
                self._failure = Speculation("failed", "DraftUnavailable", why)
            self._release(line)
            return [Proposal(Drafted(), ready=False) for _ in asked]
