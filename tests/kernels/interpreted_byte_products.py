"""Runs products with weights of 8 bits and what follows them in Triton's interpreter.

It has to be chosen first. Prints, as JSON, what went wrong: nothing as a rule.
"""

import json
import os

os.environ["TRITON_INTERPRET"] = "1"

from collections.abc import Iterator
from typing import cast, get_args

import torch

from aweigh_kernels import byte_product, rope_write, round_rows, rounding
from aweigh_kernels.activation import Activation
from aweigh_kernels.byte_schedule import Few
from aweigh_kernels.fp8_weight import Fp8Weight
from aweigh_kernels.int8_weight import Int8Weight
from aweigh_kernels.rounding import ByteRounding
from tests.kernels.interpreted_bytes import (
    GPU,
    NAN,
    SCHEDULES,
    Kind,
    compute_as_hardware_does,
    computed,
    gated,
    given,
    kinds,
    packed,
    scratch,
    unlike,
)
from tests.kernels.weights import Draw

PAIRED = ("fp8 token", "e5m2 weights alone", "int8 dynamic zeros")  # one of each way to multiply


def main() -> None:
    compute_as_hardware_does()
    wrong: list[str] = []
    for kind in kinds():
        if kind.name in PAIRED:
            wrong += gated_otherwise(kind)
            wrong += turned_otherwise(kind)
    print(json.dumps(wrong))  # noqa: T201


def gated_otherwise(kind: Kind) -> Iterator[str]:
    """Gates in the product's kernel, and what rounds by the largest: the bits of separate ones."""
    weight, chosen = kind.matrix(2 * 100, 200), cast(Few, SCHEDULES["unevenly shared"])
    for num_tokens in (1, 32):
        x = Draw(num_tokens).normal(num_tokens, 200).to(kind.activations)
        for gates in get_args(Activation):
            name = f"gates, {kind.name}, {num_tokens} tokens, {gates}"
            wanted = gated(computed(kind, weight, x, chosen, dtype=torch.float16), gates)
            paired = _paired(kind, weight)
            found, largest = byte_product.launch_gated(
                paired, given(x, kind.rounding), gates, chosen, GPU
            )
            if not torch.equal(found, wanted):
                yield name
            for how in (ByteRounding(kind=each, by="token") for each in rounding.KINDS):
                once = round_rows.launch_by_largest(found, largest, how, early=False)
                yield from unlike(name, once, round_rows.launch(wanted, how, early=False))
            found[0, 7] = NAN
            largest[0, 0] = torch.tensor(NAN).view(torch.int32)
            how = ByteRounding(kind=torch.int8, by="token")
            scale = round_rows.launch_by_largest(found, largest, how, early=False).scale
            if scale.isnan().tolist() != [True] + [False] * (num_tokens - 1):
                yield f"{name}: a number that is none counts for another row, or not for its own"


def turned_otherwise(kind: Kind) -> Iterator[str]:
    """Heads that are turned and kept in the product's kernel, beside torch's."""
    heads, kv_heads, size = 3, 1, 128
    weight = kind.matrix((heads + 2 * kv_heads) * size, 128)
    for name, num_tokens in (("shared", 5), ("unevenly shared", 17)):
        chosen, draw = cast(Few, SCHEDULES[name]), Draw(num_tokens)
        x = draw.normal(num_tokens, 128).to(kind.activations)
        radians = draw.normal(num_tokens, 1, size // 2) * 50
        cos, sin = radians.cos().repeat(1, 1, 2), torch.cat((-radians.sin(), radians.sin()), -1)
        slots = torch.arange(num_tokens).flip(0) * 2
        slots[num_tokens // 2] = -1
        for dtype in (torch.float16, torch.float8_e4m3fn):
            turn, scales = (cos.half(), sin.half()), (0.25, 2.0)
            wanted = computed(kind, weight, x, chosen, dtype=torch.float16).view(-1, 5, size)
            kept = torch.zeros(3, 16, 2 * kv_heads, size).to(dtype)
            wanted_kept = kept.clone()
            rope_write.reference(wanted, *turn, wanted_kept, slots, kv_scales=scales)
            found = byte_product.launch_turned(
                _paired(kind, weight),
                given(x, kind.rounding),
                (turn, kept, slots, scales),
                chosen,
                GPU,
            )
            there = slots >= 0
            if not torch.equal(found[there], wanted[there]):
                yield f"heads, {kind.name}, {name}, {dtype}"
            if not torch.equal(kept.float(), wanted_kept.float()):
                yield f"kept heads, {kind.name}, {name}, {dtype}"


def _paired(kind: Kind, weight: Fp8Weight | Int8Weight) -> byte_product.PairedBytes:
    return byte_product.PairedBytes(packed(kind, weight), scratch(), torch.float16)


if __name__ == "__main__":
    main()
