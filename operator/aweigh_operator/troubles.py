"""Why a pod does not serve: pure, from what the kubelet and the scheduler say about it.

A pod in trouble stays in trouble until it serves: between two crashes a container runs for a while,
and that is no recovery.
"""

import signal
from collections.abc import Iterable
from dataclasses import dataclass

from aweigh_api.reasons import ConditionType, Reason
from aweigh_api.termination import ExitCode, Termination
from aweigh_operator.desired import router
from aweigh_operator.observe import MOUNT_FAILURES, Crash, Observed, Pod, Waiting
from aweigh_operator.places import ROUTER_DEPLOYMENT

STEADY_AFTER_S = 30  # without a crash, for a pod that has crashed repeatedly
RAN_LONG_S = 3600.0  # before it ended: what has ended earlier is another matter
MAX_SENTENCE = 400
_IMAGE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
_BACK_OFF = "CrashLoopBackOff"
_UNBOUND = "unbound immediate PersistentVolumeClaims"  # the scheduler's
_NO_MEMORY = "cannot allocate memory"
_STOPPED = (ExitCode.DRAINED, 128 + signal.SIGKILL, 128 + signal.SIGTERM)
_STARTING = ("", "ContainerCreating", "PodInitializing", _BACK_OFF)


@dataclass(frozen=True, slots=True)
class Trouble:
    """Which condition a pod makes False, and why."""

    condition: ConditionType
    reason: Reason
    message: str
    ends: Reason = Reason.CRASH_LOOPING  # how often its container does, in one word


def worst(observed: Observed, template_hash: str | None) -> Trouble | None:
    """What to tell first of the pods that are wanted, and of those before them while a fetch runs.

    What was wrong with pods of another spec says nothing of those that replace them.
    """
    pods = [pod for pod in observed.live_pods if not _of_another(pod, template_hash)]
    if observed.fetcher is not None:  # the others wait for it
        pods = [observed.fetcher, *_newest_first(observed.live_pods, template_hash)]
    return _first(observed, pods, "Deployment")


def of_routers(observed: Observed, template_hash: str | None) -> Trouble | None:
    """Likewise of routers."""
    return _first(observed, _newest_first(observed.live_routers, template_hash), ROUTER_DEPLOYMENT)


def refused(observed: Observed) -> Trouble | None:
    """Why the API server creates no pod that serves; None: it does."""
    return _of_deployment(observed, "Deployment", "ReplicaFailure")


def _of_another(pod: Pod, template_hash: str | None) -> bool:
    return template_hash is not None and pod.template_hash not in ("", template_hash)


def _newest_first(pods: Iterable[Pod], template_hash: str | None) -> list[Pod]:
    return sorted(pods, key=lambda pod: pod.template_hash != template_hash)


def _first(observed: Observed, pods: Iterable[Pod], place: str) -> Trouble | None:
    late = _of_deployment(observed, place, "Progressing")
    # A pod that comes too late is started again: it has not crashed.
    asked = [pod for pod in pods if late is None or not _stopped(pod)]
    found = (trouble for pod in asked if (trouble := of_pod(pod, observed)))
    return _of_deployment(observed, place, "ReplicaFailure") or next(found, None) or late


def of_pod(pod: Pod, observed: Observed) -> Trouble | None:
    """Why this pod does not serve; None while it serves or may still come."""
    if pod.ready:
        return None if steady(pod, observed) else _unsteady(pod)
    if pod.unschedulable is not None:
        return _unschedulable(pod, pod.unschedulable)
    if pod.waiting is not None and pod.waiting.reason not in _STARTING:
        return _cannot_start(pod, pod.waiting)
    if (why := observed.stuck.get(pod.uid)) is not None:
        return _stuck(pod, why)
    return None if pod.crash is None else _crashed(pod, pod.crash)


def _stopped(pod: Pod) -> bool:
    """Whether its container has ended because it was told to, or did not obey in time."""
    crash = pod.crash
    return (
        crash is not None
        and crash.exit_code in _STOPPED
        and crash.reason != "OOMKilled"
        and Termination.parse(crash.message) is None
    )


def steady(pod: Pod, observed: Observed) -> bool:
    """Serves, and not just for the moment between two crashes."""
    if not pod.ready or pod.crash is None or not _again(pod, pod.crash):
        return pod.ready
    return observed.lasted_s(pod, pod.crash) >= STEADY_AFTER_S


def _again(pod: Pod, crash: Crash) -> bool:
    """Whether its container has ended more than once of late."""
    stopped = pod.waiting is None or pod.waiting.reason == _BACK_OFF
    ends = pod.restarts + (stopped and not pod.running)
    return ends > 1 and (crash.ran_s or 0.0) < RAN_LONG_S


def _unsteady(pod: Pod) -> Trouble:
    message = f"pod {pod.name} is up again after {pod.restarts} restarts; it may crash again"
    return Trouble(ConditionType.WORKLOAD_READY, Reason.CRASH_LOOPING, message)


def _unschedulable(pod: Pod, sentence: str) -> Trouble:
    if _UNBOUND in sentence:
        message = (
            f"pod {pod.name} waits for a PersistentVolumeClaim that no volume is bound to: "
            f"{short(sentence)}; `kubectl describe pvc` says why: its storage class may not exist"
        )
        return Trouble(ConditionType.WORKLOAD_READY, Reason.MOUNT_FAILED, message)
    missing = "persistentvolumeclaim" in sentence and "not found" in sentence
    reason = Reason.MOUNT_FAILED if missing else Reason.UNSCHEDULABLE
    message = f"pod {pod.name} fits no node: {short(sentence)}"
    return Trouble(ConditionType.WORKLOAD_READY, reason, message)


def _cannot_start(pod: Pod, waiting: Waiting) -> Trouble:
    if waiting.reason in _IMAGE:
        detail = waiting.message or waiting.reason
        message = f"pod {pod.name} cannot pull image {pod.image}: {short(detail)}"
        return Trouble(ConditionType.WORKLOAD_READY, Reason.IMAGE_PULL_FAILED, message)
    detail = short(waiting.message or "the kubelet gave no reason")
    message = f"pod {pod.name} cannot start its container ({waiting.reason}): {detail}"
    return Trouble(ConditionType.WORKLOAD_READY, Reason.CANNOT_START, message)


def _stuck(pod: Pod, why: Waiting) -> Trouble:
    """Its container has not even been created."""
    reason, cannot = Reason.CANNOT_START, "be started"
    if why.reason in MOUNT_FAILURES:
        reason, cannot = Reason.MOUNT_FAILED, "mount its volumes"
    elif _NO_MEMORY in why.message:
        reason = Reason.OUT_OF_MEMORY
        cannot = "be started, most likely as its memory limit is too small"
    message = f"pod {pod.name} cannot {cannot}: {short(why.message)}"
    return Trouble(ConditionType.WORKLOAD_READY, reason, message)


def _crashed(pod: Pod, crash: Crash) -> Trouble:
    ends = Reason.CRASH_LOOPING if _again(pod, crash) else Reason.RESTARTING
    restarts = f", restarted {pod.restarts} times" if pod.restarts > 1 else ""
    end = f"pod {pod.name} exited with code {crash.exit_code}{restarts}"
    if crash.reason == "OOMKilled":
        message = f"{end}: it needed more memory than its limit"
        return Trouble(ConditionType.WORKLOAD_READY, Reason.OUT_OF_MEMORY, message)
    word = Termination.parse(crash.message)
    if word is not None:
        reason = ends if word.reason is Reason.RESTARTING else word.reason
        return Trouble(word.condition, reason, f"{end}: {short(word.message)}", ends)
    lines = crash.message.strip().splitlines()
    last = f": {short(lines[-1])}" if lines else ""
    message = f"{end}{_killed_by(crash)}{last}"
    return Trouble(ConditionType.WORKLOAD_READY, ends, message, ends)


def _killed_by(crash: Crash) -> str:
    number = crash.exit_code - 128
    known = number in {each.value for each in signal.Signals}
    return f" ({signal.Signals(number).name})" if known else ""


def _of_deployment(observed: Observed, place: str, condition: str) -> Trouble | None:
    child = observed.children.get(place, {})
    status, routers = child.get("status", {}), place == ROUTER_DEPLOYMENT
    found = {each["type"]: each for each in status.get("conditions", [])}.get(condition, {})
    sentence = short(found.get("message", ""))
    if condition == "ReplicaFailure" and found.get("status") == "True":
        what = "routers" if routers else "pods"
        message = f"the API server refuses new {what}: {sentence}"
        return Trouble(ConditionType.WORKLOAD_READY, Reason.PODS_REFUSED, message)
    if found.get("reason") == "ProgressDeadlineExceeded":
        limit = "rollout.progressDeadlineSeconds"
        if routers:  # theirs cannot be chosen
            limit = f"{router.PROGRESS_DEADLINE_S} s"
        message = f"the rollout did not finish within {limit}: {sentence}"
        return Trouble(ConditionType.WORKLOAD_READY, Reason.PROGRESS_DEADLINE_EXCEEDED, message)
    return None


def short(text: str) -> str:
    """Of somebody else's sentence the beginning."""
    text = " ".join(text.split())
    return text if len(text) <= MAX_SENTENCE else text[: MAX_SENTENCE - 1] + "…"
