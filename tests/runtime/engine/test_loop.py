"""The step loop around a forward pass that counts: the token after t is t + 1."""

from collections.abc import Sequence

import torch

from aweigh_runtime.engine.loop import Engine
from aweigh_runtime.engine.messages import Output, Sampling, Submission, Work
from aweigh_runtime.engine.scheduler import Scheduler
from aweigh_runtime.model.chunks import Chunk

VOCABULARY = 100
GREEDY = Sampling(temperature=0)


def count_up(tokens: list[int], chunks: Sequence[Chunk]) -> torch.Tensor:
    ends = torch.tensor([chunk.num_tokens for chunk in chunks]).cumsum(0) - 1
    following = (torch.tensor(tokens)[ends] + 1) % VOCABULARY
    return torch.nn.functional.one_hot(following, VOCABULARY).float()


def engine(max_running: int = 4, step_tokens: int = 8) -> Engine:
    return Engine(Scheduler(max_running, step_tokens, max_model_len=64), count_up)


def submit(id: int, prompt: list[int], max_tokens: int, stop: list[int] | None = None) -> Work:
    return Work([Submission(id, prompt, max_tokens, stop or [], GREEDY)], [])


def run(running: Engine) -> list[Output]:
    outputs = []
    while not running.idle:
        outputs += running.step().outputs
    return outputs


def test_an_answer_ends_at_its_limit() -> None:
    running = engine()
    running.take(submit(1, [5], max_tokens=3))
    assert run(running) == [Output(1, 6, None), Output(1, 7, None), Output(1, 8, "length")]


def test_an_answer_ends_at_a_stop_token() -> None:
    running = engine()
    running.take(submit(1, [5], max_tokens=30, stop=[7, 50]))
    assert run(running) == [Output(1, 6, None), Output(1, 7, "stop")]


def test_answers_do_not_mix_whatever_else_runs() -> None:
    running = engine(max_running=3)
    for id in range(9):
        running.take(submit(id, [10 * id] * (1 + 3 * id % 17), max_tokens=5))
    outputs = run(running)
    for id in range(9):
        tokens = [output.token for output in outputs if output.id == id]
        assert tokens == [10 * id + step for step in range(1, 6)]


def test_the_counters_tell_prompts_from_decoding() -> None:
    running = engine(step_tokens=4)
    running.take(submit(1, list(range(10)), max_tokens=3))
    while not running.idle:
        counters = running.step().counters
    assert counters.computed_prompt_tokens == 10
    assert counters.generated_tokens == 3
    assert counters.decoded_rows == counters.decode_tokens == 2
    assert counters.kv_tokens_read == 11 + 12


def test_an_idle_step_reports_without_computing() -> None:
    report = engine().step()
    assert report.outputs == []
    assert report.duration_s is None


def test_an_abort_shows_in_the_next_report() -> None:
    running = engine()
    running.take(submit(1, [5], max_tokens=30))
    assert running.step().running == 1
    running.take(Work([], [1]))
    assert running.step().running == 0
