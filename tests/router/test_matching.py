"""Who goes where: never into a full pod, alone where it may kill, nobody passed over for ever."""

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aweigh_api.routing import Room
from aweigh_router import rooms
from aweigh_router.asked import Asked
from aweigh_router.calls import Call
from aweigh_router.choice import OVERLOAD, Order
from aweigh_router.matching import Round
from aweigh_router.rooms import Found, Pod, Pods


def pod(name: str, room: int, running: int = 0, model: str | None = None) -> Pod:
    each = Pod(Found(name, f"http://{name}", ready=True))
    report = Room(boot_id=name, phase="ready", room=room, running=running, model=model)
    rooms.reported(each, report, 0.0)
    return each


def call(num_answers: int = 1, deaths: int = 0, **known: object) -> Call:
    each = Call(b"", 0.0, asked=Asked(num_answers=num_answers))
    each.died = [("dead", str(number)) for number in range(deaths)]
    for name, value in known.items():
        setattr(each, name, value)
    return each


def order(pods: list[Pod]) -> Order:
    return Order(tuple(each.found.name for each in pods), 1)


MODELS = st.sampled_from([None, "mine", "newname"])


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), MODELS), min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2), MODELS), max_size=20),
)
def test_no_pod_gets_more_than_it_has_room_for_nor_what_another_model_is_asked_for(
    pods_of: list[tuple[int, int, str | None]], calls_of: list[tuple[int, int, str | None]]
) -> None:
    pods = [pod(f"p{i}", *how) for i, how in enumerate(pods_of)]
    before = {each: each.room for each in pods}
    was_idle = {each for each in pods if each.idle}
    round = Round(pods, 0.0)
    placed: dict[Pod, list[Call]] = {each: [] for each in pods}
    for num_answers, deaths, model in calls_of:
        request = call(deaths=deaths, asked=Asked(model=model, num_answers=num_answers))
        chosen = round.place(request, order(pods))
        if chosen is not None:
            placed[chosen].append(request)
    for each, calls in placed.items():
        assert all(one.asked.model in (None, each.model) or not each.model for one in calls)
        took = [one for one in calls if one.num_answers]
        total = sum(one.num_answers for one in took)
        assert total <= before[each] or (each in was_idle and len(took) == 1)
        if any(one.deaths == 2 for one in took):
            assert len(took) == 1
            assert each in was_idle


def test_a_request_for_many_answers_holds_one_pod_and_no_other() -> None:
    one, two = pod("one", 2, running=6), pod("two", 3, running=5)
    round = Round([one, two], 0.0)
    assert round.place(call(4), order([one, two])) is None
    assert [round.place(call(), order([one, two])) for _ in range(3)] == [one, one, None]


def test_what_a_pod_is_about_to_refuse_is_no_load_of_it() -> None:
    liar, _, free = pods = [pod("liar", 64), pod("loaded", 9, running=5), pod("free", 9)]
    near = Order(("liar", "loaded", "free"), 3)
    sent = [call() for _ in range(30)]
    for each in sent:
        rooms.begin(liar, each)
    rooms.refused(liar, sent[0], 0.0)
    assert Round(pods, 0.0).place(sent[0], near) is free
    assert not liar.idle  # it may have taken one of those
    rooms.took(liar)
    assert liar.load == liar.in_flight


def test_a_pod_that_has_refused_and_has_room_again_does_not_get_everything() -> None:
    pods = [pod("one", 64), pod("two", 64)]
    near, refused = Order(("one", "two"), 2), pods[0]
    first = call()
    rooms.begin(refused, first)
    rooms.refused(refused, first, 0.0)
    rooms.reported(refused, Room(boot_id="one", phase="ready", room=64, running=0), 1.0)
    chosen = [Round(pods, 1.0).place(call(), near) for _ in range(30)]
    assert chosen.count(refused) <= OVERLOAD * len(chosen) / 2 + 2


def test_what_is_on_its_way_when_a_report_comes_counts_once() -> None:
    each, first, second = pod("p", 2), call(), call()
    rooms.begin(each, first)
    rooms.begin(each, second)
    for held, room in ((0, 2), (1, 1), (2, 0)):  # said before they came, between them, after
        report = Room(boot_id="p", phase="ready", room=room, running=0, yours=held)
        rooms.reported(each, report, 0.0)
        assert each.room == 0
    over = Room(boot_id="p", phase="ready", room=1, running=1, yours=1)
    rooms.reported(each, over, 0.0)  # said after an answer's end, heard before it
    assert each.room == 0
    rooms.end(each, first, 0.0)
    assert each.room == 1
    rooms.begin(each, call())
    rooms.reported(each, over, 0.0)
    assert each.room == 0


def test_of_places_that_end_here_other_routers_get_their_part() -> None:
    each, now_s, left = pod("p", 2), 0.0, 0
    running = [call(), call()]
    for one in running:
        rooms.begin(each, one)
    for _ in range(100):
        now_s += 0.5
        rooms.end(each, running.pop(0), now_s)
        if not each.fits(1, now_s):
            left += 1
            assert each.fits(1, now_s + rooms.TURN_S)  # if nobody else has taken it
        running.append(call())
        rooms.begin(each, running[-1])
    assert left == 100 // rooms.TURN_ENDS


def test_requests_that_are_refused_together_are_one_refusal() -> None:
    each, sent = pod("p", 9), [call() for _ in range(9)]
    for one in sent:
        rooms.begin(each, one)
    for one in sent:
        rooms.refused(each, one, 1.0)
    assert not each.fits(1, 1.0)
    rooms.reported(each, Room(boot_id="p", phase="ready", room=1, running=8, yours=0), 1.0)
    assert each.fits(1, 1.0)  # another router was first, once


def test_a_pod_stays_one_requests_own_though_others_that_take_no_room_end_there() -> None:
    each = pod("p", 9)
    own, models, refused = call(deaths=2), call(0), call(0)
    for one in (own, models, refused):
        assert Round([each], 0.0).place(one, order([each])) is each
    rooms.end(each, models, 0.0)
    rooms.refused(each, refused, 0.0)
    rooms.reported(each, Room(boot_id="p", phase="ready", room=9, running=0), 1.0)
    assert Round([each], 1.0).place(call(), order([each])) is None
    rooms.end(each, own, 1.0)
    assert Round([each], 1.0).place(call(), order([each])) is each


def test_what_runs_alone_may_go_to_a_pod_that_it_has_failed_on() -> None:
    pods = [pod(f"p{each}", 9, running=1) for each in range(3)] + [pod("idle", 9)]
    failed = call(deaths=2, avoid={"idle", "p0"})
    assert Round(pods, 0.0).place(failed, order(pods)) is pods[-1]
    assert Round(pods, 0.0).place(call(deaths=1, avoid={"idle"}), order(pods)) is not pods[-1]


def test_half_of_the_pods_are_left_to_others_however_many_want_one_for_themselves() -> None:
    pods = [pod(f"p{each}", 9) for each in range(4)]
    round = Round(pods, 0.0)
    chosen = [round.place(call(deaths=2), order(pods)) for _ in range(9)]
    assert chosen == [*pods[:2], *[None] * 7]
    loaded = [pod(f"q{each}", 3, running=6) for each in range(4)]
    round = Round(loaded, 0.0)
    assert [round.place(call(8), order(loaded)) for _ in range(9)] == [None] * 9
    assert round.place(call(), order(loaded)) in loaded[2:]
    for late in (call(8, held="gone"), call(deaths=2, held="gone")):
        assert round.place(late, order(loaded)) is None
        assert late.held is None


@pytest.mark.parametrize("num_pods", [1, 2, 3, 5, 7])
def test_of_an_odd_number_of_pods_the_larger_half_is_left_to_others(num_pods: int) -> None:
    pods = [pod(f"p{each}", 9) for each in range(num_pods)]
    round = Round(pods, 0.0)
    chosen = [round.place(call(deaths=2), order(pods)) for _ in range(9)]
    assert sum(each is not None for each in chosen) == max(1, num_pods // 2)


def test_who_was_beside_a_death_goes_back_to_that_pod_where_the_others_are_full() -> None:
    died, full = pod("died", 9), pod("full", 0, running=9)
    beside = call(deaths=1, avoid={"died"})
    assert Round([died, full], 0.0).place(beside, order([died, full])) is died
    other = pod("other", 1, running=8)
    assert Round([died, other], 0.0).place(beside, order([died, other])) is other


def test_who_did_it_not_waits_for_no_pod_of_its_own_any_more() -> None:
    pods, deaths = [pod("one", 0, running=9), pod("two", 1, running=8)], [("x", "1"), ("y", "1")]
    beside = call(died=list(deaths), avoid={"one", "two"})
    assert Round(pods, 0.0).place(beside, order(pods)) is None
    assert beside.held == "two"
    beside.clear(deaths)
    assert not any((beside.held, beside.avoid, beside.suspect))
    assert Round(pods, 0.0).place(beside, order(pods)) is pods[1]


def test_another_pod_is_asked_at_once_to_keep_what_one_does_not() -> None:
    waits = call(8, held="one", kept_s=10.0)
    waits.hold("one")
    assert waits.kept_s == 10.0
    waits.hold("two")
    assert waits.kept_s < 0


def test_what_waits_for_a_pod_of_its_own_stays_with_one() -> None:
    pods, waits = [pod("one", 1, running=6), pod("two", 1, running=7)], call(8)
    assert Round(pods, 0.0).place(waits, order(pods)) is None
    assert waits.held == "one"
    rooms.reported(pods[0], Room(boot_id="one", phase="ready", room=0, running=9), 0.0)
    assert Round(pods, 0.0).place(waits, order(pods)) is None
    assert waits.held == "one"
    assert Round(pods[1:], 0.0).place(waits, order(pods)) is None
    assert waits.held == "two"


def test_suspects_are_spread() -> None:
    pods = [pod(f"p{each}", 9) for each in range(3)]
    round = Round(pods, 0.0)
    chosen = [round.place(call(deaths=1), order(pods)) for _ in range(6)]
    assert all(chosen.count(each) == 2 for each in pods)


def test_a_request_goes_back_to_a_pod_that_failed_only_if_there_is_no_other() -> None:
    one, two = pod("one", 1), pod("two", 1)
    failed = call(avoid={"one"})
    assert Round([one, two], 0.0).place(failed, order([one, two])) is two
    assert Round([one], 0.0).place(call(avoid={"one"}), order([one])) is one


def test_a_slow_pod_gets_nothing_while_there_is_another() -> None:
    pods = Pods()
    new, _ = pods.follow([Found("slow", "u", ready=True), Found("fast", "v", ready=True)])
    for each in new:
        report = Room(boot_id="b", phase="ready", room=9, running=0)
        rooms.reported(each, report, 0.0)
    slow = pods.get("slow")
    rooms.begin(slow, call(owing_since_s=0.0))
    pods.look(5.0)
    assert len(pods.taking(5.0)) == 2
    pods.look(11.0)
    assert pods.taking(11.0) == [pods.get("fast")]
    pods.follow([slow.found])
    assert pods.taking(11.0) == [slow]


def test_a_slow_pod_gets_requests_while_only_those_of_another_model_are_quick() -> None:
    pods = Pods()
    new, _ = pods.follow([Found("slow", "u", ready=True), Found("fast", "v", ready=True)])
    for each, model in zip(new, ("mine", "newname"), strict=True):
        report = Room(boot_id="b", phase="ready", room=9, running=0, model=model)
        rooms.reported(each, report, 0.0)
    rooms.begin(pods.get("slow"), call(owing_since_s=0.0))
    pods.look(11.0)
    assert pods.taking(11.0) == new


def test_a_pod_is_given_up_when_it_stays_unheard_and_when_an_answer_is_overdue() -> None:
    pods, given_up = Pods(), list[str]()
    names = ("unheard", "late", "gone", "lost")
    new, _ = pods.follow([Found(name, name, ready=True) for name in names])
    by_name = {each.found.name: each for each in new}
    for each in new:
        name = each.found.name
        rooms.reported(each, Room(boot_id="b", phase="ready", room=9, running=0), 0.0)
        rooms.begin(each, call(due_s=20.0, until_s=20.0, give_up=partial(given_up.append, name)))
    rooms.unheard(pods.get("unheard"), 0.0)
    pods.look(1.0)
    assert given_up == []  # it may be its report alone that broke off
    pods.follow([Found(name, name, ready=True) for name in ("unheard", "late")])
    for name in ("late", "gone"):
        report = Room(boot_id="b", phase="ready", room=9, running=0)
        rooms.reported(by_name[name], report, 12.0)
    pods.look(13.0)
    assert given_up == ["unheard", "lost"]  # the cluster knows nothing of the latter any more
    pods.look(21.0)
    assert sorted(given_up[2:]) == ["gone", "late", "lost", "unheard"]


def test_what_a_pod_counts_has_longer_than_what_it_has_lost() -> None:
    pods, given_up = Pods(), list[str]()
    new, _ = pods.follow([Found(name, name, ready=True) for name in ("counts", "lost")])
    for each, yours in zip(new, (1, 0), strict=True):
        late = partial(given_up.append, each.found.name)
        rooms.begin(each, call(due_s=5.0, until_s=9.0, give_up=late))
        report = Room(boot_id="b", phase="ready", room=9, running=1, yours=yours)
        rooms.reported(each, report, 4.0)
    pods.look(6.0)
    assert given_up == ["lost"]
    pods.look(10.0)
    assert sorted(given_up[1:]) == ["counts", "lost"]


def test_a_pod_serves_from_its_own_word_on_and_not_after_its_probes_fail() -> None:
    pods = Pods()
    (each,), _ = pods.follow([Found("p", "u", ready=False)])
    assert not each.takes(0.0)
    rooms.reported(each, Room(boot_id="b", phase="loading", room=0, running=0), 0.0)
    assert not each.takes(0.0)
    rooms.reported(each, Room(boot_id="b", phase="ready", room=9, running=0), 0.0)
    assert each.takes(0.0)  # its probes have not noticed yet
    pods.follow([Found("p", "u", ready=True)])
    pods.follow([Found("p", "u", ready=False)])
    assert not each.takes(0.0)
    rooms.unheard(each, 0.0)
    rooms.reported(each, Room(boot_id="new", phase="ready", room=9, running=0), 0.0)
    assert each.takes(0.0)  # another process
    assert not each.takes(rooms.SILENT_S + 1)


def test_a_pod_that_refuses_again_and_again_is_asked_ever_less_often() -> None:
    each, now_s, asked = pod("p", 9), 0.0, 0
    while now_s < 10.0:
        if each.fits(1, now_s):
            asked, sent = asked + 1, call()
            rooms.begin(each, sent)
            rooms.refused(each, sent, now_s)
        rooms.reported(each, Room(boot_id="p", phase="ready", room=9, running=0), now_s)
        now_s += 0.05
    assert asked < 12


def test_what_takes_no_room_asks_all_pods_in_turn_and_then_ever_less_often() -> None:
    pods, now_s, asked = [pod("one", 9), pod("two", 9)], 0.0, list[tuple[float, str]]()
    models = call(0)
    while now_s < 10.0:
        chosen = Round(pods, now_s).place(models, order(pods))
        if chosen is None:
            now_s += 0.05
            continue
        asked.append((now_s, chosen.found.name))
        rooms.refused(chosen, models, now_s)
        models.failed_on(chosen.found.name, now_s)
        assert all(each.fits(9, now_s) for each in pods)  # their room is not its concern
    assert len(asked) < 22
    for (one_s, one), (other_s, other) in zip(asked[::2], asked[1::2], strict=True):
        assert (one_s, {one, other}) == (other_s, {"one", "two"})
    assert Round([*pods, pod("new", 9)], now_s).place(models, order(pods))
