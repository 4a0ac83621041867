"""The kernels of sampling without a GPU, number by number."""

import json
import subprocess
import sys

import pytest


@pytest.mark.parametrize("sizes", [(1, 7), (5003,)], ids=["few tokens", "more than are listed"])
def test_rows_of_every_kind_get_the_tokens_that_torch_draws(sizes: tuple[int, ...]) -> None:
    command = [sys.executable, "-m", "tests.kernels.interpreted_sampling", *map(str, sizes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []
