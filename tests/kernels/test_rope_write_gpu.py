"""Rotary embedding and the write into the cache on a GPU, beside torch's, to the bit."""

import re
from dataclasses import dataclass, replace

import pytest
import torch

from aweigh_kernels.rope_write import FP8, reference, rope_write

pytestmark = pytest.mark.gpu

BOTH = [torch.bfloat16, torch.float16]
NAN = float("nan")


@dataclass(frozen=True)
class Case:
    """A step's heads, and a cache that holds NaN."""

    heads: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor
    kv: torch.Tensor
    slots: torch.Tensor
    scales: tuple[float, float] = (1.0, 1.0)

    @classmethod
    def of(
        cls,
        num_tokens: int,
        shape: tuple[int, int, int, int] = (32, 8, 128, 128),  # H, K, D, what is turned
        dtype: torch.dtype = torch.bfloat16,
        kept: torch.dtype | None = None,
        block: int = 16,
    ) -> "Case":
        num_heads, kv_heads, head_size, size = shape
        chance = torch.Generator("cuda").manual_seed(num_tokens + head_size)
        heads = torch.randn(
            num_tokens, num_heads + 2 * kv_heads, head_size, device="cuda", generator=chance
        ).to(dtype)
        radians = 50 * torch.randn(num_tokens, 1, size // 2, device="cuda", generator=chance)
        cos, sin = radians.cos(), radians.sin()
        num_blocks = -(-num_tokens // block) + 3
        kv = torch.full((num_blocks, block, 2 * kv_heads, head_size), NAN, device="cuda")
        slots = torch.randperm(num_blocks * block, device="cuda", generator=chance)[:num_tokens]
        return cls(
            heads,
            torch.cat((cos, cos), -1).to(dtype),
            torch.cat((-sin, sin), -1).to(dtype),
            kv.to(kept or dtype),
            slots,
            (0.5, 0.25) if kept == FP8 else (1.0, 1.0),
        )

    def check(self) -> None:
        wanted, found = self._copied(), self._copied()
        for way, (heads, kv) in ((reference, wanted), (rope_write, found)):
            way(heads, self.cos, self.sin, kv, self.slots, kv_scales=self.scales)
        for one, other in zip(found, wanted, strict=True):
            assert torch.equal(bits(one), bits(other))

    def _copied(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.heads.clone(), self.kv.clone()


def bits(numbers: torch.Tensor) -> torch.Tensor:
    return numbers.view(torch.uint8)


SHAPES = [
    (32, 8, 128, 128),
    (4, 4, 64, 64),
    (9, 3, 80, 32),
    (14, 2, 96, 96),
    (8, 2, 16, 10),
    (71, 1, 64, 64),
    (8, 4, 256, 256),
    (5, 1, 20, 6),
]


@pytest.mark.parametrize("dtype", BOTH, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_shape_of_heads(shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    for num_tokens in (1, 7, 512):
        Case.of(num_tokens, shape, dtype).check()


@pytest.mark.parametrize("dtype", BOTH, ids=str)
@pytest.mark.parametrize("shape", SHAPES[:5], ids=str)
def test_a_cache_of_8_bits(shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    for num_tokens in (1, 7, 512):
        case = Case.of(num_tokens, shape, dtype, FP8)
        case.heads[0, :, 0] = 1000.0  # more than 8 bits hold
        case.heads[-1, :, 1] = -1e4
        case.check()
        replace(case, scales=(1.0, 1.0)).check()


@pytest.mark.parametrize("block", [1, 16, 128])
def test_blocks_of_any_size(block: int) -> None:
    Case.of(300, block=block).check()


def test_more_tokens_than_one_dimension_of_a_grid_has() -> None:
    Case.of(70_001, (2, 1, 64, 64)).check()


def test_values_keep_every_bit_and_neighbours_are_left_alone() -> None:
    case = Case.of(5, (4, 2, 64, 64))
    case.heads[:, 6:] = torch.tensor([-0.0, float("inf"), 1e-40, NAN], device="cuda").repeat(16)
    case.check()


@pytest.mark.parametrize("kept", [None, FP8], ids=str)
def test_padding_is_turned_and_kept_nowhere(kept: torch.dtype | None) -> None:
    case = Case.of(9, (32, 8, 128, 96), kept=kept)
    alone = Case.of(9, (32, 8, 128, 96), kept=kept)
    case.slots[3:] = -1
    kv = case.kv.clone()
    rope_write(case.heads, case.cos, case.sin, kv, case.slots, kv_scales=case.scales)
    kept_alone = alone.kv.clone()
    first = (alone.heads[:3].contiguous(), alone.cos[:3].contiguous(), alone.sin[:3].contiguous())
    rope_write(*first, kept_alone, alone.slots[:3].contiguous(), kv_scales=alone.scales)
    assert torch.equal(bits(kv), bits(kept_alone))


def test_no_tokens() -> None:
    Case.of(0).check()


def test_launches_repeat_to_the_bit() -> None:
    for kept in (None, FP8):
        for _ in range(10):
            Case.of(300, kept=kept).check()


def test_memory_that_is_laid_out_otherwise_is_refused_by_name() -> None:
    case = Case.of(4, (4, 2, 64, 64))
    longer = Case.of(5, (4, 2, 64, 64))
    wide = torch.empty(4, 8, 128, dtype=torch.bfloat16, device="cuda")[..., :64]
    for wrong, said in (
        (replace(case, heads=wide), "heads has strides"),
        (replace(case, heads=case.heads.float()), "heads is float32"),
        (replace(case, kv=case.kv.transpose(0, 1)), "kv has strides"),
        (replace(case, kv=case.kv.half()), "kv is float16"),
        (replace(case, kv=case.kv[:, :, :3].contiguous()), "kv is bfloat16 [4, 16, 3, 64]"),
        (replace(case, cos=longer.cos), "cos is bfloat16 [5, 64]"),
        (replace(case, sin=case.sin.float()), "sin is float32"),
        (replace(case, slots=case.slots.int()), "slots is int32"),
        (replace(case, slots=case.slots[:3]), "slots is int64 [3]"),
        (replace(case, heads=case.heads[:, :4].contiguous()), "heads is [4, 4, 64] for kv"),
        (replace(case, slots=case.slots.cpu()), "slots is on cpu"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            rope_write(wrong.heads, wrong.cos, wrong.sin, wrong.kv, wrong.slots)
