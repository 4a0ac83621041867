"""The Python environment of the checkout, `.venv`, from the pinned `requirements.txt`."""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

from tests.cluster import debian, keep, places, progress
from tests.cluster.places import CHECKOUT

ENVIRONMENT = CHECKOUT / ".venv"
INPUTS = ("pyproject.toml", "requirements.txt")
OLDEST_PYTHON = (3, 11)
# The extras in each image, and where their versions are pinned.
IMAGES = {"operator": ["operator"], "router": ["router"], "runtime": ["runtime", "otel"]}
PINS = {
    "operator": CHECKOUT / "operator" / "requirements.txt",
    "router": CHECKOUT / "runtime" / "requirements-router.txt",
    "runtime": CHECKOUT / "runtime" / "requirements.txt",
}
# What has layers of its own in the runtime's image: so that other updates leave its gigabytes
# alone, or because it stays behind when it has compiled csrc/.
LAYERS = {
    "torch": ("torch",),
    "csrc": ("nvidia-cuda-crt", "nvidia-cuda-nvcc", "nvidia-cuda-runtime", "nvidia-nvvm"),
}
UV_PACKAGE = "uv>=0.9,<1"


def make() -> None:
    """Make the environment, or bring it to what the two files ask for; nothing when it has it."""
    if sys.version_info < OLDEST_PYTHON:
        found = ".".join(map(str, sys.version_info[:3]))
        raise progress.StepFailed(
            f"{sys.executable} is Python {found}; expected 3.11 or newer. Name one with "
            "`make PYTHON=/path/to/python3`."
        )
    stamp = ENVIRONMENT / "aweigh-inputs"
    inputs = keep.digest([CHECKOUT / name for name in INPUTS], sys.version, str(CHECKOUT))
    with places.lock(places.of(CHECKOUT).state.with_suffix(".environment.lock")):
        if stamp.exists() and stamp.read_text() == inputs:
            return
        with progress.step("environment", "installing", "about 2 min the first time, later 10 s"):
            _install()
        stamp.write_text(inputs)


def _install() -> None:
    log = places.cache() / "logs" / "environment.log"
    tool = uv(log)
    python = os.path.realpath(sys.executable)
    venv = ["venv", "--quiet", "--allow-existing", "--no-python-downloads", f"--python={python}"]
    progress.run([tool, *venv, ENVIRONMENT], log)
    # The packages are hard links into uv's cache, so a second checkout takes seconds.
    pip = [tool, "pip", "install", f"--python={ENVIRONMENT}/bin/python"]
    progress.run([*pip, "--requirement", CHECKOUT / "requirements.txt"], log)
    progress.run([*pip, "--no-deps", "--editable", CHECKOUT], log)


def pin() -> None:
    """Write the newest versions that pyproject.toml allows into the pinned files, which keep
    the versions that they have already unless those are not allowed any more."""
    tool = uv(places.cache() / "logs" / "environment.log")
    plain = ["--no-header", "--no-annotate", "--no-emit-index-url", "--universal", "--quiet"]
    command = [tool, "pip", "compile", "--python-version=3.11", *plain]
    whole = CHECKOUT / "requirements.txt"
    everything = ["--extra=operator", "--extra=router", "--extra=runtime", "--extra=bench"]
    everything += ["--extra=csrc", "--group=dev"]
    project = CHECKOUT / "pyproject.toml"
    progress.output([*command, project, *everything, f"--output-file={whole}"])

    pinned = f"--constraint={whole}"
    for image, extras in IMAGES.items():
        chosen = [f"--extra={extra}" for extra in extras]
        progress.output([*command, project, *chosen, pinned, f"--output-file={PINS[image]}"])
    pins = whole.read_text().splitlines()
    for layer, packages in LAYERS.items():
        wanted = [line for line in pins if line.partition("==")[0] in packages]
        request = places.cache() / f"{layer}.in"
        request.write_text("\n".join(wanted))
        progress.output([*command, request, pinned, f"--output-file={layer_pins(layer)}"])


def layer_pins(layer: str) -> Path:
    """Where the versions of one of `LAYERS` are pinned."""
    return CHECKOUT / "runtime" / f"requirements-{layer}.txt"


def uv(log: Path) -> Path:
    """The uv on PATH, or one of our own."""
    if found := shutil.which("uv"):
        return Path(found)
    own = places.cache() / "uv"
    with places.lock(own.with_suffix(".lock")):
        if not (own / "done").exists():
            if importlib.util.find_spec("ensurepip") is None:
                debian.add("the environment", ["python3-venv"])
            progress.run([sys.executable, "-m", "venv", "--clear", own], log)
            progress.run([own / "bin/python", "-m", "pip", "install", UV_PACKAGE], log)
            (own / "done").touch()
    return own / "bin" / "uv"
