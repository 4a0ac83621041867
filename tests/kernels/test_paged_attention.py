"""Attention over a paged cache on a CPU, beside sums in fp64."""

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aweigh_kernels import paged_attention
from aweigh_kernels.paged_attention import Reads, attend, reference, takes

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}  # of the largest
NAN = float("nan")
# A compiler's script: its output, named behind -o, loses its folder.
FOLDER_GOES = (
    'while [ "$1" != -o ]; do shift; done; dirname "$2" > $0.folder; rm -r "$(dirname "$2")"'
)


@pytest.fixture(autouse=True)
def as_many_threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Case:
    """A cache in which only what is seen has numbers; all else is NaN."""

    def __init__(
        self,
        sizes: list[tuple[int, int]],  # positions before the new tokens, and how many of these
        *,
        window: int | None = None,
        heads: int = 4,
        kv_heads: int = 2,
        size: int = 64,
        block: int = 16,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        chance = torch.Generator().manual_seed(len(sizes) + size + block)
        ends = [before + new for before, new in sizes]
        width = max(-(-end // block) for end in ends)
        num_blocks = len(sizes) * width + 3
        table = torch.randperm(num_blocks, generator=chance)[: len(sizes) * width]
        table = table.view(len(sizes), width)
        self.kv = torch.full((num_blocks, block, 2 * kv_heads, size), NAN, dtype=dtype)
        for request, (before, new) in enumerate(sizes):
            low = 0 if window is None else max(before + 1 - window, 0)
            at = torch.arange(low, before + new)
            values = torch.randn(len(at), 2 * kv_heads, size, generator=chance)
            self.kv[table[request, at // block], at % block] = values.to(dtype)
        counts = np.array([new for _, new in sizes])
        order = torch.randperm(len(sizes), generator=chance).numpy()
        firsts = np.zeros_like(counts)
        firsts[order] = np.cumsum(counts[order]) - counts[order]
        packed = torch.randn(counts.sum(), heads + 2 * kv_heads, size, generator=chance).to(dtype)
        self.query = packed[:, :heads]  # as in a step: tokens lie apart
        seen = np.array([before + 1 for before, _ in sizes])
        self.reads = Reads(firsts, counts, seen, table.numpy(), window)
        self.scale = size**-0.5

    def computed(self, reads: Reads | None = None) -> torch.Tensor:
        assert takes(self.query, self.kv)
        output = torch.full(self.query.shape, NAN, dtype=self.query.dtype)
        attend(self.query, self.kv, reads or self.reads, self.scale, output)
        return output

    def error(self) -> float:
        """Of the largest number."""
        wanted = reference(self.query, self.kv, self.reads, self.scale)
        assert len(wanted) == len(self.query)
        whole = torch.stack([wanted[token] for token in range(len(wanted))])
        return float((self.computed().double() - whole).abs().max() / whole.abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [16, 32, 64, 80, 128, 256])
@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (4, 4), (8, 2), (9, 3), (32, 1)])
def test_every_number_format_and_shape_of_heads(
    dtype: torch.dtype, size: int, heads: int, kv_heads: int
) -> None:
    sizes = [(0, 1), (32, 1), (5, 11), (190, 3)]
    case = Case(sizes, heads=heads, kv_heads=kv_heads, size=size, dtype=dtype)
    assert case.error() < TOLERANCE[dtype]


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(1, 17)), min_size=1, max_size=12),
    st.sampled_from([1, 7, 16, 64, 100]),
    st.sampled_from([None, 1, 5, 40, 1000]),
    st.integers(1, 3),
)
def test_any_lengths_blocks_windows_and_threads(
    sizes: list[tuple[int, int]], block: int, window: int | None, num_threads: int
) -> None:
    torch.set_num_threads(num_threads)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paged_attention, "_WORTH_A_THREAD_BYTES", 1)
        case = Case(sizes, block=block, window=window)
        assert case.error() < TOLERANCE[torch.float32]
        parts = case.reads.parts(2, 512, num_threads)
        assert [item for part in parts for item in part] == list(range(2 * len(sizes)))
        assert len(parts) > 1 or num_threads == 1


@pytest.mark.parametrize(
    "sizes", [[(6000, 1)], [(3000, 1), (8, 1), (0, 17), (6000, 4)], [(600, 17)] + 16 * [(600, 1)]]
)
def test_threads_share_heads_and_requests_and_change_nothing(sizes: list[tuple[int, int]]) -> None:
    case = Case(sizes, heads=16, kv_heads=8)
    torch.set_num_threads(1)
    alone = case.computed()
    times = [(before + new) * (5 + new) for before, new in sizes]  # a row takes a sixth of it all
    for num_threads in (2, 3, 8):
        parts = case.reads.parts(8, 512, num_threads)
        work = [sum(times[item // 8] for item in part) for part in parts]
        assert len(work) > 1
        assert max(work) < 2 * sum(work) / len(work)
        torch.set_num_threads(num_threads)
        assert torch.equal(case.computed(), alone)


@pytest.mark.parametrize("block", [16, 64, 100, 128])
@pytest.mark.parametrize("window", [None, 30, 100, 200])
def test_a_token_gets_the_same_bits_with_others_and_alone(block: int, window: int | None) -> None:
    sizes = [(69, 1), (499, 1), (86, 5), (360, 9)]
    case = Case(sizes, dtype=torch.bfloat16, block=block, window=window)
    together, read = case.computed(), case.reads
    for request in range(len(sizes)):
        for place in range(int(read.counts[request])):
            token = read.tokens[request : request + 1] + place
            seen = read.seen[request : request + 1] + place
            blocks = read.table[request : request + 1]
            only = Reads(token, np.ones_like(token), seen, blocks, window)
            output = case.computed(only)
            assert torch.equal(output[token[0]], together[token[0]])
            assert output.isnan().sum() == output.numel() - output[token[0]].numel()


def test_rows_and_heads_of_any_number_need_no_stack() -> None:
    case = Case([(3, 900)], heads=32, kv_heads=1, size=64)  # 15 MB of state
    assert case.error() < TOLERANCE[torch.float32]


@pytest.mark.parametrize("factor", [1e-4, 40.0, 1e4])
def test_scores_of_any_size_make_weights_that_sum_to_one(factor: float) -> None:
    case = Case([(119, 1), (16, 1)])
    case.scale = factor
    assert case.error() < 1e-4  # a score of 1e5 has errors of 1e-2 in fp32


def test_a_step_without_such_tokens_writes_nothing() -> None:
    case, none = Case([(3, 1)]), np.zeros(0, np.int64)
    assert case.computed(Reads(none, none, none, np.zeros((0, 1), np.int64))).isnan().all()


def test_what_it_does_not_take_is_left_to_torch() -> None:
    case = Case([(3, 1)])
    assert not takes(case.query.double(), case.kv.double())
    assert not takes(case.query.bfloat16(), case.kv)
    assert not takes(case.query[..., :24], case.kv[..., :24])  # no whole vectors
    assert not takes(case.query.clone().requires_grad_(), case.kv)


def test_memory_that_is_laid_out_otherwise_is_refused_by_name() -> None:
    case = Case([(3, 1)], size=128)
    wide, kv, output = case.query, case.kv, torch.empty(case.query.shape)
    for query, cache, target, said in (
        (wide, kv[..., :64].contiguous(), output, "query is float32 [1, 4, 128]; expected float32"),
        (wide[..., :64], kv[..., :64].contiguous(), output[..., :64], "query has strides"),
        (wide, kv.transpose(0, 1), output, "kv has strides"),
        (wide, kv, output.double(), "output is float64"),
        (wide, kv, torch.empty(1, 128, 4).transpose(1, 2), "output has strides"),
        (wide[:, :3], kv, output[:, :3], "kv is torch.float32"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            attend(query, cache, case.reads, 1.0, target)
    narrow = replace(case.reads, table=case.reads.table[:, :0].copy())
    with pytest.raises(ValueError, match=r"table has 0 blocks of \d+ tokens .* enough for 4"):
        attend(wide, kv, narrow, 1.0, output)
    nothing = np.zeros_like(case.reads.counts)
    with pytest.raises(ValueError, match="counts are 0 and more, seen 4 and more; expected at"):
        replace(case.reads, counts=nothing)
    with pytest.raises(ValueError, match="seen 0 and more"):
        replace(case.reads, seen=nothing)
    with pytest.raises(ValueError, match=r"seen is int32 \[1\]; expected contiguous int64 for 1"):
        replace(case.reads, seen=case.reads.seen.astype(np.int32))


@pytest.mark.parametrize(
    "compiler",
    [None, "exit 1", "sleep 60 & echo $! > $0.child; wait", f"{FOLDER_GOES}; exit 1"],
    ids=["none", "one that fails", "one that hangs", "one without a folder"],
)
def test_without_a_compiler_torch_computes_and_it_is_said_once(
    tmp_path: Path, compiler: str | None
) -> None:
    script = tmp_path / "compiler"
    if compiler is not None:
        script.write_text(f"#!/bin/sh\n{compiler}\n")
        script.chmod(0o755)
    program = (
        "import logging, torch; logging.basicConfig()\n"
        "from aweigh_kernels import compiled; compiled._DEADLINE_S = 1\n"
        "from aweigh_kernels.paged_attention import takes\n"
        "kv = torch.zeros(1, 16, 4, 64)\n"
        "print([takes(torch.zeros(1, 4, 64), kv) for _ in range(3)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={
            "PATH": "/usr/bin:/bin" if compiler else "/nowhere",
            "CC": str(script),
            "PYTHONPATH": ":".join(filter(None, sys.path)),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[False, False, False]"
    assert done.stderr.count("WARNING") == 1
    assert "torch" in done.stderr
    if compiler is not None and FOLDER_GOES in compiler:
        assert not Path((tmp_path / "compiler.folder").read_text().strip()).exists()
    child = tmp_path / "compiler.child"
    if child.exists():  # what a compiler has started ends with it
        status = Path(f"/proc/{child.read_text().strip()}/stat")
        assert not status.exists() or status.read_text().rsplit(")")[1].split()[0] == "Z"


def test_where_no_file_can_be_written_torch_computes() -> None:
    program = (
        "import logging, tempfile, torch; logging.basicConfig()\n"
        "from aweigh_kernels.paged_attention import takes\n"
        "tempfile.tempdir = '/nowhere'\n"
        "print(takes(torch.zeros(1, 4, 64), torch.zeros(1, 16, 4, 64)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
    assert "is not compiled, torch computes instead" in done.stderr
