"""A small model drafts. Its keys and values lie in the blocks of the pool, beside the target's.

It reads an answer only when it is asked to draft for it; what it has read of a block that has a
name, later answers with that prefix need not read again. What it has not read yet it reads then,
some of it in each step.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from aweigh_runtime.engine.history import Followed
from aweigh_runtime.engine.sampling.drafting import DraftSampler
from aweigh_runtime.engine.sampling.verification import Drafted
from aweigh_runtime.engine.sizing import PRODUCT_TOKENS, RECORDED_TOKENS, compiled_tokens
from aweigh_runtime.engine.speculation.acceptance import worthwhile
from aweigh_runtime.engine.speculation.chained import ChainedDrafts
from aweigh_runtime.engine.speculation.frame import DraftForward, Frame
from aweigh_runtime.engine.speculation.proposer import Asked, Proposal
from aweigh_runtime.engine.speculation.reading import Reading
from aweigh_runtime.model.chains import Chain
from aweigh_runtime.model.chunks import Chunk
from aweigh_runtime.model.reads import FEW
from aweigh_runtime.model.step_inputs import Tokens
from aweigh_runtime.model.step_plan import on_device


@dataclass(frozen=True, slots=True)
class _Complete:
    """An answer that is read to its end: its next token can be drafted."""

    place: int  # among those that asked
    asked: Asked
    followed: Followed


class DraftModel:
    """Proposes what a model generates, batched over answers, without waiting for the device."""

    def __init__(
        self, name: str, forward: DraftForward, frame: Frame, chain: Chain | None = None
    ) -> None:
        """Take a model whose cache has the pool's blocks; no other proposer has this name.

        `chain`: of the same model over the same cache, where the device needs nobody to look.
        """
        self.name = name
        self.holds_memory = True
        self.stops_early = frame.device.type == "cpu"  # another device is not asked on the way
        self._forward = forward
        self._vocab_size = frame.vocab_size
        self._block_tokens = frame.block_tokens
        self._step_tokens = frame.step_tokens
        self._max_model_len = frame.max_model_len
        self._device = frame.device
        # What is read behind a draft that stayed as a whole: graphs are of rows with logits alone.
        self._recorded = RECORDED_TOKENS if frame.device.type == "cuda" else 1
        self._reading = Reading(name, frame.block_tokens)
        self.chained: ChainedDrafts | None = None
        if chain is not None:
            self.chained = ChainedDrafts(chain, self._reading, forward, frame)

    def propose(self, asked: Sequence[Asked], stays: Sequence[float]) -> list[Proposal]:
        """Draft for each answer that asks."""
        proposals = [Proposal(Drafted(), ready=False) for _ in asked]
        logits, reading = self._catch_up(asked)
        if logits is not None and reading:
            self._draft(logits, reading, stays, proposals)
        return proposals

    def warm_up(self, num_blocks: int, *, experts: bool = False) -> None:
        """Run the largest step once, so that no request pays for what comes first.

        Args:
            num_blocks: of the pool.
            experts: whether the model has some.
        """
        room = min(self._max_model_len, num_blocks * self._block_tokens)
        count = min(self._step_tokens, room)
        tokens = torch.zeros(count, dtype=torch.int64, device=self._device)
        logits = self._forward(tokens, [Chunk(0, count, range(num_blocks), 1)])
        if self._device.type != "cuda":
            self._forward(logits.argmax(-1), [Chunk(0, 1, range(1))])
            return
        # A GPU's kernels are compiled at their first use. A graph takes what has logits alone.
        for count in (*range(1, FEW + 1), *compiled_tokens(self._step_tokens, experts=experts)):
            num_logits = 1 if count <= FEW else min(count, PRODUCT_TOKENS[-1])
            for end in (count + 1, room):
                if count < end <= room:
                    tokens = torch.zeros(count, dtype=torch.int64, device=self._device)
                    chunk = Chunk(end - count, count, range(num_blocks), num_logits)
                    self._forward(tokens, [chunk])

    def release(self) -> None:
        """Let go of the model and its cache."""
        self._forward = _released
        self.chained = None

    def _catch_up(self, asked: Sequence[Asked]) -> tuple[torch.Tensor | None, list[_Complete]]:
        """Read what is missing; the logits of those that are read to their ends, widest first."""
        tokens: list[int] = []
        chunks: list[Chunk] = []
        rows: list[int] = []  # of the logits that are needed
        num_rows = 0
        reading: list[_Complete] = []
        order = sorted(range(len(asked)), key=lambda place: -asked[place].room)
        for place in order:
            request = asked[place].request
            followed = self._reading.of(request)
            left = len(request.tokens) - followed.tokens
            count = min(left, self._step_tokens - len(tokens))
            if count == 0:
                continue
            start, followed.tokens = followed.tokens, followed.tokens + count
            followed.blocks = request.blocks[:]
            tokens += request.tokens[start : start + count]
            num_logits = 0
            if count == left:
                num_logits = count if count <= self._recorded else 1
                num_rows += num_logits
                rows.append(num_rows - 1)
                reading.append(_Complete(place, asked[place], followed))
            chunks.append(Chunk(start, count, request.blocks, num_logits))
            self._reading.overwrite(request, start, followed.tokens)
        if not chunks:
            return None, reading
        logits = self._forward(tokens, chunks)
        if len(rows) < len(logits):
            logits = logits[on_device(np.array(rows, np.int64), self._device)]
        return logits, reading

    def _draft(
        self,
        logits: torch.Tensor,
        reading: list[_Complete],
        stays: Sequence[float],
        proposals: list[Proposal],
    ) -> None:
        rooms = [each.asked.room for each in reading]
        sampler = DraftSampler([each.asked.request.row for each in reading], self._device)
        found: list[tuple[torch.Tensor, torch.Tensor]] = []
        for length in range(1, rooms[0] + 1):
            drawn, confidence = sampler.draw(self._fitting(logits))
            found.append((drawn, confidence))
            wide = sum(room > length for room in rooms)
            if wide == 0 or (self.stops_early and _all_end(found, reading[:wide], stays)):
                break
            chunks = [self._next_chunk(each, length) for each in reading[:wide]]
            logits = self._forward(drawn[:wide], chunks)
        for line, (each, drafts) in enumerate(zip(reading, _on_host(found), strict=True)):
            each.followed.ahead = [token for token, _ in drafts[:-1]]
            confidences = [confidence for _, confidence in drafts]
            count = worthwhile(confidences, stays, each.asked.floor)
            tokens = [token for token, _ in drafts[:count]]
            drafted = Drafted(tokens, sampler.probabilities(line, count))
            proposals[each.place] = Proposal(drafted, confidences[:count])

    def _next_chunk(self, each: _Complete, length: int) -> Chunk:
        request = each.asked.request
        position = len(request.tokens) + length - 1
        self._reading.overwrite(request, position, position + 1)
        return Chunk(position, 1, request.blocks, 1)

    def _fitting(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits of the target's vocabulary: models pad theirs differently."""
        missing = self._vocab_size - logits.shape[-1]
        if missing > 0:
            return torch.nn.functional.pad(logits, (0, missing), value=-torch.inf)
        return logits[:, : self._vocab_size].contiguous()


def _all_end(
    found: Sequence[tuple[torch.Tensor, torch.Tensor]],
    reading: Sequence[_Complete],
    stays: Sequence[float],
) -> bool:
    """Whether no draft of these is worth another token: all are as long as what was found."""
    return not any(
        worthwhile([confidence for _, confidence in drafts], stays, each.asked.floor) == len(found)
        for each, drafts in zip(reading, _on_host(found), strict=False)
    )


def _on_host(
    found: Sequence[tuple[torch.Tensor, torch.Tensor]],
) -> list[list[tuple[int, float]]]:
    """Tokens and confidences by answer: of later places some have none. The device is asked once.

    Args:
        found: of each place [R], int64, and [R], fp32, of the first R answers.
    """
    both = torch.cat([torch.stack((tokens, confidence), -1) for tokens, confidence in found])
    lines = iter(both.double().tolist())
    drafts: list[list[tuple[int, float]]] = [[] for _ in found[0][0]]
    for tokens, _ in found:
        for draft in drafts[: len(tokens)]:
            token, confidence = next(lines)
            draft.append((int(token), confidence))
    return drafts


def _released(tokens: Tokens, chunks: Sequence[Chunk]) -> torch.Tensor:
    raise RuntimeError("a draft model was asked after it was released")
