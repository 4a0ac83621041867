"""How a command takes its arguments, and how it refuses a value.

One rule for all commands: a command line that cannot be read (an unknown option, a missing
argument) is a usage error, 2; a value that is impossible, alone, beside others or for the files
that it names, is BAD_INPUT.
"""

import os
import shlex
import sys
from typing import Any

import typer
from typer.core import TyperCommand

from aweigh_cli.failures import CommandFailure, ExitStatus

MAX_SEED = (1 << 32) - 1
_SHOULD = "Input should be "  # how the parser's sentences begin, in which the value is missing


class Command(TyperCommand):
    """A value that is wrong is said in one line, without how the command is used."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the options and their variables.

        Raises:
            CommandFailure: a value is of the wrong kind.
        """
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            subject = _given(ctx, error.param)
            if subject is None:
                raise
            raise self.refusal(ctx, f"{subject} is not valid: {_why(error)}") from error

    def invoke(self, ctx: Any) -> Any:
        """Run the command.

        Raises:
            CommandFailure: it does not take a value.
        """
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            raise self.refusal(ctx, error.message) from error

    def refusal(self, ctx: Any, message: str) -> CommandFailure:
        """How the command ends when a value is wrong."""
        return CommandFailure(message, ExitStatus.BAD_INPUT)


def given(ctx: Any) -> list[str]:
    """Parameters that have a value from the command line or the environment."""
    return [name for name in ctx.params if _source(ctx, name) in ("COMMANDLINE", "ENVIRONMENT")]


def as_typed() -> str:
    """As the user typed it, so that a result can be had again. Keys are left out."""
    shown = list(sys.argv[1:])
    for index, word in enumerate(shown):
        if word == "--api-key" and index + 1 < len(shown):
            shown[index + 1] = "..."
        elif word.startswith("--api-key="):
            shown[index] = "--api-key=..."
    return shlex.join(["aweigh", *shown])


def _source(ctx: Any, name: str) -> str | None:
    source = ctx.get_parameter_source(name)
    return None if source is None else str(source.name)


def _given(ctx: Any, parameter: Any) -> str | None:
    """The flag, or its variable, that has a value; None: neither has."""
    match None if parameter is None else _source(ctx, parameter.name):
        case "COMMANDLINE":
            return str(parameter.opts[0])
        case "ENVIRONMENT":
            return str(parameter.envvar)
    return None


def _why(error: Any) -> str:
    if getattr(error.param, "is_flag", False):  # only a variable can say anything else
        value = os.environ[error.param.envvar]
        return f"{value!r} is neither true nor false; set it to one of them, or unset it"
    message: str = error.message
    if message.startswith(_SHOULD) and hasattr(error.__cause__, "errors"):
        value = error.__cause__.errors()[0]["input"]
        message = f"{value!r} is not {message.removeprefix(_SHOULD)}"
    return message.removeprefix("Value error, ").rstrip(".")
