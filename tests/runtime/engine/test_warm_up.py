"""Steps before a server is ready, which tell what later ones cannot."""

from aweigh_runtime.engine.assembly import build
from aweigh_runtime.engine.messages import Start, Work
from aweigh_runtime.sources.local import builtin
from tests.runtime.engine.real import greedy

NUM_TOKENS = 160


def test_one_answer_alone_is_not_taken_for_half_of_a_steps_cost() -> None:
    """All its steps are alike: only the warm-up has seen what a second answer would add."""
    start = Start(
        uri="builtin://helmsman-8m", revision=None, secret_dir=None, cache_dir="",
        max_model_len=512, dtype="fp32", quantization="auto", kv_cache_dtype="auto",
        device="cpu", exact=False, max_running=64, step_tokens=None, block_tokens=16,
        kv_cache_bytes=32 << 20, prefix_caching=True, prefix_cache_bytes=None,
        host_memory_bytes=0,
    )  # fmt: skip
    engine, ready = build(start, builtin("helmsman-8m"), lambda done, total: None)
    engine.take(Work([greedy(1, [11, 12, 13], NUM_TOKENS)], []))
    reports = [engine.step()]
    while engine.patience_s == 0:
        reports.append(engine.step())
    fit = reports[-1].step_fit
    assert fit is not None
    assert 0 < fit.row < fit.base / 3
    assert 0 < fit.prompt_token < fit.base / 3
    assert ready.largest_step_s > fit.base
