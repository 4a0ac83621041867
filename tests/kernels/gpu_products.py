"""What holds of every product on a GPU, whatever its weight is made of."""

from collections.abc import Callable

import torch

NAN = float("nan")
Multiply = Callable[[torch.Tensor], torch.Tensor]


def expect_repeats(multiply: Multiply, x: torch.Tensor) -> None:
    """To the bit."""
    once = multiply(x)
    found = [multiply(x) for _ in range(100)]  # each of which may start while the last one ends
    assert all(torch.equal(each, once) for each in found)


def expect_tokens_apart(multiply: Multiply, x: torch.Tensor) -> None:
    """One without numbers has none, and the others are as they were."""
    whole = multiply(x)
    others = torch.arange(len(x), device=x.device) != 1
    found = multiply(torch.where(others[:, None], x, NAN))
    assert torch.equal(found[others], whole[others])
    assert bool(found[1].isnan().all())


def expect_same_in_graphs(multiply: Multiply, x: torch.Tensor) -> None:
    """Where each needs the one before, and the host waits for none."""

    def chain(*, waits: bool) -> torch.Tensor:
        found = x
        for _ in range(10):
            found = multiply(found)
            if waits:
                torch.cuda.synchronize()
        return found

    wanted = chain(waits=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = chain(waits=False)
    for _ in range(5):
        found.fill_(NAN)
        graph.replay()
        assert torch.equal(found, wanted)
