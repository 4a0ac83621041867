"""Routing and grouped products without a GPU, number by number."""

import json
import subprocess
import sys

import pytest


@pytest.mark.parametrize("part", ["routing", "dense", "ints", "bytes"])
def test_each_token_gets_what_its_own_experts_find(part: str) -> None:
    """Experts without tokens, with one and with many; ties; matrices of all kinds."""
    command = [sys.executable, "-m", "tests.kernels.interpreted_experts", part]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []
