"""The kernel of many tokens and integers of 4 bits without a GPU; `conftest.py` says how."""

from dataclasses import replace

import pytest
import torch

from aweigh_kernels import hopper_int_matmul
from aweigh_kernels.hopper_int_matmul import CLUSTER, TILES, Schedule, launch, schedule
from aweigh_kernels.int_matmul import LEAST_TOKENS_HOPPER
from aweigh_kernels.int_weight import IntWeight
from aweigh_kernels.tile_matmul import Workspace
from tests.kernels.architectures import PROCESSORS
from tests.kernels.exact import expect_exact
from tests.kernels.test_cuda_int_matmul import BF16, FP16, WHOLE, packed
from tests.kernels.weights import Draw


@pytest.fixture
def workspace(workspace_on_cpu: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Two clusters run at once: others come after them."""
    monkeypatch.setattr(hopper_int_matmul, "starts_early", lambda _: True)
    monkeypatch.setattr(hopper_int_matmul, "_blocks", lambda _: 2 * CLUSTER)
    return workspace_on_cpu


def drawn(shape: tuple[int, int], group: int, dtype: torch.dtype) -> IntWeight:
    """Scales are of x's number format: they are not rounded."""
    weight = Draw(sum(shape)).ints(*shape, 4, group, asymmetric=True)
    return replace(weight, scale=weight.scale.to(dtype))


@pytest.mark.parametrize("dtype", [BF16, FP16], ids=str)
@pytest.mark.parametrize(
    ("shape", "group", "chosen"),
    [
        ((300, 256), 128, Schedule(128, 256, 1)),
        ((520, 384), WHOLE, Schedule(256, 128, 2)),
        ((64, 512), 256, Schedule(256, 96, 2)),
        ((33, 200), WHOLE, Schedule(128, 64, 1)),
    ],
)
def test_one_hot_activations_read_the_weights_exactly(
    shape: tuple[int, int],
    group: int,
    chosen: Schedule,
    dtype: torch.dtype,
    workspace: Workspace,
) -> None:
    weight = drawn(shape, group, dtype)
    found = torch.full((shape[1], shape[0]), torch.nan, dtype=dtype)
    hot = torch.eye(shape[1], dtype=dtype)
    launch(hot, packed(weight), found, workspace.scratch, chosen)
    assert torch.equal(found, weight.dense(dtype).T)


@pytest.mark.parametrize(
    ("shape", "group", "dtype", "tokens", "chosen"),
    [
        ((257, 1024), 128, BF16, 65, Schedule(256, 64, 3)),
        ((1100, 384), 128, FP16, 40, Schedule(128, 64, 1)),
        ((100, 1000), WHOLE, BF16, 130, Schedule(128, 128, 1)),
        ((31, 7), WHOLE, FP16, 97, Schedule(256, 96, 1)),
    ],
)
def test_a_product_is_that_of_the_weights_rounded(
    shape: tuple[int, int],
    group: int,
    dtype: torch.dtype,
    tokens: int,
    chosen: Schedule,
    workspace: Workspace,
) -> None:
    weight = drawn(shape, group, dtype)
    x = Draw(tokens).normal(tokens, shape[1]).to(dtype)
    x[0] = torch.nan  # which no other token sees
    found = torch.full((tokens, shape[0]), torch.nan, dtype=dtype)
    launch(x, packed(weight), found, workspace.scratch, chosen)
    assert bool(found[0].isnan().all())
    expect_exact(found[1:], x[1:], weight.dense(dtype))


def test_each_number_of_tokens_has_room_for_what_blocks_leave_to_each_other() -> None:
    sizes = ((1, 16), (4096, 4096), (6144, 4096), (28_672, 4096), (4096, 14_336), (57_344, 8192))
    for shape in sizes:
        for tokens in (*range(LEAST_TOKENS_HOPPER, 1025), 8192):
            chosen = schedule(tokens, shape, PROCESSORS)
            assert (chosen.rows, chosen.tokens) in TILES
            blocks = CLUSTER * chosen.tiles(tokens, shape[0]) * chosen.splits
            if chosen.splits > 1:
                assert blocks <= PROCESSORS
                assert blocks * chosen.rows * chosen.tokens <= PROCESSORS * 64 * 512
