import os
from pathlib import Path

import pytest

from aweigh_runtime.engine.processors import usable_cpus

ALL = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("cpu_max", "cpus"),
    [
        ("max 100000", ALL),
        ("50000 100000", 1),
        ("150000 100000", min(ALL, 2)),
        ("6400000 100000", ALL),
        ("nonsense", ALL),
    ],
)
def test_the_containers_quota_counts(tmp_path: Path, cpu_max: str, cpus: int) -> None:
    (tmp_path / "cpu.max").write_text(cpu_max)
    assert usable_cpus(tmp_path) == cpus


@pytest.mark.parametrize(("quota", "cpus"), [("-1", ALL), ("100000", 1)])
def test_older_control_groups_are_read_too(tmp_path: Path, quota: str, cpus: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert usable_cpus(tmp_path) == cpus


def test_without_control_groups_all_processors_count(tmp_path: Path) -> None:
    assert usable_cpus(tmp_path) == ALL
