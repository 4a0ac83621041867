"""A model of real size on a GPU under full load, by clients of whom many leave at every moment.

SOAK_MINUTES sets the length. The figures are printed as one line of JSON.
"""

import asyncio
import json
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from aweigh_api import metrics
from aweigh_bench.shapes import shape_directory
from tests.conftest import Tell
from tests.runtime.server.load import Client, Tally
from tests.runtime.serving import Served, serving, wait_for

MINUTES = float(os.environ.get("SOAK_MINUTES", "4"))
SHAPE = "llama-3.1-8b"
FLAGS = (
    "--device=cuda",
    "--max-model-len=16384",
    "--kv-cache-memory=6Gi",  # 49,152 tokens: so few that some answers lose theirs to others
    "--prefix-cache-host-memory=8Gi",
)
NUM_WORKERS = 400  # some of them with several answers: more than run together
SAMPLE_S = 0.5
START_S = 300.0  # compiling its kernels is most of it


@dataclass
class Peak:
    """What was the most at any time."""

    running: int = 0
    waiting: int = 0

    async def watch(self, served: Served) -> None:
        while True:
            state = await asyncio.to_thread(served.state)
            self.running = max(self.running, state.running or 0)
            self.waiting = max(self.waiting, state.waiting or 0)
            await asyncio.sleep(SAMPLE_S)


async def _load(served: Served, peak: Peak) -> Tally:
    client = Client(served.url, ["no-key-is-asked-for"], random.Random(8))
    watching = asyncio.create_task(peak.watch(served))
    end_s = time.monotonic() + MINUTES * 60
    await client.run(NUM_WORKERS, lambda: time.monotonic() < end_s)
    watching.cancel()
    return client.tally


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with (
        shape_directory(SHAPE) as directory,
        serving(tmp_path, "--random-weights", *FLAGS, uri=f"file://{directory}") as server,
    ):
        server.wait_ready(START_S)
        yield server


@pytest.mark.gpu
@pytest.mark.long
@pytest.mark.timeout(MINUTES * 60 + START_S + 240)
def test_nothing_is_held_when_a_crowd_of_clients_has_come_and_gone(
    served: Served, tell: Tell
) -> None:
    peak = Peak()
    began_s = time.monotonic()
    tally = asyncio.run(_load(served, peak))
    seconds = time.monotonic() - began_s

    wait_for(served.at_rest, 15, served)
    kv_tokens = served.state().kv_tokens
    assert kv_tokens is not None
    figures = {
        "seconds": round(seconds, 1),
        "asked": tally.asked.total(),
        "answered": {str(status): number for status, number in sorted(tally.answered.items())},
        "left": tally.left,
        "wrong": len(tally.wrong),
        "tokens_per_s": round(served.metric(metrics.GENERATED_TOKENS) / seconds),
        "most_running": peak.running,
        "most_waiting": peak.waiting,
        "preemptions": served.metric(metrics.PREEMPTIONS),
        "cached_tokens": served.metric(metrics.CACHED_PROMPT_TOKENS),
        "host_loaded_blocks": served.metric(metrics.HOST_LOADED_BLOCKS),
        "held_tokens_at_the_end": kv_tokens.held,
    }
    tell(json.dumps(figures))
    assert tally.wrong == []
    assert served.complaints() == []
    assert peak.waiting > 0  # it was full
    assert tally.left > 0
    assert kv_tokens.held == 0
