"""What a router costs, and what its choice of pods is worth.

    python -m benchmarks.router [--only streams|choice|servers] [--streams N] [--seconds S]
        [--save FILE]

Streams come from a pod that only writes, evenly spread, over loopback; router, pod and client are
three processes on one machine. The choice is played with modelled pods, ten times, and measured
once with real servers of helmsman-8m.
"""

import argparse
import asyncio
import shlex
import sys
import tempfile
from pathlib import Path

import uvloop

from aweigh_bench import machine
from aweigh_bench.report import Bar, Report, Table, expect_writable
from benchmarks.router import prefixes, served, streams
from benchmarks.router.prefixes import GROUPS, KEPT, PODS
from benchmarks.router.served import AT_ONCE, PREFIX_TOKENS, Measured
from benchmarks.router.streams import Found

PARTS = ("streams", "choice", "servers")
WAYS = ("one pod that keeps all", "plain Service, in turn", "router")
CPU_US, GOAL_US = 65.0, 40.0
P50_MS, P99_MS = 1.0, 5.0
NOTES = [
    "CPU is of the router's process. Latency is from the pod's write to the client's read.",
    f"The goal for CPU is {GOAL_US:g} us.",
]
STREAM_BYTES = 40_000
HIT_SHARE, BUSIEST = 0.9, 1.3


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.router", description=__doc__)
    parser.add_argument("--streams", type=int, default=2000, help="open at once")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--only", choices=PARTS, help="one part of it")
    parser.add_argument("--save", type=Path, action="append", default=[], help="FILE.md or .json")
    options = parser.parse_args()
    for path in options.save:
        expect_writable("--save", path)
    parts = (options.only,) if options.only else PARTS
    found: list[tuple[Table, list[Bar]]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "streams" in parts:
            found.append(_streams(options.streams, options.seconds, folder))
        if "choice" in parts:
            found.append(_choice())
        if "servers" in parts:
            found.append(_servers(folder))
    report = Report(
        title="The router",
        command=shlex.join(["python", "-m", "benchmarks.router", *sys.argv[1:]]),
        model="none",
        machine=machine.describe(),
        tables=[table for table, _ in found],
        bars=[bar for _, bars in found for bar in bars],
        notes=NOTES if "streams" in parts else [],
    )
    print(report.text())
    for path in options.save:
        report.save(path)
    return int(any(bar.met is False for bar in report.bars))


def _streams(count: int, seconds: float, folder: Path) -> tuple[Table, list[Bar]]:
    straight, routed = asyncio.run(streams.measured(count, seconds, folder))
    assert routed.cpu_us is not None
    assert routed.stream_bytes is not None
    table = Table(
        f"{count:,} open streams",
        ("way", "events/s", "p50 ms", "p99 ms", "CPU us an event", "bytes a stream"),
        [_row("straight from the pod", straight), _row("through a router", routed)],
    )
    return table, [
        _at_most("router CPU an event", routed.cpu_us, CPU_US, "us"),
        _at_most("added latency, p50", routed.p50_ms - straight.p50_ms, P50_MS, "ms"),
        _at_most("added latency, p99", routed.p99_ms - straight.p99_ms, P99_MS, "ms"),
        _at_most("memory a stream", routed.stream_bytes, STREAM_BYTES, "bytes"),
    ]


def _row(way: str, found: Found) -> tuple[str, float, float, float, float | None, float | None]:
    return (
        way, found.events_per_s, found.p50_ms, found.p99_ms, found.cpu_us, found.stream_bytes,
    )  # fmt: skip


def _choice() -> tuple[Table, list[Bar]]:
    ways = (prefixes.one_pod(), prefixes.service(), prefixes.router())
    table = Table(
        f"{GROUPS} prefixes, Zipf-1, over {PODS} pods that keep {KEPT} each",
        ("way", "hit rate", "busiest pod ÷ mean", "the same, worst of 10 seeds"),
        [
            (way, found.hit_rate, found.busiest, found.busiest_at_worst)
            for way, found in zip(WAYS, ways, strict=True)
        ],
    )
    one, _, router = ways
    return table, [
        _share("hit rate ÷ that of one pod", router.hit_rate / one.hit_rate),
        _at_most("busiest pod ÷ mean, worst seed", router.busiest_at_worst, BUSIEST, ""),
    ]


def _servers(folder: Path) -> tuple[Table, list[Bar]]:
    async def measured() -> list[Measured]:
        return [await way(folder) for way in (served.one_pod, served.service, served.router)]

    ways = uvloop.run(measured())
    table = Table(
        f"The same with servers, {PREFIX_TOKENS:,} tokens each, {AT_ONCE} requests at once",
        ("way", "hit rate", "busiest pod ÷ mean"),
        [(way, found.hit_rate, found.busiest) for way, found in zip(WAYS, ways, strict=True)],
    )
    one, _, router = ways
    return table, [
        _share("hit rate ÷ that of one pod, servers", router.hit_rate / one.hit_rate),
        _at_most("busiest pod ÷ mean, servers", router.busiest, BUSIEST, ""),
    ]


def _share(what: str, found: float) -> Bar:
    return Bar(what, f"≥ {HIT_SHARE}", f"{found:.3f}", found >= HIT_SHARE)


def _at_most(what: str, found: float, bar: float, unit: str) -> Bar:
    shown = f"{found:,.0f}" if bar > 1000 else f"{found:.2f}"
    return Bar(what, f"≤ {bar:,g} {unit}".strip(), f"{shown} {unit}".strip(), found <= bar)


if __name__ == "__main__":
    sys.exit(main())
