"""What a router costs, and what its choice of pods is worth.

    python -m benchmarks.router [--streams N] [--seconds S] [--modelled-only] [--save FILE]

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

from aweigh_bench import machine
from aweigh_bench.report import Bar, Report, Table, expect_writable
from benchmarks.router import prefixes, served, streams
from benchmarks.router.prefixes import GROUPS, KEPT, PODS, Outcome
from benchmarks.router.served import AT_ONCE, PREFIX_TOKENS, Measured
from benchmarks.router.streams import Found

CPU_US, GOAL_US = 65.0, 40.0
P50_MS, P99_MS = 1.0, 5.0
STREAM_BYTES = 40_000
HIT_SHARE, BUSIEST = 0.9, 1.3


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.router", description=__doc__)
    parser.add_argument("--streams", type=int, default=2000, help="open at once")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--modelled-only", action="store_true", help="no real servers")
    parser.add_argument("--save", type=Path, action="append", default=[], help="FILE.md or .json")
    options = parser.parse_args()
    for path in options.save:
        expect_writable("--save", path)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        straight, routed = asyncio.run(streams.measured(options.streams, options.seconds, folder))
        real = None if options.modelled_only else asyncio.run(_real(folder))
    report = _report(options.streams, straight, routed, real)
    print(report.text())
    for path in options.save:
        report.save(path)
    return int(any(bar.met is False for bar in report.bars))


async def _real(folder: Path) -> list[Measured]:
    return [await way(folder) for way in (served.one_pod, served.service, served.router)]


def _report(
    num_streams: int, straight: Found, routed: Found, real: list[Measured] | None
) -> Report:
    one, service, router = prefixes.one_pod(), prefixes.service(), prefixes.router()
    return Report(
        title="The router",
        command=shlex.join(["python", "-m", "benchmarks.router", *sys.argv[1:]]),
        model="none",
        machine=machine.describe(),
        tables=[
            Table(
                f"{num_streams:,} open streams",
                ("way", "events/s", "p50 ms", "p99 ms", "CPU us an event", "bytes a stream"),
                [_row("straight from the pod", straight), _row("through a router", routed)],
            ),
            Table(
                f"{GROUPS} prefixes, Zipf-1, over {PODS} pods that keep {KEPT} each",
                ("way", "hit rate", "busiest pod ÷ mean", "the same, worst of 10 seeds"),
                [
                    _choice("one pod that keeps all", one),
                    _choice("plain Service, in turn", service),
                    _choice("router", router),
                ],
            ),
            *([] if real is None else [_of_servers(real)]),
        ],
        bars=[*_bars(straight, routed, one, router), *([] if real is None else _real_bars(real))],
        notes=[
            "CPU is of the router's process. Latency is from the pod's write to the client's read.",
            f"The goal for CPU is {GOAL_US:g} us.",
        ],
    )


def _row(way: str, found: Found) -> tuple[str, float, float, float, float | None, float | None]:
    return (
        way, found.events_per_s, found.p50_ms, found.p99_ms, found.cpu_us, found.stream_bytes,
    )  # fmt: skip


def _choice(way: str, found: Outcome) -> tuple[str, float, float, float]:
    return way, found.hit_rate, found.busiest, found.busiest_at_worst


def _of_servers(real: list[Measured]) -> Table:
    return Table(
        f"The same with servers, {PREFIX_TOKENS:,} tokens each, {AT_ONCE} requests at once",
        ("way", "hit rate", "busiest pod ÷ mean"),
        [
            (way, found.hit_rate, found.busiest)
            for way, found in zip(
                ("one pod", "plain Service, in turn", "router"), real, strict=True
            )
        ],
    )


def _real_bars(real: list[Measured]) -> list[Bar]:
    one, _, router = real
    share = router.hit_rate / one.hit_rate
    what = "hit rate ÷ that of one pod, servers"
    return [Bar(what, f"≥ {HIT_SHARE}", f"{share:.3f}", share >= HIT_SHARE)]


def _bars(straight: Found, routed: Found, one: Outcome, router: Outcome) -> list[Bar]:
    assert routed.cpu_us is not None
    assert routed.stream_bytes is not None
    p50, p99 = routed.p50_ms - straight.p50_ms, routed.p99_ms - straight.p99_ms
    share = router.hit_rate / one.hit_rate
    return [
        _at_most("router CPU an event", routed.cpu_us, CPU_US, "us"),
        _at_most("added latency, p50", p50, P50_MS, "ms"),
        _at_most("added latency, p99", p99, P99_MS, "ms"),
        _at_most("memory a stream", routed.stream_bytes, STREAM_BYTES, "bytes"),
        Bar("hit rate ÷ that of one pod", f"≥ {HIT_SHARE}", f"{share:.3f}", share >= HIT_SHARE),
        _at_most("busiest pod ÷ mean, worst seed", router.busiest_at_worst, BUSIEST, ""),
    ]


def _at_most(what: str, found: float, bar: float, unit: str) -> Bar:
    shown = f"{found:,.0f}" if bar > 1000 else f"{found:.2f}"
    return Bar(what, f"≤ {bar:,g} {unit}".strip(), f"{shown} {unit}".strip(), found <= bar)


if __name__ == "__main__":
    sys.exit(main())
