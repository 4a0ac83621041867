"""Runs modules that check kernels in Triton's interpreter: it is chosen for a whole process."""

import json
import subprocess
import sys


def expect_nothing_wrong(module: str, *arguments: str) -> None:
    """It prints, as JSON, what went wrong."""
    command = [sys.executable, "-W", "ignore", "-m", f"tests.kernels.{module}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    wrong = json.loads(done.stdout)
    assert not wrong, wrong
