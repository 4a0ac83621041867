"""Drafts in each step what its answers want, learns from what became of it, and tells the pod.

lookahead ─► propose ─► verified ─► took        once each, in a step that drafts; where none does,
                                                `lookahead` of the next step may come before `took`

lookahead ─► begin ─► (lookahead ─► go_on) ─► told ─► verified ─► took         in one whose drafts
                                                nobody reads before they are verified; what is in
                                                brackets is the next step's
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from msgspec import structs

from aweigh_runtime.engine.messages import Speculation, SpeculationReason
from aweigh_runtime.engine.out_of_memory import out_of_memory
from aweigh_runtime.engine.sampling.verification import Drafted, Unread
from aweigh_runtime.engine.sampling.verifying import Verified
from aweigh_runtime.engine.scheduler import Lookahead, Part
from aweigh_runtime.engine.speculation.candidates import Candidate, Candidates
from aweigh_runtime.engine.speculation.lately import Lately
from aweigh_runtime.engine.speculation.pace import Pace
from aweigh_runtime.engine.speculation.proposer import Asked, Proposal, Proposer

_log = logging.getLogger("aweigh.engine")

T = TypeVar("T")

_TELL_S = 1.0
_REST_STEPS = 256  # the first rest for want of memory; each one more is twice as long
_RESTS = 3  # in a row; the next time drafts are let go
_NAP_STEPS = 7  # where nothing pays: then it takes no time that could be measured
_PAUSED_S = 5.0  # of decoding without a draft that pays


@dataclass(slots=True)
class _Step:
    """What is drafted in one step."""

    rooms: dict[int, int] = field(default_factory=dict)  # tokens that were asked of each candidate
    probes: set[int] = field(default_factory=set)  # candidates that drafted for a few answers only
    seconds: dict[int, float] = field(default_factory=dict)  # that its drafting took
    unread: "_Unread | None" = None
    verifying: list[tuple[int, Asked, Proposal]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Unread:
    """Drafts that nobody has read."""

    number: int  # of the candidate
    asked: list[Asked]  # for as many tokens as there are
    drafted: Unread


class Speculator:
    """Drafts for the answers of a step. It never fails a request: without drafts they go on."""

    def __init__(
        self,
        proposers: Sequence[Proposer],
        longest: int,
        least_acceptance: float | None = None,
        failures: Sequence[Speculation] = (),
    ) -> None:
        """Begin with proposers that are ready.

        Args:
            proposers: none of them is known to be any good.
            longest: most tokens of a draft.
            least_acceptance: see `Pace`.
            failures: why others are missing.
        """
        self._candidates = Candidates(
            [Candidate(each, Pace(longest, least_acceptance)) for each in proposers]
        )
        self._failures = list(failures)
        self._step = _Step()  # the one under way
        self._resting = 0  # steps to come that draft nothing
        self._rested = 0  # such steps until now
        self._short = False  # they rest for want of memory
        self._rests = 0  # for want of memory, in a row
        self._drafting_steps = 0  # since the last of them
        self._rows = 1  # answers in the next step, about
        self._answering = 0  # in the last one
        self._now_s = 0.0
        self._losing_s: float | None = None  # since when nothing pays
        self._lately = Lately()
        self._told: Speculation | None = None
        self._told_s = 0.0

    def lookahead(self, rows: int, now_s: float) -> Lookahead | None:
        """How many tokens each answer of the next step wants; None: nobody wants any.

        Args:
            rows: requests that run: those that still read prompts are no answers yet.
            now_s: on any clock that never goes back.
        """
        if rows:
            self._now_s = now_s
        if self._resting:
            self._rest_once(now_s)
            return None
        left = self._candidates.left
        if not rows or not left:
            return None
        self._rows = min(rows, self._answering or rows)
        wanted = self._candidates.prepare(self._rows, self._rested + 1)
        self._rested = 0
        # Windows go on though nothing pays: with one answer more or fewer it may pay again at once,
        # and with windows begun anew each time none of them would ever be over.
        self._lately.look(now_s)
        if any(each.pace.pays is not False for each in left):
            self._losing_s = None
        elif self._losing_s is None:
            self._losing_s = now_s
        if wanted:
            return self._candidates.wanted
        if self._losing_s is not None:
            self._resting = _NAP_STEPS
        return None

    def _rest_once(self, now_s: float) -> None:
        self._resting -= 1
        self._rested += 1
        if self._short and not self._resting:
            self._short = False
            self._lately.begin(now_s)  # steps that could not draft tell nothing of drafts

    def propose(self, parts: Sequence[Part]) -> dict[int, Drafted]:
        """Draft where there is room: by the index of the part."""
        self._step = _Step()
        drafted: dict[int, Drafted] = {}
        indices_of: dict[int, list[int]] = {}  # by the number of the candidate
        for index, part in enumerate(parts):
            if part.room and part.request.history is not None:
                indices_of.setdefault(part.request.history.proposer, []).append(index)
        for number, indices in indices_of.items():
            candidate = self._candidates[number]
            if candidate.gone:
                continue
            asked = [Asked(parts[i].request, parts[i].room, candidate.floor) for i in indices]
            self._note(number, asked)
            started_s = time.perf_counter()
            proposals = self._proposals(candidate, asked)
            self._step.seconds[number] = time.perf_counter() - started_s
            for index, one, proposal in zip(indices, asked, proposals, strict=True):
                if proposal.ready:
                    self._step.verifying.append((number, one, proposal))
                if proposal.drafted.tokens:
                    drafted[index] = proposal.drafted
        return drafted

    def begin(self, parts: Sequence[Part]) -> Unread | None:
        """Draft for greedy answers without reading it; None: it is not possible, `propose` is.

        Args:
            parts: each of one answer.
        """
        self._step = _Step()
        numbers = {
            part.request.history.proposer
            for part in parts
            if part.room and part.request.history is not None
        }
        if len(numbers) != 1 or not all(_is_answer(part) for part in parts):
            return None
        (number,) = numbers
        candidate = self._candidates[number]
        chained = candidate.proposer.chained
        if candidate.gone or candidate.probing or chained is None:
            return None
        asked = [
            Asked(part.request, part.room if part.request.history else 0, candidate.floor)
            for part in parts
        ]
        drafted = self._unless_it_fails(candidate, lambda: chained.begin(asked))
        if drafted is not None:
            asked = [
                replace(each, room=count) for each, count in zip(asked, drafted.counts, strict=True)
            ]
            self._note(number, asked)
            self._step.unread = _Unread(number, asked, drafted)
        return drafted

    def go_on(self, chosen: torch.Tensor) -> None:
        """Begin to draft for the next step, behind what the one under way chooses.

        Args:
            chosen: [T], int64, on the device: see `Chaining.go_on`.
        """
        unread = self._step.unread
        if unread is None:
            return
        candidate = self._candidates[unread.number]
        chained = candidate.proposer.chained
        rooms = [self._candidates.expected(each.request) for each in unread.asked]
        if candidate.gone or candidate.probing or chained is None:
            return
        self._unless_it_fails(candidate, lambda: chained.go_on(chosen, rooms))

    def told(self, verified: Verified) -> None:
        """The host has read the drafts of `begin`, and what stays of them."""
        unread = self._step.unread
        if unread is None:
            return
        proposer = self._candidates[unread.number].proposer
        if proposer.chained is not None:
            proposer.chained.told(verified.tokens, verified.continued.kept)
        for one, tokens, confidences in zip(
            unread.asked, verified.tokens, verified.confidences, strict=True
        ):
            if one.room:
                proposal = Proposal(Drafted(tokens[: one.room]), confidences[: one.room])
                self._step.verifying.append((unread.number, one, proposal))
        self._step.seconds[unread.number] = unread.drafted.seconds()

    def undo(self) -> None:
        """The step under way has failed: nothing of it was verified."""
        self._step = _Step()

    def verified(self, kept: dict[int, int]) -> None:
        """Learn from what became of drafts.

        Args:
            kept: how many drafted tokens stayed, by the id of the request; one that has failed is
                missing.
        """
        for number, asked, proposal in self._step.verifying:
            request, pace = asked.request, self._candidates[number].pace
            stayed = kept.get(request.id)
            if stayed is None or request.history is None:
                continue
            request.history.record(number).observe(pace.expected(asked.room), stayed)
            drafted = len(proposal.drafted.tokens)
            pace.observe(asked.room, proposal.confidences, drafted, stayed)
            self._lately.verified(drafted, stayed)

    def took(self, rows: int, seconds: float, others: int, *, steady: bool = True) -> float:
        """The step is over; the seconds of it in which nothing was drafted.

        Args:
            rows: answers that it has advanced.
            seconds: of everything, drafting included.
            others: tokens of prompts in it; only a step without any tells the time of an answer.
            steady: it took no longer than it would, were nothing drafted before and behind it. One
                that follows drafts has to wait for them where others are launched ahead.
        """
        self._answering = rows
        self._lately.advanced(rows)
        if self._rested:
            return seconds
        step, self._step = self._step, _Step()
        drafting = sum(step.seconds.values())
        self._drafting_steps += bool(step.rooms)
        if rows and steady and not step.rooms and others == 0:
            for candidate in self._candidates.left:
                candidate.pace.times.observe_plain(rows, seconds)
        for number, room in step.rooms.items() if rows else ():
            if number not in step.probes and number in step.seconds:
                times = self._candidates[number].pace.times
                times.observe_drafting(rows, room / rows, step.seconds[number])
                if others == 0:  # a token costs as much, whoever has drafted it
                    length = sum(step.rooms.values()) / rows
                    times.observe_verifying(rows, length, seconds - drafting)
        return seconds - drafting

    def rest(self) -> None:
        """There was no memory for a step with drafts: go without for a while.

        It is tried again, but not for ever: drafts that find no memory each time are let go, those
        first that hold some.
        """
        if self._drafting_steps > _REST_STEPS << self._rests:  # it went well for twice as long
            self._rests = 0
        self._drafting_steps = 0
        if self._rests == _RESTS:
            self._rests = 0
            self._let_go(self._holding or self._candidates.left)
        self._resting, self._short = _REST_STEPS << self._rests, True
        self._rests += 1
        self._told = None

    def release_idle(self) -> bool:
        """Memory is short in a step without drafts: let go of what holds some.

        Those first that do not draft now: a request that fails is worse than a slower one.

        Returns:
            Whether there was anything.
        """
        idle = [each for each in self._holding if self._rested or each.pace.pays is False]
        let_go = idle or self._holding
        self._let_go(let_go)
        return bool(let_go)

    @property
    def state(self) -> Speculation:
        """What the pod reports: looked at after every step, found out once a second."""
        if self._told is None or self._now_s - self._told_s >= _TELL_S:
            self._told, self._told_s = self._found_out(), self._now_s
        return self._told

    @property
    def _holding(self) -> list[Candidate]:
        return [each for each in self._candidates.left if each.proposer.holds_memory]

    def _let_go(self, candidates: Sequence[Candidate]) -> None:
        """Of those for which there is no memory."""
        for each in candidates:
            self._release(each, _no_memory(each.proposer.name))

    def _found_out(self) -> Speculation:
        left, missing = self._candidates.left, [each.message for each in self._failures]
        if not left:
            return structs.replace(self._failures[-1], message="; ".join(missing))
        if self._short:
            return Speculation("paused", "OutOfMemory", "; ".join([_SHORT, *missing]))
        if self._losing_s is not None and self._now_s - self._losing_s >= _PAUSED_S:
            best = max(left, key=lambda each: each.pace.rate)
            name, verdict = best.proposer.name, best.pace.verdict(self._rows)
            mostly_wrong = best.pace.mostly_wrong
            why = f"drafting with {name} does not pay: {verdict}"
        elif self._lately.verdict:
            mostly_wrong = self._lately.mostly_wrong
            why = f"drafting brings too little: {self._lately.verdict}"
        else:
            return Speculation("active", message="; ".join(missing))
        reason: SpeculationReason = "LowAcceptance" if mostly_wrong else "NoGain"
        return Speculation("paused", reason, "; ".join([why, *missing]))

    def _release(self, candidate: Candidate, failure: Speculation) -> None:
        candidate.gone = True
        candidate.proposer.release()
        self._failures.append(failure)
        self._told = None

    def _note(self, number: int, asked: Sequence[Asked]) -> None:
        """A candidate drafts in the step under way."""
        self._step.rooms[number] = sum(each.room for each in asked)
        if self._candidates[number].probing:
            self._step.probes.add(number)

    def _proposals(self, candidate: Candidate, asked: list[Asked]) -> list[Proposal]:
        stays = candidate.pace.calibration.stays
        found = self._unless_it_fails(candidate, lambda: candidate.proposer.propose(asked, stays))
        return found or [Proposal(Drafted(), ready=False) for _ in asked]

    def _unless_it_fails(self, candidate: Candidate, work: Callable[[], T]) -> T | None:
        """A proposer for which there is no memory drafts no more; the answers go on."""
        try:
            return work()
        except Exception as error:
            name = candidate.proposer.name
            if out_of_memory(error):
                failure = _no_memory(name)
                _log.warning("%s", failure.message)
            else:
                _log.exception("drafting with %s failed", name)
                why = f"drafting with {name} failed: {error!r}; see the pod's log"
                failure = Speculation("failed", "DraftUnavailable", why)
            self._release(candidate, failure)
            return None


_SHORT = (
    "there was no memory for a step with drafts; the model serves without for a while and tries "
    "again. Lower --kv-cache-memory or give more memory"
)


def _is_answer(part: Part) -> bool:
    """Nothing of it is unread but its last token."""
    return part.num_tokens == 1 and part.end == len(part.request.tokens)


def _no_memory(name: str) -> Speculation:
    return Speculation(
        "failed",
        "OutOfMemory",
        f"there was no memory left to draft with {name}; the model serves on without it. Lower "
        "--kv-cache-memory or give more memory",
    )
