"""`make bench`: every benchmark has a name, and says what it needs."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import pytest
import torch

from aweigh_api.number_formats import KvCacheDTypeName, SchemeName
from aweigh_bench.report import Bar
from aweigh_bench.shapes import shape_directory
from aweigh_kernels.sampling_gpu import Choice
from aweigh_runtime.model.cache import CacheFormat, KVCache
from aweigh_runtime.model.load import Wish
from aweigh_runtime.model.random_weights import make_up
from benchmarks import paged_attention_gpu, prefill_attention_gpu
from benchmarks.__main__ import BENCHMARKS, GPU, PARTS
from benchmarks.decode_steps_gpu import floor_ms, start_bars
from benchmarks.fp4_weight_gpu import bar_beside_ints
from benchmarks.int_weight_gpu import COLUMNS, FLOOR
from benchmarks.int_weight_gpu import bars_of as int_bars
from benchmarks.replays import MEMORY_BYTES_PER_S
from benchmarks.run_ahead_gpu import idle_shares
from benchmarks.sampling_gpu import WAYS, expect_kept

CHECKOUT = Path(__file__).parents[2]
FOLDER = CHECKOUT / "benchmarks"


def bench(*names: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *names]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)


def test_every_script_has_a_name_and_every_name_a_script() -> None:
    scripts = {path.stem for path in FOLDER.glob("*.py")}
    packages = {path.parent.name for path in FOLDER.glob("*/__main__.py")}
    assert {each.module for each in BENCHMARKS.values()} == (scripts | packages) - set(PARTS)


def test_all_are_listed_with_what_they_need() -> None:
    listed = bench("--list")
    assert listed.returncode == 0
    lines = {line.split()[0]: line for line in listed.stdout.splitlines()}
    assert lines.keys() == BENCHMARKS.keys()
    assert all(each.needs in lines[name] for name, each in BENCHMARKS.items())


def test_an_unknown_name_is_refused_with_those_that_there_are() -> None:
    refused = bench("operators")
    assert refused.returncode == 2
    assert (
        "there is no benchmark operators; expected common-attention, decode-steps, "
        in refused.stderr
    )


@pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="there is a GPU")
def test_what_measures_a_gpu_says_so_where_there_is_none() -> None:
    name = next(name for name, each in BENCHMARKS.items() if each.needs == GPU)
    refused = bench(name)
    assert refused.returncode == 1
    assert f"{name} needs {GPU}, which is not here" in refused.stdout


@pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="there is a GPU")
@pytest.mark.parametrize("name", ["int_weight", "int_weight_gpu", "int-weight"])
def test_a_benchmark_is_called_by_its_name_or_by_its_script(name: str) -> None:
    assert f"int-weight needs {GPU}" in bench(name, "--peers=folder").stdout


SHAPE = (6144, 4096)


def ratios(**of: float) -> dict[str, float | None]:
    """How many times as fast ours is, far from the floor."""
    return {"cuBLAS": 2.0, "Marlin": 2.0, "Machete": 2.0, **of, FLOOR: 0.1}


@pytest.mark.parametrize("bits", [4, 8])
def test_the_best_of_others_may_be_cublas_with_dense_weights(bits: int) -> None:
    (bar,) = int_bars("", SHAPE, bits, 64, ratios(cuBLAS=0.94))
    assert (bar.measured, bar.met) == ("0.940", False)
    (bar,) = int_bars("", SHAPE, bits, 64, ratios())
    assert bar.met


def test_without_the_others_what_is_slow_is_missed_and_what_is_fast_is_open() -> None:
    fast, slow = {"cuBLAS": 3.0, FLOOR: 0.1}, {"cuBLAS": 0.9, FLOOR: 0.1}
    (open_one,) = int_bars("", SHAPE, 4, 64, fast)
    assert (open_one.measured, open_one.met) == ("3.000 without Marlin and Machete", None)
    (missed,) = int_bars("", SHAPE, 4, 64, slow)
    assert missed.met is False
    (unknown,) = int_bars("", SHAPE, 4, 256, fast)
    assert (unknown.measured, unknown.met) == ("- without Machete", None)
    (near,) = int_bars("", SHAPE, 4, 256, fast | {FLOOR: 0.9})
    assert near.met


@pytest.mark.parametrize("name", ["int-weight-gpu", "int-weight-8-gpu"])
def test_verdicts_of_committed_products_are_those_of_their_figures(name: str) -> None:
    kept = json.loads((FOLDER / "results" / f"{name}.json").read_text())
    bars: list[Bar] = []
    for row in kept["tables"][0]["rows"]:
        figures = dict(zip(COLUMNS, row, strict=True))
        product, bits, tokens = row[0].rsplit(", ", 2)
        rows, columns = (int(size.replace(",", "")) for size in product.split(" x "))
        found = {each: figures[f"x {each}"] for each in ("cuBLAS", "Marlin", "Machete")}
        found |= {FLOOR: figures["of the floor"]}
        bars += int_bars(row[0], (rows, columns), int(bits), int(tokens), found)
    assert [asdict(bar) for bar in bars] == kept["bars"]


def test_nvfp4_is_held_to_the_speed_of_integers_of_4_bits() -> None:
    row = ("4,096 x 4,096, 64", 11.65, 11.63, 11.68, 0.233, 1.04)
    assert bar_beside_ints((*row, 0.916, 13.54)).met
    assert not bar_beside_ints((*row, 0.729, 13.54)).met


@pytest.mark.parametrize("module", [paged_attention_gpu, prefill_attention_gpu])
def test_verdicts_of_committed_attention_are_those_of_its_figures(module: ModuleType) -> None:
    name = module.__name__.rpartition(".")[2].replace("_", "-")
    kept = json.loads((FOLDER / "results" / f"{name}.json").read_text())
    (table,) = kept["tables"]
    assert tuple(table["columns"]) == module.COLUMNS
    assert [asdict(bar) for bar in module.bars_of(table["rows"])] == kept["bars"] != []


@pytest.mark.parametrize("choice", [*WAYS.values()])
def test_a_token_that_is_not_kept_is_found_before_sampling_is_timed(choice: Choice) -> None:
    logits = -1.2 * torch.arange(1, 1001).log().expand(4, -1)
    expect_kept(choice, logits, torch.zeros(4, dtype=torch.int64))
    if choice.top_k or choice.top_p < 1 or choice.min_p:
        with pytest.raises(RuntimeError, match="1 of 4 tokens are none that"):
            expect_kept(choice, logits, torch.tensor([0, 0, 999, 0]))


def test_the_slowest_start_of_a_server_is_judged_where_any_was_timed() -> None:
    assert start_bars([]) == []
    (bar,) = start_bars([12.9, 20.1])
    assert (bar.measured, bar.met) == ("20.1", False)


def test_a_gpu_is_idle_while_none_of_its_kernels_runs() -> None:
    overlapping = [(0.0, 40.0), (10.0, 20.0), (30.0, 50.0)]
    assert idle_shares(overlapping) == (0, 0)
    assert idle_shares([(70.0, 100.0), *overlapping]) == (0.2, 0.2)
    assert idle_shares([*overlapping, (52.0, 80.0), (90.0, 100.0)]) == (0.12, 0.1)


def test_the_floor_of_a_step_counts_weights_and_keys_as_they_are_stored() -> None:
    cpu = torch.device("cpu")
    wanted: list[tuple[SchemeName, KvCacheDTypeName]] = [("none", "auto"), ("int4", "fp8")]
    floors = []
    for scheme, kept in wanted:
        with shape_directory("llama-tiny") as directory:
            loaded = make_up(directory, Wish(dtype="bf16", scheme=scheme), cpu)
        cache_format = CacheFormat.of(torch.bfloat16, kept, None)
        cache = KVCache(loaded.decoder.config, 1, 16, cache_format, cpu)
        floors.append(floor_ms(loaded, cache, 1, common=False))
    dense, small = (1e-3 * floor * MEMORY_BYTES_PER_S for floor in floors)
    matrices = 2 * 64 * (64 + 2 * 32 + 64 + 3 * 128)  # of two layers, in and out
    keys = 2 * 2 * 2 * 16 * (1024 + 128)  # of two layers and two heads
    assert dense - small == pytest.approx(matrices * (2 - 0.5 - 2 / 128) + keys * (2 - 1))
