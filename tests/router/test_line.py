"""The line: fair, bounded, nobody lost."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aweigh_router.line import BROKEN_OFF, HIGH, LOW, NO_ROOM_NEEDED, NORMAL, Line, LineFull, Ticket

TENANTS = st.sampled_from([b"a", b"b", b"c"])


def test_two_tenants_that_always_wait_get_the_same_number_of_tokens() -> None:
    line, served = Line[Ticket](1000), Counter[bytes]()
    for _ in range(200):
        line.join(Ticket(b"many", 0.0, cost=10))
    for _ in range(60):
        line.join(Ticket(b"few", 0.0, cost=30))
    for _ in range(200):
        ticket = next(line.in_order())
        served[ticket.tenant] += ticket.cost
        line.take(ticket)
        if served[b"many"] == served[b"few"] == 1500:
            break
    assert abs(served[b"many"] - served[b"few"]) <= 30


def test_tokens_that_stream_later_count_too() -> None:
    line = Line[Ticket](10)
    for tenant in (b"a", b"b", b"b"):
        line.join(Ticket(tenant, 0.0))
    line.charge(b"a", 100)
    assert [each.tenant for each in line.in_order()] == [b"b", b"b", b"a"]


def test_who_is_taken_in_one_look_takes_turns() -> None:
    line, taken = Line[Ticket](20), list[bytes]()
    for tenant in (b"a", b"a", b"a", b"b", b"b"):
        line.join(Ticket(tenant, 0.0, cost=10))
    for ticket in line.in_order():
        line.take(ticket)
        taken.append(ticket.tenant)
    assert taken == [b"a", b"b", b"a", b"b", b"a"]


def test_nobody_saves_up_turns_while_away() -> None:
    line = Line[Ticket](100)
    line.join(Ticket(b"busy", 0.0))
    line.charge(b"busy", 1_000_000)
    line.join(Ticket(b"new", 0.0))
    line.charge(b"new", 10)
    line.join(Ticket(b"busy", 0.0))
    assert next(line.in_order()).tenant == b"busy"


@pytest.mark.parametrize("first", [NO_ROOM_NEEDED, HIGH, NORMAL])
def test_who_was_served_much_is_not_passed_over_for_who_comes_first(first: int) -> None:
    line, taken = Line[Ticket](100), list[bytes]()
    for tenant, priority, served in ((b"rare", first, 10), (b"busy", NORMAL, 1_000_000)):
        line.join(Ticket(tenant, 0.0, priority))
        line.take(next(line.in_order()))
        line.charge(tenant, served)
    assert not len(line)
    for _ in range(3):
        line.join(Ticket(b"new", 0.0, cost=10))
        line.join(Ticket(b"busy", 0.0, cost=10))
    for ticket in line.in_order():
        line.take(ticket)
        taken.append(ticket.tenant)
    assert taken == [b"new", b"busy"] * 3


def test_who_waits_behind_a_broken_stream_of_its_own_keeps_its_turns() -> None:
    line = Line[Ticket](10)
    for tenant in (b"much", b"little"):
        line.join(Ticket(tenant, 0.0))
    line.charge(b"much", 1000)
    line.join(Ticket(b"little", 0.0, BROKEN_OFF))
    line.join(Ticket(b"little", 0.0))
    assert [each.tenant for each in line.in_order()][:3] == [b"little"] * 3


def test_what_others_of_a_higher_priority_were_served_puts_nobody_back() -> None:
    line = Line[Ticket](100)
    for tenant, priority, served in ((b"a", LOW, 10), (b"urgent", HIGH, 1_000_000)):
        line.join(Ticket(tenant, 0.0, priority))
        line.take(next(line.in_order()))
        line.charge(tenant, served)
    line.join(Ticket(b"b", 0.0, LOW, 10))
    line.join(Ticket(b"a", 0.0, LOW, 10))
    line.join(Ticket(b"b", 0.0, LOW, 10))
    assert [each.tenant for each in line.in_order()] == [b"b", b"a", b"b"]


def test_the_key_decides_who_is_before_others() -> None:
    line = Line[Ticket](10)
    for priority in (LOW, NORMAL, HIGH, LOW, HIGH):
        line.join(Ticket(b"a", 0.0, priority))
    assert [each.priority for each in line.in_order()] == [HIGH, HIGH, NORMAL, LOW, LOW]


def test_one_of_several_tenants_fills_half_of_the_line_at_most() -> None:
    line = Line[Ticket](4)
    line.join(Ticket(b"a", 0.0), num_tenants=2)
    line.join(Ticket(b"a", 0.0), num_tenants=2)
    with pytest.raises(LineFull, match="2 requests of this API key wait"):
        line.join(Ticket(b"a", 0.0), num_tenants=2)
    line.join(Ticket(b"b", 0.0), num_tenants=2)
    line.join(Ticket(b"b", 0.0), num_tenants=2)
    with pytest.raises(LineFull, match="4 requests wait already; at most 4 may"):
        line.join(Ticket(b"c", 0.0), num_tenants=2)


class Waiting(RuleBasedStateMachine):
    """Whatever happens, whoever waits is in the line once, in the order of arrivals."""

    def __init__(self) -> None:
        super().__init__()
        self.line = Line[Ticket](20)
        self.waiting: list[Ticket] = []
        self.away: list[Ticket] = []

    @rule(tenant=TENANTS, priority=st.sampled_from([HIGH, NORMAL, LOW]), cost=st.integers(1, 50))
    def join(self, tenant: bytes, priority: int, cost: int) -> None:
        ticket = Ticket(tenant, 0.0, priority, cost)
        if len(self.waiting) < 20:
            self.line.join(ticket)
            self.waiting.append(ticket)
        else:
            with pytest.raises(LineFull):
                self.line.join(ticket)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def take_some_while_looking(self, data: st.DataObject) -> None:
        for ticket in self.line.in_order():
            if data.draw(st.booleans()):
                self.line.take(ticket)
                self.waiting.remove(ticket)
                self.away.append(ticket)

    @precondition(lambda self: self.away and len(self.waiting) < 20)
    @rule(data=st.data())
    def come_back(self, data: st.DataObject) -> None:
        ticket = self.away.pop(data.draw(st.integers(0, len(self.away) - 1)))
        self.line.put_back(ticket)
        self.waiting.append(ticket)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        ticket = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        self.line.leave(ticket)

    @rule(tenant=TENANTS, tokens=st.integers(0, 500))
    def charge(self, tenant: bytes, tokens: int) -> None:
        self.line.charge(tenant, tokens)

    @invariant()
    def nobody_is_lost_or_doubled(self) -> None:
        order = list(self.line.in_order())
        assert len(order) == len(self.line) == len(self.waiting)
        assert set(order) == set(self.waiting)
        assert all(each.waits for each in order)

    @invariant()
    def priorities_hold_within_a_tenant(self) -> None:
        order = list(self.line.in_order())
        for tenant in (b"a", b"b", b"c"):
            own = [each for each in order if each.tenant == tenant]
            assert own == sorted(own)


TestWaiting = Waiting.TestCase


@given(st.lists(st.tuples(TENANTS, st.integers(1, 20)), min_size=1, max_size=40))
def test_the_order_is_by_turns(requests: list[tuple[bytes, int]]) -> None:
    """Of two that wait, nobody is ahead by more than the largest request."""
    line, served = Line[Ticket](100), Counter[bytes]()
    for tenant, cost in requests:
        line.join(Ticket(tenant, 0.0, cost=cost))
    left = Counter(tenant for tenant, _ in requests)
    for ticket in list(line.in_order()):
        served[ticket.tenant] += ticket.cost
        line.take(ticket)
        left[ticket.tenant] -= 1
        waiting = [tenant for tenant in left if left[tenant]]
        if ticket.tenant in waiting:
            assert all(served[ticket.tenant] - served[each] <= 20 for each in waiting)
