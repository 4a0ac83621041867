"""Every GPU kernel once or a few times, at small sizes: what a checker of memory watches.

    python -m tests.kernels.sanitized GROUP

Memory that a kernel must have written before it is read again is new and not filled, so that a
read of what was never written can be told. Results are judged by the tests next to this file.
"""

import ast
import pkgutil
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any, get_args

import torch
from triton.runtime.jit import JITFunction

from aweigh_kernels import cuda_library, draft_chain, gpu
from aweigh_kernels.activation import Activation
from aweigh_kernels.fp4_rounding import quantize_rows
from aweigh_kernels.gated import gated
from aweigh_kernels.int_matmul import int_matmul
from aweigh_kernels.paired_matmul import gated_matmul, turned_matmul
from aweigh_kernels.product import KernelProduct, RoundingProduct
from aweigh_kernels.rms_norm import rms_norm, rms_norm_rounded
from aweigh_kernels.rope_write import FP8, rope_write
from aweigh_kernels.round_rows import round_gated, round_rows
from aweigh_kernels.rounding import ByteRounding
from aweigh_kernels.routing import add_weighted
from aweigh_kernels.skinny_matmul import Scratch, skinny_matmul
from aweigh_kernels.sparse_int_matmul import is_ready, sparse_int_matmul
from aweigh_kernels.tile_matmul import workspace_of
from aweigh_kernels.weight import Weight, prepare
from aweigh_runtime.engine.sampling.drawing import Draws
from tests.kernels import draft_cases
from tests.kernels import test_paged_attention_gpu as paged_cases
from tests.kernels import test_prefill_attention_gpu as prefill_cases
from tests.kernels.common_cases import CommonCase
from tests.kernels.sampling_cases import random_logits, rows_of_every_kind
from tests.kernels.test_byte_matmul_gpu import activations, on_gpu, roundings, weights
from tests.kernels.test_experts_gpu import DENSE
from tests.kernels.test_experts_gpu import Case as ExpertsCase
from tests.kernels.test_fp4_matmul_gpu import SCALE as FP4_SCALE
from tests.kernels.test_fp4_matmul_gpu import Case as Fp4Case
from tests.kernels.test_gated_gpu import gate_up
from tests.kernels.test_int_matmul_gpu import Case as IntCase
from tests.kernels.test_rms_norm_gpu import EPS
from tests.kernels.test_rms_norm_gpu import Case as NormCase
from tests.kernels.test_rope_write_gpu import Case as RopeCase
from tests.kernels.test_skinny_matmul_gpu import Case as ProductCase
from tests.kernels.test_sparse_int_matmul_gpu import Case as SparseCase

RAN = "all ran:"  # and the kernels behind it
STRAY = "stray"
# Reads what nobody wrote and what is behind it, and lets two warps write one number at once.
_STRAY_SOURCE = """
extern "C" __global__ void stray(const int *read, int *written) {
    __shared__ volatile int last;
    last = threadIdx.x;
    written[threadIdx.x] = last + read[threadIdx.x];
}
"""


def paged_attention() -> None:
    """Decodes and drafts; a window, a cap, 8 bits, odd heads, and more requests than shares."""
    sizes = [(0, 1), (15, 1), (17, 1), (300, 1), (5, 3)]
    for case in (
        paged_cases.Case(sizes, heads=32, kv_heads=8, size=128),
        paged_cases.Case(sizes, heads=32, kv_heads=8, size=128, kept=FP8),
        paged_cases.Case([(700, 9), (3, 1), (64, 9)], window=40, cap=3.0),
        paged_cases.Case(sizes, heads=9, kv_heads=3, size=80, dtype=torch.float32),
        paged_cases.Case([(length % 40, 1) for length in range(300)]),
    ):
        case.computed()


def common_attention() -> None:
    """Requests that begin alike: few and many, with drafts, 8 bits, and nothing of their own."""
    groups = [(128, [1, 2, 17, 64]), (0, [1, 15, 300]), (256, [3] * 40)]
    for case in (
        CommonCase(groups, heads=(32, 8), size=128, padding=3, device="cuda"),
        CommonCase(groups, heads=(32, 8), size=128, kept=FP8, device="cuda"),
        CommonCase(groups, new=3, cap=3.0, device="cuda"),
    ):
        case.computed()


def prefill_attention() -> None:
    """By wgmma where a Hopper is, and by Triton: sizes of heads that the other does not take."""
    sizes = [(0, 1), (0, 17), (16, 129), (300, 40)]
    for case in (
        prefill_cases.Case(sizes, heads=32, kv_heads=8),
        prefill_cases.Case(sizes, size=64, window=40, block=32),
        prefill_cases.Case(sizes, cap=3.0),
        prefill_cases.Case(sizes, kept=FP8, window=100),
        prefill_cases.Case(sizes, heads=9, kv_heads=3, size=80),
        prefill_cases.Case(sizes, size=256, kv_heads=4, window=40),
    ):
        case.computed()


def rows() -> None:
    """Norms, rotary embedding with the write into the cache, gates; and rounded to 8 bits."""
    for norm in (NormCase(7, 100), NormCase(33, 4096, wide=True)):
        rms_norm(norm.x, norm.weight, EPS)
        rms_norm(norm.x, norm.weight, EPS, residual=norm.residual)
    for rope in (RopeCase.of(7, (9, 3, 80, 32)), RopeCase.of(33, kept=FP8)):
        rope.slots[3:5] = -1  # padding
        rope_write(rope.heads, rope.cos, rope.sin, rope.kv, rope.slots, kv_scales=rope.scales)
    for activation in get_args(Activation):
        gated(gate_up(7, 63), activation)
        gated(gate_up(33, 1000), activation)
    for how in roundings():
        rms_norm_rounded(norm.x, norm.weight, EPS, how, residual=norm.residual)
        round_gated(gate_up(7, 100), "silu", how)
        round_rows(norm.x, how)


def products() -> None:
    """Of a few rows: alone and in parts, and with what follows them."""
    scratch = Scratch(torch.device("cuda"))
    for tokens, out_size, in_size in ((1, 100, 72), (7, 512, 4096), (33, 257, 576)):
        case = ProductCase(tokens, out_size, in_size)
        for bias in (None, case.bias):
            skinny_matmul(case.x, case.weight, scratch, bias=bias)
        wide = torch.empty(tokens, out_size, device="cuda")
        skinny_matmul(case.x, case.weight, scratch, output=wide)
    for tokens, size, in_size in ((3, 100, 72), (17, 33, 128), (5, 512, 4096)):
        case = ProductCase(tokens, 2 * size, in_size)
        gated_matmul(case.x, case.weight, scratch, "silu", bias=case.bias)
    for tokens, shape, in_size in ((5, (3, 3, 128, 128), 72), (20, (4, 2, 64, 64), 4096)):
        rope = RopeCase.of(tokens, shape)
        case = ProductCase(tokens, rope.heads[0].numel(), in_size)
        turn = rope.cos, rope.sin
        rope.slots[tokens // 2] = -1
        turned_matmul(case.x, case.weight, scratch, turn, rope.kv, rope.slots, bias=case.bias)


def int_products() -> None:
    """With integers of all widths: of few tokens and of many, by each kernel."""
    workspace = workspace_of(torch.device("cuda", 0))
    for tokens, shape, bits, group in (
        (1, (100, 72), 4, 128),
        (1, (100, 72), 3, 128),
        (5, (512, 4096), 2, 128),
        (20, (257, 1000), 3, 64),
        (7, (512, 4096), 4, 64),
        (7, (512, 4096), 4, 128),
        (12, (300, 1000), 8, 64),
        (32, (512, 4096), 8, 4096),
        (33, (257, 576), 8, 32),
        (64, (512, 4096), 4, 128),
        (96, (600, 1024), 4, 1024),
        (96, (257, 576), 8, 64),
        (200, (300, 520), 4, 128),
        (200, (300, 520), 3, 128),
        (300, (100, 136), 8, 128),
        (300, (100, 136), 3, 128),
    ):
        case = IntCase(tokens, shape, bits, group, asymmetric=True)
        int_matmul(case.x, case.packed, workspace)
    for kept in (torch.bfloat16, FP8):
        rope = RopeCase.of(5, (68, 2, 128, 128), kept=kept)
        follow(IntCase(5, (rope.heads[0].numel(), 2048)).weight, rope, 2048)


def sparse_products() -> None:
    """With integers of which two in four are kept: as those of all."""
    workspace = workspace_of(torch.device("cuda", 0))
    for tokens, shape, bits, group in (
        (1, (100, 76), 4, 76),
        (7, (512, 4096), 4, 128),
        (33, (257, 640), 8, 128),
        (50, (512, 4096), 8, 4096),
        (200, (300, 520), 4, 520),
        (300, (100, 136), 8, 136),
    ):
        case = SparseCase(tokens, shape, bits, group)
        assert is_ready(case.x.device, bits, case.x.dtype)
        sparse_int_matmul(case.x, case.packed, workspace)


def fp4_products() -> None:
    """With NVFP4, activations of 16 bits and of 4: few tokens, in parts and not, and many."""
    scale = torch.tensor(FP4_SCALE).double().cuda()
    for tokens, shape in ((1, (100, 80)), (7, (512, 4096)), (200, (300, 528)), (300, (100, 144))):
        fp4 = Fp4Case(tokens, shape)
        for given in (None, scale):
            product = prepare(replace(fp4.weight, activation_scale=given), torch.bfloat16)
            product(fp4.x)
        for swizzled in (False, True):
            quantize_rows(fp4.x, scale, swizzled=swizzled)


def byte_products() -> None:
    """Of weights of 8 bits: few tokens and many, rows that end within groups, and in parts."""
    for rows, columns in ((100, 72), (512, 4096), (1024, 384)):
        for weight in weights(rows, columns).values():
            product = prepare(on_gpu(weight), torch.bfloat16)
            for tokens in (1, 33, 100):
                product(activations(tokens, columns).cuda())
    for rows, name in (
        (9000, "fp8 blocks group"),
        (9000, "fp8 group"),
        (9000, "e5m2 token"),
        (11_500, "int8 dynamic zeros"),  # in wide tiles
    ):
        many = prepare(on_gpu(weights(rows, 384)[name]), torch.bfloat16)
        many(activations(300, 384).cuda())
    for name, kept in (("fp8 weights alone", torch.bfloat16), ("int8 dynamic zeros", FP8)):
        rope = RopeCase.of(20, (3, 1, 128, 128), kept=kept)
        follow(on_gpu(weights(rope.heads[0].numel(), 200)[name]), rope, 200)
    for name in ("fp8 weights alone", "fp8 blocks weights alone"):
        widened = prepare(on_gpu(weights(300, 200)[name]), torch.bfloat16)
        widened(activations(600, 200).cuda())


def follow(weight: Weight, rope: RopeCase, columns: int) -> None:
    """Gates, rounded or not, and heads of a product."""
    product = prepare(weight, torch.bfloat16)
    assert isinstance(product, KernelProduct | RoundingProduct)
    assert product.paired is not None
    given = activations(len(rope.heads), columns).cuda()
    x = round_rows(given, product.rounding) if isinstance(product, RoundingProduct) else given
    for rounding in (None, ByteRounding(kind=FP8, by="token")):
        assert product.paired.gates(x, rounding)
        product.paired.gated(x, "silu", rounding)
    rope.slots[2] = -1
    assert product.paired.turns(x, rope.kv.shape[3])
    product.paired.turned(x, (rope.cos, rope.sin), rope.kv, rope.slots, rope.scales)


def experts() -> None:
    """Tokens that nobody, one and many share an expert with, matrices of all kinds, and sums."""
    for kind in (DENSE, "int4 g128", "fp8 token", "fp8 blocks alone", "int8 zeros"):
        for tokens, shape in ((1, (64, 2048)), (40, (100, 264)), (300, (72, 136))):
            case = ExpertsCase(tokens, kind, shape=shape)
            for x in (case.x, case.of_pairs):
                add_weighted(case.stack(x, case.routed), case.routed.weights)


def sampling() -> None:
    """Rows of every kind, of vocabularies of one part and of many."""
    for size in (7, 1000, 50_257):
        kinds = rows_of_every_kind(size)
        Draws().draw(random_logits(len(kinds), size).cuda(), kinds).read()


def drafts() -> None:
    """Chains behind drafts of which none, some and all tokens stay."""
    for case in draft_cases.cases():
        draft_cases.unlike(case, draft_chain.follow, draft_chain.choose, "cuda")


def stray() -> None:
    """A kernel that is wrong in three ways: a checker that does not say so proves nothing."""
    kernel = torch.cuda._compile_kernel(_STRAY_SOURCE, STRAY)
    read, written = (torch.empty(size, dtype=torch.int32, device="cuda") for size in (32, 64))
    kernel(grid=(1, 1, 1), block=(64, 1, 1), args=[read, written])


GROUPS: dict[str, Callable[[], None]] = {
    each.__name__.replace("_", "-"): each
    for each in (
        paged_attention,
        common_attention,
        prefill_attention,
        rows,
        products,
        int_products,
        sparse_products,
        fp4_products,
        byte_products,
        experts,
        sampling,
        drafts,
    )
}


_PARTS = ("ahead", "paired")  # modules of what kernels are made of


def kernels() -> list[str]:
    """What Python launches, by module and name."""
    return [*of_triton(), *_of_cuda()]


def of_triton() -> dict[str, Any]:
    """Functions of kernels return something."""
    found = {}
    for part in pkgutil.iter_modules(gpu.__path__):
        module = import_module(f"{gpu.__name__}.{part.name}")
        for name, each in vars(module).items():
            own = isinstance(each, JITFunction) and each.fn.__module__ == module.__name__
            if own and not name.startswith("_") and part.name not in _PARTS and not _returns(each):
                found[f"{part.name}.{name}"] = each
    return found


def _of_cuda() -> dict[str, str]:
    """With what launches each: a function of the library that is called as the kernel is."""
    text = "".join(path.read_text() for path in cuda_library.sources().iterdir())
    names = re.findall(r"__global__ void[^(]*\([^)]*\)\s+(\w+)\(", text)
    return {f"csrc.{name}": f"aweigh_{name}" for name in names}


def _returns(function: Any) -> bool:
    nodes = ast.walk(ast.parse(function.src))
    return any(isinstance(node, ast.Return) and node.value is not None for node in nodes)


def launched() -> list[str]:
    """Those of `kernels` that this process has launched."""
    compiled = [
        name
        for name, kernel in of_triton().items()
        if any(compiled for compiled, *_ in kernel.device_caches.values())
    ]
    looked_up = vars(cuda_library.library() or object)  # a function is kept from its first call on
    return compiled + [name for name, function in _of_cuda().items() if function in looked_up]


def main() -> None:
    """Run one group; say at the end that nothing stopped it."""
    group = sys.argv[1]
    if group == STRAY:
        stray()
    else:
        GROUPS[group]()
    torch.cuda.synchronize()
    sys.stdout.write(f"{RAN} {' '.join(launched())}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
