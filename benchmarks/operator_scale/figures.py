"""The figures of one run, beside their bars."""

from dataclasses import asdict, dataclass, field

from aweigh_bench import machine
from aweigh_bench.measures import percentile
from aweigh_bench.report import Bar, Cell, Report, Table
from benchmarks.operator_scale.phases import Created, Idle

CHILDREN_BAR_S, CHANGE_BAR_S, TAKEOVER_BAR_S = 120.0, 1.0, 15.0
MEMORY_BAR_MB, IDLE_BAR_PERCENT = 150.0, 10.0
NOTES = [
    "API server, etcd, controllers and scheduler are real and share the processors with the "
    "operator; kwok plays nodes and pods, and one process answers for all pods.",
    "The services lie in namespaces of 50, with one pod each that nobody asks anything, and with "
    "two routers where they have two pods or scale. Memory is what is resident. A change: from "
    "sending it until the API server tells of the Deployment.",
]


@dataclass
class Figures:
    """Filled while it is measured."""

    services: int
    alone_mb: float = 0.0
    created: Created = field(default_factory=Created)
    changes_s: list[float] = field(default_factory=list)  # sorted
    requests_per_change: float = 0.0
    idle: Idle = field(default_factory=Idle)
    idle_mb: float = 0.0
    peak_mb: float = 0.0
    held_s: float = 0.0  # from the death of the leader until another holds the Lease
    worked_s: float = 0.0  # and until it has applied a change
    scaled: Idle = field(default_factory=Idle)
    scaled_mb: float = 0.0
    known_s: float = 0.0  # from the start of an operator until it knows all services
    written: int = 0  # children, by ten resyncs
    looks: float = 0.0  # at each service meanwhile

    @property
    def change_p50_s(self) -> float:
        return percentile(self.changes_s, 50)

    @property
    def change_p99_s(self) -> float:
        return percentile(self.changes_s, 99)


def report(found: Figures, command: str) -> Report:
    """All of it, as the command printed it."""
    return Report(
        title=f"The operator with {found.services:,} InferenceServices",
        command=command,
        model="none",
        machine=machine.describe(),
        tables=[_times(found), _costs(found), _requests(found)],
        bars=_bars(found),
        notes=NOTES,
        figures=asdict(found),
    )


def _bars(found: Figures) -> list[Bar]:
    number, reports = f"{found.services:,}", found.scaled.reports_per_15_s
    return [
        _at_most(
            f"s until all children of {number} services are there",
            found.created.children_s,
            CHILDREN_BAR_S,
        ),
        _at_most(
            f"s from a change to its application, p99 of {len(found.changes_s)}",
            found.change_p99_s,
            CHANGE_BAR_S,
        ),
        _at_most("MB that the operator holds, idle", found.idle_mb, MEMORY_BAR_MB),
        _at_most("percent of a core, idle", found.idle.cpu_percent, IDLE_BAR_PERCENT),
        Bar(
            f"reports read in 15 s while {number} services scale",
            f">= {number}",
            f"{reports:,.0f}",
            reports >= found.services,
        ),
        _at_most(
            "s from the death of the leader until another applies a change",
            found.worked_s,
            TAKEOVER_BAR_S,
        ),
        Bar(
            f"children written while each service was looked at {found.looks:.1f} times",
            "0",
            str(found.written),
            found.written == 0,
        ),
    ]


def _times(found: Figures) -> Table:
    rows: list[tuple[Cell, ...]] = [
        ("first service created → all children there", found.created.children_s),
        ("first service created → all services Ready", found.created.ready_s),
        ("change of one service → applied, p50", found.change_p50_s),
        ("the same, p99", found.change_p99_s),
        ("the same, longest", found.changes_s[-1]),
        ("death of the leader → another holds the Lease", found.held_s),
        ("death of the leader → a change is applied", found.worked_s),
        ("start of an operator → it knows all services", found.known_s),
    ]
    return Table("Times", ("what", "s"), rows)


def _costs(found: Figures) -> Table:
    idle, scaled = found.idle, found.scaled
    rows: list[tuple[Cell, ...]] = [
        ("no service", found.alone_mb, None, None),
        ("idle", found.idle_mb, idle.cpu_percent, idle.reports_per_15_s),
        ("idle, all with `scaling`", found.scaled_mb, scaled.cpu_percent, scaled.reports_per_15_s),
        ("the most until idle", found.peak_mb, None, None),
    ]
    columns = ("operator", "MB", "percent of a core", "reports in 15 s")
    return Table("What it takes", columns, rows)


def _requests(found: Figures) -> Table:
    created = found.created
    per_service = (created.requests / found.services, created.reconciles / found.services)
    rows: list[tuple[Cell, ...]] = [
        ("creation, per service", *per_service, created.requests / created.reconciles),
        ("a change, with its new pod and routers", found.requests_per_change, None, None),
        ("idle, per second", *_rates(found.idle)),
        ("idle, all with `scaling`, per second", *_rates(found.scaled)),
    ]
    columns = ("when", "API requests", "reconciles", "requests per reconcile")
    return Table("Requests to the API server, watches apart", columns, rows)


def _rates(idle: Idle) -> tuple[float, float, float]:
    per_reconcile = idle.requests_per_s / max(idle.reconciles_per_s, 1e-9)
    return idle.requests_per_s, idle.reconciles_per_s, per_reconcile


def _at_most(what: str, measured: float, bar: float) -> Bar:
    return Bar(what, f"<= {bar:.0f}", f"{measured:.3g}", measured <= bar)
