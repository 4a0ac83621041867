"""`make bench`: every benchmark has a name, and says what it needs."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import BENCHMARKS, GPU, PARTS
from benchmarks.run_ahead_gpu import idle_shares

CHECKOUT = Path(__file__).parents[2]
FOLDER = CHECKOUT / "benchmarks"


def bench(*names: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *names]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)


def test_every_script_has_a_name_and_every_name_a_script() -> None:
    scripts = {path.stem for path in FOLDER.glob("*.py")}
    packages = {path.parent.name for path in FOLDER.glob("*/__main__.py")}
    assert {each.module for each in BENCHMARKS.values()} == (scripts | packages) - set(PARTS)


def test_all_are_listed_with_what_they_need() -> None:
    listed = bench("--list")
    assert listed.returncode == 0
    lines = {line.split()[0]: line for line in listed.stdout.splitlines()}
    assert lines.keys() == BENCHMARKS.keys()
    assert all(each.needs in lines[name] for name, each in BENCHMARKS.items())


def test_an_unknown_name_is_refused_with_those_that_there_are() -> None:
    refused = bench("operators")
    assert refused.returncode == 2
    assert (
        "there is no benchmark operators; expected common-attention, decode-steps, "
        in refused.stderr
    )


@pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="there is a GPU")
def test_what_measures_a_gpu_says_so_where_there_is_none() -> None:
    name = next(name for name, each in BENCHMARKS.items() if each.needs == GPU)
    refused = bench(name)
    assert refused.returncode == 1
    assert f"{name} needs {GPU}, which is not here" in refused.stdout


def test_a_gpu_is_idle_while_none_of_its_kernels_runs() -> None:
    overlapping = [(0.0, 40.0), (10.0, 20.0), (30.0, 50.0)]
    assert idle_shares(overlapping) == (0, 0)
    assert idle_shares([(70.0, 100.0), *overlapping]) == (0.2, 0.2)
    assert idle_shares([*overlapping, (52.0, 80.0), (90.0, 100.0)]) == (0.12, 0.1)
