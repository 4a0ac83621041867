"""Products with weights of 8 bits, and the rounding before them, without a GPU."""

import json
import subprocess
import sys


def test_every_kind_of_rounding_and_product_is_what_its_reference_says() -> None:
    command = [sys.executable, "-m", "tests.kernels.interpreted_bytes"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []
