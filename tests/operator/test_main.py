import json
import logging
import os
import subprocess
import sys
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import unused_port

from aweigh_operator import logs
from aweigh_operator.gauges import Readiness
from aweigh_operator.health import Health
from aweigh_operator.metrics import Metrics
from aweigh_operator.observe import Key
from aweigh_operator.settings import VARIABLES, Settings, read


def test_every_setting_has_a_flag_and_a_variable() -> None:
    by_flag = read(
        [
            "--runtime-image=r",
            "--namespace=b",
            "--namespace=a",
            "--log-level=debug",
            "--probe-port=1",
            "--metrics-port=2",
            "--resync-seconds=3.5",
            "--router-image=s",
            "--api-server-ports=443, 7443",
        ],
        {},
    )
    variables = {
        "AWEIGH_RUNTIME_IMAGE": "r",
        "AWEIGH_NAMESPACE": "b, a",
        "AWEIGH_LOG_LEVEL": "debug",
        "AWEIGH_PROBE_PORT": "1",
        "AWEIGH_METRICS_PORT": "2",
        "AWEIGH_RESYNC_SECONDS": "3.5",
        "AWEIGH_ROUTER_IMAGE": "s",
        "AWEIGH_API_SERVER_PORTS": "443,7443",
    }
    assert by_flag == read([], variables)
    assert by_flag == Settings(
        runtime_image="r",
        router_image="s",
        api_server_ports=(443, 7443),
        namespaces=("a", "b"),
        log_level="debug",
        probe_port=1,
        metrics_port=2,
        resync_seconds=3.5,
    )


def test_a_variable_that_sets_nothing_is_named_at_the_start() -> None:
    variables = {
        "AWEIGH_RUNTIME_IMAGE": "a",
        "AWEIGH_ROUTER_IMAGE": "b",
        "AWEIGH_LOG_LEVLE": "debug",
        "KUBECONFIG": "/no/cluster",
    }
    command = [sys.executable, "-c", "from aweigh_operator.main import main; main()"]
    done = subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )
    assert "AWEIGH_LOG_LEVLE has no effect" in json.loads(done.stderr.splitlines()[0])["message"]
    assert "did you mean AWEIGH_LOG_LEVEL?" in done.stderr
    assert "AWEIGH_RUNTIME_IMAGE" not in done.stderr


def test_every_variable_that_is_read_is_known() -> None:
    asked: set[str] = set()

    class Environment(dict[str, str]):
        def get(self, name: str, default: Any = None) -> Any:
            asked.add(name)
            return super().get(name, default)

    read(["--runtime-image=a", "--router-image=b"], Environment())
    assert asked == set(VARIABLES)


def test_a_flag_wins_over_the_environment() -> None:
    variables = {"AWEIGH_RUNTIME_IMAGE": "b", "AWEIGH_ROUTER_IMAGE": "c"}
    assert read(["--runtime-image=a"], variables).runtime_image == "a"


def test_without_a_runtime_image_the_operator_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        read([], {})
    assert exit_.value.code == 2
    assert "--runtime-image (or AWEIGH_RUNTIME_IMAGE) must name" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        read(["--runtime-image=a"], {})
    assert "--router-image (or AWEIGH_ROUTER_IMAGE) must name" in capsys.readouterr().err


def test_what_is_no_port_of_the_api_server_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read(["--runtime-image=a", "--router-image=b", "--api-server-ports=443,https"], {})
    assert "--api-server-ports is '443,https'; expected ports" in capsys.readouterr().err


def test_a_level_that_no_log_has_is_named_wherever_it_is_set(
    capsys: pytest.CaptureFixture[str],
) -> None:
    images = ["--runtime-image=a", "--router-image=b"]
    for argv, variables in ((["--log-level=loud"], {}), ([], {"AWEIGH_LOG_LEVEL": "loud"})):
        with pytest.raises(SystemExit):
            read([*images, *argv], variables)
        assert "--log-level is 'loud'; expected one of debug, info" in capsys.readouterr().err


async def test_probes_and_metrics_are_served_on_ports_of_their_own() -> None:
    trouble: list[str] = []
    metrics = Metrics()
    metrics.added(3)
    health = Health(metrics, lambda: trouble[0] if trouble else None)
    probes, numbers = unused_port(), unused_port()
    await health.start(probes, numbers)

    async def get(port: int, path: str) -> tuple[int, str]:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{port}{path}") as response,
        ):
            return response.status, await response.text()

    try:
        assert await get(probes, "/healthz") == (200, "ok")
        assert (await get(probes, "/readyz"))[0] == 503
        health.ready = True
        assert (await get(probes, "/readyz"))[0] == 200
        trouble.append("a worker has ended")
        assert await get(probes, "/healthz") == (503, "a worker has ended")
        assert (await get(probes, "/metrics"))[0] == 404
        assert 'workqueue_depth{name="inferenceservice"} 3.0' in (await get(numbers, "/metrics"))[1]
    finally:
        await health.stop()


def test_the_gauge_of_services_follows_each_of_them() -> None:
    metrics = Metrics()
    one, other = Key("team", "a"), Key("team", "b")
    metrics.services.ready(one, Readiness("False", "False"))
    metrics.services.ready(other, Readiness("False", "False"))
    metrics.services.ready(one, Readiness("True", "False"))
    metrics.services.forget(other)
    text = metrics.text().decode()
    gauge = "aweigh_operator_inference_services"
    assert f'{gauge}{{ready="True",workload_ready="False"}} 1.0' in text
    assert f'{gauge}{{ready="False",workload_ready="False"}} 0.0' in text


def test_a_service_that_lacks_pods_has_a_series_of_its_own_for_as_long() -> None:
    metrics = Metrics()
    key, gauge = Key("team", "a"), 'aweigh_operator_missing_pods{name="a",namespace="team"}'
    lacking = Readiness("True", "False", missing=1)
    metrics.services.ready(key, Readiness("True", "False", missing=2))
    assert f"{gauge} 2.0" in metrics.text().decode()
    for over in (Readiness("True", "True"), Readiness("False", "False")):
        metrics.services.ready(key, over)
        assert gauge not in metrics.text().decode()
        metrics.services.ready(key, Readiness("True", "False"))  # all serve, and are replaced
        assert gauge not in metrics.text().decode()
        metrics.services.ready(key, lacking)
        assert f"{gauge} 1.0" in metrics.text().decode()
    metrics.services.forget(key)
    assert gauge not in metrics.text().decode()
    metrics.services.ready(key, lacking)
    metrics.leads(False)
    assert gauge not in metrics.text().decode()


def test_a_service_that_is_not_ready_has_a_series_of_its_own_for_as_long() -> None:
    metrics = Metrics()
    key, series = Key("team", "a"), 'aweigh_operator_not_ready{name="a",namespace="team"} 1.0'
    for over in (Readiness("True", "False"), Readiness("True", "True")):
        metrics.services.ready(key, Readiness("False", "False"))
        assert series in metrics.text().decode()
        metrics.services.ready(key, over)
        assert series not in metrics.text().decode()
    metrics.services.ready(key, Readiness("Unknown", "False"))
    assert series in metrics.text().decode()
    metrics.services.forget(key)
    assert series not in metrics.text().decode()
    metrics.services.ready(key, Readiness("Unknown", "False"))
    metrics.leads(False)
    assert series not in metrics.text().decode()


def test_a_log_record_is_one_line_of_json_with_its_traceback() -> None:
    try:
        raise ValueError("no")
    except ValueError as error:
        trace = (type(error), error, error.__traceback__)
    record = logging.LogRecord("a.b", logging.ERROR, "f", 1, "it %s\nbroke", ("all",), trace)
    text = logs.JsonLine().format(record)
    assert "\n" not in text
    line = json.loads(text)
    assert (line["level"], line["logger"], line["message"]) == ("error", "a.b", "it all\nbroke")
    assert "ValueError: no" in line["traceback"]
