"""One OpenTelemetry span for each request that generates. Never a prompt or an answer.

Spans are made once a request is over, like its line in the log. Without the SDK they go nowhere.
The conventions for generative AI are not stable yet: their names stand in this module alone.
"""

import logging
import os
import time
from collections.abc import Mapping
from http import HTTPStatus
from importlib.util import find_spec

from aiohttp import web
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from aweigh_runtime.server.openai.generation import GENERATION, Generation

Attributes = dict[str, AttributeValue]

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_NEEDS = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
_OPERATIONS = {"/v1/chat/completions": "chat", "/v1/completions": "text_completion"}

_TRACEPARENT = TraceContextTextMapPropagator()
_log = logging.getLogger("aweigh.tracing")


def configure(environment: Mapping[str, str] = os.environ) -> None:
    """Send spans where the environment says; the SDK reads the rest of OTEL_… itself."""
    if not any(environment.get(name) for name in ENDPOINTS):
        return
    if not all(map(_installed, _NEEDS)):
        _log.warning(
            "an OTLP endpoint is set, but OpenTelemetry's SDK or its OTLP/HTTP exporter is not "
            "installed: no traces are sent; install aweigh[otel]"
        )
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    name = environment.get("OTEL_SERVICE_NAME", "aweigh")
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


def record(request: web.Request, model: str, status: int, seconds: float) -> str | None:
    """Make the span of a request that is over; returns the id of its trace, if it has one."""
    operation = _OPERATIONS.get(request.path)
    if operation is None or status == HTTPStatus.UNAUTHORIZED:
        return None
    generation = request.get(GENERATION)
    attributes: Attributes = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "aweigh",
        "gen_ai.request.model": model,
        "http.response.status_code": status,
        **({} if generation is None else _of(generation)),
    }
    ended_ns = time.time_ns()
    span = trace.get_tracer("aweigh").start_span(
        f"{operation} {model}",
        _TRACEPARENT.extract(request.headers),
        SpanKind.SERVER,
        attributes,
        start_time=ended_ns - int(seconds * 1e9),
    )
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or (generation and generation.failed):
        span.set_attribute("error.type", str(status) if status >= 400 else "_OTHER")
        span.set_status(StatusCode.ERROR)
    context = span.get_span_context()
    if span.is_recording():
        span.end(ended_ns)
    return trace.format_trace_id(context.trace_id) if context.is_valid else None


def _of(generation: Generation) -> Attributes:
    asked = generation.order.asked
    known: dict[str, AttributeValue | None] = {
        "gen_ai.request.max_tokens": generation.order.limit,
        "gen_ai.request.temperature": asked.temperature,
        "gen_ai.request.top_p": asked.top_p,
        "gen_ai.request.top_k": asked.top_k,
        "gen_ai.request.frequency_penalty": asked.frequency_penalty,
        "gen_ai.request.presence_penalty": asked.presence_penalty,
        "gen_ai.request.seed": asked.seed,
        "gen_ai.request.choice.count": asked.n,
        "gen_ai.request.stream": bool(asked.stream),
        "gen_ai.response.finish_reasons": generation.endings,
        "gen_ai.response.time_to_first_chunk": generation.first_token_s,
        "gen_ai.usage.input_tokens": generation.num_prompt_tokens,
        "gen_ai.usage.output_tokens": generation.num_answer_tokens,
        "gen_ai.usage.cache_read.input_tokens": generation.num_cached_tokens,
    }
    return {name: value for name, value in known.items() if value is not None}


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package around it
        return False
