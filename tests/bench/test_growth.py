"""`aweigh bench throughput` and `latency` against a server whose delays are known."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from aweigh_bench.subject import Setting
from aweigh_bench.throughput import Options, gpu_bars
from tests.bench.commands import bench
from tests.bench.timed_server import TimedServer

FP8 = ("--quantization=fp8", "--kv-cache-dtype=fp8")


@pytest.fixture
async def server() -> AsyncIterator[TimedServer]:
    async with TimedServer(ttft_s=0.05, gap_s=0.02).running() as running:
        yield running


async def test_throughput_grows_with_the_requests_that_a_server_takes_at_once(
    server: TimedServer,
) -> None:
    done = await bench(
        "throughput", f"--base-url={server.url}", "--batches=1,4", "--rounds=2",
        "--output-tokens=8", "--input-tokens=20", "--output=json",
    )  # fmt: skip
    one, four = done.rows()
    assert one["tok/s"] == pytest.approx(8 / (0.05 + 7 * 0.02), rel=0.2)
    assert four["x 1"] == pytest.approx(4, rel=0.25)
    assert four["TTFT p50 ms"] == pytest.approx(50, abs=20)
    assert server.most_open == 4
    assert {len(request["prompt"]) for request in server.requests[-4:]} == {20}
    assert all(request["ignore_eos"] for request in server.requests)


async def test_the_bar_is_shown_where_it_can_be_judged(server: TimedServer) -> None:
    server.ttft_s = server.gap_s = 0.02
    done = await bench(
        "throughput", f"--base-url={server.url}", "--batches=1,64", "--rounds=1",
        "--output-tokens=8", "--output=json",
    )  # fmt: skip
    assert done.bars() == {"tokens/s of 64 requests at once, times those of one": True}


def test_a_rate_is_a_bar_for_one_setting_on_a_gpu() -> None:
    asked = Options(
        setting=Setting(shape="llama-3.1-8b"), input_tokens=(1000, 1000), output_tokens=1000
    )
    for rate, met in ((9499.0, False), (9500.0, True)):
        (bar,) = gpu_bars(asked, {64: 20_000.0, 512: rate}, on_gpu=True)
        assert (bar.what, bar.met) == ("tokens/s of 512 requests at once", met)
    assert gpu_bars(asked, {512: 9500.0}, on_gpu=False) == []
    assert gpu_bars(asked, {256: 9500.0}, on_gpu=True) == []
    assert gpu_bars(replace(asked, output_tokens=100), {512: 9500.0}, on_gpu=True) == []
    for formats, wanted in ((FP8, [">= 17,744"]), (FP8[:1], [])):
        setting = Setting(shape="llama-3.1-8b", flags=(*formats, "--max-running=512"))
        bars = gpu_bars(replace(asked, setting=setting), {512: 9500.0}, on_gpu=True)
        assert [bar.wanted for bar in bars] == wanted


async def test_latency_is_shown_for_each_length(server: TimedServer) -> None:
    done = await bench(
        "latency", f"--base-url={server.url}", "--lengths=10,100", "--iterations=3",
        "--output-tokens=6", "--output=json",
    )  # fmt: skip
    short, long = done.rows()
    assert (short["prompt tokens"], long["prompt tokens"]) == ("10", "100")
    assert short["TTFT p50"] == pytest.approx(50, abs=20)
    assert short["ITL p50"] == pytest.approx(20, abs=8)
    assert long["prompt tok/s"] == pytest.approx(100 / 0.05, rel=0.3)
    assert server.most_open == 1


async def test_prompts_that_the_model_does_not_take_are_refused(server: TimedServer) -> None:
    server.max_model_len = 64
    done = await bench("latency", f"--base-url={server.url}", "--lengths=100")
    assert done.code == 78
    assert "up to 132 tokens; expected at most 64, which timed takes" in done.stderr


async def test_a_request_that_fails_spoils_the_measurement(server: TimedServer) -> None:
    server.fail_every = 9
    done = await bench("throughput", f"--base-url={server.url}", "--batches=8", "--rounds=1")
    assert done.code == 1
    assert "of 8 requests failed; the first one with: status 429" in done.stderr


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ([], "nothing to measure: give a MODEL, --shape or --base-url"),
        (["builtin://helmsman-8m", "--base-url=http://127.0.0.1:9/v1"], "are both given"),
        (["--batches=0,4"], "--batches is 0,4; expected whole numbers from 1 to"),
        (
            ["--base-url=http://127.0.0.1:9/v1", "--output-tokens=3:5"],
            "is 3:5; expected one number, at least 2",
        ),
        (["--base-url=http://127.0.0.1:9/v1", "--output-tokens=1"], "is 1; expected one number"),
    ],
)
async def test_what_cannot_be_measured_is_said(flags: list[str], sentence: str) -> None:
    done = await bench("throughput", *flags)
    assert done.code == 78
    assert sentence in " ".join(done.stderr.split())
