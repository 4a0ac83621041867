"""What commands that make models share: the models and texts to begin with, and how they fail."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from aweigh_cli.failures import CommandFailure, ExitStatus

if TYPE_CHECKING:
    import torch

DEFAULT_SCHEMES = (
    "int8,fp8,fp8-block,nvfp4,rtn-8-channel,rtn-4,rtn-4-g32,rtn-3,rtn-4-asym,gptq-8,gptq-4,"
    "gptq-4-g32,gptq-3,gptq-2,gptq-4-2:4,awq"
)
"""What is compared when nobody says what."""


@contextmanager
def explained() -> Iterator[None]:
    """What goes wrong becomes the command's own failure; a mistake of ours keeps its traceback."""
    from aweigh_bench.failures import BenchFailure
    from aweigh_quantize.failures import Refusal
    from aweigh_quantize.tensor_file import CannotWrite
    from aweigh_runtime.failures import StartFailure

    try:
        yield
    except CannotWrite as failure:
        refused = ExitStatus.BAD_INPUT if failure.refused else ExitStatus.FAILED
        raise CommandFailure(str(failure), refused) from failure
    except StartFailure as failure:
        raise CommandFailure(str(failure), failure.exit_code) from failure
    except Refusal as failure:
        raise CommandFailure(str(failure), ExitStatus.BAD_INPUT) from failure
    except BenchFailure as failure:
        raise CommandFailure(str(failure)) from failure


def fetched(model: str, revision: str | None, cache_dir: Path) -> Path:
    """The folder of a model, wherever it is.

    Raises:
        StartFailure: it cannot be had.
    """
    from aweigh_runtime.sources import fetch

    uri = model if "://" in model else f"file://{Path(model).absolute()}"
    return fetch(
        uri,
        revision=revision,
        secret_dir=None,
        cache_dir=cache_dir,
        progress=lambda done, total: None,
    )


def readable(paths: list[Path] | None, flag: str) -> list[Path]:
    """Files of text, which are there."""
    for path in paths or []:
        try:
            path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CommandFailure(
                f"{flag} is {path}, which cannot be read: {error}; expected a file of UTF-8 text",
                ExitStatus.BAD_INPUT,
            ) from error
    return paths or []


def chosen(device: str) -> "torch.device":
    """Where to compute."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise CommandFailure(
            "--device is cuda, but no GPU is visible; expected one: use --device auto",
            ExitStatus.BAD_INPUT,
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)
