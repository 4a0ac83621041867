"""Attention of single tokens over a paged cache, on a CPU: `cpu/paged_attention.c`.

torch has to copy what a token sees out of its blocks first, and pads requests to one length. This
reads keys and values where they lie: memory's speed bounds it.
"""

import ctypes
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch

from aweigh_kernels.compiled import compiled

_FORMATS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}  # as in the C file
_LANES = 16  # a head's size is a multiple of it
_WORTH_A_THREAD = 4096  # positions: with fewer, waking a thread takes longer than they do

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Rows:
    """Tokens, and what each sees. All are int64, one after the other."""

    tokens: Integers  # [R], rows of query and output
    requests: Integers  # [R], rows of `table`
    lows: Integers  # [R], the first position that is seen
    highs: Integers  # [R], behind the last one; above `lows`
    table: Integers  # [S, W], blocks of each request

    def parts(self, count: int) -> list[range]:
        """Runs of rows that see about as much, at most so many; fewer where they are small."""
        ends = np.cumsum(self.highs - self.lows)
        total = int(ends[-1])
        count = max(1, min(count, total // _WORTH_A_THREAD))
        cuts = np.searchsorted(ends, [total * part // count for part in range(1, count)]) + 1
        edges = [0, *(int(cut) for cut in cuts), len(ends)]
        return [range(*edge) for edge in pairwise(edges) if edge[0] < edge[1]]


def takes(query: torch.Tensor, kv: torch.Tensor) -> bool:
    """Whether `attend` computes with these here; if not, torch must.

    Args:
        query: [T, H, D].
        kv: [B, P, 2K, D], keys first.
    """
    return (
        query.device.type == "cpu"
        and query.dtype == kv.dtype
        and kv.is_contiguous()
        and query.shape[-1] % _LANES == 0
        and not (torch.is_grad_enabled() and query.requires_grad)
        and _kernel(query.dtype, query.shape[-1]) is not None
    )


def attend(
    query: torch.Tensor, kv: torch.Tensor, rows: Rows, scale: float, output: torch.Tensor
) -> None:
    """Let some tokens attend to what they see.

    Args:
        query: [T, H, D], of a format that `takes` accepts; tokens may lie apart.
        kv: [B, P, 2K, D], contiguous, keys first; H is a multiple of K.
        rows: which tokens, and what they see.
        scale: of the scores.
        output: [T, H, D], contiguous, as query; only the tokens' rows are written.
    """
    kernel = _kernel(query.dtype, query.shape[-1])
    assert kernel is not None
    step = _Step(
        query=query.data_ptr(),
        kv=kv.data_ptr(),
        output=output.data_ptr(),
        tokens=rows.tokens.ctypes.data,
        requests=rows.requests.ctypes.data,
        lows=rows.lows.ctypes.data,
        highs=rows.highs.ctypes.data,
        table=rows.table.ctypes.data,
        query_stride=query.stride(0),
        table_width=rows.table.shape[1],
        heads=query.shape[1],
        kv_heads=kv.shape[2] // 2,
        block_tokens=kv.shape[1],
        scale=scale,
    )
    first, *others = rows.parts(torch.get_num_threads())
    running = [
        _threads().submit(kernel, ctypes.byref(step), part.start, part.stop) for part in others
    ]
    kernel(ctypes.byref(step), first.start, first.stop)
    for each in running:
        each.result()


class _Step(ctypes.Structure):
    """`struct step` of the C file."""

    _fields_: ClassVar[Sequence[tuple[str, type]]] = [
        ("query", ctypes.c_void_p),
        ("kv", ctypes.c_void_p),
        ("output", ctypes.c_void_p),
        ("tokens", ctypes.c_void_p),
        ("requests", ctypes.c_void_p),
        ("lows", ctypes.c_void_p),
        ("highs", ctypes.c_void_p),
        ("table", ctypes.c_void_p),
        ("query_stride", ctypes.c_int64),
        ("table_width", ctypes.c_int64),
        ("heads", ctypes.c_int64),
        ("kv_heads", ctypes.c_int64),
        ("block_tokens", ctypes.c_int64),
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
    library.attend.restype = None
    return library.attend


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(torch.get_num_threads(), thread_name_prefix="attention")
