"""Attention over a paged cache on a GPU, beside sums in fp64."""

import re
from dataclasses import replace

import pytest
import torch

from aweigh_kernels import paged_attention_gpu
from aweigh_kernels.paged_attention_gpu import Reads, attend, takes

pytestmark = pytest.mark.gpu

TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 1.2e-2, torch.float16: 2e-3}  # of the largest
NAN = float("nan")
FP8 = torch.float8_e4m3fn


class Case:
    """A cache in which only what is seen has numbers; all else is NaN."""

    def __init__(
        self,
        sizes: list[tuple[int, int]],  # positions before the new tokens, and how many of these
        *,
        window: int | None = None,
        cap: float | None = None,
        heads: int = 8,
        kv_heads: int = 2,
        size: int = 64,
        block: int = 16,
        dtype: torch.dtype = torch.bfloat16,
        kept: torch.dtype | None = None,
    ) -> None:
        chance = torch.Generator().manual_seed(len(sizes) + size + block)
        width = max(-(-(before + new) // block) for before, new in sizes)
        num_blocks = len(sizes) * width + 3
        self.table = torch.randperm(num_blocks, generator=chance)[: len(sizes) * width]
        self.table = self.table.view(len(sizes), width)
        kv = torch.full((num_blocks, block, 2 * kv_heads, size), NAN)
        for request, (before, new) in enumerate(sizes):
            low = 0 if window is None else max(before + 1 - window, 0)
            at = torch.arange(low, before + new)
            values = torch.randn(len(at), 2 * kv_heads, size, generator=chance)
            kv[self.table[request, at // block], at % block] = values
        self.kv = kv.to(kept or dtype).cuda()
        self.scales = (0.5, 0.25) if kept == FP8 else (1.0, 1.0)
        self.counts = [new for _, new in sizes]
        self.firsts = [sum(self.counts[:request]) for request in range(len(sizes))]
        self.seen = [before + 1 for before, _ in sizes]
        packed = torch.randn(sum(self.counts), heads + 2 * kv_heads, size, generator=chance)
        self.query = packed.to(dtype).cuda()[:, :heads]  # as in a step: tokens lie apart
        self.window, self.cap, self.scale = window, cap, size**-0.5
        self.reads = Reads.of(
            (self.firsts, self.counts, self.seen), self.table, window, torch.device("cuda")
        )

    def computed(self) -> torch.Tensor:
        assert takes(self.query, self.kv, self.reads.most_tokens)
        output = torch.full(self.query.shape, NAN, dtype=self.query.dtype, device="cuda")
        attend(
            self.query,
            self.kv,
            self.reads,
            self.scale,
            output,
            soft_cap=self.cap,
            kv_scales=self.scales,
        )
        return output

    def wanted(self) -> torch.Tensor:
        sharing = self.query.shape[1] // (self.kv.shape[2] // 2)
        rows: list[torch.Tensor] = []
        for request, (count, seen) in enumerate(zip(self.counts, self.seen, strict=True)):
            held = self.kv[self.table[request].cuda()].flatten(0, 1)
            for place in range(count):
                high = seen + place
                low = 0 if self.window is None else max(high - self.window, 0)
                keys, values = held[low:high].double().repeat_interleave(sharing, 1).chunk(2, 1)
                query = self.query[len(rows)].double()
                scores = torch.einsum("hd,thd->ht", query, keys * self.scales[0]) * self.scale
                if self.cap is not None:
                    scores = self.cap * torch.tanh(scores / self.cap)
                weights = scores.softmax(-1)
                rows.append(torch.einsum("ht,thd->hd", weights, values * self.scales[1]))
        return torch.stack(rows)

    def error(self) -> float:
        """Of the largest number."""
        wanted = self.wanted()
        return float((self.computed().double() - wanted).abs().max() / wanted.abs().max())


SIZES = [(0, 1), (15, 1), (16, 1), (17, 1), (300, 1), (5, 3), (1000, 2)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "size"), [(4, 4, 64), (8, 2, 16), (9, 3, 80), (32, 8, 128), (8, 1, 256)]
)
def test_every_number_format_and_shape_of_heads(
    dtype: torch.dtype, heads: int, kv_heads: int, size: int
) -> None:
    case = Case(SIZES, heads=heads, kv_heads=kv_heads, size=size, dtype=dtype)
    assert case.error() < TOLERANCE[dtype]


@pytest.mark.parametrize("block", [16, 32, 128])
@pytest.mark.parametrize("window", [None, 1, 5, 40, 1000])
def test_any_blocks_and_windows(block: int, window: int | None) -> None:
    assert Case(SIZES, block=block, window=window).error() < TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize("window", [None, 100])
def test_scores_are_capped(window: int | None) -> None:
    case = Case(SIZES, cap=3.0, window=window)
    assert case.error() < TOLERANCE[torch.bfloat16]
    case.scale = 40.0
    assert case.error() < TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize("heads", [(8, 2), (32, 8)])
def test_keys_and_values_of_8_bits(heads: tuple[int, int]) -> None:
    case = Case(SIZES, heads=heads[0], kv_heads=heads[1], size=128, kept=FP8)
    assert case.error() < TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize("new", [2, 5, 9, 17])
def test_drafts_of_every_length_are_verified(new: int) -> None:
    assert Case([(700, new), (3, 1), (64, new)]).error() < TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize("shares", [1, 2, 3, 7, 64, 1000])
@pytest.mark.parametrize("least", [1, 4])
def test_in_however_many_shares_it_is_the_same(
    shares: int, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paged_attention_gpu, "_num_shares", lambda *_: shares)
    monkeypatch.setattr(paged_attention_gpu, "_LEAST_TILES", least)
    case = Case([(5000, 1), (3, 1), (130, 4), (0, 1), (700, 17)])
    assert case.error() < TOLERANCE[torch.bfloat16]
    once = case.computed()
    assert all(torch.equal(case.computed(), once) for _ in range(5))


@pytest.mark.parametrize("size", [1, 2, 16, 17, 128, 129, 512])
def test_batches_of_any_size_with_requests_of_any_length(size: int) -> None:
    chance = torch.Generator().manual_seed(size)
    lengths = torch.randint(0, 700, (size,), generator=chance).tolist()
    assert Case([(length, 1) for length in lengths]).error() < TOLERANCE[torch.bfloat16]


def test_padding_reads_nothing_and_writes_nothing() -> None:
    case = Case([(300, 1), (20, 2), (90, 1)])
    wanted = case.wanted()
    case.reads.counts[1] = 0
    case.reads.seen[2] = 0
    case.reads.table[1:] = 1 << 30  # reading there would be a fault
    found = case.computed()
    assert found[1:].isnan().all()
    assert (found[0].double() - wanted[0]).abs().max() < 1.2e-2 * wanted[0].abs().max()


def test_a_recorded_graph_follows_what_requests_see() -> None:
    cases = [
        Case([(length, 1) for length in lengths])
        for lengths in ((5000, 3, 0, 800), (0, 4000, 15, 16), (1, 1, 5000, 5000))
    ]
    width = max(case.table.shape[1] for case in cases)
    most_blocks = max(len(case.kv) for case in cases)
    query, output = (
        torch.empty_like(cases[0].query),
        torch.empty(4, 8, 64, device="cuda").bfloat16(),
    )
    kv = torch.full((most_blocks, *cases[0].kv.shape[1:]), NAN, device="cuda").bfloat16()
    fixed = Reads.of(
        ([0, 1, 2, 3], [1] * 4, [0] * 4), torch.zeros(4, width), None, torch.device("cuda")
    )
    attend(query, kv, fixed, 0.125, output)  # compiles it
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        attend(query, kv, fixed, 0.125, output)
    for case in [*cases, *cases]:
        query.copy_(case.query)
        kv[: len(case.kv)] = case.kv
        fixed.seen.copy_(case.reads.seen)
        fixed.table[:, : case.table.shape[1]] = case.reads.table
        output.fill_(NAN)
        graph.replay()
        wanted = case.wanted()
        assert (output.double() - wanted).abs().max() < 1.2e-2 * wanted.abs().max()


def test_many_requests_and_long_ones() -> None:
    assert Case([(length % 700, 1) for length in range(0, 7000, 23)]).error() < 1.2e-2
    assert Case([(40_000, 1)], heads=32, kv_heads=8, size=128).error() < 1.2e-2


def test_a_step_without_such_tokens_writes_nothing() -> None:
    case = Case([(3, 1)])
    case.reads = Reads.of(([], [], []), case.table[:0], None, torch.device("cuda"))
    assert case.computed().isnan().all()


def test_what_it_does_not_take_is_left_to_torch() -> None:
    case = Case([(3, 1)])
    assert not takes(case.query.double(), case.kv.double(), 1)
    assert not takes(case.query.half(), case.kv, 1)
    assert not takes(case.query.cpu(), case.kv.cpu(), 1)
    assert not takes(case.query, case.kv, 33)  # times four heads: too many rows


def test_memory_that_is_laid_out_otherwise_is_refused_by_name() -> None:
    case, output = Case([(3, 1)]), torch.empty(1, 8, 64, dtype=torch.bfloat16, device="cuda")
    for query, kv, target, said in (
        (case.query, case.kv.float(), output, "kv is torch.float32"),
        (case.query, case.kv.transpose(0, 1), output, "kv has strides"),
        (case.query, case.kv, output.float(), "output is float32"),
        (case.query[:, :5], case.kv, output[:, :5], "kv is torch.bfloat16"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            attend(query, kv, replace(case.reads), 1.0, target)
