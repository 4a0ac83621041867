"""Traces: what a collector gets of a request, what it never gets, and that none is needed."""

import gzip
import json
import signal
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from tests.runtime.serving import MODEL, Served, serving, wait_for

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
TRACEPARENT = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
QUESTION = "Who wrote the xylophone concerto?"
EXIT_S = 10.0


class Collector(ThreadingHTTPServer):
    """An OTLP/HTTP receiver of traces."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receiving)
        self.bodies: list[bytes] = []

    def spans(self) -> list[Any]:
        requests = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        return [
            span
            for request in requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


class Receiving(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        assert isinstance(self.server, Collector)
        assert self.path == "/v1/traces"
        self.server.bodies.append(body)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, str(kind))


def _attributes(span: Any) -> dict[str, Any]:
    return {each.key: _value(each.value) for each in span.attributes}


def _ask(served: Served, path: str, headers: dict[str, str], **fields: Any) -> httpx.Response:
    body = {"model": MODEL, **fields}
    return httpx.post(f"{served.url}{path}", json=body, headers=headers, timeout=60)


def _log_of(served: Served, request_id: str) -> dict[str, Any]:
    wait_for(lambda: request_id in served.log.read_text(), 5)
    lines = [json.loads(line) for line in served.log.read_text().splitlines()]
    return next(line for line in lines if line.get("id") == request_id)


def test_a_collector_gets_one_span_for_each_request_and_none_of_its_text(
    collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "chat-backend")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2")
    messages = [{"role": "user", "content": QUESTION}]
    with serving(tmp_path, "--dtype=fp32") as served:
        served.wait_ready()
        chats = [
            _ask(
                served,
                "/v1/chat/completions",
                TRACEPARENT | {"X-Request-Id": f"chat-{number}"},
                messages=messages,
                max_tokens=5,
                temperature=0.5,
                top_p=0.9,
                seed=1,
                n=2,
                stream=number == 1,
            )
            for number in range(2)
        ]
        _ask(served, "/v1/completions", {}, prompt=QUESTION, max_tokens=100_000, stop=["xylo"])
        _ask(served, "/tokenize", TRACEPARENT, prompt=QUESTION)
        wait_for(lambda: len(collector.spans()) >= 3, 10, served)
        log = _log_of(served, "chat-0")

        collector.shutdown()
        collector.server_close()
        assert _ask(served, "/v1/completions", {}, prompt="A", max_tokens=1).status_code == 200
        served.process.send_signal(signal.SIGTERM)
        ended_s = time.monotonic()
        assert served.process.wait(60) == 0
        assert time.monotonic() - ended_s < EXIT_S
        lines = [json.loads(line) for line in served.log.read_text().splitlines()]
        assert "opentelemetry" in lines[-1]["logger"]

    first, second, refused = collector.spans()
    usage = chats[0].json()["usage"]
    assert first.name == second.name == f"chat {MODEL}"
    assert first.trace_id.hex() == log["trace"] == TRACE
    assert first.parent_span_id.hex() == PARENT
    got = _attributes(first)
    assert 0 < got.pop("gen_ai.response.time_to_first_chunk") < 60
    assert got == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "aweigh",
        "gen_ai.request.model": MODEL,
        "gen_ai.request.max_tokens": 5,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.seed": 1,
        "gen_ai.request.choice.count": 2,
        "gen_ai.request.stream": False,
        "gen_ai.response.finish_reasons": [
            each["finish_reason"] for each in chats[0].json()["choices"]
        ],
        "gen_ai.usage.input_tokens": usage["prompt_tokens"],
        "gen_ai.usage.output_tokens": usage["completion_tokens"],
        "gen_ai.usage.cache_read.input_tokens": usage["prompt_tokens_details"]["cached_tokens"],
        "http.response.status_code": 200,
    }
    assert _attributes(second)["gen_ai.request.stream"] is True
    assert _attributes(second)["gen_ai.usage.cache_read.input_tokens"] > 0
    assert refused.name == f"text_completion {MODEL}"
    assert refused.parent_span_id == b""
    assert _attributes(refused)["http.response.status_code"] == 400
    assert 0 < first.end_time_unix_nano - first.start_time_unix_nano < 60e9
    sent = b"".join(collector.bodies)
    assert b"chat-backend" in sent
    assert b"xylo" not in sent


def test_without_a_collector_the_log_still_says_which_trace_a_request_belongs_to(
    server: Served,
) -> None:
    for id, headers in (("traced", TRACEPARENT), ("broken", {"traceparent": "00-x"}), ("no", {})):
        given = headers | {"X-Request-Id": f"{id}-7f3a"}
        _ask(server, "/v1/completions", given, prompt="A", max_tokens=1)
    assert _log_of(server, "traced-7f3a")["trace"] == TRACE
    assert "trace" not in _log_of(server, "broken-7f3a")
    assert "trace" not in _log_of(server, "no-7f3a")
