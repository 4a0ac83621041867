"""What each kernel of a layer adds, of when each of a step ended."""

from benchmarks.layer_kernels import added


def test_a_kernel_adds_what_passes_between_the_end_before_and_its_own() -> None:
    step = [("embed", 2.0), *[("attend_share", 5.0), ("join", 1.5), ("multiply", 8.0)] * 3]
    step += [("head", 200.0)] * 21
    ends, now = [], 0.0
    for name, us in step * 2:
        now += us
        ends.append((now, name))
    assert added(ends) == [("attend_share", 5.0), ("join", 1.5), ("multiply", 8.0)]


def test_a_step_without_our_attention_has_no_layers() -> None:
    assert added([(1.0, "gemm"), (2.0, "gemm")]) == []
