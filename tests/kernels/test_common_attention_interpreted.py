"""Attention to what requests have in common without a GPU, beside sums in fp64."""

import json
import subprocess
import sys


def test_requests_find_together_what_each_would_find_by_itself() -> None:
    command = [sys.executable, "-m", "tests.kernels.interpreted_common"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {}
