"""`aweigh bench serve` against a server whose delays are known."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.bench.commands import Done, bench
from tests.bench.timed_server import TimedServer
from tests.cli.command import arguments, environment

TTFT_S, GAP_S = 0.15, 0.02  # long beside what a busy machine adds


async def serve(*given: str, **variables: str) -> Done:
    return await bench("serve", *given, **variables)


async def process(*given: str) -> Done:
    started = await asyncio.create_subprocess_exec(
        *arguments("bench", "serve", *given),
        env=environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await asyncio.wait_for(started.communicate(), 60)
    assert started.returncode is not None
    return Done(started.returncode, stdout.decode(), stderr.decode())


@pytest.fixture
async def server() -> AsyncIterator[TimedServer]:
    async with TimedServer(TTFT_S, GAP_S).running() as running:
        yield running


async def test_times_are_those_of_the_server(server: TimedServer) -> None:
    done = await serve(
        f"--base-url={server.url}", "--num-requests=12", "--concurrency=4", "--output-tokens=11",
        "--goodput=ttft:250", "--goodput=itl:60", "--goodput=e2e:900", "--request-rate=inf",
        "--output=json",
    )  # fmt: skip
    assert done.code == 0, done.stderr
    figures = done.figures
    assert (figures["completed"], figures["failed"]) == (12, 0)
    assert figures["total_output_tokens"] == 132
    assert figures["median_ttft_ms"] == pytest.approx(150, abs=40)
    assert figures["median_itl_ms"] == pytest.approx(20, abs=8)
    assert figures["mean_tpot_ms"] == pytest.approx(20, abs=8)
    assert figures["median_e2el_ms"] == pytest.approx(350, abs=70)
    assert figures["duration"] == pytest.approx(3 * 0.35, rel=0.3)
    assert figures["output_throughput"] == pytest.approx(132 / figures["duration"])
    assert figures["request_goodput"] == pytest.approx(figures["request_throughput"])
    assert server.most_open == figures["max_concurrent_requests"] == 4


async def test_goodput_leaves_out_what_is_late(server: TimedServer) -> None:
    done = await serve(
        f"--base-url={server.url}", "--num-requests=4", "--output-tokens=3", "--goodput=ttft:100"
    )
    assert "Goodput (req/s) at ttft 100 ms" in done.stdout
    assert next(line for line in done.stdout.splitlines() if "Goodput" in line).split()[-1] in (
        "0",
        "0.000",
    )


async def test_a_rate_spreads_requests_out(server: TimedServer) -> None:
    done = await serve(
        f"--base-url={server.url}", "--num-requests=40", "--request-rate=40", "--output-tokens=1",
        "--output=json", "--detailed", "--seed=5",
    )  # fmt: skip
    assert done.figures["duration"] == pytest.approx(40 / 40 + TTFT_S, rel=0.4)
    assert len(done.figures["ttfts"]) == 40
    assert done.figures["median_ttft_ms"] == pytest.approx(150, abs=50)


async def test_tokens_are_counted_where_one_event_brings_several(server: TimedServer) -> None:
    server.tokens_per_event, server.cached_tokens = 4, 32
    done = await serve(
        f"--base-url={server.url}", "--num-requests=4", "--input-tokens=64", "--output-tokens=9",
        "--output=json",
    )  # fmt: skip
    assert done.figures["total_output_tokens"] == 36
    assert done.figures["total_input_tokens"] == 256
    assert done.figures["prefix_cache_hit_percent"] == pytest.approx(50)
    assert done.figures["mean_tpot_ms"] == pytest.approx(2 * 20 / 8, abs=3)


async def test_a_server_without_continuous_usage_is_measured_by_its_events(
    server: TimedServer,
) -> None:
    server.knows_continuous_usage = False
    done = await serve(
        f"--base-url={server.url}", "--num-requests=4", "--output-tokens=5", "--output=json",
        "--endpoint=chat",
    )  # fmt: skip
    assert done.code == 0, done.stderr
    assert done.figures["total_output_tokens"] == 20
    assert done.figures["median_ttft_ms"] == pytest.approx(150, abs=40)


async def test_a_chat_is_asked_in_words_of_about_the_wanted_length(server: TimedServer) -> None:
    done = await serve(
        f"--base-url={server.url}", "--endpoint=chat", "--num-requests=3", "--input-tokens=100",
        "--output-tokens=2", "--output=json",
    )  # fmt: skip
    assert done.figures["total_input_tokens"] == 300  # a word is two tokens on this server
    content = server.requests[-1]["messages"][0]["content"]
    assert len(content.split(" ")) == 50


async def test_requests_say_what_was_asked_for(server: TimedServer) -> None:
    await serve(
        f"--base-url={server.url}", "--ignore-eos", "--temperature=0.5", "--seed=7",
        "--traffic=shared-prefix", "--num-prefixes=1", "--prefix-tokens=20", "--suffix-tokens=5",
        "--num-requests=6", "--num-warmups=1", "--output-tokens=2", OPENAI_API_KEY="sk-1",
    )  # fmt: skip
    asked = server.requests[-1]
    assert (asked["ignore_eos"], asked["temperature"], asked["seed"]) == (True, 0.5, 7)
    assert asked["model"] == "timed"
    measured = [request["prompt"] for request in server.requests[-6:]]
    assert len({tuple(prompt[:20]) for prompt in measured}) == 1
    assert len({tuple(prompt[20:]) for prompt in measured}) == 6
    warm_up = server.requests[-7]["prompt"]
    assert warm_up[:20] != measured[0][:20]
    assert set(server.keys) == {"Bearer sk-1"}


async def test_failures_are_counted_and_named(server: TimedServer) -> None:
    server.fail_every = 3
    done = await serve(
        f"--base-url={server.url}", "--num-requests=9", "--num-warmups=0", "--output-tokens=2"
    )
    assert done.code == 0
    assert "requests failed: status 429: the queue is full" in done.stdout


@pytest.mark.parametrize(
    ("flaw", "sentence"),
    [
        ({"break_off": True}, "refuses a first request"),
        ({"say_done": False}, "the answer ended without [DONE]"),
        ({"refusal": "no such prompt"}, "refuses a first request: status 400: no such prompt"),
    ],
)
async def test_a_server_that_cannot_be_measured_is_said_in_one_line(
    server: TimedServer, flaw: dict[str, Any], sentence: str
) -> None:
    for name, value in flaw.items():
        setattr(server, name, value)
    done = await serve(f"--base-url={server.url}", "--num-requests=2")
    assert done.code == 1
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1


async def test_nobody_listening_is_said_with_what_to_do() -> None:
    done = await serve("--base-url=http://127.0.0.1:9/v1", "--num-requests=2")
    assert done.code == 69
    assert "cannot reach http://127.0.0.1:9/v1" in done.stderr


async def test_results_are_saved_and_drawn(server: TimedServer, tmp_path: Path) -> None:
    names = [tmp_path / name for name in ("result.json", "result.md", "result.png")]
    done = await process(
        f"--base-url={server.url}", "--num-requests=5", "--output-tokens=4", "--api-key=sk-secret",
        f"--save={names[0]}", f"--save={names[1]}", f"--plot={names[2]}",
    )  # fmt: skip
    assert done.code == 0, done.stderr
    saved = json.loads(names[0].read_text())
    assert saved["figures"]["completed"] == 5
    assert saved["machine"]["cpu"]
    assert saved["command"].startswith("aweigh bench serve --base-url=")
    assert "sk-secret" not in names[0].read_text() + done.stdout
    assert "| Successful requests | 5 |" in names[1].read_text()
    assert names[2].read_bytes().startswith(b"\x89PNG")
    assert "Time to first token".lower() in done.stdout.lower()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--goodput=speed:3"], "'speed:3' is no limit"),
        (["--input-tokens=9:3"], "--input-tokens is 9:3; expected tokens, as 128 or 32:512"),
        (["--save=result.txt"], "expected a name ending in .json or .md"),
        (["--plot=result.jpg"], "expected a name ending in .png"),
        (["--save=nowhere/result.md"], "there is no folder nowhere; expected one that exists"),
        (["--plot=nowhere/result.png"], "there is no folder nowhere; expected one that exists"),
        (["--endpoint=chat", "--prompts=ids"], "a chat takes text only"),
        (["--sharegpt-file=x.json"], "use --traffic sharegpt"),
    ],
)
async def test_contradictions_are_refused_before_anything_is_sent(
    server: TimedServer, flags: list[str], sentence: str
) -> None:
    done = await serve(f"--base-url={server.url}", *flags)
    assert done.code == 78
    assert sentence in " ".join(done.stderr.split())
    assert server.requests == []


async def test_conversations_of_a_file_are_asked_as_they_are(
    server: TimedServer, tmp_path: Path
) -> None:
    question = "What does a Deployment do in Kubernetes?"
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": "x" * 20}]
    file = tmp_path / "chats.json"
    file.write_text(json.dumps([{"conversations": turns}]))
    done = await serve(
        f"--base-url={server.url}", "--traffic=sharegpt", f"--sharegpt-file={file}",
        "--num-requests=3", "--output=json",
    )  # fmt: skip
    assert done.figures["total_output_tokens"] == 3 * 5  # four characters are a token
    assert server.requests[-1]["prompt"] == question
    assert "sent as text" in done.report["notes"][0]
