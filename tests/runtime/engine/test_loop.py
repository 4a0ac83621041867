"""The step loop around a forward pass that counts: the token after t is t + 1."""

from collections.abc import Callable, Sequence

import pytest
import torch

from aweigh_runtime.engine.grammars import Compiled
from aweigh_runtime.engine.loop import COMPILING_TICK_S, IDLE_TICK_S, Engine
from aweigh_runtime.engine.messages import Failure, Output, Sampling, Stepped, Submission, Work
from aweigh_runtime.engine.prefixes import Copies
from aweigh_runtime.engine.sampling.choice import Sampler
from aweigh_runtime.model.chunks import Chunk
from aweigh_runtime.model.step_inputs import Tokens
from tests.runtime.engine.machine import scheduler

VOCABULARY = 100
GREEDY = Sampling(temperature=0)


class NoCompiler:
    """Grammars compile when the test says so."""

    stop_tokens = frozenset[int]()

    def __init__(self) -> None:
        self.ready: list[Compiled] = []
        self.cancelled: list[int] = []

    def submit(self, id: int, grammar: str, caller: bytes) -> None:
        pass

    def cancel(self, id: int) -> None:
        self.cancelled.append(id)

    def poll(self) -> Sequence[Compiled]:
        ready, self.ready = self.ready, []
        return ready


def count_up(tokens: list[int], chunks: Sequence[Chunk]) -> torch.Tensor:
    rows, first = [], 0
    for chunk in chunks:
        first += chunk.num_tokens
        rows += tokens[first - chunk.num_logits : first]
    following = (torch.tensor(rows, dtype=torch.int64) + 1) % VOCABULARY
    return torch.nn.functional.one_hot(following, VOCABULARY).float()


def no_copies(copies: Copies) -> None:
    raise AssertionError(f"unexpected {copies}")


def engine(
    forward: Callable[[list[int], Sequence[Chunk]], torch.Tensor] = count_up,
    compiler: NoCompiler | None = None,
    copy: Callable[[Copies], None] = no_copies,
    **memory: int,
) -> Engine:
    limits = {"max_running": 4, "step_tokens": 8, "max_model_len": 64}
    line = scheduler(**{**limits, **memory})  # type: ignore[arg-type]

    def compute(tokens: Tokens, chunks: Sequence[Chunk]) -> torch.Tensor:
        assert isinstance(tokens, list)  # nothing runs ahead here
        return forward(tokens, chunks)

    return Engine(line, compute, Sampler(VOCABULARY), compiler or NoCompiler(), copy)


def submission(id: int, prompt: list[int], max_tokens: int, **fields: object) -> Submission:
    return Submission(id, prompt, max_tokens, [], GREEDY, **fields)  # type: ignore[arg-type]


def submit(id: int, prompt: list[int], max_tokens: int, **fields: object) -> Work:
    return Work([submission(id, prompt, max_tokens, **fields)], [])


def run(running: Engine) -> list[Stepped]:
    reports = []
    while running.patience_s == 0:
        reports.append(running.step())
    return reports


def outputs(reports: list[Stepped], id: int) -> list[Output]:
    return [output for report in reports for output in report.outputs if output.id == id]


def tokens(reports: list[Stepped], id: int) -> list[int]:
    return [token for output in outputs(reports, id) for token in output.tokens]


def test_an_answer_ends_at_its_limit() -> None:
    running = engine()
    running.take(submit(1, [5], max_tokens=3))
    first, *others = outputs(run(running), 1)
    assert (first.tokens, first.cached_tokens) == ([6], 0)
    assert others == [Output(1, [7], None), Output(1, [8], "length")]


def test_an_answer_ends_at_a_stop_token() -> None:
    running = engine()
    running.take(Work([Submission(1, [5], 30, [7, 50], GREEDY)], []))
    assert [(o.tokens, o.finish) for o in outputs(run(running), 1)] == [([6], None), ([7], "stop")]


def test_answers_do_not_mix_whatever_else_runs() -> None:
    running = engine(max_running=3)
    for id in range(9):
        running.take(submit(id, [10 * id] * (1 + 3 * id % 17), max_tokens=5))
    reports = run(running)
    for id in range(9):
        assert tokens(reports, id) == [10 * id + step for step in range(1, 6)]


def test_the_counters_tell_prompts_from_decoding() -> None:
    running = engine(step_tokens=4)
    running.take(submit(1, list(range(10)), max_tokens=3))
    counters = run(running)[-1].counters
    assert counters.computed_prompt_tokens == 10
    assert counters.generated_tokens == 3
    assert counters.decoded_rows == counters.decode_tokens == 2
    assert counters.kv_tokens_read == 11 + 12


def test_hits_are_counted_once_and_told_with_the_first_token() -> None:
    running = engine()
    for id in (1, 2):
        running.take(submit(id, list(range(10)), max_tokens=2))
        reports = run(running)
    assert [output.cached_tokens for output in outputs(reports, 2)] == [8, None]
    counters = reports[-1].counters
    assert (counters.cached_prompt_tokens, counters.computed_prompt_tokens) == (8, 12)
    assert counters.looked_up_prompt_tokens == 20


def test_what_is_computed_again_after_a_preemption_is_neither_hit_nor_miss() -> None:
    running = engine(num_blocks=8, max_running=4, step_tokens=16, caching=0)
    for id in (1, 2):
        running.take(submit(id, list(range(10 * id, 10 * id + 8)), max_tokens=16))
    reports = run(running)
    counters = reports[-1].counters
    assert counters.preemptions > 0
    assert counters.recomputed_tokens > 0
    assert counters.computed_prompt_tokens == 16
    for id in (1, 2):
        assert len(tokens(reports, id)) == 16


def test_without_an_answer_the_prompt_is_read_and_that_is_all() -> None:
    running = engine(step_tokens=4, max_model_len=6)
    running.take(submit(1, [5, 6, 7, 9, 10, 12], max_tokens=0, prompt_logprobs=1))
    reports = run(running)
    (output,) = outputs(reports, 1)
    assert (output.tokens, output.finish, output.logprobs) == ([], "length", None)
    assert len(output.prompt_logprobs or ()) == 6
    assert (reports[-1].running, reports[-1].kv.held) == (0, 0)
    assert reports[-1].counters.computed_prompt_tokens == 6
    assert reports[-1].counters.generated_tokens == 0


def test_prompt_logprobs_score_every_token_but_the_first() -> None:
    running = engine(step_tokens=4)
    running.take(submit(1, [5, 6, 7, 9, 10, 12], max_tokens=1, prompt_logprobs=1))
    (output,) = outputs(run(running), 1)
    assert output.prompt_logprobs is not None
    first, *others = output.prompt_logprobs
    assert first is None
    assert [score.rank for score in others if score] == [1, 1, 10, 1, 13]
    assert [score.top[0][0] for score in others if score] == [6, 7, 8, 10, 11]


def test_an_idle_step_reports_without_computing() -> None:
    running = engine()
    assert running.patience_s == IDLE_TICK_S
    report = running.step()
    assert report.outputs == []
    assert report.duration_s is None


def test_an_abort_shows_in_the_next_report() -> None:
    running = engine()
    running.take(submit(1, [5], max_tokens=30))
    report = running.step()
    assert (report.running, report.kv.held) == (1, 4)
    running.take(Work([], [1]))
    report = running.step()
    assert (report.running, report.kv.held) == (0, 0)


def test_a_request_that_is_too_long_fails_alone() -> None:
    running = engine()
    running.take(Work([submission(1, [5] * 60, 5), submission(2, [5], 1)], []))
    reports = run(running)
    (failure,) = reports[0].failures
    assert (failure.id, failure.kind) == (1, "too_long")
    assert tokens(reports, 2) == [6]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        torch.AcceleratorError(
            "CUDA error: out of memory\nCUDA kernel errors might be reported", 2
        ),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("aweigh_int_matmul: out of memory on cuda:0"),
    ],
)
def test_the_largest_request_of_a_step_without_memory_fails_and_the_others_go_on(
    error: RuntimeError,
) -> None:
    def forward(tokens: list[int], chunks: Sequence[Chunk]) -> torch.Tensor:
        if any(chunk.num_tokens > 5 for chunk in chunks):
            raise error
        return count_up(tokens, chunks)

    running = engine(forward, step_tokens=16)
    running.take(Work([submission(1, [5, 6], 8), submission(2, [40] * 9, 8)], []))
    reports = run(running)
    assert [(f.id, f.kind) for r in reports for f in r.failures] == [(2, "out_of_memory")]
    assert tokens(reports, 1) == list(range(7, 15))
    assert reports[-1].kv.held == 0


@pytest.mark.parametrize("failing", [1, 2], ids=["to the host", "from the host"])
def test_without_memory_for_its_copies_a_step_is_planned_again_without_them(failing: int) -> None:
    num_copies = 0

    def copy(copies: Copies) -> None:
        nonlocal num_copies
        num_copies += 1
        if num_copies == failing:
            raise torch.OutOfMemoryError("CUDA out of memory")

    running = engine(copy=copy, num_blocks=6, num_host_blocks=16, step_tokens=32)
    reports = []
    for id, first in ((1, 10), (2, 50), (3, 10)):  # the second pushes the first one out
        running.take(submit(id, list(range(first, first + 20)), max_tokens=1))
        reports += run(running)
    assert [f for report in reports for f in report.failures] == []
    assert [tokens(reports, id) for id in (1, 2, 3)] == [[30], [70], [30]]
    assert num_copies >= failing
    assert reports[-1].kv.held == 0
    (third,) = outputs(reports, 3)
    assert third.cached_tokens == 4  # the block that had stayed


def test_a_bug_in_a_step_is_not_taken_for_a_lack_of_memory() -> None:
    def forward(tokens: list[int], chunks: Sequence[Chunk]) -> torch.Tensor:
        raise RuntimeError("shape mismatch")

    running = engine(forward)
    running.take(submit(1, [5], max_tokens=2))
    with pytest.raises(RuntimeError, match="shape mismatch"):
        running.step()


def test_a_request_waits_for_its_grammar_and_nobody_waits_for_it() -> None:
    compiler = NoCompiler()
    running = engine(compiler=compiler)
    running.take(Work([submission(1, [5], 2, grammar="g"), submission(2, [8], 2)], []))
    reports = run(running)
    assert (tokens(reports, 1), tokens(reports, 2)) == ([], [9, 10])
    assert reports[-1].waiting == 1
    assert running.patience_s == COMPILING_TICK_S
    compiler.ready.append(Compiled(1, None, "it is too large"))
    assert running.step().failures == [Failure(1, "grammar", "it is too large")]
    assert running.patience_s == IDLE_TICK_S


def test_nobody_waits_for_the_grammar_of_a_client_that_is_gone() -> None:
    compiler = NoCompiler()
    running = engine(compiler=compiler)
    running.take(submit(1, [5], 2, grammar="g"))
    running.take(Work([], [1]))
    assert compiler.cancelled == [1]
    assert running.step().waiting == 0


def test_a_row_without_a_token_fails_alone() -> None:
    def forward(tokens: list[int], chunks: Sequence[Chunk]) -> torch.Tensor:
        logits = count_up(tokens, chunks)
        logits[torch.tensor(tokens) == 50] = torch.nan
        return logits

    running = engine(forward)
    running.take(Work([submission(1, [48], 8), submission(2, [5], 8)], []))
    reports = run(running)
    assert [(f.id, f.kind) for r in reports for f in r.failures] == [(1, "internal")]
    assert tokens(reports, 2) == list(range(6, 14))
