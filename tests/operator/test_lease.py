"""Several operators, one Lease: never two that may write, and never none for long."""

import copy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aweigh_operator.cluster import ApiError
from aweigh_operator.lease import DURATION_S, RENEW_S, RETRY_S, Lease
from aweigh_operator.observe import Key, Manifest

KEY = Key("aweigh-system", "aweigh-operator")


class Server:
    """An API server that holds one Lease, and can be cut off from somebody."""

    def __init__(self) -> None:
        self.lease: Manifest | None = None
        self.version = 0
        self.deaf: set[str] = set()  # identities whose requests fail


class Client:
    """One operator's way to it."""

    def __init__(self, server: Server, identity: str) -> None:
        self._server = server
        self._identity = identity

    async def read_lease(self, key: Key) -> Manifest | None:
        self._expect_ears()
        return copy.deepcopy(self._server.lease)

    async def write_lease(self, lease: Manifest) -> Manifest | None:
        self._expect_ears()
        server = self._server
        known = lease["metadata"].get("resourceVersion")
        there = None if server.lease is None else server.lease["metadata"]["resourceVersion"]
        if known != there:
            return None
        server.version += 1
        metadata = {**lease["metadata"], "resourceVersion": str(server.version)}
        server.lease = {**copy.deepcopy(lease), "metadata": metadata}
        return copy.deepcopy(server.lease)

    def _expect_ears(self) -> None:
        if self._identity in self._server.deaf:
            raise ApiError("hold the Lease", 0, "no answer")


class World:
    """Operators, each with a clock of its own that runs alike and shows another time."""

    def __init__(self, *identities: str) -> None:
        self.now_s = 0.0
        self.server = Server()
        self.told: dict[str, list[bool]] = {each: [] for each in identities}
        self.leases = {each: self.operator(each) for each in identities}

    def operator(self, identity: str) -> Lease:
        offset_s = 1000.0 * len(identity)
        return Lease(
            Client(self.server, identity),
            KEY,
            identity,
            self.told[identity].append,
            clock=lambda: self.now_s + offset_s,
        )

    async def run(self, seconds: float, *without: str) -> None:
        """Everybody tries as often as it does; some are paused, as by a stopped process."""
        for _ in range(int(seconds / RETRY_S)):
            self.now_s += RETRY_S
            for identity, lease in self.leases.items():
                if identity not in without:
                    await lease.attempt()
            assert len(self.writers()) <= 1

    def writers(self) -> list[str]:
        return [name for name, lease in self.leases.items() if lease.writable_s > 0]


async def test_the_first_one_works_and_the_other_stands_by() -> None:
    world = World("a", "bb")
    await world.run(60)
    assert world.writers() == ["a"]
    assert world.told == {"a": [True], "bb": []}


async def test_a_holder_that_is_gone_is_followed_within_fifteen_seconds() -> None:
    world = World("a", "bb")
    await world.run(30)
    await world.run(15, "a")
    assert world.writers() == ["bb"]
    await world.run(30)  # it comes back, and stands by
    assert world.writers() == ["bb"]
    assert world.told["a"] == [True, False]


async def test_a_holder_that_ends_is_followed_at_once() -> None:
    world = World("a", "bb")
    await world.run(30)
    await world.leases["a"].release()
    await world.run(2 * RETRY_S, "a")
    assert world.writers() == ["bb"]


async def test_a_restarted_holder_of_the_same_name_goes_on_at_once() -> None:
    world = World("a", "bb")
    await world.run(30)
    world.leases["a"] = world.operator("a")
    await world.run(RETRY_S)
    assert world.writers() == ["a"]


async def test_without_the_api_server_nobody_writes_and_later_one_does() -> None:
    world = World("a", "bb")
    await world.run(30)
    world.server.deaf = {"a", "bb"}
    await world.run(RENEW_S + RETRY_S)
    assert world.writers() == []
    assert world.told["a"] == [True, False]
    world.server.deaf = set()
    await world.run(15)
    assert len(world.writers()) == 1


async def test_a_write_is_given_no_longer_than_the_lease_lasts() -> None:
    world = World("a")
    await world.run(3)
    world.server.deaf = {"a"}
    for waited_s in range(int(DURATION_S)):
        left_s = world.leases["a"].writable_s
        assert left_s == 0 if waited_s >= RENEW_S else waited_s + left_s < DURATION_S
        world.now_s += 1


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["deaf", "hears", "paused", "runs", "restart", "release", "wait"]),
            st.sampled_from(["a", "bb", "ccc"]),
            st.integers(1, 20),
        ),
        max_size=40,
    )
)
async def test_never_do_two_write(story: list[tuple[str, str, int]]) -> None:
    world = World("a", "bb", "ccc")
    paused: set[str] = set()
    for deed, who, seconds in story:
        if deed == "deaf":
            world.server.deaf.add(who)
        elif deed == "hears":
            world.server.deaf.discard(who)
        elif deed == "paused":
            paused.add(who)
        elif deed == "runs":
            paused.discard(who)
        elif deed == "restart":
            world.leases[who] = world.operator(who)
        elif deed == "release":
            await world.leases[who].release()
        await world.run(seconds, *paused)
    world.server.deaf = set()
    await world.run(DURATION_S + 3 * RETRY_S + 2)
    assert len(world.writers()) == 1


async def test_a_lease_that_is_deleted_is_made_again() -> None:
    world = World("a", "bb")
    await world.run(30)
    world.server.lease = None
    await world.run(2 * RETRY_S)
    assert world.writers() == ["a"]
    assert world.server.lease is not None


async def test_a_renewal_whose_answer_is_lost_costs_nothing() -> None:
    world = World("a", "bb")
    await world.run(30)
    lease = world.leases["a"]
    stored = copy.deepcopy(lease._stored)
    await lease.attempt()
    lease._stored = stored  # as it was before the answer that did not come
    await world.run(30)
    assert world.told == {"a": [True], "bb": []}


def test_the_lease_is_as_kubernetes_wants_it() -> None:
    world = World("a")
    found: Any = world.leases["a"]._renewed(None)
    assert (found["apiVersion"], found["kind"]) == ("coordination.k8s.io/v1", "Lease")
    assert isinstance(found["spec"]["leaseDurationSeconds"], int)
    with pytest.raises(KeyError):
        found["metadata"]["resourceVersion"]
