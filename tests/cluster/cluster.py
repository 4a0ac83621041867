"""What tests and the demo see of a cluster: the one made here, or the current kube context's."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from tests.cluster import binaries, components, delivery, network, places, processes
from tests.cluster.places import CHECKOUT, Place

Manifest = Mapping[str, Any]
Objects = list[dict[str, Any]]
T = TypeVar("T")

OPERATOR_NAMESPACE = "aweigh-system"
RELEASE = "aweigh"
POLL_S = 0.1
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


class CommandFailed(RuntimeError):
    """kubectl or helm has failed; the message has what it wrote on standard error."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A Kubernetes cluster, reached with kubectl and helm."""

    place: Place | None  # None: the cluster of the current kube context

    @property
    def on_this_machine(self) -> bool:
        """Whether the node is this machine, so that pods can mount its folders."""
        return self.place is not None

    def kubectl(self, *arguments: str, input: str | None = None) -> str:
        """Run kubectl and return what it printed."""
        return self._run("kubectl", arguments, input)

    def helm(self, *arguments: str) -> str:
        """Run helm and return what it printed."""
        return self._run("helm", arguments)

    def apply(self, manifest: Manifest | str, namespace: str | None = None) -> None:
        """Create or change objects, given as one dictionary or as YAML."""
        text = manifest if isinstance(manifest, str) else json.dumps(manifest)
        self.kubectl("apply", *_in(namespace), "-f", "-", input=text)

    def get(self, kind: str, name: str, namespace: str | None = None) -> dict[str, Any] | None:
        """One object, or None if there is none of that name."""
        found = ("get", kind, name, *_in(namespace), "-o", "json", "--ignore-not-found")
        text = self.kubectl(*found)
        return dict(json.loads(text)) if text.strip() else None

    def list(self, kind: str, namespace: str | None = None, selector: str = "") -> Objects:
        """All objects of a kind, narrowed by labels."""
        chosen = ("--selector", selector) if selector else ()
        text = self.kubectl("get", kind, *_in(namespace), *chosen, "-o", "json")
        found: Objects = json.loads(text)["items"]
        return found

    def wait(self, description: str, predicate: Callable[[], T], timeout_s: float = 60.0) -> T:
        """Ask again and again until the answer is true; return it."""
        deadline_s = time.monotonic() + timeout_s
        while not (answer := predicate()):
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"{description}: not so after {timeout_s:.0f} s")
            time.sleep(POLL_S)
        return answer

    def logs(self, target: str, namespace: str, *options: str) -> str:
        """What a pod (`NAME`) or the pods of `deployment/NAME` have printed."""
        return self.kubectl("logs", target, "-n", namespace, *options)

    def image(self, name: str) -> str:
        """The reference of the `operator`, `router` or `runtime` image, made where needed."""
        return delivery.references(self.place)[name]

    def install(self, *options: str) -> None:
        """Install the operator from the chart, or bring it to the present code."""
        images = [
            f"--set-string={name}.image={self.image(name)}"
            for name in ("operator", "router", "runtime")
        ]
        release = ["upgrade", "--install", RELEASE, str(CHECKOUT / "helm" / "aweigh")]
        where = ["--namespace", OPERATOR_NAMESPACE, "--create-namespace"]
        try:
            self.helm(*release, *where, *images, "--wait", "--timeout=90s", *options)
        except CommandFailed as error:
            raise CommandFailed(f"{error}\n{self._why_not_installed()}") from error

    def _why_not_installed(self) -> str:
        """The operator's pods and what they printed last."""
        pods = self.kubectl("get", "pods", "-n", OPERATOR_NAMESPACE)
        with contextlib.suppress(CommandFailed):  # it has no container yet
            pods += self.logs("deployment/aweigh-operator", OPERATOR_NAMESPACE, "--tail=20")
        return pods

    def restart(self, name: str) -> None:
        """Stop and start a process of the node made here: `apiserver`, `kubelet`, `etcd`, …"""
        if self.place is None:
            raise RuntimeError(f"{name} cannot be restarted: the node is not this machine")
        processes.restart(self.place, name)

    @contextlib.contextmanager
    def paused(self, name: str) -> Iterator[None]:
        """Stop a process of the node made here in its tracks, for as long as the context lasts."""
        if self.place is None:
            raise RuntimeError(f"{name} cannot be paused: the node is not this machine")
        pid = processes.recorded(self.place)[name].pid
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def audit(self) -> Objects:
        """What service accounts have asked of the API server made here, in order."""
        if self.place is None:
            raise RuntimeError("there is no audit log: the node is not this machine")
        lines = components.audit_log(self.place.run).read_text().splitlines()
        return [json.loads(line) for line in lines]

    @contextlib.contextmanager
    def namespace(self) -> Iterator[str]:
        """A new namespace under Pod Security's strictest level, deleted at the end."""
        name = f"test-{secrets.token_hex(4)}"
        labels = {**RESTRICTED, "aweigh.dev/test": "true"}
        metadata = {"name": name, "labels": labels}
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        try:
            # Pods are refused before their ServiceAccount exists.
            account = "the namespace's ServiceAccount"
            self.wait(account, lambda: self.get("serviceaccount", "default", name))
            yield name
        finally:
            self.kubectl("delete", "namespace", name, "--wait=false")

    @contextlib.contextmanager
    def endpoint(self, namespace: str, service: str, port: int) -> Iterator[str]:
        """The base URL of a Service, for as long as the context lasts."""
        if self.place is None:
            with self._forwarded(namespace, service, port) as url:
                yield url
            return
        body = self.get("service", service, namespace)
        if body is None:
            raise LookupError(f"there is no Service {namespace}/{service}")
        address = body["spec"]["clusterIP"]
        if address == "None":
            address = self._pod_address(namespace, service)
        yield f"http://{address}:{port}"

    def _pod_address(self, namespace: str, service: str) -> str:
        slices = self.list("endpointslices", namespace, f"kubernetes.io/service-name={service}")
        found = [
            address
            for each in slices
            for endpoint in each["endpoints"] or []
            if endpoint["conditions"].get("ready")
            for address in endpoint["addresses"]
        ]
        if not found:
            raise LookupError(f"Service {namespace}/{service} has no pod that is ready")
        return str(found[0])

    @contextlib.contextmanager
    def _forwarded(self, namespace: str, service: str, port: int) -> Iterator[str]:
        command = ["kubectl", "port-forward", "-n", namespace, f"service/{service}", f":{port}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as forward:
            try:
                assert forward.stdout is not None
                line = forward.stdout.readline()  # Forwarding from 127.0.0.1:PORT -> PORT
                if "->" not in line:
                    raise CommandFailed(f"`{' '.join(command)}` has ended; see its error above")
                # kubectl tells of every connection, and would stop when nobody reads.
                threading.Thread(target=forward.stdout.read, daemon=True).start()
                local = line.split("->")[0].strip().rpartition(":")[2]
                yield f"http://127.0.0.1:{local}"
            finally:
                forward.terminate()

    def _run(self, program: str, arguments: tuple[str, ...], input: str | None = None) -> str:
        done = subprocess.run(
            self._command(program, arguments),
            input=input,
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            shown = f"{program} {' '.join(arguments)}"
            raise CommandFailed(f"`{shown}` exited {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def _command(self, program: str, arguments: tuple[str, ...]) -> Sequence[str]:
        if self.place is not None:
            return network.command(self.place, [binaries.program(program), *arguments])
        if shutil.which(program) is None:
            raise CommandFailed(f"{program} is not on PATH, and AWEIGH_CLUSTER=current needs it")
        return [program, *arguments]

    def environment(self) -> dict[str, str]:
        """The environment in which kubectl and its like find this cluster."""
        if self.place is None:
            return dict(os.environ)
        found = {"KUBECONFIG": str(self.place.kubeconfig), "PATH": _search_path()}
        return {**os.environ, **found}


def chosen() -> Cluster:
    """The cluster that AWEIGH_CLUSTER asks for: `current`, or by default the checkout's own."""
    value = os.environ.get("AWEIGH_CLUSTER", "")
    if value not in ("", "current"):
        raise ValueError(
            f"AWEIGH_CLUSTER is {value!r}; expected `current` for the current kube context, "
            "or nothing for a cluster made here"
        )
    return Cluster(None if value else places.of(CHECKOUT))


def _search_path() -> str:
    """Finds kubectl, helm and, for `kubectl aweigh`, what the checkout's environment has."""
    return os.pathsep.join([binaries.search_path(), str(CHECKOUT / ".venv" / "bin")])


def _in(namespace: str | None) -> tuple[str, ...]:
    return ("-n", namespace) if namespace else ()
