"""What clients, the operator and the kubelet see of a router beside streams."""

import asyncio
import io
import json
import logging
import ssl
from pathlib import Path

import pytest
import trustme

from aweigh_http import bodies
from tests.router.pod import SMALL_BYTES, Pod, running
from tests.router.routing import Local, eventually, routing

ALICE = "alice-0123456789abcdef"
BOB = "bob-0123456789abcdefgh"


@pytest.fixture
def keys_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "keys"
    directory.mkdir()
    (directory / "alice").write_text(ALICE)
    (directory / "bob.low").write_text(BOB)
    return directory


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def raw(local: Local, head: bytes) -> bytes:
    """The first line of the answer to these bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(local.url.rpartition(":")[2]))
    writer.write(head)
    async with asyncio.timeout(10):
        line = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return line


async def test_a_made_up_key_is_refused_before_the_body_is_read_or_anything_waits(
    tmp_path: Path, keys_dir: Path
) -> None:
    async with routing(tmp_path, [Pod(url="http://127.0.0.1:9")], api_keys_dir=keys_dir) as local:
        for path in ("/v1/chat/completions", "/v1/completions", "/tokenize"):
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n"
            answer = await raw(local, f"{head}Authorization: Bearer made-up\r\n\r\n".encode())
            assert answer.startswith(b"HTTP/1.1 401")
        for path in ("/v1/models", "/", "/openapi.json"):
            async with local.session.get(f"{local.url}{path}") as response:
                assert response.status == 401
        state = await local.state()
        assert (state["arrived_requests"], state["waiting"]) == (0, 0)
        async with local.session.get(f"{local.url}/health") as response:
            assert response.status == 200  # it holds requests, though it has no pod


async def test_pods_are_told_the_tenant_and_nothing_that_a_client_claims(
    tmp_path: Path, keys_dir: Path
) -> None:
    pod = Pod()
    claimed = {
        "aweigh-tenant": "00",
        "AWEIGH-ROUTER-SECRET": "mine",
        "Aweigh-Router": "mine",
        "Connection": "x-hop, keep-alive",
        "X-Hop": "1",
        "X-Request-Id": "my-id",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    async with running(pod), routing(tmp_path, [pod], api_keys_dir=keys_dir) as local:
        url = f"{local.url}/v1/completions"
        body = {"model": "m", "prompt": "hello"}
        async with local.session.post(url, json=body, headers=claimed | bearer(ALICE)) as response:
            assert response.status == 200
            assert response.headers["X-Request-Id"] == "my-id"
            assert "Aweigh-Room" not in response.headers
    got = pod.seen[0].headers
    assert len(got["Aweigh-Tenant"]) == 64
    assert got.getall("Aweigh-Router-Secret") == [pod.secret]
    assert "mine" not in got.getall("Aweigh-Router")
    assert got["traceparent"] == claimed["traceparent"]
    assert got["X-Request-Id"] == "my-id"
    assert "X-Hop" not in got


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"prompt": "x", "aweigh_resume": {}}', "Unknown field 'aweigh_resume'"),
        (b'{"prompt": "x", "aweigh\\u005fresume": {}}', "Unknown field 'aweigh_resume'"),
        (b'{"prompt": "x", "n": 9}', "expected an integer from 1 to 8"),
        (b'{"prompt": "x", "n": 1' + b"0" * 400 + b"}", "expected an integer from 1 to 8"),
        (b'{"prompt": "x", "n": ' + b"1" * 5000 + b"}", "not valid JSON"),
        (b'{"prompt": [' + b",".join([b'"x"'] * 33) + b"]}", "expected 32 at most"),
        (b"[1]", "not a JSON object"),
        (b'{"prompt": ', "not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"\xff\xfe", "not valid JSON"),
    ],
)
async def test_a_body_that_no_client_may_send_is_refused_here(
    tmp_path: Path, body: bytes, message: str
) -> None:
    pod = Pod()
    async with running(pod), routing(tmp_path, [pod]) as local:
        async with local.session.post(f"{local.url}/v1/completions", data=body) as response:
            answer = await response.json()
        assert (response.status, answer["error"]["type"]) == (400, "invalid_request_error")
        assert message in answer["error"]["message"]
        assert not pod.seen


async def test_the_log_has_the_code_of_an_error_and_nothing_that_a_client_sent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "aweigh.requests")
    async with routing(tmp_path, [Pod(url="http://127.0.0.1:9")]) as local:
        assert (await local.whole("a secret of mine", n=9))[0] == 400
    (fields,) = [each.__dict__["fields"] for each in caplog.records if each.msg == "request"]
    assert (fields["status"], fields["error"]) == (400, "invalid_request_error")
    assert fields["param"] == "n"
    assert "secret of mine" not in str(fields)


async def test_bodies_are_bounded_one_by_one_and_together(tmp_path: Path) -> None:
    pod = Pod(refuses=True)
    async with running(pod), routing(tmp_path, [pod], max_held_bytes=5 << 20) as local:
        url = f"{local.url}/v1/completions"
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {5 << 20}\r\n\r\n"
        assert (await raw(local, head.encode() + b"x" * (5 << 20))).startswith(b"HTTP/1.1 413")
        large = json.dumps({"prompt": "x" * (3 << 20)}).encode()
        asking = asyncio.create_task(_post(local, large))
        await eventually(lambda: len(local.service.dispatch.line))
        async with local.session.post(url, data=io.BytesIO(large)) as response:
            assert response.status == 429
            assert response.headers["Retry-After"]
        assert (await local.state())["arrived_requests"] == 2  # that one, and what waits
        pod.refuses = False
        pod.tell()
        assert await asking == 200
        assert local.service.bodies.held_bytes == 0


async def _post(local: Local, body: bytes) -> int:
    async with local.session.post(f"{local.url}/v1/completions", data=io.BytesIO(body)) as response:
        return response.status


async def test_a_full_line_says_when_to_come_again(tmp_path: Path) -> None:
    pod = Pod(refuses=True)
    async with running(pod), routing(tmp_path, [pod], max_waiting=2) as local:
        asking = [asyncio.create_task(local.whole(f"p {each}")) for each in range(2)]
        await eventually(lambda: len(local.service.dispatch.line) == 2)
        async with local.session.post(f"{local.url}/v1/completions", json={"prompt": ""}) as third:
            answer = await third.json()
        assert (third.status, answer["error"]["code"]) == (429, "overloaded")
        assert int(third.headers["Retry-After"]) >= 1
        assert (await local.state())["arrived_requests"] == 3
        pod.refuses = False
        pod.tell()
        assert [status for status, _ in await asyncio.gather(*asking)] == [200, 200]


async def test_a_key_of_low_priority_waits_behind_others(tmp_path: Path, keys_dir: Path) -> None:
    pod = Pod(refuses=True, max_running=1)
    async with running(pod), routing(tmp_path, [pod], api_keys_dir=keys_dir) as local:
        asking = []
        for each, key in enumerate((BOB, ALICE, BOB, ALICE)):
            asking.append(asyncio.create_task(_ask(local, f"p {each}", key)))
            await eventually(lambda: len(local.service.dispatch.line) == len(asking))
        pod.refuses = False
        pod.tell()
        await asyncio.gather(*asking)
    assert [each.body["prompt"] for each in pod.seen] == ["p 1", "p 3", "p 0", "p 2"]


async def _ask(local: Local, prompt: str, key: str) -> int:
    url, body = f"{local.url}/v1/completions", {"model": "m", "prompt": prompt}
    async with local.session.post(url, json=body, headers=bearer(key)) as response:
        return response.status


async def test_what_takes_no_room_passes_though_all_pods_are_full(tmp_path: Path) -> None:
    pod = Pod(refuses=True)
    async with running(pod), routing(tmp_path, [pod]) as local:
        asking = asyncio.create_task(local.whole("hello"))
        await eventually(lambda: len(local.service.dispatch.line))
        async with local.session.get(f"{local.url}/v1/models") as response:
            assert (await response.json())["data"] == [{"id": "m"}]
        async with local.session.post(f"{local.url}/tokenize", data=b"abc") as response:
            assert (await response.json())["count"] == 3
        asking.cancel()


async def test_a_long_body_that_no_pod_can_hold_waits_and_keeps_no_answer_from_them(
    tmp_path: Path,
) -> None:
    pods = [Pod(crowded=True), Pod(crowded=True)]
    async with running(*pods), routing(tmp_path, pods) as local:
        url, text = f"{local.url}/tokenize", b"x" * (SMALL_BYTES + 1)

        async def tokenize(text: bytes) -> dict[str, int]:
            async with local.session.post(url, data=text) as response:
                return {"status": response.status, **await response.json()}

        asking = asyncio.create_task(tokenize(text))
        await eventually(lambda: all(pod.seen for pod in pods))
        async with asyncio.timeout(10):
            for each in range(50):
                assert (await local.whole(f"p {each}"))[0] == 200
            assert (await tokenize(b"abc"))["count"] == 3
        assert not asking.done()
        for pod in pods:
            pod.crowded = False
        assert await asking == {"status": 200, "count": len(text)}
    # It waits for 10 s at most, ever longer before it asks both again.
    assert sum(each.path == "/tokenize" for pod in pods for each in pod.seen) <= 22


async def test_what_pods_do_not_serve_is_not_asked_of_them(tmp_path: Path) -> None:
    pod = Pod()
    async with running(pod), routing(tmp_path, [pod]) as local:
        for method, path, status in (
            ("GET", "/router/report", 404),
            ("POST", "/v1/embeddings", 404),
            ("GET", "/v1/completions", 405),
            ("GET", "/metrics", 404),
        ):
            async with local.session.request(method, f"{local.url}{path}") as response:
                assert response.status == status
                assert (await response.json())["error"]["message"]


async def test_an_operator_that_listens_is_woken_when_requests_wait_in_vain(
    tmp_path: Path,
) -> None:
    async with (
        routing(tmp_path, [Pod(url="http://127.0.0.1:9")]) as local,
        local.session.get(f"{local.admin_url}/wake") as response,
    ):
        first = json.loads(await response.content.readline())
        assert (first["waiting"], first["known_pods"], first["phase"]) == (0, 0, "ready")
        asking = asyncio.create_task(local.whole("hello"))
        async with asyncio.timeout(3):
            second = json.loads(await response.content.readline())
        assert (second["waiting"], second["arrived_requests"]) == (1, 1)
        assert second["boot_id"] == first["boot_id"]
        asking.cancel()


async def test_what_asks_for_no_answer_wakes_no_pod(tmp_path: Path) -> None:
    async with routing(tmp_path, [Pod(url="http://127.0.0.1:9")]) as local:
        asking = asyncio.create_task(local.session.get(f"{local.url}/v1/models"))
        await eventually(lambda: len(local.service.dispatch.line) == 1)
        told = local.service.state()
        assert (told.waiting, told.oldest_waiting_s, told.arrived_requests) == (0, None, 0)
        asking.cancel()


async def test_metrics_exist_at_zero_pods(tmp_path: Path) -> None:
    async with (
        routing(tmp_path, [Pod(url="http://127.0.0.1:9")], model_name="m") as local,
        local.session.get(f"{local.admin_url}/metrics") as response,
    ):
        lines = (await response.text()).splitlines()
    assert 'aweigh_router_waiting_requests{model_name="m"} 0.0' in lines
    assert 'aweigh_router_pods{model_name="m"} 0.0' in lines
    assert 'aweigh_router_retries_total{model_name="m",reason="died"} 0.0' in lines


async def test_a_body_must_arrive_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "DEADLINE_S", 0.1)
    async with routing(tmp_path, [Pod(url="http://127.0.0.1:9")]) as local:
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{"
        assert (await raw(local, head)).startswith(b"HTTP/1.1 408")
        assert local.service.bodies.held_bytes == 0


async def test_a_body_that_is_complete_only_after_the_end_is_told_so(tmp_path: Path) -> None:
    pod, body = Pod(), b'{"model": "m", "prompt": "hello", "max_tokens": 2}'
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with running(pod), routing(tmp_path, [pod]) as local:
        await eventually(lambda: local.service.state().known_pods)
        port = int(local.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head + body[:10])
        await eventually(lambda: local.service.num_open)
        local.service.relay.end()
        writer.write(body[10:])
        async with asyncio.timeout(10):
            answer = await reader.readuntil(b"}")
        writer.close()
        await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 503")
    assert b'"draining"' in answer
    assert not pod.seen


async def test_a_chat_stays_on_its_pod_and_prefixes_stay_together(tmp_path: Path) -> None:
    pods = [Pod() for _ in range(4)]
    async with running(*pods), routing(tmp_path, pods) as local:
        for each in range(6):
            messages = [{"role": "user", "content": f"{each} " * 400}]
            for turn in range(4):
                body = {"model": "m", "messages": messages}
                url = f"{local.url}/v1/chat/completions"
                async with local.session.post(url, json=body) as response:
                    assert response.status == 200
                messages += [
                    {"role": "assistant", "content": "yes"},
                    {"role": "user", "content": f"turn {turn}"},
                ]
    chats = [{s.body["messages"][0]["content"] for s in pod.seen} for pod in pods]
    assert sum(map(len, chats)) == 6  # none of them was on two
    assert len([each for each in chats if each]) > 1


def certificate(directory: Path, authority: trustme.CA) -> Path:
    """What a Secret of cert-manager's is mounted as, for a name that no pod's address has."""
    directory.mkdir()
    pair = authority.issue_cert("chat.ns.svc")
    pair.private_key_pem.write_to_path(directory / "tls.key")
    (directory / "tls.crt").write_bytes(b"".join(blob.bytes() for blob in pair.cert_chain_pems))
    return directory


def serving(directory: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(directory / "tls.crt", directory / "tls.key")
    return context


async def test_the_secret_is_shown_only_to_pods_with_the_services_certificate(
    tmp_path: Path,
) -> None:
    ours = certificate(tmp_path / "ours", trustme.CA())
    foreign = certificate(tmp_path / "foreign", trustme.CA())
    pod, impostor = Pod(tls=serving(ours)), Pod(tls=serving(foreign))
    trusting = ssl.create_default_context(cafile=str(ours / "tls.crt"))
    trusting.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    async with running(pod, impostor), routing(tmp_path, [pod, impostor], tls_dir=ours) as local:
        url = local.url.replace("http", "https") + "/v1/completions"
        for each in range(8):
            body = {"model": "m", "prompt": f"p {each}"}
            async with local.session.post(
                url, json=body, ssl=trusting, server_hostname="chat.ns.svc"
            ) as response:
                assert response.status == 200
    assert (len(pod.seen), len(impostor.seen)) == (8, 0)
