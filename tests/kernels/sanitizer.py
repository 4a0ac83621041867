"""Runs every GPU kernel under compute-sanitizer: bounds, races, reads of what nobody wrote.

    python -m tests.kernels.sanitizer [TOOL ...] [--groups GROUP ...]

Only what is said of our kernels counts: torch's may read what they do not use. A kernel that is
wrong on purpose must be found by each tool.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat

import torch

from tests.kernels.sanitized import GROUPS, RAN, STRAY, kernels

TOOLS = ("memcheck", "racecheck", "initcheck")
LIMIT_S = 150.0  # of one group under one tool
ONLY_ON = {"hopper": 9, "blackwell": 10}  # in names of modules: major numbers of capabilities
_OPTIONS = (
    *("--target-processes=application-only", "--show-backtrace=no", "--print-limit=10000"),
    "--launch-timeout=120",
)
_PORTS = range(49152, 65000, 20)  # runs that go on at once need some each
_MARK = "========="
_SHOWN = 3  # findings of a run
# Barriers that racecheck does not follow. A specialized kernel of Triton gives its warps their part
# and its arguments through shared memory: it accuses the first reads of them. Warps that multiply
# give stages back to all blocks of a cluster: it accuses the bulk copies that fill them again.
_UNJUDGED = {("racecheck", "attend_items"), ("racecheck", "hopper_int_multiply")}


@dataclass(frozen=True)
class Run:
    """One group of kernels under one tool."""

    tool: str
    group: str
    seconds: float
    output: str
    in_time: bool

    @property
    def launched(self) -> set[str]:
        """Kernels that ran, if the group came to its end."""
        ends = [line for line in self.output.splitlines() if line.startswith(RAN)]
        return set(ends[0].removeprefix(RAN).split()) if ends else set()

    def wrong(self) -> list[str]:
        """What speaks against our kernels, or against this run."""
        if self.group == STRAY:
            found = findings(self.output, [STRAY])
            return [] if found else [f"found nothing in a wrong kernel: {_end(self.output)}"]
        names = {name.rpartition(".")[2] for name in kernels()}
        names -= {name for tool, name in _UNJUDGED if tool == self.tool}
        found = findings(self.output, names)
        wrong = found[:_SHOWN]
        if len(found) > _SHOWN:
            wrong.append(f"and {len(found) - _SHOWN} more")
        if not self.in_time:
            wrong.append(f"not done within {self.seconds:.0f} s: {_end(self.output)}")
        elif RAN not in self.output or "SUMMARY" not in self.output:
            wrong.append(f"stopped before its end: {_end(self.output)}")
        return wrong


def findings(output: str, names: Collection[str]) -> list[str]:
    """What a tool says of some kernels, a paragraph each.

    Args:
        output: of compute-sanitizer.
        names: of the kernels.
    """
    one = "|".join(map(re.escape, names))
    of_them = re.compile(rf"(?:\bat |\bin |:)(?:{one})(?=[+(<\s]|$)", re.MULTILINE)
    lines = [
        line.removeprefix(_MARK).rstrip()
        for line in output.splitlines()
        if line.startswith(_MARK) and "SUMMARY" not in line
    ]
    paragraphs: list[list[str]] = []
    for line in lines:
        begins = bool(line) and not line.startswith("  ")  # what belongs to it is indented
        if begins or not paragraphs:
            paragraphs.append([])
        if line:
            paragraphs[-1].append(line.strip())
    told = ["\n    ".join(each) for each in paragraphs]
    return [each for each in told if of_them.search(each)]


def run(tool: str, group: str, port: int, limit_s: float) -> Run:
    """Start one group under one tool and wait for it."""
    options = [*_OPTIONS, f"--port={port}"]
    if tool == "memcheck":
        options.append("--report-api-errors=no")  # torch asks for what may not be there
    command = ["compute-sanitizer", f"--tool={tool}", *options]
    command += [sys.executable, "-m", "tests.kernels.sanitized", group]
    # Without torch's cache each tensor is an allocation of its own, whose end is known.
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    began_s = time.monotonic()
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, start_new_session=True
        ) as process,
    ):
        try:
            process.wait(limit_s)
            in_time = True
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # the program that it watches, too
            in_time = False
        seconds = time.monotonic() - began_s
        log.seek(0)
        output = log.read().decode(errors="replace")
    return Run(tool, group, seconds, output, in_time)


def main() -> int:
    """Run all at once, as many as there are processors; 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tools", nargs="*", metavar="TOOL", help=f"of {', '.join(TOOLS)}")
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--limit-s", type=float, default=LIMIT_S, help="of each group")
    given = parser.parse_args()
    tools = given.tools or TOOLS
    if unknown := set(tools) - set(TOOLS):
        parser.error(f"there is no tool {min(unknown)}; expected {', '.join(TOOLS)}")
    if shutil.which("compute-sanitizer") is None:
        parser.error("compute-sanitizer is not on PATH; it comes with the CUDA toolkit")
    wanted = [(tool, group) for group in (*given.groups, STRAY) for tool in tools]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        runs = list(pool.map(run, *zip(*wanted, strict=True), _PORTS, repeat(given.limit_s)))
    wrong = [_told(each) for each in runs]
    if given.groups == list(GROUPS):
        wrong += [_never_launched(tool, runs) for tool in tools]
    return 1 if any(wrong) else 0


def _told(each: Run) -> bool:
    wrong = each.wrong()
    verdict = "WRONG" if wrong else "found, as it should be" if each.group == STRAY else "clean"
    lines = [f"{each.tool:9} {each.group:17} {each.seconds:5.0f} s  {verdict}", *wrong]
    sys.stdout.write("\n    ".join(lines) + "\n")
    return bool(wrong)


def _never_launched(tool: str, runs: list[Run]) -> bool:
    """A kernel that no group launches is checked by nobody."""
    found = set().union(*(each.launched for each in runs if each.tool == tool))
    major = torch.cuda.get_device_capability()[0] if torch.cuda.is_available() else 0
    elsewhere = [word for word, of in ONLY_ON.items() if of != major]
    missing = sorted(
        name for name in set(kernels()) - found if not any(word in name for word in elsewhere)
    )
    if missing:
        sys.stdout.write(f"{tool:9} never saw {', '.join(missing)}\n")
    return bool(missing)


def _end(output: str) -> str:
    return "\n    ".join(output.splitlines()[-12:])


if __name__ == "__main__":
    sys.exit(main())
