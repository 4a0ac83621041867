from typing import Any

import pytest

from aweigh_operator.compare import holds, same_quantity


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1000m", "1"),
        (1, "1"),
        ("1Gi", "1024Mi"),
        ("1e3", "1k"),
        ("0.5", "500m"),
        ("1.5Gi", 1610612736),
    ],
)
def test_a_quantity_is_the_same_however_it_is_written(one: Any, other: Any) -> None:
    assert same_quantity(one, other)


@pytest.mark.parametrize(("one", "other"), [("1", "2"), ("1Gi", "1G"), ("x", "1")])
def test_different_quantities_differ(one: Any, other: Any) -> None:
    assert not same_quantity(one, other)


def test_what_the_api_server_adds_is_no_difference() -> None:
    stored = {"spec": {"replicas": 2, "minReadySeconds": 0}, "status": {"replicas": 1}}
    assert holds(stored, {"spec": {"replicas": 2}})


def test_a_changed_or_missing_field_is_a_difference() -> None:
    assert not holds({"spec": {"replicas": 3}}, {"spec": {"replicas": 2}})
    assert not holds({"spec": {}}, {"spec": {"replicas": 2}})
    assert not holds({"args": ["--more"]}, {"args": []})
    assert not holds({}, {"automountServiceAccountToken": False})


def test_an_empty_value_is_the_same_as_none() -> None:
    assert holds({"name": "X"}, {"name": "X", "value": ""})
    assert holds({}, {"egress": []})
    assert holds({}, {"labels": {}})


def test_entries_that_others_add_to_a_keyed_list_are_theirs() -> None:
    stored = [{"name": "injected"}, {"name": "ours", "value": "1"}]
    assert holds(stored, [{"name": "ours", "value": "1"}])
    assert not holds(stored, [{"name": "ours", "value": "2"}])
    assert not holds(stored, [{"name": "gone"}])


def test_entries_that_others_add_to_an_empty_keyed_list_are_theirs() -> None:
    assert holds({"env": [{"name": "X", "value": "1"}]}, {"env": []})


def test_a_volume_that_others_mount_a_second_time_is_no_difference() -> None:
    ours = {"name": "tmp", "mountPath": "/tmp"}
    theirs = {"name": "tmp", "mountPath": "/more"}
    assert holds({"volumeMounts": [ours, theirs]}, {"volumeMounts": [ours]})
    assert not holds({"volumeMounts": [theirs]}, {"volumeMounts": [ours]})


def test_a_plain_list_must_be_equal() -> None:
    assert holds(["a", "b"], ["a", "b"])
    assert not holds(["a", "b", "c"], ["a", "b"])
    assert not holds([{"port": 1}, {"port": 2}], [{"port": 1}])


def test_requests_that_follow_from_limits_are_no_difference() -> None:
    stored = {"resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}}
    assert holds(stored, {"resources": {"limits": {"cpu": "1000m"}}})
    assert not holds(stored, {"resources": {"limits": {"cpu": "2"}}})


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [
        ({"selector": {"app": "a", "added": "x"}}, {"selector": {"app": "a"}}),
        ({"nodeSelector": {"gpu": "h100", "zone": "x"}}, {"nodeSelector": {"gpu": "h100"}}),
        ({"podSelector": {"matchLabels": {"a": "1"}}}, {"podSelector": {}}),
        (
            {"ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"a": "1"}}}]}]},
            {"ingress": [{"from": [{"namespaceSelector": {}}]}]},
        ),
        (
            {"ingress": [{"from": [{"podSelector": {}, "namespaceSelector": {}}]}]},
            {"ingress": [{"from": [{"podSelector": {}}]}]},
        ),
        (
            {"ingress": [{"from": [{"podSelector": {"matchLabels": {"a": "1"}}}]}]},
            {"ingress": [{"from": [{"namespaceSelector": {}}]}]},
        ),
        ({"ingress": [{"from": [{"ipBlock": {"cidr": "::/0"}}]}]}, {"ingress": [{}]}),
        ({"egress": [{}]}, {"egress": []}),
        ({"tolerations": [{"key": "a", "effect": "NoSchedule"}]}, {"tolerations": [{"key": "a"}]}),
    ],
)
def test_what_is_added_to_a_field_that_is_one_value_is_a_difference(
    stored: Any, wanted: Any
) -> None:
    assert not holds(stored, wanted)
    assert holds(wanted, wanted)


def test_what_the_api_server_drops_from_one_value_is_no_difference() -> None:
    peer: dict[str, Any] = {"podSelector": {"matchLabels": {}, "matchExpressions": []}}
    assert holds({"ingress": [{"from": [{"podSelector": {}}]}]}, {"ingress": [{"from": [peer]}]})
    assert holds({"tolerations": [{"key": "a"}]}, {"tolerations": [{"key": "a", "value": ""}]})
