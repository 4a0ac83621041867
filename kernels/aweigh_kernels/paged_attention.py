"""Attention of a few tokens of each request over a paged cache, on a CPU.

torch has to copy what a token sees out of its blocks first, and pads requests to one length.
`cpu/paged_attention.c` reads keys and values where they lie: memory's speed bounds it.
"""

import ctypes
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch

from aweigh_kernels.checks import expect
from aweigh_kernels.compiled import compiled

_FORMATS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}  # as in the C file
_LANES = 16  # a head's size is a multiple of it
_WORTH_A_THREAD_BYTES = 1 << 20  # of keys and values: less is read before a thread is awake
_NO_WINDOW = 1 << 62

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Reads:
    """Requests, and what their tokens see: the same for all layers.

    The tokens of a request are consecutive rows, and each sees one position more than the one
    before it, itself included.
    """

    tokens: Integers  # [S], the first row of each request
    counts: Integers  # [S], how many rows; 1 at least
    seen: Integers  # [S], positions that the first one sees, were there no window
    table: Integers  # [S, W], blocks of each request
    window: int | None = None  # positions that a token sees at most; None: all

    def __post_init__(self) -> None:
        """Refuse what the kernel cannot read.

        Raises:
            ValueError: an array has another type or length, or a request no row or position.
        """
        count = len(self.tokens)
        for name in ("tokens", "counts", "seen", "table"):
            values = getattr(self, name)
            if values.dtype != np.int64 or not values.flags.c_contiguous or len(values) != count:
                raise ValueError(
                    f"{name} is {values.dtype} {list(values.shape)}; expected contiguous int64 for "
                    f"{count} requests"
                )

        if count and not (self.counts.min() >= 1 and self.seen.min() >= 1):
            raise ValueError(
                f"counts are {self.counts.min()} and more, seen {self.seen.min()} and more; "
                "expected at least 1: a token sees itself"
            )

    @cached_property
    def end(self) -> int:
        """The most positions that a token sees."""
        return int((self.seen + self.counts - 1).max(initial=0))

    @cached_property
    def work(self) -> Integers:
        """[S], how long each request takes, in positions that one row reads.

        Reading takes most of it, and each row a sixth of what the first one does
        (benchmarks/results/paged-attention-cpu.md).
        """
        return self.positions * (5 + self.counts) // 6

    @cached_property
    def positions(self) -> Integers:
        """[S], how many keys are read for each request."""
        ends = self.seen + self.counts - 1
        starts = np.zeros_like(ends) if self.window is None else self.seen - self.window
        return ends - np.maximum(starts, 0)

    @cached_property
    def addresses(self) -> dict[str, int]:
        """Where they lie."""
        names = ("tokens", "counts", "seen", "table")
        return {name: getattr(self, name).ctypes.data for name in names}

    def parts(self, kv_heads: int, position_bytes: int, most: int) -> list[range]:
        """Runs of items, request · K + head of keys, that take about as long; `most` at most.

        Args:
            kv_heads: K.
            position_bytes: of keys and values of one head.
            most: threads.
        """
        work = np.cumsum(np.repeat(self.work, kv_heads))
        most = max(1, min(most, int(work[-1]) * position_bytes // _WORTH_A_THREAD_BYTES))
        cuts = np.searchsorted(work, [work[-1] * part // most for part in range(1, most)]) + 1
        edges = [0, *(int(cut) for cut in cuts), len(work)]
        return [range(*edge) for edge in pairwise(edges) if edge[0] < edge[1]]


def takes(query: torch.Tensor, kv: torch.Tensor) -> bool:
    """Whether `attend` computes with such tensors here; if not, torch must.

    Args:
        query: [T, H, D].
        kv: [B, P, 2K, D], keys first.
    """
    return (
        query.device.type == kv.device.type == "cpu"
        and query.dtype == kv.dtype
        and query.shape[-1] % _LANES == 0
        and not (torch.is_grad_enabled() and query.requires_grad)
        and _kernel(query.dtype, query.shape[-1]) is not None
    )


def attend(
    query: torch.Tensor, kv: torch.Tensor, reads: Reads, scale: float, output: torch.Tensor
) -> None:
    """Let some tokens attend to what they see.

    Args:
        query: [T, H, D], of which `takes` says that it can be computed; tokens may lie apart.
        kv: [B, P, 2K, D], contiguous, keys first; H is a multiple of K.
        reads: which tokens, and what they see; rows and blocks that there are.
        scale: of the scores.
        output: [T, H, D], contiguous, as query; only the tokens' rows are written.

    Raises:
        ValueError: shapes, number formats or strides are others, or the table is too narrow.
        MemoryError: a request has too many rows and heads for the memory that is left.
    """
    num_blocks, block_tokens, kv_rows, size = kv.shape
    kernel, heads, kv_heads = _kernel(query.dtype, size), query.shape[1], kv_rows // 2
    if kernel is None or heads % kv_heads:
        raise ValueError(f"kv is {kv.dtype} {list(kv.shape)}; expected what `takes` accepts")
    expect("query", query, [[len(query), heads, size]], [kv.dtype])
    expect("kv", kv, [[num_blocks, block_tokens, 2 * kv_heads, size]], [kv.dtype])
    expect("output", output, [query.shape], [kv.dtype])
    _expect_strides("query", query, query.stride()[:1])
    _expect_strides("kv", kv)
    _expect_strides("output", output)
    if reads.end > reads.table.shape[1] * block_tokens:
        raise ValueError(
            f"table has {reads.table.shape[1]} blocks of {block_tokens} tokens for a request; "
            f"expected enough for {reads.end}"
        )
    if not len(reads.tokens):
        return
    step = _Step(
        query=query.data_ptr(),
        kv=kv.data_ptr(),
        output=output.data_ptr(),
        **reads.addresses,
        query_stride=query.stride(0),
        table_width=reads.table.shape[1],
        heads=heads,
        kv_heads=kv_heads,
        block_tokens=block_tokens,
        window=_NO_WINDOW if reads.window is None else reads.window,
        scale=scale,
    )
    num_threads = torch.get_num_threads()
    if num_threads == 1:
        _expect_memory(kernel(ctypes.byref(step), 0, len(reads.tokens) * kv_heads))
        return
    first, *others = reads.parts(kv_heads, 2 * size * kv.element_size(), num_threads)
    running = [
        _threads(num_threads).submit(kernel, ctypes.byref(step), part.start, part.stop)
        for part in others
    ]
    own = kernel(ctypes.byref(step), first.start, first.stop)
    for failed in [own, *(each.result() for each in running)]:
        _expect_memory(failed)


def reference(
    query: torch.Tensor, kv: torch.Tensor, reads: Reads, scale: float
) -> dict[int, torch.Tensor]:
    """What `attend` means, in fp64: by token, [H, D]."""
    sharing = query.shape[1] // (kv.shape[2] // 2)
    found = {}
    for request, first in enumerate(reads.tokens.tolist()):
        held = kv[torch.from_numpy(reads.table[request])].flatten(0, 1)
        for place in range(int(reads.counts[request])):
            high = int(reads.seen[request]) + place
            low = 0 if reads.window is None else max(high - reads.window, 0)
            keys, values = held[low:high].double().repeat_interleave(sharing, 1).chunk(2, 1)
            own = query[first + place].double()
            scores = torch.einsum("hd,thd->ht", own, keys) * scale
            found[first + place] = torch.einsum("ht,thd->hd", scores.softmax(-1), values)
    return found


def _expect_memory(failed: int) -> None:
    if failed:
        raise MemoryError("there is no memory left for the state of attention")


def _expect_strides(name: str, tensor: torch.Tensor, outer: Sequence[int] = ()) -> None:
    """Numbers one after the other, but for the outer dimensions."""
    dense = torch.empty(tensor.shape, device="meta").stride()
    wanted = (*outer, *dense[len(outer) :])
    if tensor.stride() != wanted:
        raise ValueError(f"{name} has strides {list(tensor.stride())}; expected {list(wanted)}")


class _Step(ctypes.Structure):
    """`struct step` of the C file."""

    _fields_: ClassVar[Sequence[tuple[str, type]]] = [
        ("query", ctypes.c_void_p),
        ("kv", ctypes.c_void_p),
        ("output", ctypes.c_void_p),
        ("tokens", ctypes.c_void_p),
        ("counts", ctypes.c_void_p),
        ("seen", ctypes.c_void_p),
        ("table", ctypes.c_void_p),
        ("query_stride", ctypes.c_int64),
        ("table_width", ctypes.c_int64),
        ("heads", ctypes.c_int64),
        ("kv_heads", ctypes.c_int64),
        ("block_tokens", ctypes.c_int64),
        ("window", ctypes.c_int64),
        ("scale", ctypes.c_float),
    ]


@cache
def _kernel(dtype: torch.dtype, head_size: int) -> "ctypes._NamedFuncPointer | None":
    if dtype not in _FORMATS:
        return None
    library = compiled("paged_attention.c", {"FORMAT": _FORMATS[dtype], "HEAD_SIZE": head_size})
    if library is None:
        return None
    library.attend.argtypes = [ctypes.POINTER(_Step), ctypes.c_int64, ctypes.c_int64]
    library.attend.restype = ctypes.c_int
    return library.attend


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count - 1, thread_name_prefix="attention")
