"""How many pods an InferenceService shall have, which of them go, and what is told of it. Pure.

With `scaling`, a decision says how many; before the first one, and while another autoscaler scales
the Deployment, or may do so, the Deployment does: a restarted operator changes nothing that it has
not measured.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pydantic import ValidationError

from aweigh_api.reasons import Reason
from aweigh_api.spec import InferenceService, Spec
from aweigh_api.status import ScalingChange, ScalingStatus
from aweigh_operator.observe import Autoscaler, Manifest, Observed, Pod, moment
from aweigh_operator.scaling.decision import Decision
from aweigh_operator.scaling.law import Limit
from aweigh_operator.verdict import Verdict

FIRST_TO_GO = -100  # deletion cost; pods without one count as 0, and the lowest goes first
MAX_HISTORY = 5
MAX_MESSAGE = 1024
TOLD_FOR = timedelta(seconds=60)  # figures alone are news only once a minute
_NOT_DONE = (Reason.REPORTS_MISSING, Reason.UNSCHEDULABLE)
_CALM = (Reason.STEADY, Reason.SETTLING)


@dataclass(frozen=True, slots=True)
class Mark:
    """Say of a pod what its deletion costs; None: nothing special."""

    pod: str
    uid: str
    cost: int | None


def wanted(service: InferenceService, observed: Observed) -> int:
    """The number of pods that shall run."""
    there = current(observed)
    other = observed.autoscaler
    holds = other is not None and other.kind == "Deployment"
    holds = holds or observed.autoscalers_unknown
    if holds and there is not None and not service.spec.suspend:
        return there
    told = None if observed.decision is None else observed.decision.replicas
    before = told_before(observed.body)
    told_lately = None if before is None else before.desired_replicas
    known: tuple[int | None, ...] = (told, there, told_lately)
    scaling = service.spec.scaling
    if scaling is None or not scaling.to_zero:  # 0 pods were suspended ones
        known = tuple(each or None for each in known)
    return service.spec.wanted_replicas(next((each for each in known if each is not None), None))


def current(observed: Observed) -> int | None:
    """What the Deployment says; None where there is none."""
    replicas: int | None = observed.children.get("Deployment", {}).get("spec", {}).get("replicas")
    return replicas


def marks(observed: Observed, replicas: int) -> tuple[Mark, ...]:
    """What must be said of pods before there may be only so many, or no longer holds."""
    there = current(observed)
    if there is None or replicas == 0 or observed.marks_refused:
        return ()
    if replicas >= there:  # a mark that has done its work is left to the pod that goes
        settled = len(observed.live_pods) <= replicas
        old = [pod for pod in observed.live_pods if pod.deletion_cost == FIRST_TO_GO]
        return tuple(Mark(pod.name, pod.uid, None) for pod in old) if settled else ()
    ranked = sorted(observed.live_pods, key=lambda pod: _place(observed, pod))
    going = {pod.uid for pod in ranked[: max(0, len(ranked) - replicas)]}
    costs = {pod: FIRST_TO_GO if pod.uid in going else None for pod in ranked}
    return tuple(
        Mark(pod.name, pod.uid, cost)
        for pod, cost in costs.items()
        if (pod.deletion_cost == FIRST_TO_GO) is not (cost is not None)
    )


def _place(observed: Observed, pod: Pod) -> tuple[bool, int, float]:
    """In the order in which pods go: what does not serve, then what is worth least."""
    known = observed.cheapest
    place = known.index(pod.uid) if pod.uid in known else -1
    return pod.ready, place, -pod.created_at.timestamp()


def verdict(observed: Observed, spec: Spec, told: ScalingStatus | None) -> Verdict | None:
    """ScalingActive; None where nobody scales."""
    if observed.autoscaler is not None:
        return Verdict("False", Reason.CONFLICT, _conflict(observed, observed.autoscaler))
    if spec.scaling is None:
        return None
    if spec.suspend:
        return Verdict("False", Reason.SUSPENDED, "suspend is set: no pod runs")
    if observed.autoscalers_unknown:
        unknown = "the API server does not tell whether an autoscaler scales the pods, too: their "
        return Verdict("Unknown", Reason.REPORTS_MISSING, f"{unknown}number stays")
    if told is None:
        waits = "the pods' load has not been looked at yet"
        return Verdict("Unknown", Reason.WAITING_FOR_REPORTS, waits)
    reason = Reason(told.reason)
    message = told.message if spec.scaling.enforced else f"dry run: {told.message}"
    if reason is Reason.WAITING_FOR_REPORTS:
        return Verdict("Unknown", reason, message)
    return Verdict("False" if reason in _NOT_DONE else "True", reason, message)


def _conflict(observed: Observed, other: Autoscaler) -> str:
    who = f"HorizontalPodAutoscaler {other.name} scales the {other.kind} {other.target}"
    if other.kind == "Deployment":
        return (
            f"{who}, which keeps the {current(observed)} pods that it has set: let it scale the "
            f"InferenceService {other.target} without `scaling`, or remove it"
        )
    return (
        f"{who}, whose number of pods follows `scaling`, and each number that it sets is refused: "
        "remove it, or remove `scaling`"
    )


def status(observed: Observed, spec: Spec, now: datetime) -> ScalingStatus | None:
    """What the decision says; the last one's words where it says nothing new."""
    before = told_before(observed.body)
    if spec.scaling is None:
        return None
    decision = observed.decision
    if decision is None or spec.suspend:
        return before
    most = spec.scaling.max_replicas
    reason, time = _reason(decision, most), _text(now)
    message = _message(decision, most)
    if before is not None and (before.desired_replicas, before.reason) == (
        decision.replicas,
        reason,
    ):
        fresh = abs(now - moment(before.time)) < TOLD_FOR  # before now, unless a clock jumped
        if fresh or before.message == message:
            return before
    latest = ScalingStatus(
        desired_replicas=decision.replicas, reason=reason, message=message, time=time
    )
    return latest.model_copy(update={"history": _history(before, latest)})


def change(before: ScalingStatus | None, after: ScalingStatus | None) -> ScalingChange | None:
    """The change of the number that is news."""
    if (
        after is None
        or not after.history
        or (before is not None and before.history[:1]) == (after.history[:1])
    ):
        return None
    return after.history[0]


def _history(before: ScalingStatus | None, latest: ScalingStatus) -> list[ScalingChange]:
    known = [] if before is None else before.history
    if before is None or before.desired_replicas == latest.desired_replicas:
        return known
    change = ScalingChange(
        time=latest.time,
        from_replicas=before.desired_replicas,
        to_replicas=latest.desired_replicas,
        reason=latest.reason,
        message=latest.message,
    )
    return [change, *known][:MAX_HISTORY]


def _reason(decision: Decision, most: int) -> Reason:
    """A limit that cannot be kept is what matters while nothing moves."""
    if not decision.unreachable or decision.reason not in _CALM:
        return decision.reason
    lost = set(decision.unreachable)
    if decision.replicas == most:  # more pods would keep what is lost by the load
        lost -= set(decision.by_load)
    if not lost:
        return Reason.AT_MAXIMUM
    return Reason.CACHE_TOO_SMALL if Limit.MEMORY in lost else Reason.OBJECTIVE_UNREACHABLE


def _message(decision: Decision, most: int) -> str:
    lost = " and ".join(decision.unreachable)
    number = "1 pod" if most == 1 else f"up to {most} pods"
    why = f"; {lost} would pass the limit with {number}, and does not count"
    return f"{decision.sentence}{why if lost else ''}"[:MAX_MESSAGE]


def told_before(body: Manifest) -> ScalingStatus | None:
    """What the status says; None also where another version has written what we cannot read."""
    found = (body.get("status") or {}).get("scaling")
    try:
        told = None if found is None else ScalingStatus.model_validate(found)
    except ValidationError:
        return None
    return told if told is not None and told.reason in set(Reason) else None


def _text(now: datetime) -> str:
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
