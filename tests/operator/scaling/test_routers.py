"""What routers tell: what arrives and waits, and for how long nothing has been asked."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aweigh_api.reasons import Reason
from aweigh_api.router_state import RouterState
from aweigh_operator.scaling import estimates
from aweigh_operator.scaling.decision import Decision, Memory, decide
from aweigh_operator.scaling.estimates import Estimates
from aweigh_operator.scaling.look import Look, Pod, Router
from aweigh_operator.scaling.rules import Rules
from tests.operator.scaling.looks import LOOK_S, report

RULES = Rules(most=8)
HOT = report("a", 100.0, 900.0, 0.5)  # 50,000 tokens of its prompts come again and again
TO_ZERO = replace(RULES, idle_s=300.0)


def told(uid: str, uptime_s: float, arrived: int, *, waiting: int = 0, busy: int = 0) -> Router:
    state = RouterState(
        boot_id=uid,
        uptime_s=uptime_s,
        phase="ready",
        arrived_requests=arrived,
        waiting=waiting,
        in_flight=busy,
    )
    return Router(uid=uid, state=state)


class Routed:
    """Two routers before some pods, and a decision at every look."""

    def __init__(self, pods: int, rules: Rules) -> None:
        self.rules, self.replicas, self.memory = rules, pods, Memory()
        self.now_s, self.arrived, self.served = 1000.0, 0.0, 0.0

    def look(
        self, requests: float, *, waiting: int = 0, silent: bool = False, taken: float = 1.0
    ) -> Decision:
        """15 s later; `requests` arrive per second, of which pods have taken a part."""
        self.now_s += LOOK_S
        self.arrived += LOOK_S * requests
        self.served += LOOK_S * requests * taken
        one, other = int(self.arrived / 2), int(self.arrived) - int(self.arrived / 2)
        routers = [told("a", self.now_s, one, waiting=waiting), told("b", self.now_s, other)]
        if silent:
            routers[1] = Router(uid="b")
        pods = [self._pod(f"pod-{each}", requests > 0) for each in range(self.replicas)]
        look = Look(now_s=self.now_s, replicas=self.replicas, pods=pods, routers=routers)
        self.memory, decision = decide(self.memory, look, self.rules)
        return decision

    def _pod(self, uid: str, busy: bool) -> Pod:
        state = report(uid, self.served / max(self.replicas, 1), self.now_s, 0.5)
        state = state.model_copy(update={"running": 5 if busy else 0})
        return Pod(uid=uid, age_s=900.0, ready_for_s=800.0, state=state)


def test_traffic_is_what_arrives_at_routers_and_not_what_pods_have_taken() -> None:
    service = Routed(1, RULES)
    for _ in range(4):
        service.look(20.0, taken=0.5)
    assert service.memory.known.requests == pytest.approx(20.0, rel=0.05)
    assert service.memory.known.prompt_tokens == pytest.approx(20_000, rel=0.05)


def test_requests_that_wait_in_a_router_ask_for_pods() -> None:
    calm, queued = Routed(1, RULES), Routed(1, RULES)
    for _ in range(4):
        calm.look(5.0)
        queued.look(5.0)
    assert calm.look(5.0).replicas == 1
    decision = queued.look(5.0, waiting=1000)
    assert decision.replicas > 1
    assert "1,000 requests wait" in decision.sentence or "1000 requests wait" in decision.sentence


def test_a_router_that_does_not_report_holds_the_number() -> None:
    service = Routed(3, RULES)
    for _ in range(30):
        service.look(1.0)
    decision = service.look(1.0, silent=True)
    assert (decision.replicas, decision.reason) == (3, Reason.REPORTS_MISSING)
    assert decision.sentence == "stays at 3: 1 of 2 routers do not report what arrives"


def test_with_a_router_more_pods_lose_no_hits_and_each_keeps_its_part_of_the_prompts() -> None:
    pods = [Pod(uid=uid, age_s=900.0, ready_for_s=800.0, state=HOT) for uid in ("a", "b")]
    straight = Look(now_s=0.0, replicas=2, pods=pods)
    routed = replace(straight, routers=[told("r", 60.0, 5)])
    known = Estimates(hit_share=0.8, hit_pods=2)
    assert estimates.worth(known, straight).hits(8) < 0.75
    assert estimates.worth(known, routed).hits(8) == 0.8
    alike, split = estimates.room(straight), estimates.room(routed)
    assert alike is not None
    assert split is not None
    assert [alike.hot(pods) for pods in (1, 2, 4)] == [50_000, 50_000, 50_000]
    assert [split.hot(pods) for pods in (1, 2, 4)] == [100_000, 50_000, 25_000]


def test_no_pod_stays_once_nothing_was_asked_for_long_enough() -> None:
    service = Routed(1, TO_ZERO)
    service.look(1.0)
    decisions = [service.look(0.0) for _ in range(23)]
    zero_at = [number for number, each in enumerate(decisions) if each.replicas == 0]
    # The first look at which nothing has come begins the time.
    assert zero_at[0] * LOOK_S == pytest.approx(TO_ZERO.idle_s or 0.0, abs=LOOK_S)
    assert decisions[zero_at[0]].reason is Reason.SCALED_TO_ZERO
    assert decisions[zero_at[0]].sentence == "1 → 0 pods: nothing was asked for 300 s"


def test_where_a_pod_shall_stay_it_does() -> None:
    service = Routed(1, RULES)
    assert {service.look(0.0).replicas for _ in range(60)} == {1}


def test_a_router_that_does_not_report_keeps_the_last_pod() -> None:
    service = Routed(1, TO_ZERO)
    for _ in range(15):
        service.look(0.0)
    assert {service.look(0.0, silent=True).replicas for _ in range(20)} == {1}
    assert service.look(0.0).replicas == 0  # it has counted no request meanwhile


def test_a_request_that_came_while_its_router_was_silent_counts() -> None:
    service = Routed(1, TO_ZERO)
    for _ in range(15):
        service.look(0.0)
    service.look(1.0, silent=True)
    for _ in range(20):
        service.look(0.0, silent=True)
    assert service.look(0.0).replicas == 1


def test_the_first_request_that_waits_starts_a_pod() -> None:
    service = Routed(0, TO_ZERO)
    assert service.look(0.0).sentence == "stays at 0: nothing is asked"
    decision = service.look(0.1, waiting=1)
    assert (decision.replicas, decision.reason) == (1, Reason.LOAD_GREW)
    assert decision.sentence == "0 → 1 pods: 1 request waits for the first one"


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.0, 0.0, 0.2]), st.booleans()), max_size=80))
def test_pods_never_go_while_something_was_asked_lately(looks: list[tuple[float, bool]]) -> None:
    service, asked_s = Routed(1, TO_ZERO), 0.0
    for requests, silent in looks:
        decision = service.look(requests, silent=silent)
        if requests:
            asked_s = service.now_s
        if decision.replicas == 0:
            assert service.now_s - asked_s >= (TO_ZERO.idle_s or 0.0) or asked_s == 0.0
            return
