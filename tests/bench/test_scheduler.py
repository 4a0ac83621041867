"""`aweigh bench scheduler` and `client`: the parts that need no server."""

import subprocess
import sys

import pytest

from aweigh_bench.scheduler import ANSWER_TOKENS, LONG_ASKERS, Case, Fleet, hard_cases
from tests.bench.commands import bench
from tests.cli.command import ENTRY, environment

HARD = {case.name: case for case in hard_cases(running=32)}


def test_every_step_computes_all_requests_even_in_a_full_pool() -> None:
    fleet = Fleet(Case("short", 1000), running=256, seed=0)
    assert [fleet.step() for _ in range(2 * ANSWER_TOKENS[1])] == [256] * 2 * ANSWER_TOKENS[1]
    assert fleet.finished > 256
    assert fleet.deciding_s > 0


@pytest.mark.parametrize("name", HARD)
def test_a_hard_case_stays_as_hard_as_it_says(name: str) -> None:
    fleet = Fleet(HARD[name], running=32, seed=0)
    assert [fleet.step() for _ in range(700)][-600:] == [32] * 600
    assert fleet.finished > 32
    assert fleet.num_waiting == (LONG_ASKERS if HARD[name].long_waits else 0)


async def test_deciding_is_measured_for_each_pool_and_each_hard_case() -> None:
    done = await bench(
        "scheduler", "--running=8", "--pools=100,1000", "--steps=30", "--output=json"
    )
    names = ["short, 100 blocks", "short, 1,000 blocks", *HARD]
    assert [row["requests"] for row in done.rows()] == names
    assert {row["running"] for row in done.rows()} == {8.0}
    assert done.figures["naming_ns_per_token"] > 0
    assert len(done.bars()) == len(names) + 2


def test_deciding_is_measured_without_the_libraries_of_a_server() -> None:
    absent = "import sys; sys.modules.update(dict.fromkeys(['torch', 'llguidance'])); "
    done = subprocess.run(
        [sys.executable, "-c", absent + ENTRY, "bench", "scheduler", "--running=4", "--steps=10",
         "--pools=100"],
        env=environment(), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "short, 100 blocks" in done.stdout


async def test_the_client_measures_itself() -> None:
    done = await bench("client", "--streams=4", "--seconds=0.2", "--output=json")
    assert done.figures["events_per_s"] > 1000
