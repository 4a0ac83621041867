"""What the pod tells of drafts that have gone bad, or not, and what becomes of their memory."""

import gc
import itertools
import random
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import torch

from aweigh_runtime.engine.messages import Sampling, Speculation, Submission, Work
from aweigh_runtime.engine.request import Request
from aweigh_runtime.engine.sampling.verification import Drafted
from aweigh_runtime.engine.scheduler import Part
from aweigh_runtime.engine.speculation.ngram import NGram
from aweigh_runtime.engine.speculation.proposer import Asked, Proposal
from aweigh_runtime.engine.speculation.speculator import Speculator
from aweigh_runtime.model.chunks import Chunk
from aweigh_runtime.model.step_inputs import Tokens
from tests.runtime.engine.drafting import (
    draft_model,
    engine,
    never_right,
    run,
    submission,
    texts,
)
from tests.runtime.engine.machine import answer, next_token

GOOD_S = 40.0
OFF_S = 10.0  # two windows: the first one may have begun while drafts were good
ANSWER = 64  # tokens
PLAIN_S = 0.008  # a step of no answers


class Willing:
    """Drafts as many tokens as it is asked for, in no time."""

    name, stops_early, holds_memory = "willing", True, False
    chained = None

    def propose(self, asked: Sequence[Asked], stays: Sequence[float]) -> list[Proposal]:
        return [Proposal(Drafted([1] * each.room), [0.9] * each.room) for each in asked]

    def release(self) -> None: ...


@dataclass
class Traffic:
    """Clients that ask again soon after each answer, of a machine with a clock of its own."""

    clients: int
    pause_steps: int  # at most, between two answers of a client
    costs: tuple[float, float]  # of a drafted token, in plain steps: with one answer, with more
    dice: random.Random = field(default_factory=lambda: random.Random(1))
    speculator: Speculator = field(default_factory=lambda: Speculator([Willing()], longest=8))
    chance: float = 0.93  # that a drafted token stays
    now_s: float = 0.0
    ids: int = 0
    open: dict[int, Request] = field(default_factory=dict)  # by client
    left: dict[int, int] = field(default_factory=dict)  # tokens, and below that steps of rest

    def run(self, seconds: float) -> list[tuple[float, str]]:
        """The reported states, each with the time since the beginning."""
        began_s = self.now_s
        told: list[tuple[float, str]] = []
        while self.now_s < began_s + seconds:
            self._come()
            if self.open:
                self._step()
            else:
                self.now_s += PLAIN_S
            told.append((self.now_s - began_s, self.speculator.state.state))
        return told

    def _come(self) -> None:
        for client in range(self.clients):
            if client not in self.open:
                self.left[client] = self.left.get(client, 0) - 1
                if self.left[client] <= 0:
                    self.ids += 1
                    sent = Submission(self.ids, [0], ANSWER, [], Sampling())
                    self.open[client], self.left[client] = Request.of(sent), ANSWER

    def _step(self) -> None:
        rows = len(self.open)
        wanted = self.speculator.lookahead(rows, self.now_s)
        drafted: dict[int, Drafted] = {}
        if wanted is not None:
            rooms = {client: wanted(each) for client, each in self.open.items()}
            drafted = self.speculator.propose(
                [
                    Part(each, 2, 3, room=min(rooms[client], self.left[client] - 1))
                    for client, each in self.open.items()
                ]
            )
        timed = self.speculator._step.seconds
        timed.update(dict.fromkeys(timed, 0.0))  # by the clock of this machine, not of the other
        lengths = [len(each.tokens) for each in drafted.values()]
        kept = {}
        for index, (client, each) in enumerate(list(self.open.items())):
            length = len(drafted[index].tokens) if index in drafted else 0
            stay = next((i for i in range(length) if self.dice.random() >= self.chance), length)
            kept[each.id] = stay
            self.left[client] -= 1 + stay
            if self.left[client] <= 0:
                del self.open[client]
                self.left[client] = self.dice.randint(0, self.pause_steps)
        self.speculator.verified(kept)
        cost = self.costs[0] if rows == 1 else self.costs[1]
        plain_s = PLAIN_S * (1 + rows / 4) * self.dice.uniform(0.85, 1.15)
        seconds = plain_s * (1 + cost * sum(lengths) / rows)
        self.speculator.took(rows, seconds, 0)
        self.now_s += seconds


@pytest.mark.parametrize("pause_steps", [1, 10, 30])
@pytest.mark.parametrize("clients", [1, 2, 3])
def test_drafts_gone_bad_are_told_of_though_what_pays_changes_with_the_answers(
    clients: int, pause_steps: int
) -> None:
    traffic = Traffic(clients, pause_steps, costs=(0.2, 0.6))
    assert traffic.run(GOOD_S)[-1][1] == "active"
    traffic.chance = 0.0
    told = traffic.run(3 * OFF_S)
    assert {state for after_s, state in told if after_s > OFF_S} == {"paused"}


@pytest.mark.parametrize("chance", [0.93, 0.6])
@pytest.mark.parametrize("pause_steps", [1, 30, 300])
def test_drafts_that_gain_are_never_told_to_be_off(pause_steps: int, chance: float) -> None:
    traffic = Traffic(2, pause_steps, costs=(0.1, 0.15), chance=chance)
    assert {state for _, state in traffic.run(2 * GOOD_S)} == {"active"}


def test_drafts_that_are_good_again_are_told_to_be_on() -> None:
    traffic = Traffic(2, 10, costs=(0.2, 0.2), chance=0.0)
    assert traffic.run(GOOD_S)[-1][1] == "paused"
    traffic.chance = 0.93
    assert traffic.run(2 * GOOD_S)[-1][1] == "active"


def test_a_plain_step_without_memory_takes_that_of_a_draft_that_is_of_no_use() -> None:
    drafter, model = draft_model(never_right)
    running = engine([drafter], num_blocks=64)
    assert running._speculator is not None
    pace = running._speculator._candidates[0].pace
    whole, failed = running._forward, False

    def short_of_memory(tokens: Tokens, chunks: Sequence[Chunk]) -> torch.Tensor:
        nonlocal failed
        plain = all(chunk.num_logits == 1 for chunk in chunks)
        if plain and pace.pays is False and not failed:
            failed = True
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(tokens, chunks)

    running._forward = short_of_memory
    held = weakref.ref(model)
    del model
    reports = run(running, [Work([submission(1, [0, 1, 2], 200)], [])])
    assert failed
    assert texts(reports)[1] == answer([0, 1, 2], 200)
    gc.collect()
    assert held() is None
    state = reports[-1].speculation
    assert state is not None
    assert (state.state, state.reason) == ("failed", "OutOfMemory")


def test_a_draft_that_rests_gives_its_memory_back_before_a_request_fails() -> None:
    drafter, model = draft_model(next_token)
    running = engine([drafter], num_blocks=64)
    whole, failed = running._forward, 0
    held = weakref.ref(model)
    del model

    def short_of_memory(tokens: Tokens, chunks: Sequence[Chunk]) -> torch.Tensor:
        nonlocal failed
        if held() is not None and (failed or any(chunk.num_logits > 1 for chunk in chunks)):
            failed += 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(tokens, chunks)

    running._forward = short_of_memory
    reports = run(running, [Work([submission(1, [0, 1, 2], 40)], [])])
    assert failed == 2  # with drafts, and without
    assert texts(reports)[1] == answer([0, 1, 2], 40)
    state = reports[-1].speculation
    assert state is not None
    assert (state.state, state.reason) == ("failed", "OutOfMemory")


def test_drafts_without_memory_rest_longer_each_time_and_are_let_go_in_the_end() -> None:
    drafter, model = draft_model(next_token)
    running = engine([drafter, NGram()], max_running=1)
    whole, step = running._forward, 0
    tried: list[int] = []  # steps that had no memory for drafts
    held = weakref.ref(model)
    del model

    def short_of_memory(tokens: Tokens, chunks: Sequence[Chunk]) -> torch.Tensor:
        nonlocal step
        step += 1
        if any(chunk.num_logits > 1 for chunk in chunks) and held() is not None:
            tried.append(step)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(tokens, chunks)

    running._forward = short_of_memory
    running.take(Work([submission(id, [0, 1, id % 3], 40) for id in range(60)], []))
    told: list[Speculation] = []
    drafted = 0
    while running.patience_s == 0:
        report = running.step()
        assert report.speculation is not None
        if not told or told[-1] != report.speculation:
            told.append(report.speculation)
        drafted = report.counters.drafted_tokens
    waits = [later - earlier for earlier, later in itertools.pairwise(tried)]
    assert [round(wait / waits[0], 1) for wait in waits] == [1, 2, 4]
    assert held() is None
    assert ("paused", "OutOfMemory") in [(each.state, each.reason) for each in told]
    assert drafted > 0
