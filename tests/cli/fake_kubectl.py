"""A kubectl on the PATH whose cluster is a JSON file: as much of it as the commands use.

The services of `obeyed` have an operator that acts on an upgrade at once, those of `current` have
nothing to upgrade; the Deployments of `stuck` never become available.
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


def deployment(name):
    pod = {"containers": [{"name": "runtime", "image": world["images"][name]}]}
    mark = {"serving.aweigh.dev/template-hash": world["hashes"][name]}
    return {"metadata": {"annotations": mark}, "spec": {"replicas": 1, "template": {"spec": pod}}}


def service(name):
    message = f"{name} waits"
    ready = {"type": "Ready", "status": "False", "reason": "ModelNotFound", "message": message}
    metadata = {"name": name, "namespace": namespace or "default", "generation": 1}
    status = {"readyReplicas": world["serving"], "conditions": [ready], "url": world["url"]}
    status |= {"observedGeneration": 1, "outdated": name not in world["current"]}
    return {"metadata": metadata, "status": status}


def act():
    verb, kind = arguments[:2]
    name = arguments[2] if len(arguments) > 2 else ""
    if verb == "get" and kind == "deployment":
        return json.dumps(deployment(name))
    if verb == "get" and name in world["images"]:
        return json.dumps(service(name))
    if verb == "get" and name.startswith("-"):
        return json.dumps({"items": [service(each) for each in world["images"]]})
    if verb == "annotate":
        if name in world["obeyed"]:
            world["images"][name], world["hashes"][name] = "runtime:2", "new"
        return ""
    if verb == "rollout":
        if name.removeprefix("deployment/") in world["stuck"]:
            sys.exit("error: timed out waiting for the condition")
        return ""
    if verb == "port-forward" and world["port"]:
        print(f"Forwarding from 127.0.0.1:{world['port']} -> 8000", flush=True)
        time.sleep(60)
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
        "hashes": dict.fromkeys(services, "old"),
        "obeyed": obeyed,
        "stuck": stuck,
        "current": current,
        "port": port,
        "serving": serving,
        "url": url,
    }
    file.write_text(json.dumps(world))
    script(folder, "kubectl", _PROGRAM.replace("__FILE__", repr(str(file))))
    return FakeKubectl(folder, file)
