"""How many threads torch uses: on a CPU, some that only wait for each other are worse than none."""

import os

import torch

from aweigh_runtime.engine.processors import usable_cpus

_WEIGHTS_PER_THREAD_BYTES = 64 << 20  # with less, a second thread slows a step down


def use_threads(device: torch.device, weights_bytes: int) -> None:
    """As many as a model of this size keeps busy, unless OMP_NUM_THREADS says it."""
    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        useful = max(1, weights_bytes // _WEIGHTS_PER_THREAD_BYTES)
        torch.set_num_threads(min(usable_cpus(), useful))
