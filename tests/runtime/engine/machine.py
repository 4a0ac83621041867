"""A model that only remembers: it checks that every request reads its own past and nothing else."""

import hashlib
from dataclasses import dataclass, field

from aweigh_runtime.engine.messages import Sampling, Submission
from aweigh_runtime.engine.naming import salt
from aweigh_runtime.engine.prefixes import Copies, Memory
from aweigh_runtime.engine.request import Request
from aweigh_runtime.engine.scheduler import Limits, Part, Scheduler, Step

VOCABULARY = 3  # few, so that random prompts share prefixes
NO_SALT = salt(b"", None)


def request(
    id: int,
    prompt: int | list[int],
    answer: int = 4,
    *,
    salt: bytes = NO_SALT,
    priority: int = 0,
    caller: bytes = b"",
    prompt_logprobs: int | None = None,
) -> Request:
    """A number as prompt stands for so many tokens that no other request has."""
    tokens = [1000 * id + 10 + i for i in range(prompt)] if isinstance(prompt, int) else prompt
    submission = Submission(
        id, list(tokens), answer, [], Sampling(temperature=0), salt=salt, caller=caller,
        priority=priority, prompt_logprobs=prompt_logprobs,
    )  # fmt: skip
    return Request.of(submission)


def scheduler(
    num_blocks: int = 64,
    block_tokens: int = 4,
    *,
    max_running: int = 8,
    step_tokens: int = 32,
    max_model_len: int = 256,
    caching: bool = True,
    max_cached: int | None = None,
    num_host_blocks: int = 0,
) -> Scheduler:
    return Scheduler(
        Limits(max_running=max_running, step_tokens=step_tokens, max_model_len=max_model_len),
        Memory(
            num_blocks=num_blocks,
            block_tokens=block_tokens,
            caching=caching,
            max_cached=max_cached,
            num_host_blocks=num_host_blocks,
        ),
    )


def next_token(tokens: list[int]) -> int:
    return hashlib.sha256(repr(tokens).encode()).digest()[0] % VOCABULARY


def answer(prompt: list[int], num_tokens: int) -> list[int]:
    """What a request must get, whatever happens to it on the way."""
    tokens = list(prompt)
    for _ in range(num_tokens):
        tokens.append(next_token(tokens))
    return tokens[len(prompt) :]


@dataclass
class Machine:
    """Carries out steps; a cell holds all tokens up to its own, as keys and values do."""

    scheduler: Scheduler
    block_tokens: int
    cells: dict[tuple[int, int], object] = field(default_factory=dict)  # by block and offset
    host: dict[int, dict[int, object]] = field(default_factory=dict)  # by slot
    computed_tokens: int = 0

    def run(self, step: Step) -> list[Request]:
        """Compute a step; returns the requests that finished."""
        self.copy(step.copies)
        for part in step.parts:  # all of a step's cells are written before any is read
            self._write(part)
        for part in step.parts:
            self._check(part)
        return [part.request for part in step.parts if self._advance(part)]

    def copy(self, copies: Copies) -> None:
        assert len({slot for _, slot in copies.to_host}) == len(copies.to_host)  # in any order
        for block, slot in copies.to_host:
            self.host[slot] = {
                offset: self.cells.get((block, offset)) for offset in range(self.block_tokens)
            }
        for slot, block in copies.from_host:
            for offset, cell in self.host[slot].items():
                self.cells[block, offset] = cell

    def copy_in_part(self, copies: Copies) -> None:
        """There was no memory in the middle of it: whatever was to be written holds anything."""
        self.copy(copies)
        for _, slot in copies.to_host[::2]:
            self.host[slot] = dict.fromkeys(range(self.block_tokens), "half a copy")
        for _, block in copies.from_host[::2]:
            self.cells |= {(block, offset): "half a copy" for offset in range(self.block_tokens)}

    def until_idle(self, max_steps: int = 10_000) -> list[Request]:
        finished: list[Request] = []
        for now in range(max_steps):
            if self.scheduler.idle:
                return finished
            finished += self.run(self.scheduler.step(float(now)))
        raise AssertionError(f"not idle after {max_steps} steps")

    def _write(self, part: Part) -> None:
        self.computed_tokens += part.num_tokens
        for position in range(part.start, part.end):
            self.cells[self._place(part, position)] = self._content(part, position)

    def _check(self, part: Part) -> None:
        for position in range(part.end):
            cell = self.cells.get(self._place(part, position))
            assert cell == self._content(part, position), f"position {position} is not its own"

    def _place(self, part: Part, position: int) -> tuple[int, int]:
        block = part.request.blocks[position // self.block_tokens]
        return block, position % self.block_tokens

    def _content(self, part: Part, position: int) -> object:
        return part.request.salt, tuple(part.request.tokens[: position + 1])

    def _advance(self, part: Part) -> bool:
        request = part.request
        assert part.start == request.computed
        request.computed = part.end
        request.reached = max(request.reached, part.end)
        if request.pending:
            return False
        request.tokens.append(next_token(request.tokens))
        if len(request.tokens) < request.max_tokens:
            return False
        self.scheduler.finish(request)
        return True
