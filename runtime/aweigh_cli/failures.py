"""Why a command stops: one sentence for the terminal and an exit code. Never a traceback."""

from enum import IntEnum


class ExitStatus(IntEnum):
    """Exit codes of the commands that do not serve; sysexits.h where it has one."""

    FAILED = 1
    UNREACHABLE = 69  # the endpoint does not answer
    BAD_INPUT = 78  # a file or an argument says something impossible


class CommandFailure(Exception):
    """The command cannot do what it was asked; the message says what was expected instead."""

    def __init__(self, message: str, exit_code: int = ExitStatus.FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code
