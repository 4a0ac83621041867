"""Attention over a paged cache on a CPU, beside sums in fp64."""

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aweigh_kernels.paged_attention import Rows, attend, takes

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}  # of the largest
NAN = float("nan")


@pytest.fixture(autouse=True)
def as_many_threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Case:
    """A cache in which only what is seen has numbers; all else is NaN."""

    def __init__(
        self,
        spans: list[tuple[int, int]],
        *,
        heads: int = 4,
        kv_heads: int = 2,
        size: int = 64,
        block: int = 16,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        chance = torch.Generator().manual_seed(len(spans) + size + block)
        count = len(spans)
        width = max(-(-high // block) for _, high in spans)
        table = torch.randperm(count * width + 3, generator=chance)[: count * width]
        self.kv = torch.full((count * width + 3, block, 2 * kv_heads, size), NAN, dtype=dtype)
        self.table = table.view(count, width)
        for request, (low, high) in enumerate(spans):
            for at in range(low, high):
                values = torch.randn(2 * kv_heads, size, generator=chance)
                self.kv[self.table[request, at // block], at % block] = values.to(dtype)
        order = torch.randperm(count, generator=chance)
        packed = torch.randn(count, heads + 2 * kv_heads, size, generator=chance).to(dtype)
        self.query = packed[:, :heads]  # as in a step: tokens lie apart
        lows, highs = np.array(spans, dtype=np.int64).T.copy()
        self.rows = Rows(
            order.numpy(), np.arange(count), lows, highs, np.ascontiguousarray(self.table.numpy())
        )
        self.scale = size**-0.5

    def computed(self) -> torch.Tensor:
        assert takes(self.query, self.kv)
        output = torch.full(self.query.shape, NAN, dtype=self.query.dtype)
        attend(self.query, self.kv, self.rows, self.scale, output)
        return output

    def wanted(self) -> torch.Tensor:
        """In fp64, one request after the other."""
        found = torch.empty(self.query.shape, dtype=torch.float64)
        sharing = self.query.shape[1] // (self.kv.shape[2] // 2)
        for row, token in enumerate(self.rows.tokens):
            seen = self.kv[self.table[row]].flatten(0, 1).double()
            seen = seen[self.rows.lows[row] : self.rows.highs[row]]
            keys, values = seen.repeat_interleave(sharing, 1).chunk(2, 1)
            scores = torch.einsum("hd,thd->ht", self.query[token].double(), keys) * self.scale
            found[token] = torch.einsum("ht,thd->hd", scores.softmax(-1), values)
        return found

    def error(self) -> float:
        """Of the largest number."""
        wanted = self.wanted()
        return float((self.computed().double() - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [16, 32, 64, 80, 128, 256])
@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (4, 4), (8, 2), (9, 3), (32, 1)])
def test_every_number_format_and_shape_of_heads(
    dtype: torch.dtype, size: int, heads: int, kv_heads: int
) -> None:
    spans = [(0, 1), (0, 33), (5, 16), (0, 200)]
    case = Case(spans, heads=heads, kv_heads=kv_heads, size=size, dtype=dtype)
    assert case.error() < TOLERANCE[dtype]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(1, 300)), min_size=1, max_size=12),
    st.sampled_from([1, 7, 16, 64, 100]),
    st.integers(1, 3),
)
def test_any_spans_blocks_and_threads(
    spans: list[tuple[int, int]], block: int, num_threads: int
) -> None:
    torch.set_num_threads(num_threads)
    case = Case([(low, low + count) for low, count in spans], block=block)
    assert case.error() < TOLERANCE[torch.float32]


def test_threads_share_the_work_and_change_nothing() -> None:
    case = Case([(0, 3000), (0, 9), (100, 4000), (0, 2500), (0, 1), (0, 6000)])
    torch.set_num_threads(1)
    alone = case.computed()
    for num_threads in (2, 3, 8):
        parts = case.rows.parts(num_threads)
        assert [row for part in parts for row in part] == list(range(6))
        assert len(parts) > 1
        torch.set_num_threads(num_threads)
        assert torch.equal(case.computed(), alone)


def test_a_token_gets_the_same_bits_with_others_and_alone() -> None:
    case = Case([(0, 70), (0, 500), (3, 90)], dtype=torch.bfloat16)
    together = case.computed()
    for row, token in enumerate(case.rows.tokens):
        only = slice(row, row + 1)
        rows = Rows(
            case.rows.tokens[only], case.rows.requests[only], case.rows.lows[only],
            case.rows.highs[only], case.rows.table,
        )  # fmt: skip
        output = torch.full(case.query.shape, NAN, dtype=case.query.dtype)
        attend(case.query, case.kv, rows, case.scale, output)
        assert torch.equal(output[token], together[token])
        assert output.isnan().sum() == output.numel() - output[token].numel()


@pytest.mark.parametrize("factor", [1e-4, 40.0, 1e4])
def test_scores_of_any_size_make_weights_that_sum_to_one(factor: float) -> None:
    case = Case([(0, 120), (0, 17)])
    case.scale = factor
    assert case.error() < 1e-4  # a score of 1e5 has errors of 1e-2 in fp32


def test_what_it_does_not_take_is_left_to_torch() -> None:
    case = Case([(0, 4)])
    assert not takes(case.query.double(), case.kv.double())
    assert not takes(case.query.bfloat16(), case.kv)
    assert not takes(case.query[..., :24], case.kv[..., :24].contiguous())  # no whole vectors
    assert not takes(case.query, case.kv.transpose(0, 1))
    assert not takes(case.query.clone().requires_grad_(), case.kv)


@pytest.mark.parametrize("compiler", ["", "/bin/false"], ids=["none", "one that fails"])
def test_without_a_compiler_torch_computes_and_it_is_said_once(compiler: str) -> None:
    program = (
        "import logging, torch; logging.basicConfig()\n"
        "from aweigh_kernels.paged_attention import takes\n"
        "kv = torch.zeros(1, 16, 4, 64)\n"
        "print([takes(torch.zeros(1, 4, 64), kv) for _ in range(3)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PATH": "/nowhere", "CC": compiler, "PYTHONPATH": ":".join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[False, False, False]"
    assert done.stderr.count("WARNING") == 1
    assert "torch" in done.stderr
