"""Why a server cannot start or go on, and how its pod's status gets to know it.

Each failure to start knows its exit code and the condition it makes False.
"""

import logging
from pathlib import Path
from typing import ClassVar

from aweigh_api.reasons import ConditionType, Reason
from aweigh_api.termination import ExitCode, Termination

_log = logging.getLogger("aweigh.server")


class StartFailure(Exception):
    """Serving is impossible; the message is one sentence: subject, value, expected, remedy."""

    exit_code: ClassVar[ExitCode]
    condition: ClassVar[ConditionType]
    reason: ClassVar[Reason]

    def termination(self) -> Termination:
        """The last word of the pod."""
        return Termination(condition=self.condition, reason=self.reason, message=str(self))


class InvalidConfiguration(StartFailure, ValueError):
    """A flag is out of range, or two flags contradict each other."""

    exit_code = ExitCode.BAD_CONFIGURATION
    condition = ConditionType.SPEC_VALID
    reason = Reason.INVALID_CONFIGURATION


class UnsupportedModel(StartFailure):
    """The model is readable, but the runtime lacks its architecture or one of its features."""

    exit_code = ExitCode.BAD_CONFIGURATION
    condition = ConditionType.SPEC_VALID
    reason = Reason.UNSUPPORTED_MODEL


class ModelDoesNotFit(StartFailure):
    """The weights, or the cache of one request, need more memory than there is."""

    exit_code = ExitCode.BAD_CONFIGURATION
    condition = ConditionType.SPEC_VALID
    reason = Reason.OUT_OF_MEMORY_FOR_MODEL


class ModelNotFound(StartFailure):
    """There is no model at the URI."""

    exit_code = ExitCode.NO_MODEL
    condition = ConditionType.MODEL_READY
    reason = Reason.MODEL_NOT_FOUND


class ModelUnreadable(StartFailure):
    """A file of the model is missing, truncated, of another format, or contradicts its config."""

    exit_code = ExitCode.NO_MODEL
    condition = ConditionType.MODEL_READY
    reason = Reason.MODEL_UNREADABLE


class AccessDenied(StartFailure):
    """The source refuses the model to this token, or to nobody in particular."""

    exit_code = ExitCode.NO_MODEL
    condition = ConditionType.MODEL_READY
    reason = Reason.ACCESS_DENIED


class SourceUnreachable(StartFailure):
    """The source does not answer, or breaks off again and again."""

    exit_code = ExitCode.UNREACHABLE
    condition = ConditionType.MODEL_READY
    reason = Reason.SOURCE_UNREACHABLE


def internal_error(message: str) -> Termination:
    """The last word when it is our bug."""
    return Termination(
        condition=ConditionType.WORKLOAD_READY, reason=Reason.INTERNAL_ERROR, message=message
    )


def killed(message: str) -> Termination:
    """The last word when somebody else has ended a process of ours."""
    return Termination(
        condition=ConditionType.WORKLOAD_READY, reason=Reason.RESTARTING, message=message
    )


def leave_word(termination: Termination, path: Path | None) -> None:
    """Write the last word where the kubelet looks for it, if there is such a place."""
    if path is None:
        return
    try:
        path.write_text(termination.to_json())
    except OSError as error:
        _log.warning("cannot write the termination log %s: %s", path, error.strerror)
