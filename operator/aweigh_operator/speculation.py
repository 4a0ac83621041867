"""Whether guessing ahead is worth something, from what the pods tell of it: pure.

It is never a reason for another pod or for none: a pod whose draft fails serves on without it.
"""

from aweigh_api.reasons import Reason
from aweigh_api.state import Speculation
from aweigh_operator.observe import Counts, Observed, Pod
from aweigh_operator.verdict import Verdict

_WORST_FIRST = ("failed", "paused")
_OF_STATE = {"failed": Reason.DRAFT_UNAVAILABLE, "paused": Reason.LOW_ACCEPTANCE}
_REASONS = (
    Reason.VOCABULARY_MISMATCH,
    Reason.CONTEXT_TOO_SHORT,
    Reason.DRAFT_UNAVAILABLE,
    Reason.OUT_OF_MEMORY,
    Reason.LOW_ACCEPTANCE,
    Reason.NO_GAIN,
)


def worst(observed: Observed) -> Speculation | None:
    """The report of the pod that is worst off among those that serve; None: none tells."""
    told = _told(observed)
    return told[0][1] if told else None


def verdict(observed: Observed, wanted: bool) -> Verdict | None:
    """SpeculationEffective; None where nothing is to be guessed, and no pod does."""
    told = _told(observed)
    if not told:
        waits = "no pod that serves has told yet whether drafts are used"
        return Verdict("Unknown", Reason.WAITING_FOR_PODS, waits) if wanted else None
    pod, report = told[0]
    if report.state not in _WORST_FIRST:
        but = f"; {report.message}" if report.message else ""  # one draft of several fails
        return Verdict("True", Reason.ACTIVE, f"drafts are used: {_worth(observed.counts)}{but}")
    alike = sum(each.state == report.state for _, each in told)
    many = f" ({alike} of {len(told)} pods)" if len(told) > 1 else ""
    why = report.message or "it does not say why"
    message = f"pod {pod.name} does not use drafts, and serves without{many}: {why}"
    return Verdict("False", _reason(report), message)


def _told(observed: Observed) -> list[tuple[Pod, Speculation]]:
    """What the pods that serve tell, the worst first."""
    found = [
        (pod, state.speculation)
        for pod in observed.live_pods
        if pod.ready and (state := observed.states.get(pod.uid)) and state.speculation
    ]
    return sorted(found, key=lambda each: _rank(each[1]))


def _rank(report: Speculation) -> int:
    known = report.state in _WORST_FIRST
    return _WORST_FIRST.index(report.state) if known else len(_WORST_FIRST)


def _reason(report: Speculation) -> Reason:
    """A word that only a newer runtime knows becomes the usual one of its state."""
    known = [reason for reason in _REASONS if reason == report.reason]
    return known[0] if known else _OF_STATE[report.state]


def _worth(counts: Counts) -> str:
    percent, length = counts.acceptance_percent, counts.mean_accepted_length
    if percent is None:
        return "none was needed in the last minutes"
    return (
        f"{percent} % of the {counts.drafted} drafted tokens of the last minutes were accepted; an "
        f"answer grew by {length or '?'} tokens in a step"
    )
