"""An InferenceService as the API server has it, or why it cannot be read. Pure."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from aweigh_api.spec import InferenceService


def parse(body: Mapping[str, Any]) -> InferenceService | str:
    """The InferenceService, or a sentence that says why it cannot be read."""
    try:
        return InferenceService.model_validate(body)
    except ValidationError as error:
        return "; ".join(_sentence(dict(each)) for each in error.errors())


def _sentence(error: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in error["loc"])
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "quantity":
        return f"{where} is {error['input']!r}: {message}"
    return message if error["type"] == "value_error" else f"{where}: {message}"
