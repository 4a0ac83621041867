"""What sparse tensor cores are given of packed weights, lane by lane as PTX describes it."""

import pytest
import torch

from aweigh_kernels.sparse_packing import DEPTH, ROWS, Packed, pack, takes
from tests.kernels.weights import Draw

LANES = torch.arange(32)


def lanes_of(words: torch.Tensor, part: int) -> torch.Tensor:
    """[units, steps, 32, 4]: the 16 bytes that each lane reads, of one part of a step."""
    return torch.unflatten(words[..., part * 128 : part * 128 + 128], 2, (32, 4))


def numbers(word: torch.Tensor, mask: int, mark: int, zero: int, kind: torch.dtype) -> torch.Tensor:
    """[…, 2]: some bits of a word behind the first ones of a number, less another one."""
    halves = torch.stack([word & 0xFFFF, word >> 16 & 0xFFFF], -1)
    bits = (halves & (mask & 0xFFFF)) ^ (mark & 0xFFFF)
    found = torch.where(bits > 0x7FFF, bits - 0x10000, bits).to(torch.int16).view(kind)
    offset = torch.tensor([zero], dtype=torch.int16).view(kind)
    return found.float() - offset.float()


def register(packed: Packed, half: int, quarter: int, pair: int, kind: torch.dtype) -> torch.Tensor:
    """[units, steps, 32 lanes, 2]: what the kernel puts into a register, by its own constants."""
    wide = kind == torch.bfloat16
    if packed.bits == 4:
        word = lanes_of(packed.words, half)[..., quarter]
        if wide:
            return numbers(word >> 4 * pair, 0x000F000F, 0x43004300, 0x4308, kind)
        word = word >> 8 * (pair // 2)
        if pair % 2:
            return numbers(word, 0x00F000F0, 0x54005400, 0x5480, kind)
        return numbers(word, 0x000F000F, 0x64006400, 0x6408, kind)
    lanes = lanes_of(packed.words, 2 * half + quarter // 2)
    word = lanes[..., quarter % 2 * 2 + pair % 2] >> 8 * (pair // 2)
    if not wide:
        return numbers(word, 0x00FF00FF, 0x64806480, 0x6480, kind)
    eighth = numbers(word, 0x00800080, 0x43004300, 0, kind)
    return numbers(word, 0x007F007F, 0x43004300, 0, kind) - eighth


def dense_by_lanes(packed: Packed, kind: torch.dtype) -> torch.Tensor:
    """[N, K], without scales and padding.

    Of mma.sp.m16n8k32 with numbers of 16 bits: register a0 holds the two that a lane's row keeps of
    the four columns 4·(lane % 4), a1 those of the row 8 below, a2 and a3 those 16 columns further.
    The row is lane // 4. Lanes 0 and 1 of each four (2 and 3 with the second selector) have its
    metadata, the one of columns 0 to 15, the other of those behind; the lower half of the word is
    for the row, the upper half for the one 8 below.
    """
    units, steps = packed.words.shape[:2]
    dense = torch.zeros(units, steps, ROWS, DEPTH)
    unit, step = torch.arange(units)[:, None, None], torch.arange(steps)[:, None]
    places = lanes_of(packed.words, 2 * packed.bits // 4)
    for half in range(2):
        for quarter in range(4):
            for pair in range(4):
                lower, right = pair % 2, pair // 2
                row = half * 16 + lower * 8 + LANES // 4
                column = quarter * 32 + right * 16 + LANES % 4 * 4
                teller = LANES // 4 * 4 + half * 2 + right
                four = places[:, :, teller, quarter] >> (lower * 16 + LANES % 4 * 4)
                first, second = four & 3, four >> 2 & 3
                assert bool((first < second).all())  # ordered metadata
                kept = register(packed, half, quarter, pair, kind)
                for one, place in enumerate((first, second)):
                    dense[unit, step, row, column + place] = kept[..., one]
    rows, columns = packed.shape
    whole = dense.transpose(1, 2).reshape(units * ROWS, steps * DEPTH)
    assert not whole[rows:].any()
    assert not whole[:, columns:].any()
    return whole[:rows, :columns]


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    ("shape", "group"),
    [((32, 128), 128), ((96, 512), 128), ((33, 256), 256), ((100, 332), 332), ((1, 4), 4)],
    ids=str,
)
def test_lanes_give_a_tensor_core_the_weight(
    shape: tuple[int, int], group: int, bits: int, kind: torch.dtype
) -> None:
    weight = Draw(sum(shape)).sparse(*shape, bits, group)
    packed = pack(weight.q, weight.index, weight.scale, bits)
    scale = packed.scales[:, : shape[0]].t().repeat_interleave(DEPTH, 1)
    if len(packed.scales) == 1:
        scale = scale[:, :1].expand(shape)
    assert torch.equal(dense_by_lanes(packed, kind) * scale[:, : shape[1]], weight.dense())


def test_no_more_is_kept_than_the_integers_their_places_and_scales() -> None:
    for bits, group in ((4, 128), (8, 128), (4, 1024)):
        weight = Draw().sparse(256, 1024, bits, group)
        packed = pack(weight.q, weight.index, weight.scale, bits)
        assert packed.words.nbytes == 256 * 1024 * (bits + 2) // 16
        assert packed.scales.nbytes == 4 * 256 * 1024 // group


@pytest.mark.parametrize(
    ("group", "columns", "taken"),
    [(128, 4096, True), (256, 4096, True), (4096, 4096, True), (100, 100, True), (64, 4096, False)],
)
def test_a_step_has_one_scale_for_each_row(group: int, columns: int, taken: bool) -> None:
    assert takes(group, columns) == taken
