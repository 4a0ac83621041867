"""What an InferenceService of the cluster says about itself, read with kubectl."""

import json
import time
from collections.abc import Callable
from typing import Any

from aweigh_api import names
from aweigh_api.reasons import Reason
from aweigh_cli.failures import CommandFailure, ExitStatus
from aweigh_cli.kubectl import get

RESOURCE = f"{names.PLURAL}.{names.GROUP}"  # the short name may belong to somebody else
POLL_S = 1.0
_PASSING = (
    "",
    Reason.LOADING,
    Reason.DOWNLOADING,
    Reason.WAITING_FOR_PODS,
    Reason.PROGRESSING,
    Reason.RESTARTING,
)  # what time alone may change


def wait_until_served(
    name: str, namespace: str | None, wait_s: float, note: Callable[[str], None]
) -> str:
    """The URL inside the cluster, once a pod serves; while pods start, wait.

    Raises:
        CommandFailure: there is no such InferenceService, or it says why it cannot be served.
    """
    deadline = time.monotonic() + wait_s
    said = ""
    while True:
        status = _status(name, namespace)
        if status.get("readyReplicas", 0) > 0 and "url" in status:
            return str(status["url"])
        reason, message = _why(status)
        sentence = f"InferenceService {name} is not ready: {message}"
        if reason not in _PASSING or time.monotonic() >= deadline:
            raise CommandFailure(sentence, ExitStatus.UNREACHABLE)
        if sentence != said:
            note(f"{sentence}; waiting")
            said = sentence
        time.sleep(POLL_S)


def _status(name: str, namespace: str | None) -> dict[str, Any]:
    scope = ["--namespace", namespace] if namespace else []
    body = json.loads(get(RESOURCE, name, *scope, "-o", "json"))
    status: dict[str, Any] = body.get("status", {})
    return status


def _why(status: dict[str, Any]) -> tuple[str, str]:
    """The reason and the sentence of the condition Ready."""
    ready = [each for each in status.get("conditions", []) if each["type"] == "Ready"]
    return (ready[0]["reason"], ready[0]["message"]) if ready else ("", "no status yet")
