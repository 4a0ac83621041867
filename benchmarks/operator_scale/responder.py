"""Answers `/state` for every pretended pod: whatever address is asked, this process is there.

    python -m benchmarks.operator_scale.responder

Each pod tells of a loaded model and of nobody who asks. `/asked` says how many reports were given.
"""

import asyncio
import os
import time

from aweigh_api import names
from aweigh_api.state import KvTokens, ServedModel, State, StepFit

BOOTED_S = time.monotonic()
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


class Responder(asyncio.Protocol):
    """One connection."""

    asked = 0  # of all connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._address = str(transport.get_extra_info("sockname")[0])

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"GET /asked"):
            body = str(Responder.asked).encode()
        else:
            Responder.asked += 1
            body = _state(self._address)
        self._transport.write(_HEAD % len(body) + body)


def _state(address: str) -> bytes:
    return _TEMPLATE % (address.encode(), time.monotonic() - BOOTED_S)


def _template() -> bytes:
    state = State(
        boot_id="BOOT",
        uptime_s=-1.0,
        phase="ready",
        model=ServedModel(name="helmsman-8m", max_model_len=2048, dtype="bfloat16"),
        running=0,
        waiting=0,
        waiting_prompt_tokens=0,
        arrived_requests=0,
        arrived_prompt_tokens=0,
        finished_requests=0,
        finished_output_tokens=0,
        cached_prompt_tokens=0,
        computed_prompt_tokens=0,
        generated_tokens=0,
        decode_tokens=0,
        decoded_rows=0,
        drafted_tokens=0,
        accepted_tokens=0,
        kv_tokens_read=0,
        saved_prefill_seconds=0.0,
        max_running=256,
        kv_tokens=KvTokens(capacity=262_144, held=0, cached=0, hot=0),
        prefix_cache_bytes=1 << 30,
        step_fit=StepFit(
            base=0.004,
            prompt_token=2e-5,
            row=1e-4,
            kv_token=1e-8,
            drafted_token=1e-4,
            samples=200,
            error=0.05,
        ),
    )
    text = state.to_json().replace("%", "%%")
    return text.replace("BOOT", "%s").replace("-1.0", "%.3f").encode()


_TEMPLATE = _template()


async def _main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Responder, "0.0.0.0", names.ADMIN_PORT, backlog=1024)
    os.write(1, b"ready\n")
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main())
