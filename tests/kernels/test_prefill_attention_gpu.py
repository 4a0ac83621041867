"""Attention of prompts over a paged cache on a GPU, beside sums in fp32 and torch's own error."""

import re

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from aweigh_kernels.prefill_attention_gpu import Tiles, attend, takes, tile_tokens

pytestmark = pytest.mark.gpu

TOLERANCE = {torch.bfloat16: 1.2e-2, torch.float16: 2e-3}  # of the largest number
NAN = float("nan")
FP8 = torch.float8_e4m3fn


class Case:
    """Blocks that a request holds begin as zeros, as a server's do; all others are NaN."""

    def __init__(
        self,
        sizes: list[tuple[int, int]],  # cached positions, and new tokens behind them
        *,
        window: int | None = None,
        cap: float | None = None,
        heads: int = 8,
        kv_heads: int = 2,
        size: int = 128,
        block: int = 16,
        dtype: torch.dtype = torch.bfloat16,
        kept: torch.dtype | None = None,
    ) -> None:
        chance = torch.Generator(device="cuda").manual_seed(len(sizes) + size + block)
        width = max(-(-(before + new) // block) for before, new in sizes)
        num_blocks = len(sizes) * width + 3
        order = torch.randperm(num_blocks, generator=chance, device="cuda")
        self.table = order[: len(sizes) * width].view(len(sizes), width)
        kv = torch.full((num_blocks, block, 2 * kv_heads, size), NAN, device="cuda")
        for request, (before, new) in enumerate(sizes):
            low = 0 if window is None else max(before + 1 - window, 0)
            at = torch.arange(low, before + new, device="cuda")
            values = torch.randn(len(at), 2 * kv_heads, size, generator=chance, device="cuda")
            kv[self.table[request, at // block]] = 0
            kv[self.table[request, at // block], at % block] = values
            used = -(-(before + new) // block)
            self.table[request, used:] = self.table[request, used - 1]
        self.kv = kv.to(kept or dtype)
        self.scales = (0.5, 0.25) if kept == FP8 else (1.0, 1.0)
        self.before, self.counts = [before for before, _ in sizes], [new for _, new in sizes]
        self.firsts = [sum(self.counts[:request]) for request in range(len(sizes))]
        packed = torch.randn(
            sum(self.counts), heads + 2 * kv_heads, size, generator=chance, device="cuda"
        )
        self.query = packed.to(dtype)[:, :heads]  # as in a step: tokens lie apart
        self.window, self.cap, self.scale = window, cap, size**-0.5

    def tiles(self) -> Tiles:
        return Tiles.of(
            (self.firsts, self.counts, self.before),
            self.table.cpu().numpy(),
            tile_tokens(self.query, self.kv),
            self.window,
            torch.device("cuda"),
        )

    def computed(self) -> torch.Tensor:
        assert takes(self.query, self.kv)
        output = torch.full(self.query.shape, NAN, dtype=self.query.dtype, device="cuda")
        attend(
            self.query,
            self.kv,
            self.tiles(),
            self.scale,
            output,
            soft_cap=self.cap,
            kv_scales=self.scales,
        )
        return output

    def seen(self, request: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of one request, [H, positions, D], fp32."""
        sharing = self.query.shape[1] // (self.kv.shape[2] // 2)
        end = self.before[request] + self.counts[request]
        held = self.kv[self.table[request]].flatten(0, 1)[:end].float().nan_to_num()
        keys, values = held.repeat_interleave(sharing, 1).transpose(0, 1).chunk(2, 0)
        return keys * self.scales[0], values * self.scales[1]

    def rows(self, request: int) -> slice:
        return slice(self.firsts[request], self.firsts[request] + self.counts[request])

    def wanted(self) -> torch.Tensor:
        found = torch.empty(self.query.shape, device="cuda")
        for request, (before, new) in enumerate(zip(self.before, self.counts, strict=True)):
            keys, values = self.seen(request)
            query = self.query[self.rows(request)].float().transpose(0, 1)
            scores = query @ keys.transpose(1, 2) * self.scale
            if self.cap is not None:
                scores = self.cap * torch.tanh(scores / self.cap)
            own = torch.arange(before, before + new, device="cuda")[:, None]
            position = torch.arange(before + new, device="cuda")
            hidden = position > own
            if self.window is not None:
                hidden |= position <= own - self.window
            weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
            found[self.rows(request)] = (weights @ values).transpose(0, 1)
        return found

    def error(self) -> float:
        """Of the largest number."""
        wanted = self.wanted()
        return float((self.computed().float() - wanted).abs().max() / wanted.abs().max())


SIZES = [(0, 1), (0, 15), (0, 16), (0, 17), (16, 129), (300, 40), (5, 333), (2000, 128), (31, 2)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "size"),
    [(4, 4, 64), (8, 2, 64), (9, 3, 80), (32, 8, 128), (7, 1, 128), (40, 8, 96), (8, 4, 256)],
)
def test_every_number_format_and_shape_of_heads(
    dtype: torch.dtype, heads: int, kv_heads: int, size: int
) -> None:
    case = Case(SIZES, heads=heads, kv_heads=kv_heads, size=size, dtype=dtype)
    assert case.error() < TOLERANCE[dtype]


@pytest.mark.parametrize(
    ("size", "block"), [(64, 32), (128, 16), (128, 48), (128, 128), (128, 256), (256, 32)]
)
@pytest.mark.parametrize("window", [None, 1, 40, 1000])
def test_any_blocks_and_windows(size: int, block: int, window: int | None) -> None:
    case = Case(SIZES, size=size, block=block, window=window)
    assert case.error() < TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize("size", [128, 256])
@pytest.mark.parametrize("window", [None, 100])
def test_scores_are_capped(size: int, window: int | None) -> None:
    case = Case(SIZES, size=size, cap=3.0, window=window)
    assert case.error() < TOLERANCE[torch.bfloat16]
    case.scale = 40.0
    assert case.error() < TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize("window", [None, 100])
def test_keys_and_values_of_8_bits(window: int | None) -> None:
    assert Case(SIZES, kept=FP8, window=window).error() < TOLERANCE[torch.bfloat16]


def test_long_prompts_of_odd_lengths_and_a_long_cached_prefix() -> None:
    case = Case([(0, 2047), (0, 4099), (30_000, 515)], heads=8, kv_heads=2)
    assert case.error() < TOLERANCE[torch.bfloat16]


def test_many_short_prompts() -> None:
    assert Case([(0, 2 + length % 70) for length in range(300)]).error() < 1.2e-2


def test_it_errs_no_more_than_torch_does() -> None:
    case = Case([(0, 1024), (0, 300), (0, 2000)], heads=8, kv_heads=2)
    wanted, theirs = case.wanted(), torch.empty(case.query.shape, device="cuda")
    for request in range(len(case.counts)):
        operands = [case.query[case.rows(request)].transpose(0, 1), *case.seen(request)]
        query, keys, values = (each.to(torch.bfloat16)[None] for each in operands)
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            found = scaled_dot_product_attention(query, keys, values, is_causal=True)
        theirs[case.rows(request)] = found[0].transpose(0, 1).float()
    ours = case.computed().float()
    assert (ours - wanted).norm() <= 1.02 * (theirs - wanted).norm()


def test_it_is_the_same_bits_again() -> None:
    case = Case([(0, 3000), (700, 900), (0, 17)], heads=32, kv_heads=8)
    once = case.computed()
    assert all(torch.equal(case.computed(), once) for _ in range(20))


def test_other_rows_are_left_alone() -> None:
    case = Case([(0, 33), (0, 50), (0, 7)])
    del case.firsts[1], case.counts[1], case.before[1]
    case.table = case.table[[0, 2]]
    output = case.computed()
    assert output[33:83].isnan().all()
    assert not output[:33].isnan().any()
    assert not output[83:].isnan().any()


def test_a_step_without_prompts_writes_nothing() -> None:
    case = Case([(3, 1)])
    case.firsts, case.counts, case.before = [], [], []
    case.table = case.table[:0]
    assert case.computed().isnan().all()


def test_what_it_does_not_take_is_left_to_torch() -> None:
    case = Case([(3, 1)])
    assert not takes(case.query.float(), case.kv.float())
    assert not takes(case.query.half(), case.kv)
    assert not takes(case.query.cpu(), case.kv.cpu())
    assert not takes(case.query.requires_grad_(), case.kv)


def test_memory_that_is_laid_out_otherwise_is_refused_by_name() -> None:
    case, output = Case([(3, 1)]), torch.empty(1, 8, 128, dtype=torch.bfloat16, device="cuda")
    tiles = case.tiles()
    others = Tiles.of(([0], [1], [3]), np.zeros((1, 1), np.int64), 5, None, torch.device("cuda"))
    for query, kv, made, target, said in (
        (case.query, case.kv.float(), tiles, output, "kv is torch.float32"),
        (case.query, case.kv.transpose(0, 1), tiles, output, "kv has strides"),
        (case.query, case.kv, tiles, output.float(), "output is float32"),
        (case.query[:, :5], case.kv, tiles, output[:, :5], "kv is torch.bfloat16"),
        (case.query, case.kv, others, output, "tiles are of 5 tokens"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            attend(query, kv, made, 1.0, target)
