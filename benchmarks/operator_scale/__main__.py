"""The operator with 1,000 InferenceServices, on a real control plane with pretended nodes.

    python -m benchmarks.operator_scale [--services 1000] [--save FILE.md] [--save FILE.json]

The operator is a process of its own with its default settings; kwok plays nodes and pods, and one
process answers for all pods what the operator asks them. Needs root, for a network of its own.
"""

import argparse
import asyncio
import contextlib
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aweigh_api import names
from aweigh_bench.report import Report, expect_writable
from aweigh_operator.route import CONNECTED_S
from benchmarks.operator_scale import phases
from benchmarks.operator_scale.api import Api
from benchmarks.operator_scale.figures import Figures, report
from tests.cluster import control_plane, debian, network, progress
from tests.cluster.cluster import Cluster
from tests.cluster.places import CHECKOUT
from tests.e2e.local_operator import LocalOperator

LEASE = ("default", "operator-scale")
IMAGE, ROUTER_IMAGE = "registry.example/aweigh-runtime:1", "registry.example/aweigh-router:1"
QUIET_S = 60.0  # after which the consequences of many changes are over
ROUTED_S = CONNECTED_S + 120.0  # and drain.timeoutSeconds: clients may stay with pods for so long
SCALED = {"spec": {"replicas": None, "scaling": {"minReplicas": 1, "maxReplicas": 4}}}
FIXED = {"spec": {"replicas": 1, "scaling": None}}


@dataclass(frozen=True)
class Options:
    """What was asked for on the command line."""

    services: int
    changes: int
    idle_s: float
    resync_s: float
    command: str


def main() -> None:
    options, save = _options()
    for path in save:
        expect_writable("--save", path)
    debian.require_root()
    with control_plane.started() as place:
        control_plane.kubectl(place, "apply", "--server-side", "-f", str(CHECKOUT / "crds"))
        network.enter(place)
        with _responder():
            found = asyncio.run(_measured(options, Cluster(place)))
    print(found.text())
    for path in save:
        found.save(path)


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
    command = shlex.join(["python", "-m", "benchmarks.operator_scale", *sys.argv[1:]])
    waits = given.idle_seconds, given.resync_seconds
    return Options(given.services, given.changes, *waits, command), given.save


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
    flags = (f"--lease={'/'.join(LEASE)}",)
    often = (*flags, f"--resync-seconds={options.resync_s}")
    first = LocalOperator(cluster, "", IMAGE, flags, ROUTER_IMAGE, "first")
    second = LocalOperator(cluster, "", IMAGE, flags, ROUTER_IMAGE, "second")
    third = LocalOperator(cluster, "", IMAGE, often, ROUTER_IMAGE, "third")
    figures = Figures(len(at))
    try:
        await _first(options, api, at, first, figures)
        await _second(options, api, at, (first, second), figures)
        await _third(api, at, third, figures)
    except BaseException:
        for each in (first, second, third):
            sys.stderr.write(each.said()[-3000:])
        raise
    finally:
        for each in (first, second, third):
            if each.running():
                each.kill()
        await api.close()
    return report(figures, options.command)


async def _first(
    options: Options,
    api: Api,
    at: list[tuple[str, str]],
    operator: LocalOperator,
    figures: Figures,
) -> None:
    """Creation, single changes, idling."""
    operator.start()
    figures.alone_mb = _megabytes(operator.rss_mib())
    with progress.step("create", f"{len(at)} services", "about 2 min"):
        figures.created = await phases.created(api, operator, at)
    _say("create", figures.created)
    told = operator.metrics()
    with progress.step("change", "one service after the other", "about 1 min"):
        changed = at[:: max(1, len(at) // options.changes)][: options.changes]
        await asyncio.sleep(phases.SETTLE_S)
        figures.changes_s = sorted(await phases.changes_s(api, changed, 2))
        requests = phases.requests(operator.metrics(), told)
        figures.requests_per_change = requests / len(changed)
        await api.patch(names.KIND, changed, {"spec": {"replicas": 1}})
    _say("change", f"longest {figures.changes_s[-1]:.3f} s")
    with progress.step("idle", "nothing changes", f"{options.idle_s + QUIET_S:.0f} s"):
        await asyncio.sleep(QUIET_S)
        figures.idle = await phases.idle(operator, options.idle_s)
    figures.idle_mb = _megabytes(operator.rss_mib())
    figures.peak_mb = _megabytes(operator.peak_mib())
    _say("idle", f"{figures.idle}, {figures.idle_mb:.1f} MB")


async def _second(
    options: Options,
    api: Api,
    at: list[tuple[str, str]],
    operators: tuple[LocalOperator, LocalOperator],
    figures: Figures,
) -> None:
    """Takeover, and idling while all services scale by load."""
    first, second = operators
    with progress.step("takeover", "the operator dies", "about 30 s"):
        second.start()
        await phases.knows_all(second, len(at))
        taken = await phases.takeover_s(api, first, LEASE, at[0], 2)
        figures.held_s, figures.worked_s = taken
        await api.patch(names.KIND, at[:1], FIXED)
    _say("takeover", f"held after {taken[0]:.1f} s, worked after {taken[1]:.1f} s")
    with progress.step(
        "scaling", "all by load", f"{options.idle_s + ROUTED_S + 2 * QUIET_S:.0f} s"
    ):
        await api.patch(names.KIND, at, SCALED)
        await phases.deployments(api, 2 * len(at))
        await asyncio.sleep(ROUTED_S + QUIET_S)
        figures.scaled = await phases.idle(second, options.idle_s)
    figures.scaled_mb = _megabytes(second.rss_mib())
    _say("scaling", f"{figures.scaled}, {figures.scaled_mb:.1f} MB")
    with progress.step("fixed", "routers go again", f"{2 * QUIET_S:.0f} s"):
        await api.patch(names.KIND, at, FIXED)
        await phases.deployments(api, len(at))
        await asyncio.sleep(QUIET_S)
    second.stop()


async def _third(
    api: Api, at: list[tuple[str, str]], operator: LocalOperator, figures: Figures
) -> None:
    """A new operator that looks at everything often."""
    with progress.step("resyncs", f"{phases.RESYNCS} of them", "about 4 min"):
        began_s = time.monotonic()
        operator.start()
        figures.known_s = await phases.ready(api, operator, len(at)) - began_s
        await asyncio.sleep(phases.SETTLE_S)
        resynced = await phases.writes_of_resyncs(api, operator, len(at))
        figures.written, figures.looks = resynced


def _say(phase: str, found: object) -> None:
    """A figure as soon as it is there: what follows takes minutes."""
    progress.say(phase, str(found))


def _megabytes(mib: float) -> float:
    return mib * 2**20 / 1e6


if __name__ == "__main__":
    main()
