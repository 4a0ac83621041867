"""Drafts go bad while answers are streamed: they are turned off soon, and no answer suffers."""

import itertools
import json
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from aweigh_api.state import State
from aweigh_runtime.sources.local import builtin
from aweigh_runtime.text.questions import questions
from tests.runtime.serving import MODEL, serving, wait_for

DRAFT = "--draft-model=builtin://helmsman-1m-draft"
ACCEPTED = 300  # tokens, before drafts go bad
OFF_S = 30.0  # from the first bad draft to the report that says so
AFTER_S = 5.0

# Greedy answers to what the models have been trained for, then any of 32 tokens that neither of
# them would say: a draft knows no bias.
GOOD = {"temperature": 0, "max_tokens": 64}
BAD = {"temperature": 1, "logit_bias": {str(token): 100 for token in range(4000, 4032)}}


@dataclass
class Traffic:
    """Clients that each stream one answer after the other."""

    url: str
    clients: int
    fields: dict[str, Any]
    tokens: list[int] = field(default_factory=list)  # of every whole answer
    failures: list[str] = field(default_factory=list)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Ask for as long as the context lasts."""
        enough = threading.Event()
        with ThreadPoolExecutor(self.clients) as pool:
            for number in range(self.clients):
                pool.submit(self._ask_on, number, enough)
            try:
                yield
            finally:
                enough.set()

    def _ask_on(self, number: int, enough: threading.Event) -> None:
        known = questions(builtin("helmsman-8m"), 200, random.Random(number))
        for question in itertools.cycle(known):
            if enough.is_set():
                return
            try:
                self.tokens.append(self._ask(question))
            except (httpx.HTTPError, AssertionError) as error:
                self.failures.append(repr(error))

    def _ask(self, question: str) -> int:
        """Tokens of the answer, once its stream has ended as it should."""
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": question}],
            "stream": True,
            "stream_options": {"include_usage": True},
            **self.fields,
        }
        with httpx.stream("POST", f"{self.url}/v1/chat/completions", json=body, timeout=60) as told:
            assert told.status_code == 200, told.read()
            lines = [line for line in told.iter_lines() if line]
        assert lines[-1] == "data: [DONE]", lines[-1]
        usage = json.loads(lines[-2].removeprefix("data: "))["usage"]
        return int(usage["completion_tokens"])


@pytest.mark.parametrize(
    ("clients", "tokens"),
    [
        pytest.param(4, 64, id="four clients, short answers"),
        pytest.param(2, 64, id="two clients, so that there is one answer now and then"),
        pytest.param(1, 600, id="one client, long answers"),
    ],
)
def test_drafts_that_go_bad_in_the_middle_of_traffic_are_off_within_30_s(
    clients: int, tokens: int, tmp_path: Path
) -> None:
    with serving(tmp_path, DRAFT, "--dtype=fp32") as served:
        served.wait_ready()
        traffic = Traffic(served.url, clients, GOOD)
        with traffic():
            wait_for(lambda: _drafts_are_good(served.state()), 90, served)
            traffic.fields = {**BAD, "max_tokens": tokens}
            wait_for(lambda: _is_off(served.state()), OFF_S, served)
            before = served.state()
            time.sleep(AFTER_S)
            after = served.state()
        assert traffic.failures == []
        assert len(traffic.tokens) > clients
        drafted = (after.drafted_tokens or 0) - (before.drafted_tokens or 0)
        generated = (after.generated_tokens or 0) - (before.generated_tokens or 0)
        assert drafted < 0.3 * generated  # some are tried again
        assert "speculation is paused" in served.log.read_text()


def test_good_drafts_are_off_below_the_least_acceptance_that_was_asked_for(tmp_path: Path) -> None:
    with serving(tmp_path, DRAFT, "--dtype=fp32", "--min-acceptance-percent=100") as served:
        served.wait_ready()
        traffic = Traffic(served.url, 1, GOOD)
        with traffic():
            wait_for(lambda: _is_off(served.state()), 60, served)
        assert traffic.failures == []
        told = served.state().speculation
        assert told is not None
        assert told.reason == "LowAcceptance"
        assert "expected at least 100%" in (told.message or "")


def _drafts_are_good(state: State) -> bool:
    drafted, accepted = state.drafted_tokens or 0, state.accepted_tokens or 0
    active = state.speculation is not None and state.speculation.state == "active"
    return active and accepted > ACCEPTED and accepted > 0.6 * drafted


def _is_off(state: State) -> bool:
    return state.speculation is not None and state.speculation.state == "paused"
