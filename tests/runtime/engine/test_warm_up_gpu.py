"""Once a server is ready, no step on a GPU waits for a compiler."""

import pytest

from aweigh_runtime.engine.messages import Submission
from tests.kernels.test_product_kernels_gpu import compiled
from tests.runtime.engine.test_run_ahead_gpu import GREEDY, built, run

pytestmark = pytest.mark.gpu

ALONE = (1, 2, 5, 16, 17, 31, 33, 50, 64, 65, 100, 128, 129, 200, 256, 257, 300, 400, 500)
TOGETHER = (2, 3, 5, 9, 12, 16)  # prompts of 100 tokens


@pytest.mark.parametrize("quantization", ["auto", "fp8", "int8", "int4"])
def test_steps_of_any_size_find_their_kernels(quantization: str) -> None:
    engine = built(quantization)
    ready = compiled()
    assert any(ready.values())
    for requests, length in [*((1, each) for each in ALONE), *((each, 100) for each in TOGETHER)]:
        prompt = [6 + place % 1000 for place in range(length)]
        run(engine, [Submission(id, prompt, 3, [], GREEDY) for id in range(requests)])
        assert compiled() == ready, f"{requests} prompts of {length} tokens"
