"""`aweigh bench scaling`: the scaling law beside the rules of others, on the same traffic."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from statistics import mean

from aweigh_bench import machine
from aweigh_bench.failures import Impossible
from aweigh_bench.progress import progress
from aweigh_bench.report import Bar, Cell, Curves, Report, Table
from aweigh_bench.scaling import rivals
from aweigh_bench.scaling.play import FIRST_TOKEN_S, INTER_TOKEN_S, MOST_PODS, Played, play
from aweigh_bench.scaling.pod import Machine
from aweigh_bench.scaling.traces import DURATION_S, TRACES, Trace
from aweigh_operator.scaling.decision import Memory, decide
from aweigh_operator.scaling.law import Aim
from aweigh_operator.scaling.look import Look
from aweigh_operator.scaling.rules import Rules

OWN, ROUTED, PLAIN = "aweigh", "aweigh with a router", "aweigh without hits and drafts"
OURS = (OWN, ROUTED, PLAIN)
MOST_SAVED = 0.45  # pod-hours of the law, times those of the law without corrections
SAVED_ON = ("shared", "ramp", "diurnal")
# Percent that may be late, and pod-hours that may be taken.
HARD = {
    OWN: {"burst": (18.0, 3.0), "draft gone bad": (5.0, 3.0)},
    ROUTED: {"burst": (10.0, 2.6), "draft gone bad": (4.0, 1.5)},
}
MINUTES_OF_A_FLIP = 10
COLUMNS = ("rule", "late %", "worst seed", "pod-hours", "changes of direction", "warm tokens lost")


class Law:
    """The operator's own decisions."""

    def __init__(self, *, corrected: bool) -> None:
        self._memory = Memory()
        self._rules = Rules(
            most=MOST_PODS,
            aim=Aim(inter_token_s=INTER_TOKEN_S, first_token_s=FIRST_TOKEN_S),
            count_hits=corrected,
            count_drafts=corrected,
        )

    def __call__(self, look: Look) -> int:
        """The number of pods."""
        self._memory, decision = decide(self._memory, look, self._rules)
        return decision.replicas


RULES: dict[str, Callable[[], rivals.Rule]] = {
    OWN: lambda: Law(corrected=True),
    ROUTED: lambda: Law(corrected=True),
    PLAIN: lambda: Law(corrected=False),
    "queue, 5 waiting": rivals.Queue,
    "in flight ÷ 100": lambda: rivals.InFlight(100),
    "in flight ÷ 40": lambda: rivals.InFlight(40),
    "APA, 40 in flight": rivals.Apa,
    "saturation": rivals.Saturation,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for on the command line."""

    traces: Sequence[str] = ()  # none: all
    seeds: int = 3
    machine: Machine = field(default_factory=Machine)
    command: str = "aweigh bench scaling"


Results = dict[str, dict[str, list[Played]]]  # by trace and rule, one of each seed


async def run(options: Options) -> Report:
    """Play every trace against every rule, with each seed."""
    traces = _chosen(options.traces)
    found: Results = {trace.name: {} for trace in traces}
    with progress("traces", len(traces) * len(RULES) * options.seeds) as advance:
        for trace in traces:
            for name in RULES:
                found[trace.name][name] = [
                    await _played(trace, name, seed, options, partial(advance, trace.name))
                    for seed in range(options.seeds)
                ]
    return _report(options, traces, found)


async def _played(
    trace: Trace, name: str, seed: int, options: Options, advance: Callable[[], None]
) -> Played:
    rule, routed = RULES[name](), name == ROUTED
    done = await asyncio.to_thread(play, trace, rule, seed, options.machine, routed=routed)
    advance()
    return done


def _chosen(names: Sequence[str]) -> list[Trace]:
    known = {trace.name: trace for trace in TRACES}
    if unknown := [name for name in names if name not in known]:
        raise Impossible(f"--traces has {unknown[0]!r}; expected some of {', '.join(known)}")
    return [known[name] for name in names] or list(TRACES)


def _report(options: Options, traces: list[Trace], found: Results) -> Report:
    return Report(
        title="Scaling: pods and late requests by rule",
        command=options.command,
        model="modelled pods: "
        + ", ".join(f"{k} {v:g}" for k, v in asdict(options.machine).items()),
        machine=machine.describe(),
        tables=[_table(trace, found[trace.name]) for trace in traces],
        bars=_bars(traces, found),
        notes=[
            f"Each trace lasts {DURATION_S / 60:.0f} minutes; figures are means of {options.seeds} "
            f"seeds. A request is late whose first token takes more than {FIRST_TOKEN_S:g} s or "
            f"whose tokens take more than {1000 * INTER_TOKEN_S:g} ms each. Requests go to pods by "
            f"chance, as a Kubernetes Service sends them; with `{ROUTED}` they wait in one line, "
            "and go by the router's own choice to pods that can begin them at once.",
            "All rules see the same reports every 15 s. Those of others are written from their "
            "documents: runtime/aweigh_bench/scaling/rivals.py names them.",
            *_cheaper(found),
        ],
        figures={
            "found": [
                {"trace": trace, "rule": rule, "seed": seed, **asdict(each)}
                for trace, by_rule in found.items()
                for rule, played in by_rule.items()
                for seed, each in enumerate(played)
            ]
        },
        curves=[_curve(trace, found[trace.name]) for trace in traces],
    )


def _table(trace: Trace, by_rule: dict[str, list[Played]]) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (
            rule,
            f"{_late(played):.2f}",
            f"{max(each.late_percent for each in played):.2f}",
            f"{_hours(played):.2f}",
            f"{mean(each.flips for each in played):.1f}",
            f"{mean(each.lost_tokens for each in played):,.0f}",
        )
        for rule, played in by_rule.items()
    ]
    return Table(f"{trace.name}: {trace.what}", COLUMNS, rows)


def _curve(trace: Trace, by_rule: dict[str, list[Played]]) -> Curves:
    lines = {
        rule: [point for at_s, pods in _steps(played[0]) for point in [(at_s / 60, float(pods))]]
        for rule, played in by_rule.items()
    }
    return Curves(f"Pods, {trace.name}", "minutes", "pods", lines)


def _steps(played: Played) -> list[tuple[float, int]]:
    """Corners of the curve: the number stays until it changes."""
    points: list[tuple[float, int]] = []
    for at_s, pods in played.pods:
        if points:
            points.append((at_s, points[-1][1]))
        points.append((at_s, pods))
    return [*points, (DURATION_S, points[-1][1])]


def _bars(traces: list[Trace], found: Results) -> list[Bar]:
    bars = []
    for trace in traces:
        own = found[trace.name][OWN]
        bars += _kept(trace, OWN, own) + _kept(trace, ROUTED, found[trace.name][ROUTED])
        if trace.name in SAVED_ON:
            part = _hours(own) / _hours(found[trace.name][PLAIN])
            bars.append(
                Bar(
                    f"{trace.name}: pod-hours, times those without hits and drafts",
                    f"<= {MOST_SAVED}",
                    f"{part:.2f}",
                    part <= MOST_SAVED,
                )
            )
        most_flips = max(each.flips for each in own)
        allowed = int(DURATION_S / 60 / MINUTES_OF_A_FLIP)
        bars.append(
            Bar(
                f"{trace.name}: changes of direction, worst seed",
                f"<= {allowed}",
                str(most_flips),
                most_flips <= allowed,
            )
        )
    return [*bars, *_beaten(found)]


def _kept(trace: Trace, rule: str, played: list[Played]) -> list[Bar]:
    """What comes in time."""
    of = trace.name if rule == OWN else f"{trace.name}, {rule}"
    late = sum(each.late for each in played)
    if trace.name in HARD[rule]:
        percent, hours = HARD[rule][trace.name]
        worst = max(each.late_percent for each in played)
        most_hours = max(each.pod_hours for each in played)
        return [
            Bar(
                f"{of}: late, worst seed · pod-hours",
                f"<= {percent:g} % · <= {hours:g}",
                f"{worst:.2f} % · {most_hours:.2f}",
                worst <= percent and most_hours <= hours,
            )
        ]
    if trace.hard or trace.name == "lost reports":
        return []
    return [Bar(f"{of}: late requests, all seeds", "0", str(late), late == 0)]


def _beaten(found: Results) -> list[Bar]:
    """Traces on which another rule is better in both; where as few are late, `_cheaper` tells."""
    bars = []
    for rule in RULES:
        if rule in OURS:
            continue
        better = [
            trace
            for trace, by_rule in found.items()
            if _late(by_rule[rule]) < _late(by_rule[OWN])
            and _hours(by_rule[rule]) < _hours(by_rule[OWN])
        ]
        fewer = "strictly fewer late requests and strictly fewer pod-hours"
        what = f"traces on which `{rule}` has {fewer}"
        bars.append(Bar(what, "<= 1", ", ".join(better) or "none", len(better) <= 1))
    return bars


def _cheaper(found: Results) -> list[str]:
    """Where another rule has no more late requests, and fewer pod-hours."""
    lines = []
    for rule in RULES:
        where = [
            f"{trace} ({_hours(by_rule[rule]):.2f} : {_hours(by_rule[OWN]):.2f})"
            for trace, by_rule in found.items()
            if rule not in OURS
            and _late(by_rule[rule]) <= _late(by_rule[OWN])
            and _hours(by_rule[rule]) < _hours(by_rule[OWN])
        ]
        if where:
            lines.append(
                f"`{rule}` takes fewer pod-hours with no more late requests on {', '.join(where)}: "
                "the law keeps a fifth of every pod's time free."
            )
    return lines


def _late(played: list[Played]) -> float:
    return mean(each.late_percent for each in played)


def _hours(played: list[Played]) -> float:
    return mean(each.pod_hours for each in played)
