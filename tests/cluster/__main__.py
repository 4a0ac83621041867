"""The command line: python3 -m tests.cluster COMMAND."""

import argparse
import os
import sys

from tests.cluster import cluster as clusters
from tests.cluster import (
    demo,
    environment,
    network,
    node,
    places,
    prepare,
    processes,
    progress,
    sbom,
)
from tests.cluster.cluster import Cluster


def main() -> int:
    """Run one command; a failure is told in its own words, without a traceback."""
    arguments = _parser().parse_args()
    try:
        COMMANDS[arguments.command](clusters.chosen(), getattr(arguments, "words", []))
    except (progress.StepFailed, clusters.CommandFailed, TimeoutError, ValueError) as error:
        sys.stderr.write(f"{arguments.command}: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def up(cluster: Cluster, _words: list[str]) -> None:
    """Start the cluster, building what is missing."""
    prepare.cluster(cluster)
    progress.say("cluster", "is up; try `python3 -m tests.cluster exec -- kubectl get pods -A`")


def down(cluster: Cluster, _words: list[str]) -> None:
    """End the cluster; binaries and images stay in the cache."""
    node.down(_own(cluster))


def clean(cluster: Cluster, _words: list[str]) -> None:
    """End the cluster and remove the cache: binaries, images, pulled images."""
    node.clean(_own(cluster))


def status(cluster: Cluster, _words: list[str]) -> None:
    """Tell whether the cluster runs, and where its files are."""
    place = _own(cluster)
    word = "healthy" if node.healthy(place) else "outdated" if node.answers(place) else "down"
    lines = [f"{place.name}: {word}", f"state: {place.state}", f"kubeconfig: {place.kubeconfig}"]
    for name, record in processes.recorded(place).items():
        lines.append(f"  {name:12} pid {record.pid} {'runs' if record.alive else 'has ended'}")
    sys.stdout.write("\n".join(lines) + "\n")


def images(cluster: Cluster, _words: list[str]) -> None:
    """Build the images and bring them to the cluster."""
    prepare.deliver(cluster)
    for name in ("operator", "router", "runtime"):
        sys.stdout.write(f"{cluster.image(name)}\n")


def make_environment(_cluster: Cluster, _words: list[str]) -> None:
    """Make the Python environment .venv."""
    environment.make()


def pin(_cluster: Cluster, _words: list[str]) -> None:
    """Refresh the pinned requirements files from pyproject.toml."""
    environment.pin()


def bills(_cluster: Cluster, _words: list[str]) -> None:
    """Write what Python packages each image holds, as a CycloneDX bill of materials."""
    for path in sbom.write():
        sys.stdout.write(f"{path}\n")


def everything(cluster: Cluster, _words: list[str]) -> None:
    """The environment, the cluster and the images, side by side."""
    prepare.everything(cluster)


def run_demo(cluster: Cluster, _words: list[str]) -> None:
    """From nothing to an answer of a model that the cluster serves."""
    demo.run(cluster)


def execute(cluster: Cluster, words: list[str]) -> None:
    """Run a command in the cluster's network, with kubectl and helm on its PATH."""
    place = _own(cluster)
    words = words[1:] if words[:1] == ["--"] else words
    if not words:
        raise ValueError("exec needs a command, such as: exec -- kubectl get infs")
    if not node.answers(place):
        raise ValueError("the cluster is not running; `make cluster` starts it")
    network.enter(place)
    os.environ.update(cluster.environment())
    try:
        os.execvp(words[0], words)
    except FileNotFoundError:
        raise ValueError(f"there is no program {words[0]}") from None


COMMANDS = {
    "up": up,
    "down": down,
    "clean": clean,
    "status": status,
    "images": images,
    "environment": make_environment,
    "requirements": pin,
    "sbom": bills,
    "everything": everything,
    "demo": run_demo,
    "exec": execute,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m tests.cluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, function in COMMANDS.items():
        command = commands.add_parser(name, help=function.__doc__)
        if name == "exec":
            command.add_argument("words", nargs=argparse.REMAINDER, metavar="-- WORD")
    return parser


def _own(cluster: Cluster) -> places.Place:
    if cluster.place is None:
        raise ValueError("AWEIGH_CLUSTER=current: the cluster of that context is not run from here")
    return cluster.place


if __name__ == "__main__":
    sys.exit(main())
