"""Drafts that the host reads only when they have been verified.

    chain n ─► the target verifies it ─► chain n+1 ─► …        on the device, one behind the other
        plan n+1, launch ─►   read n, plan … ─►                 on the host, meanwhile

A chain is launched behind a verification that nobody has read: where it begins is found out on the
device, and what was assumed is that its answers go on. One that has ended costs its line of the
chain. Whoever gets its blocks writes them later on the same stream.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch

from aweigh_kernels.draft_line import PAIR, Going
from aweigh_runtime.engine.request import Request
from aweigh_runtime.engine.sampling.verification import Unread
from aweigh_runtime.engine.speculation.frame import DraftForward, Frame
from aweigh_runtime.engine.speculation.proposer import Asked
from aweigh_runtime.engine.speculation.reading import Reading
from aweigh_runtime.model.chains import Behind, Chain, Chained
from aweigh_runtime.model.chunks import Chunk
from aweigh_runtime.model.step_plan import on_device


@dataclass(frozen=True, slots=True)
class _Line:
    """One answer's chain, and what it was when the chain was launched."""

    request: Request
    life: int
    blocks: Sequence[int]
    room: int  # tokens of the chain


@dataclass(frozen=True, slots=True)
class _Ahead:
    """Chains that were launched behind a verification."""

    lines: list[_Line]
    chained: Chained


@dataclass(frozen=True, slots=True)
class _Verified:
    """One answer's drafts that are being verified."""

    line: _Line
    answer: int  # which of those that asked
    first: int  # the first token in what the model says of all of them
    end: int  # tokens of the answer without them
    count: int  # of them


class ChainedDrafts:
    """The chains of one draft model."""

    def __init__(self, chain: Chain, reading: Reading, forward: DraftForward, frame: Frame) -> None:
        """Begin with nothing.

        Args:
            chain: of the model.
            reading: what the model has read.
            forward: has it read more.
            frame: what it fits into.
        """
        self._chain = chain
        self._reading = reading
        self._forward = forward
        self._block_tokens = frame.block_tokens
        self._max_model_len = frame.max_model_len
        self._step_tokens = frame.step_tokens
        self._device = frame.device
        self._ahead: _Ahead | None = None
        self._verified: list[_Verified] = []  # of the step under way
        self._tokens = torch.empty(0)  # of all that asked, [R, n]
        self._ends: dict[int, int] = {}  # tokens that an answer has by them, by its id

    def begin(self, asked: Sequence[Asked]) -> Unread | None:
        """Drafts for all that ask, without waiting for the device.

        They come from the chains that `go_on` has launched, if all of these have some, else from
        new ones. None: there are too many, or a text has to be read first that takes several steps.

        Args:
            asked: greedy answers that nothing else bounds; one at least wants tokens.
        """
        ahead, self._ahead = self._ahead, None
        answers = [answer for answer, each in enumerate(asked) if each.room]
        found = None if ahead is None else self._found(ahead, [asked[each] for each in answers])
        self._ends, on_their_way = {}, found is not None
        if ahead is not None and found is not None:
            chained = ahead.chained
            chosen = [ahead.lines[line] for line in found]
        else:
            found = list(range(len(answers)))
            chosen = [_line(asked[each].request, asked[each].room) for each in answers]
            begun = self._begun(chosen)
            if begun is None:
                return None
            chained = begun
        lines, counts = [0] * len(asked), [0] * len(asked)  # who wants none shows another's
        for answer, number, line in zip(answers, found, chosen, strict=True):
            lines[answer], counts[answer] = number, min(asked[answer].room, line.room)
        firsts = [0, *accumulate(count + 1 for count in counts)]
        self._verified = [
            _Verified(line, answer, firsts[answer], len(line.request.tokens), counts[answer])
            for answer, line in zip(answers, chosen, strict=True)
        ]
        shown = _of_lines(chained, lines, max(counts))
        self._tokens = shown.tokens
        return Unread(shown.tokens, shown.confidences, counts, shown.seconds, ahead=on_their_way)

    def go_on(self, chosen: torch.Tensor, rooms: Sequence[int]) -> None:
        """Launch the next chains behind what a model says of those that `begin` gave last.

        Args:
            chosen: [T], int64, on the device: one token for each drafted one and one more, answer
                by answer; negative: none.
            rooms: tokens that each answer may want next.
        """
        self._ahead = None
        lines: list[_Line] = []
        verified: list[_Verified] = []
        begun: list[int] = []
        for each in self._verified:
            request = each.line.request
            room = min(len(request.blocks) * self._block_tokens, self._max_model_len)
            room = min(rooms[each.answer], self._chain.longest, room - each.end - each.count)
            if room < 1 or request.gone or request.life != each.line.life:
                continue
            line = _line(request, room)
            last = each.end + each.count + room
            # What the last chain may have written stays: it is not all written again.
            begun += self._begin_blocks(line, each.end + each.line.room - 1, last)
            self._reading.overwrite(request, each.end, last)
            lines.append(line)
            verified.append(each)
        if not lines:
            return
        going = Going(
            firsts=[each.first for each in verified],
            counts=[each.count for each in verified],
            ends=[each.end for each in verified],
            lasts=[each.line.request.tokens[each.end - 1] for each in verified],
            rooms=[line.room for line in lines],
        )
        drafted = _rows(self._tokens, [each.answer for each in verified])
        behind = Behind(chosen, drafted, going, [line.blocks for line in lines], begun)
        self._ahead = _Ahead(lines, self._chain.draft(behind, max(going.rooms)))

    def told(self, tokens: Sequence[Sequence[int]], kept: Sequence[int]) -> None:
        """The host has read what became of those that `begin` gave last.

        The draft has read all tokens of an answer, and drafted ones but for the last.

        Args:
            tokens: [R, n], drafted.
            kept: how many of each answer stay.
        """
        for each in self._verified:
            drafted, stayed = tokens[each.answer], kept[each.answer]
            request = each.line.request
            self._ends[request.id] = each.end + stayed + 1
            if not request.gone and request.life == each.line.life:
                followed = self._reading.of(request)
                followed.tokens, followed.blocks = each.end, request.blocks[:]
                followed.ahead = list(drafted[: each.line.room - 1])

    def _found(self, ahead: _Ahead, asked: Sequence[Asked]) -> list[int] | None:
        """The line of each answer; None: one has none, or has lost its blocks."""
        places = {line.request.id: place for place, line in enumerate(ahead.lines)}
        lines = [places.get(each.request.id) for each in asked]
        found = [line for line in lines if line is not None]
        if len(found) < len(lines) or not all(self._stands(ahead.lines[line]) for line in found):
            return None
        return found

    def _stands(self, line: _Line) -> bool:
        """Whether the answer is where the chain has found it, and still has the same blocks."""
        request = line.request
        return (
            request.life == line.life
            and self._ends.get(request.id) == len(request.tokens)
            and request.blocks[: len(line.blocks)] == line.blocks
        )

    def _begun(self, lines: Sequence[_Line]) -> Chained | None:
        """Chains behind what the host knows."""
        requests = [line.request for line in lines]
        alone = any(len(request.tokens) < PAIR for request in requests)
        if alone or len(requests) > self._chain.most_requests:
            return None
        if not self._catch_up(requests):
            return None
        begun: list[int] = []
        for line in lines:
            first, last = len(line.request.tokens) - PAIR, len(line.request.tokens) + line.room - 1
            begun += self._begin_blocks(line, first, last)
            self._reading.overwrite(line.request, first, last)
        newest = np.array([request.tokens[-1] for request in requests], np.int64)
        chosen = on_device(newest, self._device)
        going = Going(
            firsts=range(len(lines)),
            counts=[0] * len(lines),
            ends=[len(request.tokens) - 1 for request in requests],
            lasts=[request.tokens[-PAIR] for request in requests],
            rooms=[line.room for line in lines],
        )
        blocks = [line.blocks for line in lines]
        behind = Behind(chosen, chosen.new_empty(len(lines), 0), going, blocks, begun)
        return self._chain.draft(behind, max(going.rooms))

    def _catch_up(self, requests: Sequence[Request]) -> bool:
        """Have the draft read all but the last two tokens; False: they are too many."""
        tokens: list[int] = []
        chunks: list[Chunk] = []
        read = [(request, self._reading.of(request)) for request in requests]
        missing = [max(len(each.tokens) - PAIR - followed.tokens, 0) for each, followed in read]
        if sum(missing) > self._step_tokens:
            return False
        for (request, followed), count in zip(read, missing, strict=True):
            if count:
                start, end = followed.tokens, followed.tokens + count
                tokens += request.tokens[start:end]
                chunks.append(Chunk(start, count, request.blocks, 1))
                self._reading.overwrite(request, start, end)
                followed.tokens, followed.blocks = end, request.blocks[:]
        if chunks:
            self._forward(tokens, chunks)
        return True

    def _begin_blocks(self, line: _Line, first: int, last: int) -> Sequence[int]:
        """Blocks that begin at positions from `first` on, before `last`."""
        size = self._block_tokens
        return line.blocks[-(-first // size) : -(-last // size)]


def _line(request: Request, room: int) -> _Line:
    return _Line(request, request.life, request.blocks[:], room)


def _of_lines(chained: Chained, lines: list[int], length: int) -> Chained:
    tokens, confidences = (
        _rows(each[:, :length], lines) for each in (chained.tokens, chained.confidences)
    )
    return Chained(tokens, confidences, chained.seconds)


def _rows(tensor: torch.Tensor, rows: list[int]) -> torch.Tensor:
    """These rows; the first ones in their order are not copied."""
    if rows == list(range(len(rows))):
        return tensor[: len(rows)]
    return tensor[on_device(np.array(rows, np.int64), tensor.device)]
