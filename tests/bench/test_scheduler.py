"""`aweigh bench scheduler` and `client`: the parts that need no server."""

from aweigh_bench.scheduler import ANSWER_TOKENS, Fleet
from tests.bench.commands import bench


def test_every_step_computes_all_requests_even_in_a_full_pool() -> None:
    fleet = Fleet(num_blocks=1000, running=256, seed=0)
    assert [fleet.step() for _ in range(2 * ANSWER_TOKENS[1])] == [256] * 2 * ANSWER_TOKENS[1]
    assert fleet.finished > 256
    assert fleet.deciding_s > 0


async def test_deciding_is_measured_for_each_pool() -> None:
    done = await bench(
        "scheduler", "--running=8", "--pools=100,1000", "--steps=30", "--output=json"
    )
    assert [row["blocks"] for row in done.rows()] == ["100", "1,000"]
    assert {row["running"] for row in done.rows()} == {8.0}
    assert done.figures["naming_ns_per_token"] > 0
    assert len(done.bars()) == 3


async def test_the_client_measures_itself() -> None:
    done = await bench("client", "--streams=4", "--seconds=0.2", "--output=json")
    assert done.figures["events_per_s"] > 1000
