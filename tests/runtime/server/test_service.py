"""Places in the queue, clients that go away, and what the admin port tells about it."""

import asyncio
import itertools
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from aweigh_api.state import MAX_STATE_BYTES, State
from tests.runtime.serving import MODEL, Served, serving, wait_for

INVALID = "invalid_request_error"
STEP_TOKENS = 512  # a CPU's default
LONG = {"model": MODEL, "prompt": "The", "max_tokens": 2000, "temperature": 2.0, "ignore_eos": True}

Ask = Callable[[dict[str, object]], socket.socket]


@pytest.fixture
def ask(server: Served) -> Iterator[Ask]:
    """Sends a request and leaves its connection open, at most to the test's end."""
    with ExitStack() as connections:
        yield lambda body: connections.enter_context(raw_request(server, body))
    wait_for(lambda: nothing_runs(server))


def nothing_runs(server: Served) -> bool:
    """Nor is any block of the KV memory held."""
    state = server.state()
    held = None if state.kv_tokens is None else state.kv_tokens.held
    return (state.running, state.waiting, held) == (0, 0, 0)


def raw_request(server: Served, body: dict[str, object]) -> socket.socket:
    content = json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {len(content)}\r\n\r\n"
    connection.sendall(head.encode() + content)
    return connection


@pytest.mark.parametrize("stream", [True, False], ids=["streaming", "waiting for all"])
def test_a_client_that_goes_away_frees_its_place(server: Served, ask: Ask, stream: bool) -> None:
    before = server.state()
    connection = ask({**LONG, "stream": stream})
    wait_for(lambda: server.state().running == 1)
    connection.close()
    wait_for(lambda: nothing_runs(server), deadline_s=5)
    after = server.state()
    assert (after.arrived_requests or 0) == (before.arrived_requests or 0) + 1
    assert after.finished_requests == before.finished_requests


def test_a_client_that_goes_away_while_it_waits_leaves_the_queue(server: Served, ask: Ask) -> None:
    running = [ask({**LONG, "stream": True}) for _ in range(8)]
    wait_for(lambda: server.state().running == 8)
    waiting = ask(LONG)
    wait_for(lambda: places(server.state()) == (8, 1, 1))
    waiting.close()
    wait_for(lambda: places(server.state()) == (8, 0, 0))
    for connection in running:
        connection.close()
    wait_for(lambda: nothing_runs(server))


def places(state: State) -> tuple[int | None, int | None, int | None]:
    return state.running, state.waiting, state.waiting_prompt_tokens


def test_a_client_that_goes_away_during_its_prompt_frees_its_place(
    server: Served, ask: Ask
) -> None:
    """Blocks come back within one step, so most of these 64,000 tokens are never computed."""
    before = server.state().computed_prompt_tokens or 0
    prompts = [[100 + i] * 2000 for i in range(32)]
    connection = ask({**LONG, "prompt": prompts, "max_tokens": 1})
    wait_for(lambda: (server.state().computed_prompt_tokens or 0) > before)
    connection.close()
    at_close = server.state().computed_prompt_tokens or 0
    wait_for(lambda: nothing_runs(server), deadline_s=5)
    computed = (server.state().computed_prompt_tokens or 0) - at_close
    assert computed <= 2 * STEP_TOKENS  # the step that ran, and one that was on its way
    assert at_close - before < 32 * 2000


def test_a_full_queue_refuses_at_once_and_says_when_to_retry(server: Served, ask: Ask) -> None:
    taken = [ask({**LONG, "n": 8}) for _ in range(4)]  # 8 answers run, 24 of 3 requests wait
    wait_for(lambda: server.state().waiting == 3)
    refused = server.chat(max_tokens=1)
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) >= 1
    assert refused.json()["error"]["type"] == "rate_limit_error"
    for route, body in (("tokenize", {"prompt": "a"}), ("detokenize", {"tokens": [1]})):
        assert httpx.post(f"{server.url}/{route}", json=body).status_code == 429
    for connection in taken:
        connection.close()
    wait_for(lambda: nothing_runs(server))
    assert server.chat(max_tokens=1).status_code == 200


def test_a_long_prompt_does_not_stop_the_others(server: Served) -> None:
    async def measure() -> tuple[float, float]:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:

            async def gaps() -> float:
                times = []
                body = {**LONG, "max_tokens": 60, "stream": True}
                async with client.stream("POST", "/v1/completions", json=body) as response:
                    async for _ in response.aiter_lines():
                        times.append(time.monotonic())
                return max(b - a for a, b in itertools.pairwise(times))

            watching = asyncio.create_task(gaps())
            await asyncio.sleep(0.05)
            started_s = time.monotonic()
            prompts = [[7] * 2000] * 4
            body = {"model": MODEL, "prompt": prompts, "max_tokens": 1}
            assert (await client.post("/v1/completions", json=body)).status_code == 200
            return await watching, time.monotonic() - started_s

    longest_gap_s, prompts_s = asyncio.run(measure())
    assert longest_gap_s < prompts_s / 2  # 16 steps of 512 tokens; one lies between two tokens


def test_huge_prompts_are_refused_while_the_probes_stay_green(server: Served) -> None:
    async def measure() -> tuple[list[httpx.Response], float]:
        async with httpx.AsyncClient(timeout=60) as client:
            url, body = (
                f"{server.url}/v1/completions",
                {"model": MODEL, "prompt": "a" * (4194304 - 99)},
            )
            asking = [asyncio.create_task(client.post(url, json=body)) for _ in range(4)]
            slowest_s = 0.0
            while not all(task.done() for task in asking):
                started_s = time.monotonic()
                assert (await client.get(f"{server.admin_url}/livez")).status_code == 200
                slowest_s = max(slowest_s, time.monotonic() - started_s)
            return [await task for task in asking], slowest_s

    answers, slowest_s = asyncio.run(measure())
    assert slowest_s < 1
    for answer in answers:
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert error["code"] == "context_length_exceeded"
        assert "2048 tokens" in error["message"]
        assert "4194205 bytes" in error["message"]


def test_bodies_that_arrive_together_take_a_bounded_memory(server: Served) -> None:
    head = f"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {4 << 20}\r\n\r\n"
    small = json.dumps({**LONG, "prompt": "a" * 1000, "max_tokens": 1}).encode()
    large = small + b" " * 1_000_000
    url = f"{server.url}/v1/completions"
    with ExitStack() as slow:
        for _ in range(16):
            connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
            slow.enter_context(connection)
            connection.sendall(head.encode() + b" " * ((4 << 20) - 1))
        wait_for(lambda: httpx.post(url, content=large).status_code == 429)
        assert httpx.post(url, content=small).status_code == 200  # whoever else sends what
        assert server.admin("/livez").status_code == 200
    wait_for(lambda: httpx.post(url, content=large).status_code == 200)


def test_a_body_counts_no_longer_once_it_is_read(server: Served, ask: Ask) -> None:
    padded = {**LONG, "stream": True, "padding": "a" * (3 << 20)}
    streams = [ask(padded) for _ in range(6)]
    wait_for(lambda: server.state().running == 6)
    streams += [ask(padded) for _ in range(16)]
    wait_for(lambda: server.state().waiting == 14)  # 22 are 66 MiB, more than may arrive at once
    for connection in streams:
        connection.close()


def test_requests_that_nobody_could_answer_are_no_load(server: Served) -> None:
    before = server.state()
    assert server.complete("a " * 5000, max_tokens=1).status_code == 400
    assert server.chat(max_tokens=1, temperature=9).status_code == 400
    after = server.state()
    assert after.arrived_requests == before.arrived_requests
    assert after.arrived_prompt_tokens == before.arrived_prompt_tokens


def test_requests_that_are_turned_away_are_load_as_the_others(server: Served, ask: Ask) -> None:
    open_ = [ask({**LONG, "stream": True}) for _ in range(8)]
    wait_for(lambda: server.state().running == 8)
    many = [ask(LONG) for _ in range(24)]
    wait_for(lambda: server.state().waiting == 24)
    before = server.state()
    assert server.complete("The", max_tokens=1).status_code == 429
    after = server.state()
    assert (after.arrived_requests or 0) == (before.arrived_requests or 0) + 1
    assert (after.arrived_prompt_tokens or 0) > (before.arrived_prompt_tokens or 0)
    for connection in (*open_, *many):
        connection.close()


def test_several_answers_to_one_prompt_are_one_request(server: Served, ask: Ask) -> None:
    before = server.state()
    prompt = f"Nobody has asked for this before: {time.monotonic_ns()} {'and more ' * 100}"
    usage = server.complete(prompt, max_tokens=3, n=4).json()["usage"]
    wait_for(lambda: nothing_runs(server))
    after = server.state()

    def grown(name: str) -> int:
        return int(getattr(after, name) - getattr(before, name))

    assert grown("arrived_requests") == grown("finished_requests") == 1
    assert grown("arrived_prompt_tokens") == usage["prompt_tokens"]
    assert grown("finished_output_tokens") == usage["completion_tokens"] == 12
    assert grown("cached_prompt_tokens") == 0  # the others find what the first one has left
    assert grown("computed_prompt_tokens") < 1.3 * usage["prompt_tokens"]
    assert after.kv_tokens is not None
    assert before.kv_tokens is not None
    assert (after.kv_tokens.hot or 0) <= (before.kv_tokens.hot or 0)
    running = [ask({**LONG, "stream": True}) for _ in range(8)]
    wait_for(lambda: server.state().running == 8)
    many = ask({**LONG, "n": 4})
    wait_for(lambda: (server.state().waiting or 0) > 0)
    assert server.state().waiting == 1
    for connection in (*running, many):
        connection.close()


def test_the_state_is_small_and_adds_up(server: Served) -> None:
    before = server.state()
    usage = server.complete("A Pod is", max_tokens=7, temperature=0).json()["usage"]
    wait_for(lambda: nothing_runs(server))
    after = server.state()
    assert len(after.to_json()) <= MAX_STATE_BYTES
    assert after.boot_id == before.boot_id
    assert after.phase == "ready"
    assert after.model is not None
    assert (after.model.name, after.model.max_model_len) == (MODEL, 2048)

    def grown(name: str) -> int:
        return int(getattr(after, name) - getattr(before, name))

    assert grown("arrived_requests") == grown("finished_requests") == 1
    assert grown("arrived_prompt_tokens") == usage["prompt_tokens"]
    assert grown("computed_prompt_tokens") == usage["prompt_tokens"]
    assert (
        grown("finished_output_tokens") == grown("generated_tokens") == usage["completion_tokens"]
    )
    assert grown("decode_tokens") == grown("decoded_rows") == usage["completion_tokens"] - 1


def test_the_metrics_have_our_names_and_vllms(server: Served) -> None:
    server.chat(max_tokens=2)
    text = server.admin("/metrics").text
    label = f'{{model_name="{MODEL}"}}'
    for name in (
        "aweigh_requests_running",
        "vllm:num_requests_running",
        "aweigh_prompt_tokens_total",
        "vllm:prompt_tokens_total",
        "vllm:generation_tokens_total",
        "vllm:time_to_first_token_seconds_count",
        "aweigh_inter_token_latency_seconds_sum",
        "vllm:e2e_request_latency_seconds_count",
        "aweigh_step_duration_seconds_count",
    ):
        assert f"\n{name}{label} " in text, name
    assert f'vllm:request_success_total{{finished_reason="length",model_name="{MODEL}"}}' in text


def test_the_metrics_of_the_cache_have_their_values_under_both_names(
    server: Served, ask: Ask
) -> None:
    names = {
        "queries": ("aweigh_prefix_cache_queried_tokens_total", "vllm:prefix_cache_queries_total"),
        "hits": ("aweigh_prefix_cache_hit_tokens_total", "vllm:prefix_cache_hits_total"),
        "usage": ("aweigh_kv_cache_usage_ratio", "vllm:kv_cache_usage_perc"),
    }

    def metric(kind: str) -> float:
        ours, theirs = map(server.metric, names[kind])
        assert ours == theirs, kind
        return ours

    wait_for(lambda: nothing_runs(server))
    before = {kind: metric(kind) for kind in names}
    assert before["usage"] == 0
    prompt = list(range(3000, 3040))  # of 40 tokens, two blocks of 16 are found again
    for found in (0, 32):
        assert server.complete(prompt, max_tokens=1).status_code == 200
        wait_for(lambda: nothing_runs(server))
        assert metric("hits") - before["hits"] == found
    assert metric("queries") - before["queries"] == 2 * 40

    running = ask({**LONG, "stream": True})
    wait_for(lambda: server.state().running == 1)
    ratios = [server.metric(name) for name in names["usage"]]
    assert all(0 < ratio <= 1 for ratio in ratios), ratios
    running.close()


def test_the_admin_port_only_reads(server: Served) -> None:
    for path in ("/livez", "/readyz", "/metrics", "/state"):
        assert server.admin(path).status_code == 200
        assert httpx.post(f"{server.admin_url}{path}").status_code == 405


def test_neither_port_tells_what_it_is_made_of(server: Served) -> None:
    for url in (f"{server.url}/health", f"{server.admin_url}/livez", f"{server.admin_url}/nothing"):
        assert httpx.get(url).headers["Server"] == "aweigh"


def test_what_can_be_read_can_be_asked_for_without_its_body(server: Served) -> None:
    public = ("/health", "/v1/models", f"/v1/models/{MODEL}", "/v1/models/x", "/openapi.json", "/")
    urls = [server.url + path for path in public]
    urls += [server.admin_url + path for path in ("/livez", "/readyz", "/metrics", "/state")]
    with httpx.Client() as client:  # one connection: a body would be taken for the next answer
        for url in urls:
            head, whole = client.head(url), client.get(url)
            assert (head.status_code, head.content) == (whole.status_code, b"")
            assert head.headers["Content-Type"] == whole.headers["Content-Type"]
    assert httpx.head(f"{server.url}/v1/chat/completions").status_code == 405


def test_requests_are_logged_without_their_content(server: Served) -> None:
    fields = logged(server, server.chat("a secret about anchors", max_tokens=3))
    assert "anchors" not in server.log.read_text()
    assert (fields["status"], fields["completion_tokens"], fields["finish"]) == (200, 3, "length")


def logged(server: Served, answered: httpx.Response) -> dict[str, object]:
    id = answered.headers["X-Request-Id"]
    wait_for(lambda: id in server.log.read_text())
    (line,) = [line for line in server.log.read_text().splitlines() if id in line]
    fields: dict[str, object] = json.loads(line)
    return fields


def test_the_log_says_what_a_refusal_was_about_without_its_words(server: Served) -> None:
    chats = f"{server.url}/v1/chat/completions"
    cases = [
        (server.chat(temperature="anchors"), INVALID, "temperature"),
        (server.complete("anchors", max_tokens=9999), "context_length_exceeded", None),
        (server.complete("", max_tokens=1), INVALID, "prompt"),
        (httpx.post(chats, content=b"anchors"), "invalid_json", None),
        (httpx.post(chats, json={"model": "x", "messages": [{}]}), INVALID, "messages[0].role"),
        (server.chat(guided_regex="(anchors"), INVALID, "guided_regex"),
        (httpx.get(f"{server.url}/v1/models/anchor"), "model_not_found", "model"),
    ]
    for answered, error, param in cases:
        fields = logged(server, answered)
        assert fields["error"] == error
        assert fields.get("param") == param
        assert "anchors" not in str(fields)
    assert "error" not in logged(server, server.chat(max_tokens=1))


def test_the_api_process_never_loads_torch(server: Served) -> None:
    assert "/torch/" not in Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "/torch/" in Path(f"/proc/{server.children()['process']}/maps").read_text()


def test_a_bound_of_the_cache_is_told_as_it_was_given(tmp_path: Path) -> None:
    # It is no whole number of blocks: a smaller one would look as if memory were missing.
    with serving(tmp_path, "--prefix-cache-size=1000001") as served:
        served.wait_ready()
        assert served.state().prefix_cache_bytes == 1_000_001
