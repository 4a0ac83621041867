"""A server under random load for many minutes is at its end what it was at its start.

SOAK_MINUTES sets the length. The figures are printed as one line of JSON.
"""

import asyncio
import json
import os
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from aweigh_api import metrics
from tests.conftest import Tell
from tests.runtime.server.load import Client
from tests.runtime.serving import MODEL, Served, serving, wait_for

MINUTES = float(os.environ.get("SOAK_MINUTES", "20"))
KEYS = ["alice-0123456789abcdef", "bob-0123456789abcdefgh"]
FLAGS = (
    "--dtype=fp32",
    "--kv-cache-memory=6Mi",  # 768 tokens
    "--prefix-cache-host-memory=32Mi",
    "--max-model-len=640",
    "--max-running=8",
    "--max-waiting=16",
)
NUM_WORKERS = 24  # some of them with several answers: the queue is full now and then
SAMPLE_S = 2.0
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
GROWTH = 0.02  # of the memory, over the second half
SPREAD_BYTES = 2 << 20  # of single measurements
NUM_PLAIN = 20
SLOWER = 2.0  # processor time of an answer: what else runs there may make it half as long again
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Trail:
    """One process, looked at again and again."""

    pid: int
    times_s: list[float] = field(default_factory=list)
    resident_bytes: list[int] = field(default_factory=list)
    num_files: list[int] = field(default_factory=list)

    def look(self, now_s: float) -> None:
        process = Path(f"/proc/{self.pid}")
        self.times_s.append(now_s)
        self.resident_bytes.append(int((process / "statm").read_text().split()[1]) * PAGE_BYTES)
        self.num_files.append(len(list((process / "fd").iterdir())))

    def worked_s(self) -> float:
        """Processor time."""
        stat = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / _TICKS

    def growth_bytes(self) -> float:
        """Of the line through the second half, from its start to its end."""
        half = len(self.times_s) // 2
        times_s = self.times_s[half:]
        slope, _ = statistics.linear_regression(times_s, self.resident_bytes[half:])
        return float(slope * (times_s[-1] - times_s[0]))

    def figures(self) -> dict[str, float]:
        half = len(self.times_s) // 2
        return {
            "first_mib": round(self.resident_bytes[0] / 2**20, 1),
            "half_mib": round(self.resident_bytes[half] / 2**20, 1),
            "last_mib": round(self.resident_bytes[-1] / 2**20, 1),
            "growth_second_half_percent": round(
                100 * self.growth_bytes() / statistics.median(self.resident_bytes), 2
            ),
            "files_first": self.num_files[0],
            "files_last": self.num_files[-1],
        }


async def _watch(trails: Sequence[Trail]) -> None:
    while True:
        for trail in trails:
            trail.look(time.monotonic())
        await asyncio.sleep(SAMPLE_S)


async def _load(served: Served, trails: Sequence[Trail], end_s: float) -> Client:
    client = Client(served.url, KEYS, random.Random(7))
    watching = asyncio.create_task(_watch(trails))
    await client.run(NUM_WORKERS, lambda: time.monotonic() < end_s)
    watching.cancel()
    return client


def _plain_s(served: Served, trails: Sequence[Trail], seed: int) -> float:
    """Processor time of a request that nothing is cached for."""
    before_s = sum(trail.worked_s() for trail in trails)
    for number in range(NUM_PLAIN):
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": f"{seed} {number}: what is a Pod?"}],
            "max_tokens": 20,
            "temperature": 0,
            "ignore_eos": True,
        }
        response = httpx.post(
            f"{served.url}/v1/chat/completions",
            json=body,
            headers={"Authorization": f"Bearer {KEYS[0]}"},
            timeout=60,
        )
        assert response.status_code == 200, response.text
    return (sum(trail.worked_s() for trail in trails) - before_s) / NUM_PLAIN


@pytest.mark.long
@pytest.mark.timeout(MINUTES * 60 + 300)
def test_a_server_under_random_load_stays_what_it_was(tmp_path: Path, tell: Tell) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    for number, key in enumerate(KEYS):
        (keys / f"tenant-{number}").write_text(key)
    with serving(tmp_path, f"--api-keys-dir={keys}", *FLAGS) as served:
        served.wait_ready()
        trails = {
            "api": Trail(served.process.pid),
            "engine": Trail(served.children()["process"]),
        }
        _plain_s(served, list(trails.values()), 0)  # what is compiled and imported once
        at_start_s = _plain_s(served, list(trails.values()), 1)
        for trail in trails.values():
            trail.look(time.monotonic())
        end_s = time.monotonic() + MINUTES * 60

        tally = asyncio.run(_load(served, list(trails.values()), end_s)).tally

        wait_for(served.at_rest, 15, served)
        for trail in trails.values():
            trail.look(time.monotonic())
        at_end_s = _plain_s(served, list(trails.values()), 2)
        num_preempted = served.metric(metrics.PREEMPTIONS)
        num_returned = served.metric(metrics.HOST_LOADED_BLOCKS)
        figures = {
            "minutes": MINUTES,
            "asked": tally.asked.total(),
            "answered": {str(status): number for status, number in sorted(tally.answered.items())},
            "left": tally.left,
            "wrong": len(tally.wrong),
            "preemptions": num_preempted,
            "host_loaded_blocks": num_returned,
            "cached_tokens": served.metric(metrics.CACHED_PROMPT_TOKENS),
            "plain_ms": [round(at_start_s * 1000, 1), round(at_end_s * 1000, 1)],
            **{name: trail.figures() for name, trail in trails.items()},
        }
        tell(json.dumps(figures))
        assert tally.wrong == []
        assert served.complaints() == []
        for name, trail in trails.items():
            bound = GROWTH * statistics.median(trail.resident_bytes) + SPREAD_BYTES
            assert trail.growth_bytes() < bound, name
            assert trail.num_files[-1] <= trail.num_files[0] + 4, name
        assert at_end_s < SLOWER * at_start_s
        assert num_preempted > 0
        assert num_returned > 0
