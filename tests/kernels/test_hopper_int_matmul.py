"""The kernel of many tokens and integers without a GPU; `conftest.py` says how."""

import json
from collections import defaultdict
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aweigh_kernels import hopper_int_matmul
from aweigh_kernels.hopper_int_matmul import CLUSTER, TILES, Schedule, launch, schedule
from aweigh_kernels.int_matmul import LEAST_TOKENS_HOPPER
from aweigh_kernels.int_weight import IntWeight
from aweigh_kernels.tile_matmul import Workspace
from tests.kernels.architectures import PROCESSORS
from tests.kernels.exact import expect_exact
from tests.kernels.test_cuda_int_matmul import BF16, FP16, WHOLE, packed
from tests.kernels.weights import Draw

CLUSTERS = 3
MEASURED = Path(__file__).parents[2] / "benchmarks/results/int-divisions-gpu.json"


@pytest.fixture
def workspace(workspace_on_cpu: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """So few clusters run at once that some have several tiles."""
    monkeypatch.setattr(hopper_int_matmul, "starts_early", lambda _: True)
    monkeypatch.setattr(hopper_int_matmul, "_blocks", lambda _: CLUSTERS * CLUSTER)
    return workspace_on_cpu


def divided(tile: tuple[int, int], tokens: int, rows: int, sharers: int) -> Schedule:
    """With as many clusters that share tiles, if any are left to share."""
    whole = Schedule.of(tile, tokens, rows, CLUSTERS)
    return replace(whole, sharers=max(whole.shared, sharers) if whole.shared else 0)


def drawn(shape: tuple[int, int], bits: int, group: int, dtype: torch.dtype) -> IntWeight:
    """Scales are of x's number format: they are not rounded."""
    weight = Draw(sum(shape)).ints(*shape, bits, group, asymmetric=True)
    return replace(weight, scale=weight.scale.to(dtype))


@pytest.mark.parametrize("dtype", [BF16, FP16], ids=str)
@pytest.mark.parametrize(
    ("shape", "bits", "group", "tile", "sharers"),
    [
        ((300, 256), 4, 128, (128, 256), 3),  # two tiles: one cluster has a part of both
        ((520, 384), 4, WHOLE, (256, 128), 0),
        ((64, 512), 4, 256, (256, 64), 3),  # six whole tiles, then two
        ((33, 200), 4, WHOLE, (128, 64), 2),
        ((150, 200), 8, WHOLE, (128, 128), 3),
        ((300, 128), 8, 64, (256, 64), 3),
    ],
)
def test_one_hot_activations_read_the_weights_exactly(
    shape: tuple[int, int],
    bits: int,
    group: int,
    tile: tuple[int, int],
    sharers: int,
    dtype: torch.dtype,
    workspace: Workspace,
) -> None:
    weight = drawn(shape, bits, group, dtype)
    found = torch.full((shape[1], shape[0]), torch.nan, dtype=dtype)
    hot = torch.eye(shape[1], dtype=dtype)
    chosen = divided(tile, shape[1], shape[0], sharers)
    launch(hot, packed(weight), found, workspace.scratch, chosen)
    assert torch.equal(found, weight.dense(dtype).T)
    assert not workspace.scratch.arrived.any()


@pytest.mark.parametrize(
    ("shape", "bits", "group", "dtype", "tokens", "tile", "sharers"),
    [
        ((257, 1024), 4, 128, BF16, 65, (256, 64), 3),
        ((1100, 384), 4, 128, FP16, 40, (128, 64), 3),
        ((100, 1000), 4, WHOLE, BF16, 130, (128, 128), 3),
        ((31, 7), 4, WHOLE, FP16, 97, (256, 128), 1),
        ((100, 320), 8, 64, BF16, 130, (128, 128), 3),
        ((257, 192), 8, WHOLE, FP16, 40, (256, 64), 3),
    ],
)
def test_a_product_is_that_of_the_weights_rounded(
    shape: tuple[int, int],
    bits: int,
    group: int,
    dtype: torch.dtype,
    tokens: int,
    tile: tuple[int, int],
    sharers: int,
    workspace: Workspace,
) -> None:
    weight = drawn(shape, bits, group, dtype)
    x = Draw(tokens).normal(tokens, shape[1]).to(dtype)
    x[0] = torch.nan  # which no other token sees
    found = torch.full((tokens, shape[0]), torch.nan, dtype=dtype)
    chosen = divided(tile, tokens, shape[0], sharers)
    launch(x, packed(weight), found, workspace.scratch, chosen)
    assert bool(found[0].isnan().all())
    expect_exact(found[1:], x[1:], weight.dense(dtype))


@given(
    rows=st.integers(1, 900),
    steps=st.integers(1, 6),
    tokens=st.integers(1, 150),
    clusters=st.integers(1, 5),
    more=st.integers(0, 4),
)
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_however_steps_are_divided_each_is_added_once(
    rows: int, steps: int, tokens: int, clusters: int, more: int, workspace: Workspace
) -> None:
    draw, columns = Draw(rows), 128 * steps
    q = draw.integers(0, 16, rows, columns).to(torch.uint8)
    weight = IntWeight(q=q, scale=torch.ones(rows, 1), bits=4, group=columns)
    x = draw.integers(-8, 9, tokens, columns).to(BF16)  # sums are exact in any order
    whole = Schedule.of((128, 64), tokens, rows, clusters)
    most = min(clusters, whole.shared * steps)  # each has a step at least
    chosen = replace(whole, sharers=min(whole.shared + more, most) if whole.shared else 0)
    found = torch.full((tokens, rows), torch.nan, dtype=BF16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hopper_int_matmul, "_blocks", lambda _: clusters * CLUSTER)
        launch(x, packed(weight), found, workspace.scratch, chosen)
    assert torch.equal(found, (x.float() @ weight.dense().T).to(BF16))
    assert not workspace.scratch.arrived.any()


def test_each_number_of_tokens_has_room_for_what_clusters_leave_to_each_other() -> None:
    sizes = ((1, 16), (4096, 4096), (6144, 4096), (28_672, 4096), (4096, 14_336), (57_344, 8192))
    for shape, bits in product(sizes, hopper_int_matmul.BITS):
        for tokens in (*range(LEAST_TOKENS_HOPPER[bits], 1025), 8192):
            chosen = schedule(tokens, shape, bits, PROCESSORS)
            assert (chosen.rows, chosen.tokens) in TILES
            assert chosen.shared <= chosen.sharers <= PROCESSORS // CLUSTER
            assert chosen.whole % (PROCESSORS // CLUSTER) == 0
            assert chosen.sums <= PROCESSORS * 64 * 1024


def test_what_is_chosen_is_nearly_the_best_that_was_measured() -> None:
    found = json.loads(MEASURED.read_text())["tables"][0]["rows"]
    cells: dict[tuple[int, ...], dict[Schedule, float]] = defaultdict(dict)
    for *cell, rows, tokens, whole, shared, sharers, us in found:
        cells[tuple(cell)][Schedule(rows, tokens, whole, shared, sharers)] = us
    assert len(cells) >= 60
    for (rows, columns, bits, tokens), times in cells.items():
        chosen = schedule(tokens, (rows, columns), bits, PROCESSORS)
        assert times[chosen] <= 1.05 * min(times.values()), (rows, columns, bits, tokens)
