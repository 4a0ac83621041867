from datetime import timedelta
from typing import Any

import pytest

from aweigh_api.prefix_cache import PrefixCache
from aweigh_api.reasons import ConditionType, Reason
from aweigh_api.spec import Spec
from aweigh_api.state import Loading, Speculation, State
from aweigh_api.termination import Termination
from aweigh_operator import conditions, lasting
from aweigh_operator.conditions import Wanted
from aweigh_operator.observe import Counts, Manifest, Observed, Refusal, Waiting, pod_of
from aweigh_operator.verdict import Verdict
from tests.operator import fakes

READY, SPEC = ConditionType.READY, ConditionType.SPEC_VALID
MODEL, WORKLOAD = ConditionType.MODEL_READY, ConditionType.WORKLOAD_READY
CACHE, DRAFTS = ConditionType.PREFIX_CACHE_WARM, ConditionType.SPECULATION_EFFECTIVE


def verdicts(
    *pods: Manifest,
    replicas: int = 1,
    invalid: str | None = None,
    later_s: float = 0,
    cache: PrefixCache | None = None,
    speculates: bool = False,
    **observed: Any,
) -> dict[ConditionType, Verdict]:
    known = tuple(map(pod_of, pods))
    since = lasting.since(None, known, 0.0, served=False)
    lasts = {sign: later_s - first_s for sign, first_s in since.items()}
    seen = Observed(body=fakes.service(), pods=known, lasting_s=lasts, **observed)
    spec: Manifest = {"model": {"uri": "builtin://helmsman-8m"}}
    if cache is not None:
        spec["prefixCache"] = cache.manifest()
    if speculates:
        spec["speculativeDecoding"] = {"method": "ngram"}
    wanted = Wanted(replicas, False, "new", Spec.model_validate(spec))
    return conditions.verdicts(seen, wanted, invalid, None)


def crashed(code: int = 1, message: str = "", reason: str = "Error") -> Manifest:
    return {
        "exitCode": code,
        "message": message,
        "reason": reason,
        "finishedAt": fakes.NOW_TEXT,
    }


def last_word(condition: ConditionType, reason: Reason, message: str) -> Manifest:
    return crashed(66, Termination(condition=condition, reason=reason, message=message).to_json())


BACK_OFF = {"reason": "CrashLoopBackOff", "message": "back-off 5m0s restarting failed container"}


def test_a_serving_pod_makes_everything_true() -> None:
    found = verdicts(fakes.pod(ready=True, hash="new"))
    cache = found.pop(CACHE)
    assert {each.status for each in found.values()} == {"True"}
    assert (cache.status, cache.reason) == ("Unknown", Reason.NO_PROMPTS)
    assert found[READY].reason is Reason.READY
    assert found[WORKLOAD].reason is Reason.AVAILABLE


def test_before_the_first_pod_the_workload_progresses() -> None:
    found = verdicts()
    assert (found[MODEL].status, found[MODEL].reason) == ("Unknown", Reason.WAITING_FOR_PODS)
    assert (found[READY].status, found[READY].reason) == ("False", Reason.PROGRESSING)


@pytest.mark.parametrize("why", ["ErrImagePull", "ImagePullBackOff", "InvalidImageName"])
def test_an_image_that_cannot_be_pulled_is_named(why: str) -> None:
    found = verdicts(fakes.pod(waiting={"reason": why, "message": "manifest unknown"}))
    assert found[READY].reason is Reason.IMAGE_PULL_FAILED
    assert fakes.IMAGE in found[READY].message
    assert "manifest unknown" in found[READY].message


def test_the_schedulers_sentence_is_passed_on() -> None:
    scheduled = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
    }
    found = verdicts(fakes.pod(scheduled=scheduled))
    assert found[READY].reason is Reason.UNSCHEDULABLE
    assert "3 Insufficient nvidia.com/gpu" in found[READY].message


@pytest.mark.parametrize(
    "message",
    [
        'persistentvolumeclaim "weights" not found',
        "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found",
    ],
)
def test_a_missing_claim_is_a_mount_that_failed(message: str) -> None:
    scheduled = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": message,
    }
    found = verdicts(fakes.pod(scheduled=scheduled))
    assert found[READY].reason is Reason.MOUNT_FAILED
    assert message in found[READY].message


def test_a_missing_secret_is_a_mount_that_failed() -> None:
    found = verdicts(
        fakes.pod(waiting={"reason": "ContainerCreating"}),
        stuck={"uid-of-chat-1": Waiting("FailedMount", 'secret "token" not found')},
    )
    assert found[READY].reason is Reason.MOUNT_FAILED
    assert 'secret "token" not found' in found[READY].message


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("failed to create shim task: cannot allocate memory", Reason.OUT_OF_MEMORY),
        ('plugin type="bridge" failed (add): no addresses left', Reason.CANNOT_START),
    ],
)
def test_a_pod_that_is_not_even_created_is_told_with_the_kubelets_sentence(
    said: str, reason: Reason
) -> None:
    why = Waiting("FailedCreatePodSandBox", f"Failed to create pod sandbox: {said}")
    pod = fakes.pod(waiting={"reason": "ContainerCreating"})
    found = verdicts(pod, stuck={"uid-of-chat-1": why})
    assert found[READY].reason is reason
    assert said in found[READY].message


def test_a_container_that_cannot_be_created_does_not_loop() -> None:
    found = verdicts(fakes.pod(waiting={"reason": "CreateContainerConfigError", "message": "no"}))
    assert found[READY].reason is Reason.CANNOT_START
    assert found[READY].message.endswith("(CreateContainerConfigError): no")


def test_memory_that_ran_out_is_told_apart_from_other_crashes() -> None:
    found = verdicts(fakes.pod(waiting=BACK_OFF, restarts=3, last=crashed(137, reason="OOMKilled")))
    assert found[READY].reason is Reason.OUT_OF_MEMORY
    assert "exited with code 137, restarted 3 times" in found[READY].message


def test_a_crash_is_told_with_the_last_line_that_the_pod_wrote() -> None:
    traceback = "Traceback (most recent call last):\nValueError: no such thing\n"
    found = verdicts(fakes.pod(waiting=BACK_OFF, restarts=2, last=crashed(1, traceback)))
    assert found[READY].reason is Reason.CRASH_LOOPING
    assert found[READY].message.endswith("ValueError: no such thing")


@pytest.mark.parametrize(
    ("condition", "reason"),
    [(SPEC, Reason.UNSUPPORTED_MODEL), (MODEL, Reason.MODEL_NOT_FOUND)],
)
def test_the_last_word_of_a_pod_decides_which_condition_is_false(
    condition: ConditionType, reason: Reason
) -> None:
    word = last_word(condition, reason, "the folder /mnt/models/x does not exist")
    found = verdicts(fakes.pod(waiting=BACK_OFF, restarts=1, last=word))
    assert (found[condition].status, found[condition].reason) == ("False", reason)
    assert "the folder /mnt/models/x does not exist" in found[condition].message
    assert (found[READY].status, found[READY].reason) == ("False", reason)
    assert found[WORKLOAD].reason is Reason.CRASH_LOOPING


def test_a_pod_that_loads_again_after_a_crash_is_still_in_trouble() -> None:
    state = State(
        boot_id="b", uptime_s=1, phase="loading", loading=Loading(stage="loading", done_bytes=1)
    )
    found = verdicts(
        fakes.pod(running=True, restarts=2, last=crashed()), states={"uid-of-chat-1": state}
    )
    assert found[READY].reason is Reason.CRASH_LOOPING


def test_a_pod_that_crashed_repeatedly_counts_only_after_a_quiet_while() -> None:
    pod = fakes.pod(ready=True, hash="new", restarts=4, last=crashed())
    assert verdicts(pod, later_s=5)[READY].reason is Reason.CRASH_LOOPING
    assert verdicts(pod, later_s=31)[READY].reason is Reason.READY


def test_a_container_that_ends_once_restarts_and_only_from_the_second_time_on_loops() -> None:
    killed = crashed(137, "Listening on 8000")
    for once in (fakes.pod(last=killed), fakes.pod(running=True, restarts=1, last=killed)):
        told = verdicts(once)[READY]
        assert told.reason is Reason.RESTARTING
        assert told.message.endswith("exited with code 137 (SIGKILL): Listening on 8000")
    twice = fakes.pod(waiting=BACK_OFF, restarts=1, last=killed)
    assert verdicts(twice)[READY].reason is Reason.CRASH_LOOPING
    word = last_word(WORKLOAD, Reason.RESTARTING, "the engine process was killed")
    assert verdicts(fakes.pod(last=word))[READY].reason is Reason.RESTARTING
    twice = fakes.pod(waiting=BACK_OFF, restarts=1, last=word)
    assert verdicts(twice)[READY].reason is Reason.CRASH_LOOPING
    word = last_word(MODEL, Reason.MODEL_NOT_FOUND, "no model")
    assert verdicts(fakes.pod(last=word))[WORKLOAD].reason is Reason.RESTARTING


def test_a_container_that_ends_again_after_hours_does_not_loop() -> None:
    for started, reason in (("09:00", Reason.RESTARTING), ("11:58", Reason.CRASH_LOOPING)):
        last = crashed(137) | {"startedAt": f"2026-11-23T{started}:00Z"}
        pod = fakes.pod(running=True, restarts=2, last=last)
        assert verdicts(pod)[READY].reason is reason


def test_pods_that_the_api_server_refuses_are_reported_with_its_sentence() -> None:
    status = {
        "conditions": [
            {
                "type": "ReplicaFailure",
                "status": "True",
                "reason": "FailedCreate",
                "message": 'pods "chat-x" is forbidden: exceeded quota: gpus',
            }
        ]
    }
    found = verdicts(children={"Deployment": {"status": status}})
    assert found[READY].reason is Reason.PODS_REFUSED
    assert "exceeded quota: gpus" in found[READY].message


def test_a_deadline_that_passed_is_told_unless_a_pod_says_why() -> None:
    late = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
    children = {"Deployment": {"status": {"conditions": [late]}}}
    assert verdicts(children=children)[READY].reason is Reason.PROGRESS_DEADLINE_EXCEEDED
    pod = fakes.pod(waiting={"reason": "ErrImagePull"})
    assert verdicts(pod, children=children)[READY].reason is Reason.IMAGE_PULL_FAILED


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        (crashed(0, reason="Completed"), Reason.PROGRESS_DEADLINE_EXCEEDED),
        (crashed(137, "the end of its log"), Reason.PROGRESS_DEADLINE_EXCEEDED),
        (crashed(137, reason="OOMKilled"), Reason.OUT_OF_MEMORY),
        (crashed(1, "Traceback"), Reason.RESTARTING),
    ],
)
def test_a_pod_that_is_started_again_as_it_comes_too_late_has_not_crashed(
    last: Manifest, reason: Reason
) -> None:
    late = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
    children = {"Deployment": {"status": {"conditions": [late]}}}
    old, new = fakes.pod("old", ready=True, hash="old"), fakes.pod("new", hash="new", last=last)
    found = verdicts(old, new, children=children)
    assert (found[READY].status, found[READY].reason) == ("True", reason)
    assert verdicts(old, new)[READY].reason is not Reason.PROGRESS_DEADLINE_EXCEEDED


def test_a_failing_rollout_leaves_ready_true_and_shows_why() -> None:
    old = fakes.pod("old", ready=True, hash="old")
    new = fakes.pod("new", hash="new", waiting={"reason": "ErrImagePull"})
    found = verdicts(old, new)
    assert (found[READY].status, found[READY].reason) == ("True", Reason.IMAGE_PULL_FAILED)
    assert (found[WORKLOAD].status, found[WORKLOAD].reason) == ("False", Reason.IMAGE_PULL_FAILED)
    assert found[WORKLOAD].message.startswith("1 of 1 pods serve, but pod new cannot pull")
    assert (found[SPEC].status, found[MODEL].status) == ("True", "True")


@pytest.mark.parametrize(
    "word",
    [
        last_word(SPEC, Reason.INVALID_CONFIGURATION, "no flag"),
        last_word(MODEL, Reason.MODEL_NOT_FOUND, "no model"),
    ],
)
def test_a_spec_that_no_pod_can_serve_is_not_taken_for_served_while_old_pods_are(
    word: Manifest,
) -> None:
    old = fakes.pod("old", ready=True, hash="old")
    found = verdicts(old, fakes.pod("new", hash="new", waiting=BACK_OFF, last=word))
    assert found[READY].status == "True"
    assert found[WORKLOAD].status == "False"
    assert found[WORKLOAD].reason == found[READY].reason != Reason.PROGRESSING


def test_a_rollout_under_way_is_ready_and_its_workload_is_not() -> None:
    old, other = (fakes.pod(name, ready=True, hash="old") for name in ("old", "other"))
    new = fakes.pod("new", hash="new", running=True)
    for rolled in (verdicts(old), verdicts(old, new), verdicts(old, other, new, replicas=2)):
        assert (rolled[READY].status, rolled[READY].reason) == ("True", Reason.PROGRESSING)
        assert (rolled[WORKLOAD].status, rolled[WORKLOAD].reason) == ("False", Reason.PROGRESSING)
    done = verdicts(fakes.pod("new", ready=True, hash="new"))
    assert (done[WORKLOAD].status, done[WORKLOAD].reason) == ("True", Reason.AVAILABLE)


def test_pods_that_are_added_leave_ready_true_and_are_told() -> None:
    serves = fakes.pod("a", ready=True, hash="new")
    coming = [fakes.pod(name, hash="new", running=True) for name in "bc"]
    found = verdicts(serves, *coming, replicas=3)
    told = (Reason.PROGRESSING, "1 of 3 pods serve")
    assert (found[READY].status, found[READY].reason, found[READY].message) == ("True", *told)
    assert (found[WORKLOAD].status, found[WORKLOAD].reason) == ("False", Reason.PROGRESSING)
    replaced = verdicts(fakes.pod("a", ready=True, hash="old"), *coming, replicas=3)
    assert replaced[READY].message == "1 of 3 pods serve; a rollout replaces pods"


@pytest.mark.parametrize(
    "broken",
    [
        {"waiting": {"reason": "ErrImagePull"}},
        {"waiting": BACK_OFF, "last": last_word(SPEC, Reason.INVALID_CONFIGURATION, "no flag")},
        {"waiting": BACK_OFF, "last": last_word(MODEL, Reason.MODEL_NOT_FOUND, "no model")},
    ],
)
def test_a_service_is_ready_while_one_pod_answers_and_only_then(broken: Manifest) -> None:
    bad = fakes.pod("b", hash="new", **broken)
    alone, found = verdicts(bad), verdicts(fakes.pod("a", ready=True), bad, replicas=2)
    assert alone[READY].status == "False"
    assert (found[SPEC].status, found[MODEL].status) == ("True", "True")
    assert (found[READY].status, found[READY].reason) == ("True", alone[READY].reason)
    assert found[READY].message.startswith("1 of 2 pods serve: pod b ")
    assert (found[WORKLOAD].status, found[WORKLOAD].reason) == ("False", alone[READY].reason)


def test_what_is_wrong_with_a_pod_that_goes_is_no_fault_of_a_suspended_spec() -> None:
    word = last_word(SPEC, Reason.INVALID_CONFIGURATION, "no flag")
    found = verdicts(fakes.pod(waiting=BACK_OFF, last=word), replicas=0)
    assert found[SPEC].status == "True"
    assert (found[READY].status, found[READY].reason) == ("False", Reason.SUSPENDED)


def test_a_service_that_is_being_suspended_is_not_ready_though_a_pod_still_answers() -> None:
    found = verdicts(fakes.pod(ready=True), replicas=0)
    assert (found[READY].status, found[READY].reason) == ("False", Reason.SUSPENDED)


def test_a_spec_that_was_put_right_is_not_told_to_be_wrong() -> None:
    """Whoever is told so asks in vain, though the next pod will serve."""
    word = last_word(MODEL, Reason.MODEL_NOT_FOUND, "no model")
    old = fakes.pod("a", hash="old", waiting=BACK_OFF, last=word)
    for pods in ([old], [old, fakes.pod("b", hash="new", running=True)]):
        found = verdicts(*pods)
        assert (found[READY].status, found[READY].reason) == ("False", Reason.PROGRESSING)
        assert found[MODEL].reason is Reason.WAITING_FOR_PODS
    new = fakes.pod("b", hash="new", waiting={"reason": "ErrImagePull"})
    assert verdicts(old, new)[READY].reason is Reason.IMAGE_PULL_FAILED


@pytest.mark.parametrize(
    ("stage", "reason"), [("downloading", Reason.DOWNLOADING), ("loading", Reason.LOADING)]
)
def test_progress_of_loading_is_told(stage: Any, reason: Reason) -> None:
    loading = Loading(stage=stage, done_bytes=5, total_bytes=20)
    state = State(boot_id="b", uptime_s=1, phase="loading", loading=loading)
    found = verdicts(fakes.pod(running=True), states={"uid-of-chat-1": state})
    assert (found[READY].status, found[READY].reason) == ("False", reason)
    assert "5 of 20 bytes" in found[READY].message


def test_no_pod_is_wanted_when_replicas_is_zero() -> None:
    found = verdicts(replicas=0)
    assert (found[READY].status, found[READY].reason) == ("False", Reason.SUSPENDED)
    assert found[READY].message == "replicas is 0: no pod runs"


def test_an_invalid_spec_is_what_blocks_first() -> None:
    found = verdicts(fakes.pod(waiting={"reason": "ErrImagePull"}), invalid="spec.model: required")
    assert (found[READY].status, found[READY].reason) == ("False", Reason.INVALID_SPEC)
    assert found[WORKLOAD].reason is Reason.IMAGE_PULL_FAILED


def test_a_refused_child_makes_the_spec_invalid() -> None:
    refusal = Refusal(Reason.OBJECT_REFUSED, "the API server answered 422: no")
    found = verdicts(refusals={"Deployment": refusal})
    assert (found[SPEC].status, found[SPEC].reason) == ("False", Reason.OBJECT_REFUSED)
    assert (found[WORKLOAD].status, found[WORKLOAD].reason) == ("False", Reason.OBJECT_REFUSED)
    assert (found[READY].status, found[READY].reason) == ("False", Reason.OBJECT_REFUSED)


@pytest.mark.parametrize(
    "why", [Reason.OBJECT_REFUSED, Reason.OBJECT_BEING_DELETED, Reason.INVALID_SPEC]
)
def test_a_service_that_answers_is_ready_and_says_why_its_spec_is_not_applied(why: Reason) -> None:
    invalid = "spec.model: required" if why is Reason.INVALID_SPEC else None
    refusals = {} if invalid else {"Deployment": Refusal(why, "the quota is used up")}
    pods = [fakes.pod("a", ready=True, hash="new"), fakes.pod("b", hash="new", running=True)]
    found = verdicts(*pods, replicas=2, invalid=invalid, refusals=refusals)
    sentence = f"1 of 2 pods serve, but {invalid or 'the quota is used up'}"
    assert found[READY] == Verdict("True", why, sentence)
    assert (found[SPEC].status, found[SPEC].reason) == ("False", why)
    assert found[WORKLOAD].status == "False"


@pytest.mark.parametrize("place", ["Service", "Service-pods"])
def test_a_service_to_whose_pods_nothing_leads_is_not_ready(place: str) -> None:
    taken = {place: Refusal(Reason.NAME_CONFLICT, "Service chat exists and has no owner")}
    refused = {place: Refusal(Reason.OBJECT_REFUSED, "exceeded quota: services")}
    pod = fakes.pod(ready=True, hash="new")
    there: Manifest = {place: {"metadata": {"name": "chat"}}}
    assert verdicts(pod, refusals=taken, children=there)[READY].status == "False"
    assert verdicts(pod, refusals=refused)[READY].status == "False"
    assert verdicts(pod, refusals=refused, children=there)[READY].status == "True"


def test_pods_that_leave_or_failed_for_good_do_not_count() -> None:
    leaving = fakes.pod("a", ready=True)
    leaving["metadata"]["deletionTimestamp"] = fakes.NOW_TEXT
    evicted = fakes.pod("b", phase="Failed")
    assert verdicts(leaving, evicted)[WORKLOAD].message == "0 of 1 pods serve"


@pytest.mark.parametrize(
    ("cached", "computed", "status", "reason", "sentence"),
    [
        (620, 380, "True", Reason.WARM, "62 % of the 1000 prompt tokens"),
        (1, 999, "False", Reason.COLD, "0 % of the 1000 prompt tokens"),
        (0, 7, "False", Reason.COLD, "0 % of the 7 prompt tokens"),
    ],
)
def test_the_prefix_cache_is_warm_when_prompts_find_something_in_it(
    cached: int, computed: int, status: str, reason: Reason, sentence: str
) -> None:
    found = verdicts(fakes.pod(ready=True), counts=Counts(cached, computed))
    assert (found[CACHE].status, found[CACHE].reason) == (status, reason)
    assert sentence in found[CACHE].message
    assert found[READY].status == "True"


def test_a_prefix_cache_that_is_off_is_not_warm() -> None:
    found = verdicts(fakes.pod(ready=True), cache=PrefixCache(enabled=False))
    assert (found[CACHE].status, found[CACHE].reason) == ("False", Reason.DISABLED)


def drafting(state: str, reason: str | None = None, message: str | None = None) -> State:
    told = Speculation(state=state, reason=reason, message=message)
    return State(boot_id="b", uptime_s=1, phase="ready", speculation=told)


def test_drafts_that_nobody_asked_for_are_no_condition() -> None:
    assert DRAFTS not in verdicts(fakes.pod(ready=True))


def test_before_a_pod_serves_nothing_is_known_of_drafts() -> None:
    loading = {"uid-of-chat-1": drafting("failed", "OutOfMemory")}
    found = verdicts(fakes.pod(running=True), speculates=True, states=loading)
    assert (found[DRAFTS].status, found[DRAFTS].reason) == ("Unknown", Reason.WAITING_FOR_PODS)


def test_drafts_that_are_used_are_told_with_what_they_are_worth() -> None:
    found = verdicts(
        fakes.pod(ready=True),
        speculates=True,
        states={"uid-of-chat-1": drafting("active")},
        counts=Counts(drafted=400, accepted=284, decoded=384, rows=150),
    )
    assert (found[DRAFTS].status, found[DRAFTS].reason) == ("True", Reason.ACTIVE)
    assert "71 % of the 400 drafted tokens of the last minutes" in found[DRAFTS].message
    assert "2.56 tokens in a step" in found[DRAFTS].message


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("failed", Reason.VOCABULARY_MISMATCH),
        ("failed", Reason.CONTEXT_TOO_SHORT),
        ("failed", Reason.DRAFT_UNAVAILABLE),
        ("failed", Reason.OUT_OF_MEMORY),
        ("paused", Reason.LOW_ACCEPTANCE),
        ("paused", Reason.NO_GAIN),
    ],
)
def test_a_draft_that_is_not_used_says_why_and_the_service_stays_ready(
    state: str, reason: Reason
) -> None:
    told = {"uid-of-chat-1": drafting(state, reason, "the draft has 4096 tokens, the model 2048")}
    found = verdicts(fakes.pod(ready=True, hash="new"), speculates=True, states=told)
    assert (found[DRAFTS].status, found[DRAFTS].reason) == ("False", reason)
    assert "pod chat-1 does not use drafts" in found[DRAFTS].message
    assert "the draft has 4096 tokens, the model 2048" in found[DRAFTS].message
    assert (found[READY].status, found[READY].reason) == ("True", Reason.READY)


def test_of_pods_that_differ_the_worst_is_told() -> None:
    names = ("good", "slow", "broken", "broken-too")
    states = [
        drafting("active"),
        drafting("paused", "LowAcceptance"),
        drafting("failed", "OutOfMemory", "there is no room"),
        drafting("failed", "OutOfMemory", "there is no room"),
    ]
    found = verdicts(
        *(fakes.pod(name, ready=True) for name in names),
        replicas=4,
        speculates=True,
        states={f"uid-of-{name}": state for name, state in zip(names, states, strict=True)},
    )
    assert found[DRAFTS].reason is Reason.OUT_OF_MEMORY
    assert "pod broken does not" in found[DRAFTS].message
    assert "(2 of 4 pods): there is no room" in found[DRAFTS].message


def test_a_reason_that_only_a_newer_runtime_knows_is_understood_by_its_state() -> None:
    told = {"uid-of-chat-1": drafting("paused", "TooHot")}
    found = verdicts(fakes.pod(ready=True), speculates=True, states=told)
    assert (found[DRAFTS].status, found[DRAFTS].reason) == ("False", Reason.LOW_ACCEPTANCE)


def test_the_transition_time_moves_only_when_the_status_flips() -> None:
    first = conditions.conditions(verdicts(), [], 1, fakes.NOW)
    later = fakes.NOW + timedelta(minutes=1)
    failing = verdicts(fakes.pod(waiting={"reason": "ErrImagePull"}))
    second = {each.type: each for each in conditions.conditions(failing, first, 2, later)}
    assert second["Ready"].last_transition_time == fakes.NOW_TEXT
    assert second["Ready"].observed_generation == 2
    serving = verdicts(fakes.pod(ready=True, hash="new"))
    third = conditions.conditions(serving, list(second.values()), 2, later)
    assert {each.type: each.last_transition_time for each in third} == {
        "Ready": "2026-11-23T12:01:00Z",
        "SpecValid": fakes.NOW_TEXT,
        "ModelReady": "2026-11-23T12:01:00Z",
        "WorkloadReady": "2026-11-23T12:01:00Z",
        "PrefixCacheWarm": fakes.NOW_TEXT,
    }


def test_a_sentence_is_never_longer_than_the_schema_allows() -> None:
    long = conditions.conditions(verdicts(invalid="x" * 5000), [], 1, fakes.NOW)
    assert max(len(each.message) for each in long) == conditions.MAX_MESSAGE
