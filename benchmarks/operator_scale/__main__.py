"""The operator with 1,000 InferenceServices, on a real control plane with pretended nodes.

    python -m benchmarks.operator_scale [--services 1000] [--save FILE.md] [--save FILE.json]

The operator is a process of its own with its default settings; kwok plays nodes and pods, and one
process answers for all pods what the operator asks them. Needs root, for a network of its own.
"""

import argparse
import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aweigh_api import names
from aweigh_bench import machine
from aweigh_bench.measures import percentile
from aweigh_bench.report import Bar, Cell, Report, Table, expect_writable
from benchmarks.operator_scale import phases
from benchmarks.operator_scale.api import Api
from benchmarks.operator_scale.phases import Idle
from tests.cluster import control_plane, debian, network, progress
from tests.cluster.cluster import Cluster
from tests.cluster.places import CHECKOUT
from tests.e2e.local_operator import LocalOperator

CHILDREN_BAR_S, CHANGE_BAR_S, TAKEOVER_BAR_S = 120.0, 1.0, 15.0
MEMORY_BAR_MB, IDLE_BAR_PERCENT, REPORTS_BAR = 150.0, 10.0, 1000.0
LEASE = ("default", "operator-scale")
IMAGE = "registry.example/aweigh-runtime:1"
SCALED = {"spec": {"replicas": None, "scaling": {"minReplicas": 1, "maxReplicas": 4}}}


@dataclass(frozen=True)
class Options:
    """What was asked for on the command line."""

    services: int
    changes: int
    idle_s: float
    resync_s: float


def main() -> None:
    options, save = _options()
    for path in save:
        expect_writable("--save", path)
    debian.require_root()
    place = control_plane.up()
    try:
        control_plane.kubectl(place, "apply", "--server-side", "-f", str(CHECKOUT / "crds"))
        network.enter(place)
        with _responder():
            report = asyncio.run(_measured(options, Cluster(place)))
    finally:
        control_plane.down()
    print(report.text())
    for path in save:
        report.save(path)


def _options() -> tuple[Options, list[Path]]:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.operator_scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--services", type=int, default=1000, help="how many; default: 1000")
    add("--changes", type=int, default=100, help="changes of single services; default: 100")
    add("--idle-seconds", type=float, default=120.0, help="of each idle time; default: 120")
    add("--resync-seconds", type=float, default=20.0, help="of the ten resyncs; default: 20")
    add("--save", type=Path, action="append", default=[], metavar="FILE", help="a .md or .json")
    given = parser.parse_args()
    options = Options(given.services, given.changes, given.idle_seconds, given.resync_seconds)
    return options, given.save


@contextlib.contextmanager
def _responder() -> Iterator[None]:
    command = [sys.executable, "-m", "benchmarks.operator_scale.responder"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.terminate()


async def _measured(options: Options, cluster: Cluster) -> Report:
    assert cluster.place is not None
    api, at = Api(cluster.place.kubeconfig), phases.services(options.services)
    lease = f"--lease={'/'.join(LEASE)}"
    first = LocalOperator(cluster, "", IMAGE, (lease,), host="first")
    second = LocalOperator(cluster, "", IMAGE, (lease,), host="second")
    often = f"--resync-seconds={options.resync_s}"
    resyncing = LocalOperator(cluster, "", IMAGE, (lease, often), host="resyncing")
    try:
        return await _phases(options, api, at, (first, second, resyncing))
    except BaseException:
        for each in (first, second, resyncing):
            sys.stderr.write(each.said()[-3000:])
        raise
    finally:
        for each in (first, second, resyncing):
            if each.running():
                each.kill()
        await api.close()


async def _phases(
    options: Options,
    api: Api,
    at: list[tuple[str, str]],
    operators: tuple[LocalOperator, LocalOperator, LocalOperator],
) -> Report:
    first, second, resyncing = operators
    count = len(at)
    first.start()
    alone_mb = _megabytes(first.rss_mib())
    with progress.step("create", f"{count} services", "about 2 min"):
        created = await phases.created(api, first, at)
    _say("create", created)
    told = first.metrics()
    with progress.step("change", "one service after the other", "about 1 min"):
        changed = at[:: max(1, count // options.changes)][: options.changes]
        await asyncio.sleep(phases.SETTLE_S)
        changes_s = await phases.changes_s(api, changed, 2)
        per_change = phases.requests(first.metrics(), told) / len(changed)
        await api.patch(names.KIND, changed, {"spec": {"replicas": 1}})
    _say("change", f"p99 {percentile(sorted(changes_s), 99):.3f} s, longest {max(changes_s):.3f} s")
    with progress.step("idle", "nothing changes", f"{options.idle_s + 60:.0f} s"):
        await asyncio.sleep(60.0)
        idle = await phases.idle(first, options.idle_s)
    memory_mb, peak_mb = _megabytes(first.rss_mib()), _megabytes(first.peak_mib())
    _say("idle", f"{idle}, {memory_mb:.1f} MB")
    with progress.step("takeover", "the operator dies", "about 30 s"):
        second.start()
        await phases.knows_all(second, count)
        held_s, worked_s = await phases.takeover_s(api, first, LEASE, at[0], 2)
        await api.patch(names.KIND, at[:1], {"spec": {"replicas": 1}})
    _say("takeover", f"held after {held_s:.1f} s, worked after {worked_s:.1f} s")
    with progress.step("scaling", "all services scale by load", f"{options.idle_s + 90:.0f} s"):
        await api.patch(names.KIND, at, SCALED)
        await asyncio.sleep(90.0)
        scaled = await phases.idle(second, options.idle_s)
    scaled_mb = _megabytes(second.rss_mib())
    _say("scaling", f"{scaled}, {scaled_mb:.1f} MB")
    await api.patch(names.KIND, at, {"spec": {"replicas": 1, "scaling": None}})
    second.stop()
    with progress.step("resyncs", f"{phases.RESYNCS} of them", "about 4 min"):
        began_s = time.monotonic()
        resyncing.start()
        await phases.ready(api, resyncing, count)
        again_s = time.monotonic() - began_s
        await asyncio.sleep(phases.SETTLE_S)
        written, looks = await phases.writes_of_resyncs(api, resyncing, count)
    p99_s = percentile(sorted(changes_s), 99)
    figures = {
        "children_s": created.children_s,
        "ready_s": created.ready_s,
        "change_p50_s": percentile(sorted(changes_s), 50),
        "change_p99_s": p99_s,
        "memory_mb": memory_mb,
        "memory_peak_mb": peak_mb,
        "idle": idle.__dict__,
        "scaled": scaled.__dict__,
        "takeover_held_s": held_s,
        "takeover_worked_s": worked_s,
        "children_written_by_resyncs": written,
    }
    return Report(
        title=f"The operator with {count:,} InferenceServices",
        command="make bench BENCH=operator",
        model="none",
        machine=machine.describe(),
        tables=[
            _times(created, changes_s, held_s, worked_s, again_s),
            _costs(idle, scaled, memory_mb, scaled_mb, peak_mb, alone_mb),
            _requests(created, per_change, idle, scaled, count),
        ],
        bars=[
            _at_most(
                f"s until all children of {count:,} services are there",
                created.children_s,
                CHILDREN_BAR_S,
            ),
            _at_most(
                f"s from a change to its application, p99 of {len(changes_s)}", p99_s, CHANGE_BAR_S
            ),
            _at_most("MB that the operator holds", memory_mb, MEMORY_BAR_MB),
            _at_most("percent of a core, idle", idle.cpu_percent, IDLE_BAR_PERCENT),
            Bar(
                "reports read in 15 s, all services scaling",
                f">= {REPORTS_BAR:.0f}",
                f"{scaled.reports_per_15_s:.0f}",
                scaled.reports_per_15_s >= REPORTS_BAR * count / 1000,
            ),
            _at_most(
                "s from the death of the leader to the first work of the next",
                worked_s,
                TAKEOVER_BAR_S,
            ),
            Bar(
                f"children written while each service was looked at {looks:.1f} times",
                "0",
                str(written),
                written == 0,
            ),
        ],
        notes=[
            "API server, etcd, controllers and scheduler are real and share the processors with "
            "the operator; kwok plays nodes and pods, and one process answers for all pods.",
            "The services lie in namespaces of 50. Memory: resident, after all that is above it.",
        ],
        figures=figures,
    )


def _times(
    created: phases.Created, changes_s: list[float], held_s: float, worked_s: float, again_s: float
) -> Table:
    rows: list[tuple[Cell, ...]] = [
        ("first service created → all children there", created.children_s),
        ("first service created → all services Ready", created.ready_s),
        ("change of one service → applied, p50", percentile(sorted(changes_s), 50)),
        ("the same, p99", percentile(sorted(changes_s), 99)),
        ("the same, longest", max(changes_s)),
        ("death of the leader → another holds the Lease", held_s),
        ("death of the leader → a change is applied", worked_s),
        ("start of an operator → it knows all services", again_s),
    ]
    return Table("Times", ("what", "s"), rows)


def _costs(
    idle: Idle, scaled: Idle, memory_mb: float, scaled_mb: float, peak_mb: float, alone_mb: float
) -> Table:
    rows: list[tuple[Cell, ...]] = [
        ("no service", alone_mb, None, None),
        ("idle", memory_mb, idle.cpu_percent, idle.reports_per_15_s),
        ("idle, all with `scaling`", scaled_mb, scaled.cpu_percent, scaled.reports_per_15_s),
        ("the most", peak_mb, None, None),
    ]
    columns = ("operator", "MB", "percent of a core", "reports in 15 s")
    return Table("What it takes", columns, rows)


def _requests(
    created: phases.Created, per_change: float, idle: Idle, scaled: Idle, count: int
) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (
            "creation, per service",
            created.requests / count,
            created.reconciles / count,
            created.requests / created.reconciles,
        ),
        ("a change, with its new pod", per_change, None, None),
        ("idle, per second", *_rates(idle)),
        ("idle, all with `scaling`, per second", *_rates(scaled)),
    ]
    columns = ("when", "API requests", "reconciles", "requests per reconcile")
    return Table("Requests to the API server, watches apart", columns, rows)


def _rates(idle: Idle) -> tuple[float, float, float]:
    per_reconcile = idle.requests_per_s / max(idle.reconciles_per_s, 1e-9)
    return idle.requests_per_s, idle.reconciles_per_s, per_reconcile


def _say(phase: str, found: object) -> None:
    """A figure as soon as it is there: what follows takes minutes."""
    progress.say(phase, str(found))


def _at_most(what: str, measured: float, bar: float) -> Bar:
    return Bar(what, f"<= {bar:.0f}", f"{measured:.3g}", measured <= bar)


def _megabytes(mib: float) -> float:
    return mib * 2**20 / 1e6


if __name__ == "__main__":
    main()
