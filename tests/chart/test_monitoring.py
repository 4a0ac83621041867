"""Dashboard and alerts ask for metrics that exist, with labels that they have."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from aweigh_api import metrics, names
from aweigh_operator.metrics import Metrics
from aweigh_router import metrics as routers
from tests.chart.render import NAMESPACED, Manifest, manifests, of_kind

# Computed when they are read.
WATCHED = {
    "aweigh_operator_queue_oldest_seconds",
    "aweigh_router_waiting_requests",
    "aweigh_router_open_requests",
}
SUFFIXES = ("_bucket", "_sum", "_count")
ALL = ("metrics.podMonitor.enabled=true", "metrics.alerts.enabled=true",
       "metrics.dashboard.enabled=true")  # fmt: skip


def known() -> set[str]:
    runtime = {value for value in vars(metrics).values() if isinstance(value, str)}
    families = Metrics().registry.collect()
    operator = {f"{each.name}_total" if each.type == "counter" else each.name for each in families}
    router = set(re.findall(r"^# TYPE (\S+)", routers.Metrics("m").text().decode(), re.MULTILINE))
    return runtime | operator | router | WATCHED


def alerts() -> list[dict[str, Any]]:
    (rule,) = of_kind("PrometheusRule", manifests(*ALL))
    return [each for group in rule["spec"]["groups"] for each in group["rules"]]


def dashboard() -> dict[str, Any]:
    configs = of_kind("ConfigMap", manifests(*ALL))
    (found,) = (each["data"]["aweigh.json"] for each in configs if "aweigh.json" in each["data"])
    parsed: dict[str, Any] = json.loads(found)
    return parsed


def expressions() -> Iterator[str]:
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            yield target["expr"]
    for alert in alerts():
        yield alert["expr"]


def test_every_metric_that_is_asked_for_exists() -> None:
    asked = {
        word
        for expression in expressions()
        for word in re.findall(r"[a-z_]+(?=[{\[\s)]|$)", re.sub(r'"[^"]*"', "", expression))
        if word.startswith(("aweigh_", "controller_", "workqueue_", "leader_", "rest_"))
    }
    assert len(asked) > 15
    bare = {_family(word) for word in asked}
    assert bare - known() == set()


def _family(metric: str) -> str:
    for suffix in SUFFIXES:
        if metric.endswith(suffix):
            return metric.removesuffix(suffix)
    return metric


def test_alerts_say_what_is_wrong_and_what_to_do() -> None:
    assert len({alert["alert"] for alert in alerts()}) == len(alerts())
    for alert in alerts():
        assert alert["labels"]["severity"] in ("critical", "warning")
        assert {"summary", "description"} == set(alert["annotations"])
        assert "for" in alert


def test_alerts_about_one_service_name_it() -> None:
    of_one = [each for each in alerts() if "aweigh_operator_" in each["expr"]]
    named = [each for each in of_one if "max by (namespace, name)" in each["expr"]]
    assert {each["alert"] for each in of_one} - {each["alert"] for each in named} == {
        "AweighOperatorFallsBehind"
    }
    for each in named:
        assert "{{ $labels.name }} in {{ $labels.namespace }}" in each["annotations"]["summary"]
        assert "-n {{ $labels.namespace }} {{ $labels.name }}" in each["annotations"]["description"]


def test_the_dashboards_panels_lie_beside_each_other() -> None:
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in dashboard()["panels"]]
    assert len(set(places)) == len(places) >= 10
    assert all(panel["description"] for panel in dashboard()["panels"])


@pytest.mark.parametrize("values", [(), NAMESPACED], ids=["cluster", "namespaced"])
def test_serving_pods_are_monitored_where_they_are(values: tuple[str, ...]) -> None:
    monitors = of_kind("PodMonitor", manifests(*values, *ALL))
    (serving,) = (each for each in monitors if each["metadata"]["name"].endswith("-runtime"))
    assert names.labels("chat").items() >= serving["spec"]["selector"]["matchLabels"].items()
    wanted = {"matchNames": ["team-a", "team-b"]} if values else {"any": True}
    assert serving["spec"]["namespaceSelector"] == wanted


def test_the_dashboard_shows_what_waits_in_routers_and_how_evenly_pods_are_loaded() -> None:
    asked = " ".join(each["expr"] for panel in dashboard()["panels"] for each in panel["targets"])
    assert "aweigh_router_waiting_requests" in asked
    assert "aweigh_router_wait_seconds_bucket" in asked
    titles = {panel["title"] for panel in dashboard()["panels"]}
    assert "Busiest pod ÷ mean" in titles


def test_nothing_of_it_is_there_unless_asked_for() -> None:
    found = manifests()
    kinds: set[Manifest] | set[str] = {each["kind"] for each in found}
    assert not {"PodMonitor", "PrometheusRule", "ConfigMap"} & kinds
    yaml.safe_dump(found)
