"""Which pod a prefix goes to: the same everywhere, little movement, bounded load."""

import json
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aweigh_router import asked
from aweigh_router.choice import OVERLOAD, order, pick, rendezvous, spread
from aweigh_router.shares import MOST_KEYS, Shares

NAMES = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=12, unique=True)
KEYS = st.binary(min_size=1, max_size=16)


def chat(*texts: str, **fields: object) -> bytes:
    roles = ["system", *["user", "assistant"] * len(texts)]
    messages = [{"role": r, "content": t} for r, t in zip(roles, texts, strict=False)]
    return json.dumps({"model": "m", "messages": messages, **fields}).encode()


@given(KEYS, KEYS, st.floats(0, 1), NAMES)
def test_every_router_comes_to_the_same_order(
    prefix: bytes, conversation: bytes, share: float, names: list[str]
) -> None:
    one = order(prefix, conversation, share, names)
    other = order(prefix, conversation, share, sorted(names))
    assert one == other
    assert sorted(one.names) == sorted(names)


@given(KEYS, NAMES, st.text(min_size=9, max_size=9))
def test_a_pod_that_comes_or_goes_moves_only_the_keys_whose_first_it_is(
    key: bytes, names: list[str], new: str
) -> None:
    before, after = rendezvous(key, names), rendezvous(key, [*names, new])
    assert [name for name in after if name != new] == before


def test_prefixes_are_spread_evenly() -> None:
    names = [f"pod-{each}" for each in range(4)]
    firsts = Counter(rendezvous(str(each).encode(), names)[0] for each in range(4000))
    assert all(900 < firsts[name] < 1100 for name in names)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8), st.integers(1, 64))
def test_a_prefix_may_use_more_pods_the_more_of_the_load_it_brings(
    shares: list[float], num_pods: int
) -> None:
    widths = [spread(share, num_pods) for share in sorted(shares)]
    assert all(one <= other for one, other in pairwise(widths))
    assert widths[0] >= 1
    assert widths[-1] <= num_pods


@given(KEYS, KEYS, st.floats(0, 1), NAMES, st.data())
def test_no_pod_that_shares_a_prefix_gets_much_more_than_the_others(
    prefix: bytes, conversation: bytes, share: float, names: list[str], data: st.DataObject
) -> None:
    loads = {name: data.draw(st.integers(0, 40)) for name in names}
    full = set(data.draw(st.lists(st.sampled_from(names))))
    wanted = order(prefix, conversation, share, names)
    chosen = pick(wanted, loads, lambda name: name not in full)
    if chosen is None:
        assert full == set(names)
        return
    assert chosen not in full
    near = set(wanted.names[: wanted.num_near]) - full
    assert chosen in near or not near
    limit = OVERLOAD * sum(loads.values()) / len(loads) + 1
    assert loads[chosen] <= limit or loads[chosen] == min(loads[name] for name in near or {chosen})


def test_the_turns_of_a_chat_have_the_same_keys() -> None:
    one = asked.read(chat("be brief", "hello"), b"")
    two = asked.read(chat("be brief", "hello", "hi", "and now?"), b"")
    assert (one.prefix, one.conversation) == (two.prefix, two.conversation)


@pytest.mark.parametrize("times", [200, 20_000])
def test_chats_that_begin_alike_share_the_prefix_and_not_the_conversation(times: int) -> None:
    one, two = (asked.read(chat("system " * times, each), b"") for each in ("hello", "goodbye"))
    assert one.prefix == two.prefix
    assert one.conversation != two.conversation


def test_tenants_and_models_have_keys_of_their_own() -> None:
    keys = {
        asked.read(body, tenant).prefix
        for tenant in (b"alice", b"bob")
        for body in (chat("s", "u"), chat("s", "u", model="other"), chat("s", "u", tools=[{}]))
    }
    assert len(keys) == 6


def test_the_order_of_fields_changes_no_key() -> None:
    one = b'{"messages": [{"role": "user", "content": "hi"}], "model": "m"}'
    two = b'{"model":"m","messages":[{"content":"hi","role":"user"}],"temperature":0}'
    assert asked.read(one, b"") == asked.read(two, b"")


@given(st.lists(st.tuples(KEYS, st.integers(1, 8), st.floats(0, 600)), max_size=60))
def test_shares_are_parts_of_one_load_and_need_bounded_memory(
    requests: list[tuple[bytes, int, float]],
) -> None:
    shares, now_s = Shares(), 0.0
    for key, count, after_s in requests:
        now_s += after_s
        shares.add(key, count, now_s)
    assert sum(shares.of(key, now_s) for key in {key for key, _, _ in requests}) <= 1.0 + 1e-9


def test_a_heavy_prefix_is_not_forgotten_among_many_light_ones() -> None:
    shares = Shares()
    for each in range(20_000):
        shares.add(b"heavy" if each % 4 == 0 else str(each).encode(), 1, each * 0.001)
    assert 0.2 < shares.of(b"heavy", 20.0) < 0.3
    assert len(shares) <= MOST_KEYS
