"""Models that notice what is not their own, drafts by them, and an engine that verifies these."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from aweigh_runtime.engine.loop import Engine
from aweigh_runtime.engine.messages import Output, Sampling, Speculation, Stepped, Submission, Work
from aweigh_runtime.engine.sampling.choice import Sampler
from aweigh_runtime.engine.speculation.draft_model import DraftModel
from aweigh_runtime.engine.speculation.frame import Frame
from aweigh_runtime.engine.speculation.proposer import Proposer
from aweigh_runtime.engine.speculation.speculator import Speculator
from aweigh_runtime.model.chunks import Chunk
from aweigh_runtime.model.step_inputs import Tokens
from tests.runtime.engine.chaining import Steps
from tests.runtime.engine.machine import VOCABULARY, next_token, scheduler
from tests.runtime.engine.test_loop import NoCompiler, no_copies

BLOCK_TOKENS = 4
CPU = torch.device("cpu")
Next = Callable[[list[int]], int]


@dataclass
class Remembering:
    """A model whose keys and values are the tokens themselves: it notices what is not its own."""

    following: Next
    vocab_size: int = VOCABULARY
    cells: dict[tuple[int, int], tuple[int, ...]] = field(default_factory=dict)
    tokens_read: int = 0

    def __call__(self, tokens: Tokens, chunks: Sequence[Chunk]) -> torch.Tensor:
        assert not isinstance(tokens, torch.Tensor)
        histories = []
        first = 0
        for chunk in chunks:  # all of a step's cells are written before any is read
            new = list(tokens[first : first + chunk.num_tokens])
            first += chunk.num_tokens
            before = self.cells[self._place(chunk, chunk.start - 1)] if chunk.start else ()
            for offset, position in enumerate(range(chunk.start, chunk.end)):
                self.cells[self._place(chunk, position)] = (*before, *new[: offset + 1])
            self.tokens_read += chunk.num_tokens
        rows = []
        for chunk in chunks:
            whole = self.cells[self._place(chunk, chunk.end - 1)]
            assert len(whole) == chunk.end
            for position in range(chunk.end):
                cell = self.cells.get(self._place(chunk, position))
                assert cell == whole[: position + 1], f"position {position} is not its own"
            histories += [whole[: chunk.end - back] for back in reversed(range(chunk.num_logits))]
        rows = [self.following(list(history)) for history in histories]
        logits = torch.nn.functional.one_hot(torch.tensor(rows, dtype=torch.int64), self.vocab_size)
        return 4.0 * logits.float()

    def _place(self, chunk: Chunk, position: int) -> tuple[int, int]:
        return chunk.blocks[position // BLOCK_TOKENS], position % BLOCK_TOKENS


def mostly_right(tokens: list[int]) -> int:
    dice = hashlib.sha256(repr(tokens).encode()).digest()[1]
    return next_token(tokens) if dice < 190 else dice % VOCABULARY


def never_right(tokens: list[int]) -> int:
    return (next_token(tokens) + 1) % VOCABULARY


def frame(step_tokens: int = 32, vocab_size: int = VOCABULARY) -> Frame:
    return Frame(
        vocab_size=vocab_size,
        block_tokens=BLOCK_TOKENS,
        max_model_len=256,
        step_tokens=step_tokens,
        device=CPU,
    )


def draft_model(
    following: Next, step_tokens: int = 32, *, chained: int = 0, vocab_size: int = VOCABULARY
) -> tuple[DraftModel, Remembering]:
    """`chained`: tokens of chains that it may draft; 0: none."""
    model = Remembering(following, vocab_size)
    chain = Steps(model, vocab_size, BLOCK_TOKENS, longest=chained) if chained else None
    forward, fitting = partial(in_list, model), frame(step_tokens, vocab_size)
    return DraftModel(following.__name__, forward, fitting, chain), model


def in_list(model: Remembering, tokens: Tokens, chunks: Sequence[Chunk]) -> torch.Tensor:
    return model(listed(tokens), chunks)


def listed(tokens: Tokens) -> Sequence[int]:
    return tokens.tolist() if isinstance(tokens, torch.Tensor) else tokens


def engine(
    proposers: Sequence[Proposer],
    longest: int = 4,
    failure: Speculation | None = None,
    **memory: int,
) -> Engine:
    line = scheduler(**{"block_tokens": BLOCK_TOKENS, **memory})  # type: ignore[arg-type]
    speculator = (
        Speculator(proposers, longest, None, [failure] if failure else []) if proposers else None
    )
    target = partial(in_list, Remembering(next_token))
    return Engine(line, target, Sampler(VOCABULARY), NoCompiler(), no_copies, speculator)


def submission(id: int, prompt: list[int], max_tokens: int, **fields: object) -> Submission:
    sampling = fields.pop("sampling", Sampling(temperature=0))
    prompt = list(prompt)  # the engine appends to it
    return Submission(id, prompt, max_tokens, [], sampling, **fields)  # type: ignore[arg-type]


def run(running: Engine, work: Sequence[Work]) -> list[Stepped]:
    reports = []
    for each in work:
        running.take(each)
        reports.append(running.step())
    while running.patience_s == 0:
        reports.append(running.step())
    return reports


def texts(reports: list[Stepped]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for report in reports:
        assert not report.failures
        for output in report.outputs:
            found.setdefault(output.id, []).extend(output.tokens)
    return found


def outputs(reports: list[Stepped]) -> list[Output]:
    return [output for report in reports for output in report.outputs]
