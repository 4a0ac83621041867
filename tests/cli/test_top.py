"""`aweigh top NAME` by the real kubectl, at an API server whose proxy leads to silent pods."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from aweigh_api import names
from aweigh_cli import kubectl
from aweigh_cli.failures import CommandFailure
from aweigh_cli.top import REPORT_S, pods
from tests.cli.command import aweigh, environment

VERSION = f"{names.GROUP}/v1alpha1"
PODS = "/api/v1/namespaces/default/pods"
PROXY = f":{names.ADMIN_PORT}/proxy/state"
STATE = {
    "boot_id": "a", "uptime_s": 12.0, "phase": "ready", "running": 3, "waiting": 1,
    "cached_prompt_tokens": 30, "computed_prompt_tokens": 10, "generated_tokens": 500,
    "decode_tokens": 90, "decoded_rows": 60, "drafted_tokens": 80, "accepted_tokens": 20,
    "kv_tokens": {"capacity": 200, "held": 50},
}  # fmt: skip

ROUTER_STATE = {
    "boot_id": "r", "uptime_s": 99.0, "phase": "ready", "arrived_requests": 1234, "waiting": 7,
    "oldest_waiting_s": 3.4, "in_flight": 6, "known_pods": 2,
}  # fmt: skip

needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl")


def _resources(version: str, kind: str, plural: str) -> dict[str, Any]:
    one = {"name": plural, "singularName": "", "namespaced": True, "kind": kind, "verbs": ["get"]}
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": version,
        "resources": [one],
    }


def _group() -> dict[str, Any]:
    version = {"groupVersion": VERSION, "version": "v1alpha1"}
    return {"name": names.GROUP, "versions": [version], "preferredVersion": version}


def _pod(name: str) -> dict[str, Any]:
    labels = names.router_labels("chat") if "router" in name else names.labels("chat")
    metadata = {"name": name, "namespace": "default", "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}


def _refusal(message: str) -> dict[str, Any]:
    said = {"status": "Failure", "reason": "Forbidden", "code": 403, "message": message}
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, **said}


def _objects(pods: list[str]) -> dict[str, dict[str, Any]]:
    """What is at each path of an API server with one service of so many pods."""
    found = [_pod(pod) for pod in pods]
    service = {
        "apiVersion": VERSION,
        "kind": "InferenceService",
        "metadata": {"name": "chat", "namespace": "default"},
    }
    return {
        "/version": {"major": "1", "minor": "32", "gitVersion": "v1.32.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group()]},
        "/api/v1": _resources("v1", "Pod", "pods"),
        f"/apis/{VERSION}": _resources(VERSION, "InferenceService", names.PLURAL),
        f"/apis/{VERSION}/namespaces/default/{names.PLURAL}/chat": service,
        PODS: {"apiVersion": "v1", "kind": "PodList", "items": found},
    }


@contextmanager
def cluster(
    folder: Path, silent: list[str], talking: list[str], forbidden: str = ""
) -> Iterator[dict[str, str]]:
    """The environment of a kubectl that speaks with such an API server."""
    objects, ended = _objects([*silent, *talking]), threading.Event()
    proxied = f"{PODS}/"
    objects |= {
        f"{proxied}{pod}{PROXY}": ROUTER_STATE if "router" in pod else STATE for pod in talking
    }
    waiting = {f"{proxied}{pod}{PROXY}" for pod in silent}
    if not objects[PODS]["items"]:
        waiting.add(PODS)  # the API server itself falls silent

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path in waiting:
                ended.wait()
                return
            status, answer = 200 if path in objects else 404, objects.get(path, {})
            if forbidden and path.endswith(PROXY):
                status, answer = 403, _refusal(forbidden)
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        named = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
            ],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        (folder / "config").write_text(json.dumps(named))
        try:
            yield environment(
                KUBECONFIG=str(folder / "config"), KUBECACHEDIR=str(folder), NO_PROXY="127.0.0.1"
            )
        finally:
            ended.set()
            server.shutdown()


@needs_kubectl
def test_pods_that_stay_silent_are_dashes_and_hold_up_nobody(tmp_path: Path) -> None:
    silent = [f"chat-{index}" for index in range(6)]
    with cluster(tmp_path, silent, ["chat-z"]) as env:
        started = time.monotonic()
        done = aweigh("top", "chat", env=env)
        took_s = time.monotonic() - started
    assert done.returncode == 0
    (why,) = done.stderr.splitlines()
    assert why.startswith(f"kubectl get --raw {PODS}/chat-0{PROXY} ")
    assert why.endswith(" (and 5 more do not answer)")
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    assert rows[:-1] == [[pod, *8 * ["-"]] for pod in silent]
    assert rows[-1] == ["chat-z", "3", "1", "25", "75", "25", "1.50", "500", "12", "s"]
    assert took_s < 4 * REPORT_S  # one after the other they take six times the limit


@needs_kubectl
def test_who_may_not_ask_pods_is_told_which_right_is_lacking(tmp_path: Path) -> None:
    lacking = (
        'User "me" cannot get resource "pods/proxy" in API group "" in the namespace "default"'
    )
    with cluster(tmp_path, [], ["chat-a", "chat-router-a"], forbidden=lacking) as env:
        done = aweigh("top", "chat", env=env)
    assert done.returncode == 0
    assert [line.split()[1] for line in done.stdout.splitlines()[1:2]] == ["-"]
    (why,) = done.stderr.splitlines()
    assert f"Error from server (Forbidden): {lacking}" in why
    assert why.endswith(" (and 1 more do not answer)")


@needs_kubectl
def test_an_api_server_that_stays_silent_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubectl, "GET_S", 1)
    with cluster(tmp_path, [], []) as env:
        for name in ("KUBECONFIG", "KUBECACHEDIR", "NO_PROXY"):
            monkeypatch.setenv(name, env[name])
        with pytest.raises(CommandFailure, match=r"kubectl get pods .*: .*exceeded"):
            pods("chat", "default")


@needs_kubectl
def test_routers_follow_with_the_queue_and_how_the_load_is_spread(tmp_path: Path) -> None:
    with cluster(tmp_path, [], ["chat-a", "chat-router-a", "chat-b"]) as env:
        done = aweigh("top", "chat", env=env)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines if line] == [
        "POD", "chat-a", "chat-b", "ROUTER", "chat-router-a", "spread:",
    ]  # fmt: skip
    assert lines[5] == ["chat-router-a", "7", "3", "s", "6", "2", "1234", "99", "s"]
    assert lines[-1][1:] == ["the", "busiest", "pod", "runs", "1.0", "times", "the", "mean"]
