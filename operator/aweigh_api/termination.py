"""How a pod says why it died: exit code and one line of JSON in the termination log."""

from enum import IntEnum

from pydantic import BaseModel, ConfigDict, ValidationError

from aweigh_api.reasons import ConditionType, Reason

MAX_TERMINATION_BYTES = 4096  # what the kubelet keeps of the log


class ExitCode(IntEnum):
    """Exit codes of `aweigh serve`; the numbers are those of sysexits.h."""

    DRAINED = 0
    NO_MODEL = 66  # missing or unreadable
    UNREACHABLE = 69  # the source of the model
    BUG = 70
    BAD_CONFIGURATION = 78
    KILLED = 137  # the engine was, by SIGKILL: as a shell counts


class Termination(BaseModel):
    """The last word of a pod."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    condition: ConditionType  # the condition of the InferenceService that it makes False
    reason: Reason
    message: str

    @classmethod
    def parse(cls, text: str) -> "Termination | None":
        """Read a termination log; None when it holds something else, such as a traceback."""
        try:
            return cls.model_validate_json(text)
        except ValidationError:
            return None

    def to_json(self) -> str:
        """One line that fits the kubelet's limit."""
        budget = MAX_TERMINATION_BYTES // 4  # JSON may need several bytes for a character
        return self.model_copy(update={"message": self.message[:budget]}).model_dump_json()
