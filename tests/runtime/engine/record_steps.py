"""Records what steps of a real engine computed, and how long that took.

    python -m tests.runtime.engine.record_steps > tests/runtime/engine/recorded_steps.json

First the warm-up's steps, then those of chats that come and go: some at first, many at last.
"""

import json
import random
import sys

from aweigh_runtime.engine.assembly import parts
from aweigh_runtime.engine.loop import Engine
from aweigh_runtime.engine.messages import Start, Work
from aweigh_runtime.engine.step_fit import Load, StepFitter
from aweigh_runtime.sources.local import builtin
from tests.runtime.engine.real import greedy

NUM_STEPS = 1200
START = Start(
    uri="builtin://helmsman-8m", revision=None, secret_dir=None, cache_dir="",
    max_model_len=1024, dtype="auto", quantization="auto", kv_cache_dtype="auto",
    device="cpu", exact=False, max_running=64, step_tokens=None, block_tokens=16,
    kv_cache_bytes=64 << 20, prefix_caching=True, prefix_cache_bytes=None,
    host_memory_bytes=0,
)  # fmt: skip


class Recorder(StepFitter):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[int | float, ...]] = []

    def observe(self, load: Load, seconds: float) -> None:
        self.steps.append((*load, round(seconds, 6)))


def main() -> None:
    made = parts(START, builtin("helmsman-8m"), lambda done, total: None)
    engine = Engine(made.scheduler, made.forward, made.sampler, made.compiler, made.copy)
    engine.step_fitter = recorder = Recorder()
    chance, asked = random.Random(1), 0
    while len(recorder.steps) < NUM_STEPS:
        busy = 4 if len(recorder.steps) < NUM_STEPS // 2 else 32
        if made.scheduler.num_running + made.scheduler.num_waiting < chance.randint(1, busy):
            asked += 1
            prompt = [chance.randrange(6, 8000) for _ in range(chance.randint(16, 400))]
            engine.take(Work([greedy(asked, prompt, chance.randint(20, 200))], []))
        engine.step()
    known = [(*step.load, round(step.seconds, 6)) for step in made.known_steps]
    json.dump({"known": known, "steps": recorder.steps}, sys.stdout)


if __name__ == "__main__":
    main()
