"""Sends queries at a rate, or so many at a time, and collects the answers. It judges nothing."""

import asyncio
import resource
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from aweigh_bench.endpoint import Asking, Endpoint
from aweigh_bench.measures import Answer
from aweigh_bench.traffic import Query

Tick = Callable[[Answer], None]


@dataclass(frozen=True, slots=True)
class Load:
    """The answers of one run, and what it took to get them."""

    answers: list[Answer]
    client_busy_percent: float  # of one processor; near 100 the client limits what it measures


async def at_arrivals(
    endpoint: Endpoint,
    asking: Asking,
    queries: Sequence[Query],
    arrivals_s: Iterable[float],
    *,
    concurrency: int | None = None,
    tick: Tick = lambda answer: None,
) -> Load:
    """Send each query at its time, whatever the server does; at most `concurrency` at once.

    A query that has to wait for others is sent late, and its time to first token starts then.
    """
    bodies = [asking.body(query) for query in queries]
    turnstile = asyncio.Semaphore(concurrency or len(bodies))

    async def one(body: bytes, at_s: float) -> Answer:
        await asyncio.sleep(at_s - time.perf_counter())
        async with turnstile:
            answer = await endpoint.ask(asking.route, body)
        tick(answer)
        return answer

    busy_s, start_s = _busy_s(), time.perf_counter()
    requests = [
        one(body, start_s + arrival_s) for body, arrival_s in zip(bodies, arrivals_s, strict=True)
    ]
    answers = list(await asyncio.gather(*requests))
    elapsed_s = time.perf_counter() - start_s
    return Load(answers, 100 * (_busy_s() - busy_s) / elapsed_s)


async def together(
    endpoint: Endpoint,
    asking: Asking,
    queries: Sequence[Query],
    concurrency: int,
    tick: Tick = lambda answer: None,
) -> Load:
    """Keep `concurrency` requests open until all queries are answered."""
    return await at_arrivals(
        endpoint, asking, queries, [0.0] * len(queries), concurrency=concurrency, tick=tick
    )


def _busy_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
