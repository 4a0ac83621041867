"""The commands that start a server of their own, at small sizes, from end to end."""

import json
import subprocess
from pathlib import Path

import pytest

from aweigh_bench.paired import compare
from aweigh_bench.subject import Setting, subject
from aweigh_runtime.model.architectures import read_config
from aweigh_runtime.model.described import describe
from aweigh_runtime.model.footprint import item_bytes as item_bytes_of
from aweigh_runtime.model.footprint import weight_bytes
from aweigh_runtime.sources.local import builtin
from tests.bench.commands import bench
from tests.cli.command import arguments, environment
from tests.runtime.serving import START_DEADLINE_S, wait_for

MODEL = "builtin://helmsman-1m-draft"
# Whatever the processor computes fastest, so that a token takes as much memory everywhere.
SMALL = ("--serve-flag=--kv-cache-memory=64Mi", "--serve-flag=--dtype=fp32", "--threads=1")


async def test_shared_prefixes_are_computed_once_and_evicted_when_there_is_no_room() -> None:
    done = await bench(
        "prefix-caching", MODEL, *SMALL, "--shares=0,90", "--num-requests=6", "--pairs=0",
        "--prompt-tokens=600", "--num-prefixes=6", "--small-memory=3200Ki", "--output=json",
    )  # fmt: skip
    cold, warm = done.rows()
    assert cold["computed tokens"] == 6 * 600
    assert cold["hit rate %"] == 0
    # The first computes all; the others what follows 33 whole blocks of the 540 shared tokens.
    assert warm["computed tokens"] == 600 + 5 * (600 - 528)
    assert warm["hit rate %"] == pytest.approx(100 * 5 * 528 / (6 * 600))
    few, many = done.rows(1)
    assert few["hit rate %"] > many["hit rate %"]
    assert many["evicted blocks"] > few["evicted blocks"] >= 0
    assert done.bars()["prompt tokens saved with 90 % shared, in percent"] is False  # so few


@pytest.mark.long
async def test_the_cost_of_caching_is_shown_by_two_clocks() -> None:
    done = await bench(
        "prefix-caching", MODEL, *SMALL, "--shares=0", "--num-requests=2", "--pairs=2",
        "--pair-requests=12", "--small-memory=3200Ki", "--prompt-tokens=200", "--output=json",
    )  # fmt: skip
    wall, processor = done.rows(2)
    assert (wall["clock"], processor["clock"]) == ("wall", "processor of the engine")
    for row in (wall, processor):
        assert 0.3 < float(row["low"]) <= float(row["ratio"]) <= float(row["high"]) < 3
    assert done.bars() == {"cost of caching at 0 % hits, in percent of throughput": None}


@pytest.mark.long
async def test_the_cost_of_caching_is_measured_alone_under_a_load_that_was_asked_for() -> None:
    done = await bench(
        "prefix-caching", "--shape=llama-tiny", "--serve-flag=--device=cpu", "--threads=1",
        "--cost-only", "--small-memory=2Mi", "--pairs=1", "--pair-starts=1", "--pair-requests=12",
        "--pair-concurrency=12", "--pair-input-tokens=40", "--pair-output-tokens=4",
        "--output=json",
    )  # fmt: skip
    (table,) = done.report["tables"]
    assert "12 requests of 40 and 4 tokens, 12 at once" in table["title"]
    assert [row["clock"] for row in done.rows()] == ["wall", "processor of the engine"]
    assert done.report["model"] == "llama-tiny"


async def test_memory_of_every_process_is_found() -> None:
    done = await bench(
        "memory", MODEL, *SMALL, "--concurrency=2", "--input-tokens=32", "--output-tokens=4",
        "--output=json",
    )  # fmt: skip
    parts = done.figures["parts"]
    assert parts["KV memory (MiB)"] == pytest.approx(64, rel=0.02)
    assert (
        parts["KV tokens"] * parts["KV per token (bytes, computed)"]
        == parts["KV memory (MiB)"] * 2**20
    )
    assert {row["process"] for row in done.rows(1)} >= {"server", "engine.process"}
    engine = next(row for row in done.rows(1) if row["process"] == "engine.process")
    assert engine["peak"] >= engine["ready"] > 50


async def test_small_weights_and_a_small_cache_are_counted_as_the_server_keeps_them() -> None:
    small = ("--quantization=int8", "--kv-cache-dtype=fp8", "--kv-cache-memory=16Mi")
    done = await bench(
        "memory", MODEL, *(f"--serve-flag={flag}" for flag in small), "--threads=1",
        "--concurrency=1", "--input-tokens=8", "--output-tokens=2", "--output=json",
    )  # fmt: skip
    parts = done.figures["parts"]
    assert (parts["Weights"], parts["Number format of keys and values"]) == ("int8", "fp8")
    config = read_config(builtin("helmsman-1m-draft"))
    values = config.num_layers * 2 * config.num_kv_heads * config.head_dim
    assert parts["KV per token (bytes, computed)"] == values
    assert parts["KV memory (MiB)"] == pytest.approx(16, rel=0.02)
    planned = describe(builtin("helmsman-1m-draft"), "int8")
    item_bytes = item_bytes_of(parts["Number format"], config)
    expected = weight_bytes(config, item_bytes, planned.kept_bytes)
    assert parts["Weights (MiB, computed)"] * 2**20 == expected < weight_bytes(config, item_bytes)


@pytest.mark.long
async def test_transformers_computes_the_same_prompts(tmp_path: Path) -> None:
    saved = tmp_path / "against.json"
    done = await bench(
        "throughput", MODEL, *SMALL, "--against=transformers", "--batches=1,3", "--pairs=2",
        "--input-tokens=4:40", "--output-tokens=3:9", f"--save={saved}",
    )  # fmt: skip
    assert done.code == 0, done.stderr
    report = json.loads(saved.read_text())
    pairs = report["figures"]["tokens_and_seconds"]["3"]
    assert all(3 * 3 <= tokens <= 3 * 9 for tokens, _, _ in pairs)
    row = report["tables"][0]["rows"][1]
    assert row[3] == pytest.approx(compare([peer / ours for _, ours, peer in pairs]).ratio)
    assert "tokens/s at batch 1, times transformers'" in done.stdout


async def test_a_shape_is_measured_with_quantized_weights_that_nobody_has_made() -> None:
    flags = ("--quantization=int4", "--kv-cache-dtype=fp8", "--kv-cache-memory=16Mi")
    setting = Setting(
        shape="llama-tiny", flags=(*flags, "--device=cpu"), vocabulary=8192, threads=1
    )
    async with subject(setting) as served:
        state = await served.own.state()
        measures = await served.random(4, (20, 20), 5, concurrency=2)
    model = state["model"]
    assert (model["quantization"], model["kv_cache_dtype"]) == ("int4", "fp8")
    assert measures.failed == 0


async def test_without_a_model_or_a_shape_there_is_nothing_to_measure() -> None:
    done = await bench("prefix-caching", "--cost-only")
    assert done.code == 78
    assert "nothing to measure: give a MODEL or --shape" in done.stderr


async def test_a_server_that_does_not_start_says_why_in_its_own_words() -> None:
    done = await bench("latency", MODEL, "--serve-flag=--step-tokens=0")
    assert done.code == 1
    assert "did not become ready: error: --step-tokens is 0" in done.stderr


def test_the_server_ends_with_a_measurement_that_is_killed() -> None:
    command = arguments("bench", "latency", MODEL, *SMALL)
    with subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: bool(children(process.pid)), START_DEADLINE_S)
        (server,) = children(process.pid)
        wait_for(lambda: bool(children(server)), START_DEADLINE_S)  # it is past its first line
        process.kill()
    wait_for(lambda: not Path(f"/proc/{server}").exists(), 20)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
