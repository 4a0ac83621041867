"""A kubectl on the PATH whose cluster is a JSON file: as much of it as the commands use.

The services of `obeyed` have an operator that answers an upgrade at once. Those of `current` have
nothing to upgrade; those of `outgoing` neither, in the eyes of the operator that answers first and
is about to be replaced. Those of `bare` have no Deployment, those of `routed` one of routers, too.
The Deployments of `stuck` never become available. Those of `deleted` are on their way out.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cli.command import environment, script

_PROGRAM = """
import json, sys, time
from pathlib import Path

FILE = Path(__FILE__)
arguments, world = sys.argv[1:], json.loads(FILE.read_text())
world["calls"].append(arguments)
FILE.write_text(json.dumps(world))
namespace = None
for flag in ("--namespace", "-n"):
    if flag in arguments:
        namespace = arguments[arguments.index(flag) + 1]


def deployment(name, container="runtime"):
    image = world["images"][name.removesuffix("-router")].replace("runtime", container)
    pod = {"containers": [{"name": container, "image": image}]}
    metadata = {"name": name, "annotations": world["notes"].get(name, {})}
    return {"metadata": metadata, "spec": {"replicas": 1, "template": {"spec": pod}}}


def deployments(name):
    found = [] if name in world["bare"] else [deployment(name)]
    return found + [deployment(f"{name}-router", "router")] * (name in world["routed"])


def answer(name, asked):
    moves = name not in world["current"] + world["outgoing"] or asked.endswith("/force")
    if moves:
        world["images"][name] = "runtime:2"
        world["current"].append(name)
    if name in world["outgoing"]:
        world["outgoing"].remove(name)
    for each in (name, f"{name}-router"):
        notes = world["notes"].setdefault(each, {})
        notes["serving.aweigh.dev/upgrade-answered"] = asked
        if moves:
            notes["serving.aweigh.dev/upgrade"] = asked


def service(name):
    message = f"{name} waits"
    ready = {"type": "Ready", "status": "False", "reason": "ModelNotFound", "message": message}
    metadata = {"name": name, "namespace": namespace or "default"}
    if name in world["deleted"]:
        metadata["deletionTimestamp"] = "2026-11-30T12:00:00Z"
    status = {"readyReplicas": world["serving"], "conditions": [ready], "url": world["url"]}
    return {"metadata": metadata, "spec": {}, "status": status}


def act():
    verb, kind = arguments[:2]
    name = arguments[2] if len(arguments) > 2 else ""
    if verb == "get" and kind == "deployment":
        instance = name.partition("/instance=")[2].partition(",")[0]
        return json.dumps({"items": deployments(instance)})
    if verb == "get" and name in world["images"]:
        return json.dumps(service(name))
    if verb == "get" and name.startswith("-"):
        return json.dumps({"items": [service(each) for each in world["images"]]})
    if verb == "annotate":
        if name in world["obeyed"]:
            answer(name, arguments[4].partition("=")[2])
        return ""
    if verb == "rollout":
        if name.removeprefix("deployment/") in world["stuck"]:
            time.sleep(float(arguments[3].removeprefix("--timeout=").removesuffix("s")))
            sys.exit("error: timed out waiting for the condition")
        return ""
    if verb == "port-forward" and world["port"]:
        print(f"Forwarding from 127.0.0.1:{world['port']} -> 8000", flush=True)
        time.sleep(60)
    if "--ignore-not-found" in arguments:
        return ""
    sys.exit(f'Error from server (NotFound): {kind} "{name}" not found')


print(act())
FILE.write_text(json.dumps(world))
"""


@dataclass(frozen=True)
class FakeKubectl:
    """The executable's folder, and the file that it works on."""

    folder: Path
    file: Path

    @property
    def environment(self) -> dict[str, str]:
        """An environment whose PATH begins with it."""
        return environment(PATH=f"{self.folder}{os.pathsep}{os.environ['PATH']}")

    def calls(self, *verbs: str) -> list[list[str]]:
        """The calls of these verbs so far, in order."""
        world: dict[str, Any] = json.loads(self.file.read_text())
        return [call for call in world["calls"] if call[0] in verbs]


def fake_kubectl(
    folder: Path,
    services: tuple[str, ...] = (),
    obeyed: tuple[str, ...] = (),
    stuck: tuple[str, ...] = (),
    current: tuple[str, ...] = (),
    outgoing: tuple[str, ...] = (),
    bare: tuple[str, ...] = (),
    routed: tuple[str, ...] = (),
    deleted: tuple[str, ...] = (),
    port: int = 0,
    serving: int = 1,
    url: str = "",
) -> FakeKubectl:
    """Put a kubectl into the folder; `port` is where its port-forward leads to, and each
    service has `serving` pods that are ready and this `url` in its status."""
    file = folder / "world.json"
    world = {
        "calls": [],
        "images": dict.fromkeys(services, "runtime:1"),
        "notes": {},
        "obeyed": obeyed,
        "stuck": stuck,
        "current": current,
        "outgoing": outgoing,
        "bare": bare,
        "routed": routed,
        "deleted": deleted,
        "port": port,
        "serving": serving,
        "url": url,
    }
    file.write_text(json.dumps(world))
    script(folder, "kubectl", _PROGRAM.replace("__FILE__", repr(str(file))))
    return FakeKubectl(folder, file)
